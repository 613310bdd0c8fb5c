"""The file that generated rollouts are kept in, so that none is generated twice.

JSON Lines that `--rollouts` reads. The first line says of what the rollouts are: model, prompts and
sampling. A file of the same is gone on with, one of something else is not touched, because the
file's name follows from these facts. A last line that a kill cut short is generated anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srdd.errors import OutputError
from srdd.prompts.rollout_files import HEADER


class RolloutLog:
    """Rollouts in a file.

    Arguments:
        folder: where the file is, or will be.
        stem: the beginning of its name.
        about: what the rollouts are of, as JSON can hold it.

    Attributes:
        path: the file.
        count: rollouts that it has already.
    """

    def __init__(self, folder: Path, stem: str, about: Mapping[str, Any]) -> None:
        self._header = json.dumps({"kind": HEADER, **about}, sort_keys=True)
        digest = hashlib.sha256(self._header.encode()).hexdigest()[:12]
        self.path = folder / f"{stem}-{digest}.jsonl"
        self.count = self._read()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write finished rollouts; they are on the disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                if not file.tell():
                    file.write(self._header + "\n")
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}",
                "name an output file in a folder that can be written with -o",
            ) from None
        self.count += len(rows)

    def _read(self) -> int:
        """How many complete rollouts there are; what follows the last of them is cut off."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise OutputError(
                f"cannot read {self.path}: {error.strerror or error}", "move the file away"
            ) from None
        lines = content.split(b"\n")[:-1]
        if not lines or lines[0].decode(errors="replace") != self._header:
            if content:
                raise OutputError(
                    f"{self.path} is not the file of rollouts that its name says",
                    "move it away",
                )
            return 0
        kept = sum(len(line) + 1 for line in lines)
        if kept < len(content):
            os.truncate(self.path, kept)
        return len(lines) - 1
