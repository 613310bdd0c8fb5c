"""A scale over a whole tensor depends on what the tensor is: for activations, the batch."""

from __future__ import annotations

from typing import Any

import families
import pytest

from srdd.measurement.scanner import scan_model

PROMPTS = ["one", "another prompt", "a third"]


def messages(scan: Any) -> list[str]:
    return [text for text in scan.warnings if "depend on the batch size" in text]


def test_a_reader_is_reported_when_figures_depend_on_the_batch(tokenizer: Any) -> None:
    scan = scan_model(families.shared("llama"), tokenizer, PROMPTS, formats=["nvfp4:tensor"])
    assert messages(scan) == [
        "nvfp4:tensor takes each batch of activations as the tensor, so its figures depend on the "
        "batch size"
    ]


@pytest.mark.parametrize(("spec", "site"), [("nvfp4:token", "output"), ("nvfp4:tensor", "weight")])
def test_where_they_do_not_nothing_is_reported(spec: str, site: str, tokenizer: Any) -> None:
    model = families.shared("llama")
    assert messages(scan_model(model, tokenizer, PROMPTS, formats=[spec], sites=[site])) == []


def test_nvfp4_by_token_is_the_same_in_any_batching(tokenizer: Any) -> None:
    model = families.shared("llama")
    alone, together = (
        scan_model(model, tokenizer, PROMPTS, formats=["nvfp4"], batch_size=size) for size in (1, 3)
    )
    for a, b in zip(alone.records, together.records, strict=True):
        assert a.sums.e2 == pytest.approx(b.sums.e2, rel=1e-6)
