"""`srdd eval --rollouts`: the mismatch in table and document, where it comes from, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.test_eval import Command, srdd  # noqa: F401

from srdd import load_scan
from srdd.documents.evaluation import Evaluation
from srdd.documents.sensitivity_figures import rows_of


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    rows = [
        {"prompt": "What is 12 times 12?", "response": " It is 144, which is a square."},
        {"prompt": "Once upon", "response": " a time there was a\x1b[31m king."},
        {"prompt": "def add(a, b):", "response": "\n    return a + b\n"},
    ]
    file = tmp_path / "rollouts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_answer_stands_first_and_the_document_has_all(
    srdd: Command,  # noqa: F811
    folder: Path,
    rollouts: Path,
) -> None:
    told = srdd("eval", folder, "--rollouts", rollouts, "--clip", "0.5:2", "-o", "out.json")
    assert told.code == 0, told.err
    out = " ".join(told.out.split())
    assert out.index("Rollouts in mxfp4:floor are") < out.index("Mismatch of the rollout policy")
    assert "beyond own clip" in out
    assert "srdd scan MODEL --kl --rollouts FILE" in out
    assert "\x1b" not in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    plain, result = Evaluation.load("out.json").results
    assert plain.mismatch is None
    section = result.mismatch
    assert section is not None
    assert (section.own_clip, section.measured, section.attribution) == ((0.5, 2.0), None, None)
    assert section.figures["k3"].value > 0
    assert [each.index for each in section.worst]


def test_prompts_have_no_mismatch(
    srdd: Command,  # noqa: F811
    folder: Path,
) -> None:
    told = srdd("eval", folder, "--limit", 2, "-o", "out.json")
    assert told.code == 0, told.err
    assert "Mismatch" not in told.out
    assert all(result.mismatch is None for result in Evaluation.load("out.json").results)


def test_a_scan_in_the_folder_says_where_it_comes_from(
    srdd: Command,  # noqa: F811
    folder: Path,
    rollouts: Path,
) -> None:
    told = srdd("scan", folder, "--kl", "--rollouts", rollouts, "--kl-check", 0, "-o", "s.json")
    assert told.code == 0, told.err
    assert srdd("scan", folder, "--limit", 1, "-o", "newer.json").code == 0  # without --kl
    told = srdd("eval", folder, "--rollouts", rollouts, "--exclude", "k_proj", "-o", "out.json")
    assert told.code == 0, told.err
    assert "read s.json for what brings the mismatch" in told.err
    assert "It comes from" in told.out
    found = Evaluation.load("out.json").results[1].mismatch
    assert found is not None
    assert found.attribution is not None
    assert (found.attribution.scan, found.attribution.same_text) == ("s.json", True)
    sensitivity = load_scan("s.json").sensitivity
    assert sensitivity is not None
    rows = rows_of(sensitivity, "mxfp4:floor", "both", "kind")
    costs = {row["kind"]: row["kl"] for row in rows if row["kind"] != "k"}
    whole = sum(costs.values())
    assert found.attribution.kl == pytest.approx(whole)
    assert {one.name: one.share for one in found.attribution.kinds} == pytest.approx(
        {kind: kl / whole for kind, kl in costs.items()}
    )
    assert sum(one.share for one in found.attribution.layers) == pytest.approx(1)
    # For other formats the scan has nothing to say.
    told = srdd("eval", folder, "--rollouts", rollouts, "--format", "nvfp4", "--scan", "s.json")
    assert told.code == 0, told.err
    assert "warning: s.json has no sensitivity in the formats" in told.err
    assert "It comes from" not in told.out


def test_what_cannot_work_fails_before_the_model_is_loaded(
    srdd: Command,  # noqa: F811
    folder: Path,
    rollouts: Path,
) -> None:
    message, _ = srdd.fails("eval", folder, "--clip", "0.8:1.2")
    assert message == "--clip is for --rollouts and --generate, --scan for --rin, too"
    for text, problem in (("3", "is no range"), ("1.3:1.4", "does not hold the ratio 1")):
        told = srdd("eval", folder, "--rollouts", rollouts, "--clip", text)
        assert told.code == 2
        assert problem in told.err
        assert "loading" not in told.err
    assert srdd("scan", folder, "--limit", 1, "-o", "s.json").code == 0
    message, _ = srdd.fails("eval", folder, "--rollouts", rollouts, "--scan", "s.json")
    assert message == "s.json does not say what quantizing each linear costs"
