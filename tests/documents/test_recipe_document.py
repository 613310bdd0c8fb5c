"""The Recipe document: what is written is read back, and what contradicts itself is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_recipes import content

import srdd
from srdd.documents.recipe import Recipe, bits_of
from srdd.errors import InputError


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    recipe = Recipe.from_object(content(), "it")
    recipe.save(tmp_path / "recipe.json")
    assert srdd.load_recipe(tmp_path / "recipe.json") == recipe
    assert json.loads((tmp_path / "recipe.json").read_text()) == content()
    assert recipe.formats_by_module["model.layers.0.mlp.down_proj"] == "bf16"


@pytest.mark.parametrize(
    ("format", "bits"),
    [
        ("bf16", 16),
        ("mxfp4:floor", 4.25),  # 8 bits for 32 elements
        ("nvfp4:token", 4.5),  # 8 bits for 16
        ("mxfp6_e2m3:even", 6.25),
        ("mxfp8_e4m3:floor", 8.25),
        ("int4_g128:absmax", 4.25),  # 32 bits for 128
    ],
)
def test_bits_contain_the_scales(format: str, bits: float) -> None:
    assert bits_of(format) == bits


def module(index: int, **changes: Any) -> dict[str, Any]:
    found = content()
    found["modules"][index] |= changes
    return found


def whole(**changes: Any) -> dict[str, Any]:
    return content() | changes


KEPT = 3
"""The module in bf16."""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (whole(bits=5.0), "bits is not the average"),
        (whole(predicted_kl=1.4), "predicted_kl is not the sum"),
        (whole(budget={"bits": 6.0, "max_kl": None}), "above its budget"),
        (whole(budget={"bits": None, "max_kl": 1.0}), "above its budget"),
        (whole(budget={"bits": 7.0, "max_kl": 9.0}), "either of bits or of max_kl"),
        (whole(budget={"bits": None, "max_kl": None}), "either of bits or of max_kl"),
        (whole(formats=["bf16", "mxfp4:floor"]), "with bf16 last"),
        (whole(formats=["mxfp8_e4m3:floor", "bf16"]), "mxfp4:floor, which is no candidate"),
        (whole(formats=["mxfp4", "bf16"]), "not a format with its scale rule"),
        (whole(left_out=["model.layers.1.mlp.up_proj"]), "occurs 2 times"),
        (module(1, module="model.layers.0.self_attn.q_proj"), "occurs 2 times"),
        (module(1, format="mxfp8_e4m3:floor"), "q_proj[+]k_proj has more than one format"),
        (module(1, operands=None), "operands of model.layers.0.self_attn.k_proj do not fit"),
        (module(KEPT, operands="both"), "do not fit its format bf16"),
        (module(KEPT, kl=0.5), "kept in bf16 and has a cost"),
        (module(1, operands="input"), "'both' or 'weight'"),
        (module(1, parameters=0), "greater than or equal to 1"),
        (module(1, more=1), "Extra inputs"),
        (whole(modules=[]), "at least 1 item"),
        (
            whole(comparisons=[content()["comparisons"][0] | {"difference": -0.3}]),
            "difference from down_proj in bf16",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe.from_object(changed, "it")


def test_another_document_is_named() -> None:
    with pytest.raises(InputError, match="is not a document of kind"):
        Recipe.from_object({"kind": "srdd.rin", "schema_version": 1}, "it")


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [([-0.5, -0.1], "lower"), ([-0.5, 0.1], "open"), ([0.1, 0.5], "higher"), (None, "open")],
)
def test_a_difference_counts_outside_its_interval(interval: Any, verdict: str) -> None:
    found = content()
    found["comparisons"][0]["difference_interval"] = interval
    assert Recipe.from_object(found, "it").comparisons[0].verdict == verdict
