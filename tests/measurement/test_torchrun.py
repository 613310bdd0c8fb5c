"""`torchrun -m srdd`: several processes give the document that one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

TEXTS = [f"{'word ' * (3 + 5 * n)}{n}" for n in range(9)]
OF_A_RUN = ("run",)


def launched(folder: Path, count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m"]
    if count > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    return subprocess.run(
        [*start, "srdd", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def equal(a: Any, b: Any, where: str = "") -> None:
    """Counts, names and texts are the same; what was added up in another order, to 1e-12."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            equal(x, y, f"{where}[{place}]")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-300), where
    else:
        assert a == b, where


def document(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    del content["run"]
    return content


@pytest.fixture
def place(folder: Path) -> Path:
    (folder.parent / "p.txt").write_text("\n".join(TEXTS))
    file = folder / "model.safetensors"
    weights, draw = load_file(file), torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "norm" in name:  # gains of many sizes, so that their costs by size differ
            weight.mul_(torch.exp(torch.randn(weight.shape, generator=draw)))
    save_file(weights, file, {"format": "pt"})
    return folder.parent


@pytest.mark.parametrize("count", [2, 3])
def test_a_scan_is_that_of_one_process(place: Path, count: int) -> None:
    sites = [f"--site={site}" for site in ("output", "input", "linear", "weight")]
    some = ("scan", "tiny", "--prompts=p.txt", "--batch-size=2", "--kl", "--kl-check=2", *sites)
    assert launched(place, 1, *some, "-o", "one.json").returncode == 0
    shared = launched(place, count, *some, "-o", "several.json")
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("Tensors, worst first") <= 1
    assert shared.stderr.count("wrote several.json") == 1
    equal(document(place / "one.json"), document(place / "several.json"))
    assert not list(place.glob("*.partial*"))


def test_an_evaluation_is_that_of_one_process_also_where_some_have_no_batch(place: Path) -> None:
    some = ("eval", "tiny", "--prompts=p.txt", "--batch-size=5", "--format=mxfp4")
    assert launched(place, 1, *some, "-o", "one.json").returncode == 0
    shared = launched(place, 3, *some, "-o", "several.json")
    assert shared.returncode == 0, shared.stderr
    equal(document(place / "one.json"), document(place / "several.json"))


def test_an_error_ends_all_with_one_message(place: Path) -> None:
    shared = launched(place, 2, "scan", "tiny", "--prompts=missing.txt", "-o", "a.json")
    assert shared.returncode != 0
    messages = [line for line in shared.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, shared.stderr
    assert messages[0].startswith("error: rank ")
    assert "missing.txt" in messages[0]
    assert "exitcode  : 2" in shared.stderr
    assert not (place / "a.json").exists()
