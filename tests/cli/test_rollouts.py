"""`--rollouts`: figures of response tokens in scans and evaluations, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.test_eval import Command, srdd  # noqa: F401
from transformers import AutoModelForCausalLM

from srdd import load_scan, merge_scans, simulate
from srdd.documents.evaluation import Evaluation
from srdd.numerics.quantize import fake_quantize

ROLLOUTS = [
    {"prompt_ids": [40, 41, 42], "response_ids": [50, 51, 52, 53], "logprobs": [-1, -2, -3, -4]},
    {"prompt_ids": [60], "response_ids": [61, 62, 63], "loss_mask": [1, 0, 1]},
    {"prompt": "What is 2+2?", "response": "It is 4."},
    {"prompt": "And this one is empty", "response": ""},
    {"prompt_ids": [70, 71], "response_ids": [72, 73], "status": "truncated"},
]


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    file = tmp_path / "rollouts.jsonl"
    rows = [*map(json.dumps, ROLLOUTS[:2]), "no JSON", *map(json.dumps, ROLLOUTS[2:])]
    file.write_text("\n".join(rows))
    return file


def sequences(tokenizer: Any) -> list[tuple[list[int], list[bool]]]:
    """Ids and response tokens of the rollouts that can be used, built by hand."""
    result = []
    for each in ROLLOUTS:
        if "prompt_ids" in each:
            before, after = each["prompt_ids"], each["response_ids"]
            mask = [bool(one) for one in each.get("loss_mask", [1] * len(after))]
        else:
            before, after = (tokenizer(each[key])["input_ids"] for key in ("prompt", "response"))
            mask = [True] * len(after)
        if any(mask):
            result.append((before + after, [False] * len(before) + mask))
    return result


def test_evaluation_is_of_response_tokens(
    srdd: Command,  # noqa: F811
    saved_once: Path,
    tokenizer: Any,
    rollouts: Path,
) -> None:
    told = srdd("eval", saved_once, "--rollouts", rollouts, "-o", "e.json")
    assert told.code == 0, told.err
    assert "4 rollouts, 16 response tokens" in told.out.replace("\n", " ")
    assert "left out 1 row without a rollout: line 3 of" in told.out.replace("\n", " ")
    document = Evaluation.model_validate_json(Path("e.json").read_bytes())
    assert document.text.form == "rollouts"
    assert document.text.indices == [0, 1, 3, 5]
    counts = document.text.rollouts
    assert counts is not None
    assert (counts.unreadable, counts.empty, counts.truncated, counts.multi_turn) == (1, 1, 1, 1)
    assert (counts.with_ids, counts.with_logprobs) == (3, 1)
    model = AutoModelForCausalLM.from_pretrained(saved_once).eval()
    losses, predicted = [], []
    for ids, mask in sequences(tokenizer):
        with torch.no_grad(), simulate(model, "mxfp4", "mxfp4"):
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        losses.append(-sum(float(logp[n - 1, ids[n]]) for n in range(len(ids)) if mask[n]))
        predicted.append(sum(mask))
    assert document.text.predicted == predicted
    assert document.results[1].loss == pytest.approx(sum(losses) / sum(predicted), rel=1e-4)


def test_scan_is_of_the_rows_of_response_tokens(
    srdd: Command,  # noqa: F811
    saved_once: Path,
    tokenizer: Any,
    rollouts: Path,
) -> None:
    told = srdd("scan", saved_once, "--rollouts", rollouts, "-o", "s.json", "--kl")
    assert told.code == 0, told.err
    scan = load_scan("s.json")
    assert scan.calibration.tokens == 16
    assert scan.calibration.rollouts is not None
    assert scan.sensitivity is not None
    assert sum(scan.sensitivity.tokens) == 16
    model = AutoModelForCausalLM.from_pretrained(saved_once).eval()
    name = "model.layers.1.mlp.down_proj"
    kept: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda m, given: kept.append(given[0][0]))
    for ids, mask in sequences(tokenizer):
        with torch.no_grad():
            model(torch.tensor([ids]))
        kept[-1] = kept[-1][torch.tensor(mask)]
    x = torch.cat(kept).double()
    error = fake_quantize(x.float(), "mxfp4:floor").double() - x
    wanted = 10 * np.log10(float(x.square().sum() / error.square().sum()))
    record = next(each for each in scan.records if each.tensor == name and each.site == "input")
    assert record.metrics.sqnr_db == pytest.approx(wanted, abs=1e-3)


def test_parts_of_a_file_merge_to_the_whole(
    srdd: Command,  # noqa: F811
    saved_once: Path,
    rollouts: Path,
) -> None:
    for name, *cut in (("all",), ("a", "--limit", 3), ("b", "--skip", 3)):
        told = srdd("scan", saved_once, "--rollouts", rollouts, "-o", f"{name}.json", *cut)
        assert told.code == 0, told.err
    whole, merged = load_scan("all.json"), merge_scans([load_scan("a.json"), load_scan("b.json")])
    assert merged.calibration == whole.calibration
    for one, other in zip(merged.records, whole.records, strict=True):
        assert one.metrics.sqnr_db == pytest.approx(other.metrics.sqnr_db)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "x.txt"], "--rollouts excludes --prompts"),
        (["--prompt-column", "x"], "--rollouts excludes --prompts"),
        (["--columns", "prompt:x"], "names no column"),
        (["--columns", "answer=x"], "unknown part of a rollout"),
        (["--limit", "1", "--skip", "9"], "leaves none"),
    ],
)
def test_options_that_do_not_go_together_fail_before_the_model_is_looked_for(
    srdd: Command,  # noqa: F811
    rollouts: Path,
    options: list[str],
    message: str,
) -> None:
    for command in ("scan", "eval"):
        said, _ = srdd.fails(command, "no-such-model", "--rollouts", rollouts, *options)
        assert message in said


def test_more_that_is_refused(srdd: Command, rollouts: Path) -> None:  # noqa: F811
    assert "--columns is for --rollouts" in srdd.fails("eval", "x", "--columns", "prompt=a")[0]
    assert "--text excludes" in srdd.fails("eval", "x", "--text", "a", "--rollouts", rollouts)[0]
    said, hint = srdd.fails("scan", "x", "--rollouts", "rolouts.jsonl")
    assert "there is no file" in said
    file = rollouts.with_name("prompts.jsonl")
    file.write_text('{"prompt": "a"}\n')
    said, hint = srdd.fails("scan", "x", "--rollouts", file)
    assert "has no response" in said
    assert "--columns" in hint


def test_own_rollouts_are_kept_beside_the_result_and_used_again(
    srdd: Command,  # noqa: F811
    saved_once: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "p.txt").write_text("one two\nthree\nfour five six\n")
    (tmp_path / "out").mkdir()
    options = ["--prompts", tmp_path / "p.txt", "--generate", 2, "--max-new-tokens", 4]
    told = srdd("eval", saved_once, *options, "-o", tmp_path / "out" / "e.json")
    assert told.code == 0, told.err
    assert "6 rollouts, 24 response tokens" in told.out.replace("\n", " ")
    document = Evaluation.model_validate_json((tmp_path / "out" / "e.json").read_bytes())
    counts = document.text.rollouts
    assert counts is not None
    assert (counts.with_ids, counts.with_logprobs, counts.temperature) == (6, 6, 1.0)
    (file,) = (tmp_path / "out").glob("*.jsonl")
    assert document.text.source == str(file)
    assert "mxfp4:floor" in file.read_text().splitlines()[0]

    told = srdd("scan", saved_once, *options, "--limit", 2, "-o", tmp_path / "out" / "s.json")
    assert told.code == 0, told.err
    assert load_scan(tmp_path / "out" / "s.json").calibration.tokens == 16
    assert len(list((tmp_path / "out").glob("*.jsonl"))) == 2  # in full precision: another policy

    def never(*given: object, **named: object) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr("transformers.GenerationMixin.generate", never)
    told = srdd("eval", saved_once, *options, "-o", tmp_path / "out" / "e.json", "--force")
    assert told.code == 0, told.err
    assert "6 of 6 responses already" in told.err.replace("\n", " ")
    again = srdd("eval", saved_once, "--rollouts", file, "--format", "nvfp4")
    assert "6 rollouts, 24 response tokens" in again.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-new-tokens", "5"], "--max-new-tokens is for --generate"),
        (["--server", "http://localhost"], "--server is for --generate"),
        (["--generate", "1", "--top-p", "0"], "--top-p is 0.0"),
        (["--generate", "1", "--temperature", "-1"], "--temperature is -1.0"),
    ],
)
def test_generation_that_cannot_be(
    srdd: Command,  # noqa: F811
    options: list[str],
    message: str,
) -> None:
    for command in ("scan", "eval"):
        assert message in srdd.fails(command, "no-such-model", *options)[0]


def test_generation_and_other_options(
    srdd: Command,  # noqa: F811
    saved_once: Path,
    rollouts: Path,
) -> None:
    said, hint = srdd.fails("eval", "x", "--generate", 1, "--rollouts", rollouts)
    assert "excludes --generate" in said
    said, hint = srdd.fails("eval", "x", "--generate", 1, "--format", "mxfp4", "--format", "nvfp4")
    assert "one policy" in said
    assert "--rollouts" in hint
    said, hint = srdd.fails("eval", saved_once, "--generate", 1, "--server", "http://127.0.0.1:9")
    assert "cannot be reached" in said
    said, _ = srdd.fails("scan", saved_once, "--generate", 1, "--server", "ftp://127.0.0.1:9")
    assert "no address of a server" in said
