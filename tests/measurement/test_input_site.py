"""Site `input`: what goes into each linear, once where several read the same tensor."""

from __future__ import annotations

from typing import Any

import families
import pytest
import torch
from torch import nn

from srdd.documents.records import from_record
from srdd.measurement.scanner import scan_model
from srdd.model.structure import find_structure
from srdd.numerics import sums
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import row_sums
from srdd.prompts.batches import make_batches, tokenize
from srdd.prompts.reading import from_strings

PROMPTS = ["one two three", "a somewhat longer prompt than the first", "x = 1"]


def captured_by_hand(model: nn.Module, tokenizer: Any) -> dict[str, sums.Sums]:
    """For every linear in a layer the sums of its input, from hooks that keep whole tensors."""
    kept: dict[str, list[torch.Tensor]] = {}
    handles = []
    for layer in find_structure(model).layers:
        for linear in layer.linears:

            def keep(
                module: nn.Module, given: tuple[torch.Tensor], name: str = linear.name
            ) -> None:
                kept.setdefault(name, []).append(given[0].detach().clone())

            handles.append(model.get_submodule(linear.name).register_forward_pre_hook(keep))
    with torch.no_grad():
        for batch in make_batches(tokenize(from_strings(PROMPTS), tokenizer), 1):
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    for handle in handles:
        handle.remove()
    spec = parse_spec("mxfp4")
    return {
        name: sum(
            row_sums(part.reshape(-1, part.shape[-1]), spec, kernel="eager").sum(0).numpy()
            for part in parts
        )
        for name, parts in kept.items()
    }


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_every_linear_has_the_sums_of_what_goes_into_it(family: str, tokenizer: Any) -> None:
    model = families.shared(family)
    scan = scan_model(model, tokenizer, PROMPTS, sites=["input"], batch_size=1)
    wanted = captured_by_hand(model, tokenizer)
    result = {}
    for record in scan.records:
        for name in (record.tensor, *record.shared_with):
            result[name] = from_record(record).replicates.sum(axis=0)
    stacked = {
        f"{name}.{key}"
        for layer in find_structure(model).layers
        for name in layer.stacked
        for key in ("gate_up_proj", "down_proj")
    }
    assert bool(stacked) == (family in ("mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"))
    missing = {one.module for one in scan.not_measured} - stacked
    assert set(result) | missing == stacked | {
        linear.name for layer in find_structure(model).layers for linear in layer.linears
    }
    assert set(result) >= (set(wanted) | stacked) - missing
    for name, figures in result.items():
        if name in stacked:
            continue  # see test_experts.py
        assert figures == pytest.approx(wanted[name], rel=1e-6), name


def test_query_key_and_value_are_measured_once_and_named_together(tokenizer: Any) -> None:
    scan = scan_model(families.shared("llama"), tokenizer, PROMPTS, sites=["input"])
    first = [record for record in scan.records if record.layer == 0]
    prefix = "model.layers.0."
    assert {
        r.tensor.removeprefix(prefix): [s.removeprefix(prefix) for s in r.shared_with]
        for r in first
    } == {
        "self_attn.q_proj": ["self_attn.k_proj", "self_attn.v_proj"],
        "self_attn.o_proj": [],
        "mlp.gate_proj": ["mlp.up_proj"],
        "mlp.down_proj": [],
    }
    assert scan.not_measured == []


def test_output_and_input_in_one_pass_give_what_each_gives_alone(tokenizer: Any) -> None:
    model = families.shared("qwen2")
    both = scan_model(model, tokenizer, PROMPTS, sites=["output", "input"])
    for site in ("output", "input"):
        alone = scan_model(model, tokenizer, PROMPTS, sites=[site])
        assert [r.sums for r in both.select(site)] == [r.sums for r in alone.records]


def test_batches_do_not_change_the_inputs_sums(tokenizer: Any) -> None:
    model = families.shared("llama")
    alone = scan_model(model, tokenizer, PROMPTS, sites=["input"], batch_size=1)
    together = scan_model(model, tokenizer, PROMPTS, sites=["input"], batch_size=3)
    for a, b in zip(alone.records, together.records, strict=True):
        figures = [from_record(record).replicates.sum(axis=0) for record in (a, b)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-6)


def test_tensors_that_are_equal_but_not_the_same_are_measured_apart(tokenizer: Any) -> None:
    model = families.new("llama")
    projection = model.get_submodule("model.layers.0.self_attn.k_proj")
    projection.register_forward_pre_hook(lambda module, given: (given[0].clone(),))
    scan = scan_model(model, tokenizer, PROMPTS, sites=["input"])
    tensors = {r.tensor: r for r in scan.records if r.layer == 0}
    query = tensors["model.layers.0.self_attn.q_proj"]
    key = tensors["model.layers.0.self_attn.k_proj"]
    assert query.shared_with == ["model.layers.0.self_attn.v_proj"]
    assert key.sums == query.sums


def test_rankings_are_of_layers_though_a_layer_has_several_tensors(tokenizer: Any) -> None:
    scan = scan_model(families.shared("llama"), tokenizer, PROMPTS, sites=["input"])
    assert {ranking.top_k for ranking in scan.rankings} == {families.LAYERS // 2}
