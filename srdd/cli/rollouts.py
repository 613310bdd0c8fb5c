"""Options of `srdd scan` and `srdd eval` that say which rollouts figures are taken over."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.cli.loading import PromptOptions, escaped
from srdd.errors import UsageError

if TYPE_CHECKING:
    from srdd.prompts.reading import PromptSet
    from srdd.prompts.rollouts import RolloutSet


@dataclass(frozen=True)
class RolloutOptions:
    """The options that say which rollouts are read."""

    rollouts: str | None = None
    columns: str | None = None

    def read(self, prompts: PromptOptions) -> PromptSet | RolloutSet:
        """The rollouts of a file, from standard input for `-`; prompts where there is no file.

        Raises:
            UsageError: options that do not go together.
            InputError: the file cannot be read.
        """
        from srdd.prompts.rollout_files import parse_columns, read_rollouts

        if self.rollouts is None:
            if self.columns is not None:
                raise UsageError(
                    "--columns is for --rollouts",
                    "name the column of prompts with --prompt-column, or give --rollouts FILE",
                )
            return prompts.read()
        if prompts.prompts is not None or prompts.prompt_column is not None:
            raise UsageError(
                "--rollouts excludes --prompts and --prompt-column: rollouts have prompts",
                "leave one out, and name columns with --columns prompt=NAME",
            )
        if self.rollouts == "-" and sys.stdin.isatty():
            console.say("reading rollouts from standard input, JSON Lines; end with Ctrl-D")
        found = read_rollouts(
            self.rollouts, parse_columns(self.columns), prompts.limit, prompts.skip
        )
        return replace(found, source=escaped(found.source))
