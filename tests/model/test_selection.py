"""Which linears are measured: patterns on names."""

from __future__ import annotations

from typing import Any

import families
import pytest

from srdd.errors import UsageError
from srdd.measurement.scanner import scan_model
from srdd.model.selection import Selection, matches


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("down_proj", True),
        ("layers.1", True),
        ("*.down_proj", True),
        ("model.layers.1?.mlp.down_proj", True),
        ("down_pro?", False),
        ("up_proj", False),
        ("DOWN", False),
    ],
)
def test_a_pattern_stands_in_the_name_or_matches_all_of_it(pattern: str, fits: bool) -> None:
    assert matches("model.layers.12.mlp.down_proj", pattern) is fits


def names(scan: Any) -> set[str]:
    return {name for r in scan.records for name in (r.tensor, *r.shared_with)}


@pytest.mark.parametrize("site", ["input", "weight"])
def test_only_what_is_included_and_not_excluded_is_measured(site: str, tokenizer: Any) -> None:
    model = families.shared("llama")
    scan = scan_model(
        model, tokenizer, ["abc"], sites=[site], include=["mlp"], exclude=["*.2.*", "up_proj"]
    )
    assert names(scan) == {
        f"model.layers.{layer}.mlp.{name}"
        for layer in (0, 1)
        for name in ("gate_proj", "down_proj")
    }
    assert scan.settings.include == ["mlp"]
    assert scan.not_measured == []


def test_a_pattern_that_fits_nothing_is_an_error_with_names_that_exist(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="`exclude` 'dwon' fits no linear") as caught:
        scan_model(families.shared("llama"), tokenizer, ["abc"], exclude=["dwon"])
    assert "model.layers.0.mlp.down_proj" in caught.value.hint


def test_leaving_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="leave no linear"):
        Selection(include=("a",), exclude=("a",)).check(["x.a", "x.b"])
