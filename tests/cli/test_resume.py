"""Commands that are killed and repeated end in the document of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

KILLS = 20


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "srdd", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def document(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    del content["run"]
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("scan", "demo", "--kl", "--kl-check=1", "--batch-size=2", "--site=input", "--site=linear"),
        ("eval", "demo", "--format=mxfp4", "--format=nvfp4", "--batch-size=1"),
    ],
    ids=["scan", "eval"],
)
def test_killed_at_random_moments(tmp_path: Path, command: tuple[str, ...]) -> None:
    began = time.monotonic()
    alone = start(tmp_path, *command, "--limit=20", "-o", "alone.json")
    assert alone.wait(600) == 0
    took = time.monotonic() - began
    moment = random.Random(0)
    continued = 0
    out = tmp_path / "killed.json"
    for _ in range(KILLS):
        running = start(tmp_path, *command, "--limit=20", "-o", out.name)
        time.sleep(took * moment.uniform(0.3, 1.0))
        running.kill()
        _, said = running.communicate()
        continued += "continuing" in said
        if out.exists():  # it had finished: the next begins anew
            assert document(out) == document(tmp_path / "alone.json")
            out.unlink()
    last = start(tmp_path, *command, "--limit=20", "-o", out.name)
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert document(out) == document(tmp_path / "alone.json")
    assert continued > KILLS / 4
    assert not list(tmp_path.glob("*.partial*"))
