"""The examples, run as their readers would run them, on less of everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small sources, of which some are held out by their names."""
    root = tmp_path_factory.mktemp("library")
    for number in range(40):
        text = "\n".join(f"def f{n}(x):\n    return x * {n + number}" for n in range(20))
        (root / f"module_{number}.py").write_text(text, encoding="utf-8")
    return root


SMALL = (
    "--vocabulary",
    "300",
    "--hidden",
    "64",
    "--layers",
    "1",
    "--batch",
    "2",
    "--context",
    "32",
)


def test_the_demo_model_trains_goes_on_where_it_stopped_and_loads(
    library: Path, tmp_path: Path
) -> None:
    options = (*SMALL, "--source", str(library), "--checkpoint-every", "2", "--steps", "8")
    broken = run("train_demo_model.py", "--out", str(tmp_path / "a"), *options, "--until", "4")
    assert broken.returncode == 0, broken.stderr
    resumed = run("train_demo_model.py", "--out", str(tmp_path / "a"), *options, "--until", "8")
    assert "going on from step 4" in resumed.stderr
    whole = run("train_demo_model.py", "--out", str(tmp_path / "b"), *options, "--until", "8")
    assert "going on" not in whole.stderr
    assert set(json.loads(resumed.stdout)) == {"unigram", "bigram", "model"}

    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in "ab"
    ]
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name

    from srdd import scan_model
    from srdd.model.checkpoint import find
    from srdd.model.load import load_model, load_tokenizer

    checkpoint = find(str(tmp_path / "a"))
    model, reader = load_model(checkpoint).model, load_tokenizer(checkpoint)
    scan = scan_model(model, reader, ["def f(x):"], sites=["output"])
    assert len(scan.records) == 1


def test_a_checkpoint_of_other_settings_is_refused(library: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--source", str(library), "--out", str(tmp_path), "--until", "1")
    assert run("train_demo_model.py", *options, "--steps", "4").returncode == 0
    other = run("train_demo_model.py", *options, "--steps", "5")
    assert other.returncode == 2
    assert "made with other settings" in other.stderr


def test_the_demo_models_card_beats_the_bigram() -> None:
    card = (EXAMPLES.parent / "srdd" / "model" / "demo" / "README.md").read_text(encoding="utf-8")
    losses = [
        float(line.split("|")[2].strip(" *"))
        for line in card.splitlines()
        if "| " in line and "gram" in line.split("|")[1]
    ]
    stored = next(line for line in card.splitlines() if line.startswith("| **this model**"))
    unigram, bigram = losses
    assert float(stored.split("|")[2].strip(" *")) < bigram - 1 < unigram


@pytest.mark.slow
def test_grpo_generates_under_noise_and_updates_from_clean_weights() -> None:
    """Its faster twin, on a tiny model, is in tests/rin/test_callback.py."""
    found = run("grpo_with_rin.py", "--steps", "3")
    assert found.returncode == 0, found.stderr
    header, *rows = found.stdout.splitlines()
    assert " ".join(header.split()) == (
        "step sigma energy unchanged reward generation gradients update from"
    )
    cells = [row.split() for row in rows]
    # Three stages in three steps: clean, 0.05 and 0.01.
    assert [float(row[1]) for row in cells] == pytest.approx([0, 0.05, 0.01], rel=0.01)
    assert [row[-3:] for row in cells] == [
        ["clean", "clean", "clean"],
        ["noisy", "clean", "clean"],
        ["noisy", "clean", "clean"],
    ]


@pytest.mark.slow
def test_noise_by_stage_compares_four_stages() -> None:
    found = run("noise_by_stage.py")
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines()[1:]]
    assert [float(row[1]) for row in rows] == pytest.approx([0.1, 0.0464, 0.0215, 0.01], abs=1e-4)
    for row in rows:
        assert float(row[2]) == pytest.approx(float(row[3]), rel=0.5)
