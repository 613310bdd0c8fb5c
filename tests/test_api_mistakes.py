"""The likeliest mistakes of callers from Python get an error that says what to do."""

from __future__ import annotations

from typing import Any

import families
import pytest

import srdd
from srdd.errors import UsageError


def test_a_single_string_is_one_prompt(tokenizer: Any) -> None:
    scan = srdd.scan_model(families.shared("llama"), tokenizer, "hello")
    assert (scan.calibration.prompts, scan.calibration.tokens) == (1, 5)


def test_a_missing_tokenizer_is_told() -> None:
    with pytest.raises(UsageError, match="a tokenizer is needed") as caught:
        srdd.scan_model(families.shared("llama"), None, ["hello"])
    assert 'sites=["weight"]' in caught.value.hint


def test_weights_need_no_tokenizer() -> None:
    scan = srdd.scan_model(families.shared("llama"), sites=["weight"])
    assert scan.calibration.prompts == 0
    assert scan.model.tokenizer is None


def test_a_name_in_place_of_a_model_is_told(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="the model is a str, not a torch module") as caught:
        srdd.scan_model("demo", tokenizer, ["hello"])  # type: ignore[arg-type]
    assert "from_pretrained" in caught.value.hint
