"""The mismatch on a screen: the answer first, usual levels, escaped text, 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from srdd.documents.evaluation import Evaluation
from srdd.documents.mismatch import (
    Attribution,
    Figure,
    Measured,
    Mismatch,
    Share,
    TokenClass,
    WorstResponse,
)
from srdd.numerics.mismatch_metrics import MISMATCH
from srdd.reports.evaluation_view import evaluation_blocks
from srdd.reports.explanations import explain
from srdd.reports.mismatch_view import mismatch_blocks
from srdd.reports.terminal import plain, render
from srdd.reports.view import Table


def figure(value: float, half: float = 0.01) -> Figure:
    return Figure(value=value, interval=(value - half, value + half))


def section(**changes: Any) -> Mismatch:
    small = dict.fromkeys(MISMATCH, 0.0001) | {
        "ess_seq": 0.99,
        "rho_mean": 1.0,
        "expected_mult_prob_error": 1.001,
    }
    names = [name for name in MISMATCH if name != "own_clipped"]
    figures = {name: figure(small[name] * 1.0) for name in names}
    figures |= {name: figure(value) for name, value in changes.pop("figures", {}).items()}
    one = TokenClass(
        name="0 to 31",
        tokens=320,
        share=0.3,
        kl=figure(0.12),
        prob_error=figure(1.7),
        responses=10,
        ess_seq=0.5,
    )
    worst = WorstResponse(
        index=6,
        tokens=100,
        kl=21.35,
        log_weight=10.0,
        position=62,
        log_ratio=-3.0,
        before="a\x1b[31m\n",
        token="b",
        after="c",
    )
    return Mismatch(
        **{
            "written_by": "training",
            "responses": 10,
            "tokens": 1000,
            "clip": (0.8, 1.2),
            "own_clip": None,
            "figures": figures,
            "by_position": [one],
            "by_rank": [one],
            "by_entropy": [one],
            "worst": [worst],
            "measured": None,
            **changes,
        }
    )


def evaluation(*sections: Mismatch | None) -> Evaluation:
    def result(weights: str | None, mismatch: Mismatch | None) -> dict[str, Any]:
        known = None if weights is None else 0.1
        return {
            "weights": weights,
            "activations": weights,
            "noise": False,
            "loss": 3.0,
            "loss_interval": (2.9, 3.1),
            "perplexity": 20.0,
            "perplexity_interval": (18.0, 22.0),
            "loss_difference": known,
            "loss_difference_interval": None,
            "kl": known,
            "kl_interval": None,
            "loss_by_prompt": [3.0],
            "kl_by_prompt": None if weights is None else [0.1],
            "simulated": 0,
            "not_simulated": [],
            "mismatch": mismatch,
        }

    formats = ("mxfp4:floor", "nvfp4:token")
    return Evaluation.model_validate(
        {
            "model": {
                "name": "demo",
                "source": "folder",
                "revision": None,
                "fingerprint": "f",
                "architecture": "Qwen2ForCausalLM",
                "dtype": "bfloat16",
                "parameters": 1,
                "tokenizer": "demo",
            },
            "text": {
                "form": "prompts",
                "source": "rollouts.jsonl",
                "fingerprint": "t",
                "indices": [0],
                "predicted": [1000],
                "truncated": 0,
                "left_out": 0,
                "max_length": None,
                "chat_template": False,
            },
            "settings": {"include": [], "exclude": [], "noise": None},
            "run": {
                "versions": {},
                "device": "cpu",
                "batch_size": "auto",
                "command": None,
                "started": "",
                "elapsed_s": 1.0,
            },
            "results": [
                result(None, None),
                *(result(name, each) for name, each in zip(formats, sections, strict=False)),
            ],
            "warnings": [],
        }
    )


def lines(*sections: Mismatch | None, width: int = 80) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, highlight=False, markup=False)
    for part in render(mismatch_blocks(evaluation(*sections))):
        console.print(part)
    return file.getvalue().splitlines()


def test_an_evaluation_of_prompts_has_none() -> None:
    assert mismatch_blocks(evaluation(None)) == []
    assert "Mismatch" not in plain(evaluation_blocks(evaluation(None)))


def test_the_answer_compares_with_usual_levels_and_promises_nothing() -> None:
    text = " ".join(lines(section()))
    assert text.startswith("Rollouts in mxfp4:floor are within all 5 usual levels")
    far = section(figures={"k3": 0.2, "ess_seq": 0.1, "kl_reversed": 0.15})
    text = " ".join(lines(far))
    assert "beyond 2 of 5 usual levels: KL 0.1500 ±0.0100 nats a token" in text
    assert "beyond: k3 0.2000 (usual: 0.001), ESS sequences 0.100 (usual: 0.3)" in text
    assert "None says that a run fails or does not." in text


def test_the_worst_variant_is_broken_down_and_the_best_one_named() -> None:
    text = " ".join(
        lines(section(figures={"kl_reversed": 0.2}), section(figures={"kl_reversed": 0.05}))
    )
    assert "Smallest mismatch of these runs: nvfp4:token, KL 0.0500 ±0.0100 nats." in text
    assert "By place in the response, mxfp4:floor" in text


def test_where_it_comes_from_and_what_would_change_it() -> None:
    assert "srdd scan MODEL --kl --rollouts FILE" in " ".join(lines(section()))
    tensors = [
        Share(name=f"model.layers.{n}.mlp.down_proj", kl=0.01, share=0.1, layer=n) for n in range(4)
    ]
    found = Attribution(
        scan="scan.json",
        same_text=False,
        method="estimate",
        kl=0.1,
        count=84,
        tensors=tensors,
        layers=[Share(name="3", kl=0.05, share=0.5)],
        kinds=[Share(name="down", kl=0.04, share=0.4), Share(name="o", kl=0.03, share=0.3)],
    )
    text = " ".join(lines(section(attribution=found)))
    assert "It comes from down (40 %), o (30 %); layers 3 (50 %)" in text
    assert "on other text" in text
    assert "costliest 3 of 84 linears (down of layer 0, down of layer 1, down of layer 2)" in text
    assert "would take away about 30 % of it" in text


@pytest.mark.parametrize(
    ("share", "words"), [(0.8, "explains 80 ±1 %"), (-0.5, "explains nothing")]
)
def test_what_the_engine_logged_stands_beside_the_simulation(share: float, words: str) -> None:
    sampled = {name: figure(0.5) for name in ("k3", "token_mult_prob_error")}
    measured = Measured(
        responses=9, tokens=900, figures=sampled, left=sampled, explained=figure(share)
    )
    shown = lines(section(measured=measured))
    assert words in " ".join(shown)
    table = next(n for n, line in enumerate(shown) if line.startswith("With the log-prob"))
    assert shown[table + 1].split() == ["figure", "logged", "simulated", "left"]


def test_text_that_neither_policy_sampled_is_doubted() -> None:
    assert "neither policy sampled" not in " ".join(lines(section()))
    text = " ".join(lines(section(figures={"rho_mean": 1.08})))
    assert "is 1.080 ±0.010, not 1: neither policy sampled them" in text


def test_text_of_responses_is_escaped_and_lines_fit() -> None:
    shown = lines(section(), section())
    assert "\x1b" not in "".join(shown)
    assert r"a\x1b[31m\n[b]c" in " ".join(shown)
    assert "response 7: KL 21.35 nats" in " ".join(shown)
    assert max(map(len, shown)) <= 80


def test_columns_and_figures_are_explained() -> None:
    blocks = mismatch_blocks(evaluation(section()))
    for block in blocks:
        if isinstance(block, Table):
            for title in {column.title for column in block.columns} - {"mxfp4:floor"}:
                assert explain(title)[0].summary, title
    table = next(block for block in blocks if isinstance(block, Table))
    for row in table.rows:
        assert explain(str(row[0]))[0].summary
