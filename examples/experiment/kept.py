"""The folder of an experiment: every finished run in a file of its own, whole or not at all.

So the same command goes on where it was stopped, whenever that was. What has to agree between runs
stands in `experiment.json` beside them and as a key in every file; runs of anything else are
refused, never mixed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from experiment.plan import Run, key_of
from srdd.documents.document import write_whole
from srdd.documents.rin import RinConfig
from srdd.errors import InputError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, with a line for each entry of its lists and objects."""
    lines = [f"{json.dumps(name)}: {_opened(value)}" for name, value in content.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_whole(path, text.encode(), force=True)


def _opened(value: Any) -> str:
    if isinstance(value, dict):
        lines = [f" {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items()]
        return "{\n" + ",\n".join(lines) + "\n}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f" {json.dumps(one)}" for one in value) + "\n]"
    return json.dumps(value)


def mark_of(config: RinConfig | None) -> str | None:
    """A short fingerprint of which weights get how much noise, when; None for no noise."""
    if config is None:
        return None
    noise = [
        (
            layer.multiplier,
            [f"{sigma:.6g}" for sigma in tier.sigmas],
            [m.name for m in layer.modules],
        )
        for tier in config.tiers
        for layer in tier.layers
    ]
    return hashlib.sha256(json.dumps(noise).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Folder:
    """An experiment's folder; `open_folder` makes one.

    Attributes:
        path: of the folder.
        key: of what has to agree.
    """

    path: Path
    key: str

    def file_of(self, run: Run) -> Path:
        return self.path / "runs" / f"{run.name}.json"

    def keep(self, run: Run, config: RinConfig | None, result: dict[str, Any]) -> None:
        about = {"key": self.key, "run": run.name, "config": mark_of(config)}
        write_json(self.file_of(run), {**about, **result})

    def read(self, run: Run, config: RinConfig | None) -> dict[str, Any] | None:
        """A run that is finished with this noise, None where it is not.

        Raises:
            InputError: the file is another run's or another experiment's, or no run at all.
        """
        path = self.file_of(run)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise InputError(f"{path} is not JSON", "delete it, and it is run anew") from None
        if not isinstance(found, dict) or found.get("key") != self.key:
            raise InputError(f"{path} is of another experiment", "delete it, and it is run anew")
        if (found.get("run"), found.get("config")) != (run.name, mark_of(config)):
            raise InputError(
                f"{path} holds another run, or one with other noise",
                "delete it, and it is run anew",
            )
        return found


def open_folder(path: Path, facts: dict[str, Any]) -> Folder:
    """The folder of the experiment with these facts, made where there is none.

    Raises:
        InputError: it holds another experiment.
    """
    described = path / "experiment.json"
    (path / "runs").mkdir(parents=True, exist_ok=True)
    if described.exists():
        try:
            found = json.loads(described.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if found != json.loads(json.dumps(facts)):
            differing = [name for name in facts if found.get(name) != facts[name]]
            raise InputError(
                f"{path} holds an experiment with other {' and '.join(differing) or 'facts'}",
                "name another folder with --out, or delete that one",
            )
    else:
        write_json(described, facts)
    return Folder(path, key_of(facts))


def duration(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """From the first run's start to the last one's end, over all commands that it took."""
    spans = [
        (begin, begin + timedelta(seconds=run["elapsed_s"]))
        for run in runs
        for begin in [datetime.fromisoformat(run["started"])]
    ]
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    return {
        "started": first.isoformat(timespec="seconds"),
        "finished": last.isoformat(timespec="seconds"),
        "elapsed_s": round((last - first).total_seconds(), 1),
        "cpu_s": round(sum(run["cpu_s"] for run in runs), 1),
    }
