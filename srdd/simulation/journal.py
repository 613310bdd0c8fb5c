"""A file beside the output that keeps what a long measurement has finished, a line for each change.

Its first line says of which model and prompts it is; a file of others is begun anew. A last line
that was cut short by a kill is left out. What is there already is not measured again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from srdd.errors import OutputError
from srdd.simulation.direct import Change, Sums


class Journal:
    """Finished changes in a file.

    Arguments:
        path: its name; it is made when the first change is finished.
        about: what identifies the measurement, such as fingerprints of model and prompts.

    Attributes:
        known: what the file holds for this very measurement.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._about = json.dumps(dict(about), sort_keys=True)
        self.known: dict[Change, Sums] = {}
        self._read()

    def add(self, change: Change, sums: Sums) -> None:
        """Write one finished change; it is on the disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        line = json.dumps({**asdict(change), "nats": sums.tolist()})
        try:
            if not self.known:
                self.path.write_text(self._about + "\n", encoding="utf-8")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}",
                "name an output file in a folder that can be written",
            ) from None
        self.known[change] = sums

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return
        if not lines or lines[0] != self._about:
            return
        complete = []
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                sums = np.array(entry.pop("nats"), dtype=np.float64)
                self.known[Change(**entry)] = sums
            except (ValueError, TypeError, KeyError, AttributeError):
                break
            complete.append(line)
        if len(complete) < len(lines) - 1:
            self.path.write_text("\n".join([self._about, *complete]) + "\n", encoding="utf-8")
