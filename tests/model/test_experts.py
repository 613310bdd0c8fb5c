"""Experts that are stacked in one parameter: their inputs, against another way to run them."""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn
from transformers.integrations import moe

from srdd.documents.records import from_record, replicate_of
from srdd.measurement.scanner import scan_model
from srdd.model.experts import Product, one_by_one, watching
from srdd.model.structure import find_structure
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import row_sums

PROMPTS = ["one two three", "a somewhat longer prompt than the first", "x = 1"]
MIXTURES = ("deepseek_v3", "gpt_oss", "mixtral", "qwen2_moe")


def inputs_by_batched_products(
    model: nn.Module, tokenizer: Any, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    """What goes into gate_up and down of each layer, from transformers' `batched_mm` experts."""
    kept: list[torch.Tensor] = []
    plain = moe._batched_linear

    def keep(x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        kept.append(x.detach().clone())
        return plain(x, *rest, **named)

    monkeypatch.setattr(moe, "_batched_linear", keep)
    before = model.config._experts_implementation
    model.config._experts_implementation = "batched_mm"
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        model.eval()(input_ids=ids)
    model.config._experts_implementation = before
    monkeypatch.undo()
    return kept


@pytest.mark.parametrize("family", MIXTURES)
def test_inputs_of_experts_are_those_of_another_implementation(
    family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.shared(family)
    scan = scan_model(model, tokenizer, PROMPTS, sites=["input"], batch_size=3)
    names = [
        f"{name}.{key}"
        for layer in find_structure(model).layers
        for name in layer.stacked
        for key in ("gate_up_proj", "down_proj")
    ]
    records = {record.tensor: record for record in scan.records}
    spec = parse_spec("mxfp4")
    for place, prompt in enumerate(PROMPTS):
        kept = inputs_by_batched_products(model, tokenizer, prompt, monkeypatch)
        assert len(kept) == len(names)
        for name, x in zip(names, kept, strict=True):
            wanted = row_sums(x, spec, kernel="eager").sum(0).numpy()
            replicate = replicate_of(scan.calibration.prompt_fingerprints[place])
            result = from_record(records[name]).replicates[replicate]
            assert result[0] == wanted[0]  # tokens times experts of each
            np.testing.assert_allclose(result[[6, 7, 9, 10]], wanted[[6, 7, 9, 10]], rtol=2e-3)


def test_the_model_runs_its_experts_as_before_afterwards(tokenizer: Any) -> None:
    model = families.shared("mixtral")
    before = model.config._experts_implementation
    model.config._experts_implementation = "batched_mm"
    try:
        scan_model(model, tokenizer, PROMPTS, sites=["input"])
        assert model.config._experts_implementation == "batched_mm"
        experts = [m for m in model.modules() if hasattr(m, "gate_up_proj")]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in experts)
    finally:
        model.config._experts_implementation = before


def test_experts_that_saw_no_token_are_named_and_not_averaged(tokenizer: Any) -> None:
    model = families.new("mixtral")
    router = model.get_submodule("model.layers.1.mlp.gate")
    with torch.no_grad():  # the first two of four experts win every token of layer 1
        router.weight.zero_()
    router.register_forward_hook(
        lambda module, given, output: (
            output[0],
            output[1],
            torch.arange(2).expand(len(output[2]), 2).contiguous(),
        )
    )
    scan = scan_model(model, tokenizer, PROMPTS, sites=["input"])
    not_measured = {one.module: one for one in scan.not_measured}
    for key in ("gate_up_proj", "down_proj"):
        one = not_measured[f"model.layers.1.mlp.experts.{key}"]
        assert (one.site, one.reason) == ("input", "experts 2, 3 of 4 saw no token")
        (record,) = [r for r in scan.records if r.tensor == one.module]
        assert record.sums.tokens == 2 * scan.calibration.tokens


def test_slices_are_known_by_their_memory() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(3, 8, 4))
            self.down = nn.Parameter(torch.randn(3, 8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x[torch.tensor([4, 1])]
            middle = torch.nn.functional.linear(rows, self.up[2])
            other = middle @ torch.randn(8, 8)  # no expert's
            return other @ self.down[2]

    met: list[Product] = []
    experts, x = Experts(), torch.randn(5, 4)
    with watching(experts, met.append), torch.no_grad():
        experts(x)
    experts(x)  # nobody watches any more
    assert [(p.key, p.expert, p.tokens.tolist()) for p in met] == [
        ("up", 2, [4, 1]),
        ("down", 2, [4, 1]),
    ]
    assert torch.equal(met[0].x, x[[4, 1]])
    assert torch.equal(met[0].weight, experts.up[2])
    assert torch.equal(met[1].weight, experts.down[2].t())


def test_a_failed_forward_pass_leaves_no_mode_behind() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(3, 8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    met: list[Product] = []
    experts = Experts()
    with watching(experts, met.append):
        with pytest.raises(RuntimeError, match="out of memory"):
            experts(torch.randn(5, 4))
        rows = torch.randn(5, 4)[torch.tensor([0])]
        torch.nn.functional.linear(rows, experts.up[0])
    assert met == []


def test_models_without_the_setting_are_left_alone() -> None:
    with one_by_one([nn.Linear(2, 2)]):
        pass


class Attention(nn.Module):
    """A stack of weights beside products of operands with more than two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[torch.tensor([0, 1])]
        scores = torch.matmul(torch.randn(2, 5, 8), torch.randn(2, 8, 5))
        vector = torch.matmul(torch.randn(5, 8), torch.randn(8))
        return torch.nn.functional.linear(rows, self.up[1]) + scores.sum() + vector.sum()


def test_products_of_other_ranks_are_left_alone() -> None:
    met: list[Product] = []
    module, x = Attention(), torch.randn(5, 4)
    with watching(module, met.append), torch.no_grad():
        module(x)
    assert [(product.key, product.expert) for product in met] == [("up", 1)]


def test_an_interrupt_leaves_no_mode_on_torchs_stack() -> None:
    class Interrupted(Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

    module = Interrupted()
    before = torch._C._len_torch_function_stack()
    with pytest.raises(KeyboardInterrupt), watching(module, lambda product: None):
        module(torch.randn(5, 4))
    assert torch._C._len_torch_function_stack() == before
