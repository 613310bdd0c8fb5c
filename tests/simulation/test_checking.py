"""Where the changes that check an estimate are measured."""

from __future__ import annotations

import families
import pytest
import torch

from srdd import scan_model
from srdd.simulation import checking

PROMPTS = ["where does it hurt", "and how sure is that", "a third one"]


def test_a_model_in_16_bits_is_checked_in_float32_and_stays_as_it_was(tokenizer: object) -> None:
    model = families.new("llama").bfloat16()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scan = scan_model(model, tokenizer, PROMPTS, kl=True, kl_check=2)
    assert scan.sensitivity is not None
    assert scan.sensitivity.measured_in == "float32"
    after = model.state_dict()
    assert all(value.dtype == torch.bfloat16 for value in after.values())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_without_room_for_a_copy_single_tensors_are_not_judged(
    tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_free_bytes", lambda device: 0)
    model = families.new("llama").bfloat16()
    scan = scan_model(model, tokenizer, PROMPTS, kl=True, kl_check=2)
    assert scan.sensitivity is not None
    assert scan.sensitivity.measured_in == "bfloat16"
    assert any("float32" in warning for warning in scan.warnings)


def test_a_model_in_float32_is_not_copied() -> None:
    model = families.new("llama").float()
    assert checking.in_float32(model) is model
