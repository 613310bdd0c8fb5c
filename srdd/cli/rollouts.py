"""Options of `srdd scan` and `srdd eval` that say which rollouts figures are taken over."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srdd.cli import console, ranks
from srdd.cli.loading import PromptOptions, RunOptions, escaped
from srdd.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from srdd.measurement.listener import Listener
    from srdd.prompts.reading import PromptSet
    from srdd.prompts.rollouts import RolloutSet
    from srdd.prompts.sampling import Sampling
    from srdd.prompts.server import Server


@dataclass(frozen=True)
class RolloutOptions:
    """The options that say which rollouts are read or generated."""

    rollouts: str | None = None
    columns: str | None = None
    generate: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    server: str | None = None

    @property
    def wanted(self) -> bool:
        """Whether figures are taken over rollouts."""
        return self.rollouts is not None or self.generate is not None

    def read(self, prompts: PromptOptions) -> PromptSet | RolloutSet:
        """The rollouts of a file, from standard input for `-`; prompts where there is no file.

        Raises:
            UsageError: options that do not go together.
            InputError: the file cannot be read.
        """
        from srdd.prompts.rollout_files import parse_columns, read_rollouts

        self._check_generation()
        if self.generate is not None and ranks.SHARED:
            raise UsageError(
                "--generate runs in a single process",
                "generate without torchrun, then give the file of rollouts with --rollouts",
            )
        if self.rollouts is None:
            if self.columns is not None:
                raise UsageError(
                    "--columns is for --rollouts",
                    "name the column of prompts with --prompt-column, or give --rollouts FILE",
                )
            return prompts.read()
        if self.generate is not None:
            raise UsageError(
                "--rollouts excludes --generate: the file has responses already",
                "leave one out; prompts to generate from are for --prompts",
            )
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

    def _check_generation(self) -> None:
        others = {
            "--max-new-tokens": self.max_new_tokens,
            "--temperature": self.temperature,
            "--top-p": self.top_p,
            "--server": self.server,
        }
        given = [name for name, value in others.items() if value is not None]
        if self.generate is None and given:
            raise UsageError(f"{given[0]} is for --generate", "add --generate 1, or more responses")
        self._sampling(0)

    def _sampling(self, seed: int) -> Sampling:
        from srdd.prompts.sampling import Sampling

        chosen = {
            "responses": self.generate,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        return Sampling(**given, seed=seed)  # type: ignore[arg-type]

    def find_server(self) -> Server | None:
        """The server that generates, if one is to; it has answered.

        Raises:
            UsageError, InputError: as `Server.find`.
        """
        if self.server is None:
            return None
        from srdd.prompts.server import Server

        with console.phase(f"asking {self.server} for its model"):
            return Server.find(self.server)

    def own(
        self,
        model: nn.Module,
        tokenizer: Any,
        prompts: PromptSet | RolloutSet,
        *,
        name: str,
        target: Path | None,
        seed: int,
        options: RunOptions,
        server: Server | None,
        listener: Listener,
        policy: Mapping[str, Any] | None = None,
        simulated: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> PromptSet | RolloutSet:
        """Responses to the prompts where they are to be generated; else what was given.

        Arguments:
            name: of the model.
            target: the file of the result, beside which they are kept; None for this folder.
            policy, simulated: as of srdd.measurement.generation.own_rollouts.
        """
        from srdd.prompts.rollouts import RolloutSet

        if self.generate is None or isinstance(prompts, RolloutSet):
            return prompts
        from srdd.measurement.generation import own_rollouts

        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip("-.")[:80] or "model"
        settings = options.settings()
        found = own_rollouts(
            model,
            tokenizer,
            prompts,
            self._sampling(seed),
            Path() if target is None else target.parent,
            name=stem,
            policy=policy,
            simulated=simulated,
            server=server,
            apply_chat_template=options.apply_chat_template,
            batch_size=settings["batch_size"],
            listener=listener,
        )
        return replace(found, source=escaped(found.source))
