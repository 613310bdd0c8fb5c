"""Decoder layers, linears and norms: found in every family from its modules alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import families
import pytest
import torch
from families import FAMILIES, HIDDEN, LAYERS
from torch import nn

from srdd.errors import InputError
from srdd.model.structure import NormModule, Structure, find_structure

each_family = pytest.mark.parametrize("name", FAMILIES)


def find(name: str) -> Structure:
    return find_structure(families.shared(name))


def short(names: Any, prefix: str) -> list[str]:
    """Names inside a layer."""
    assert all(name.startswith(f"{prefix}.") for name in names)
    return [name.removeprefix(f"{prefix}.") for name in names]


@each_family
def test_the_layers_are_those_of_the_model_in_its_order(name: str) -> None:
    structure = find(name)
    decoder = FAMILIES[name].decoder
    assert structure.decoder == decoder
    assert [layer.index for layer in structure.layers] == list(range(LAYERS))
    assert [layer.name for layer in structure.layers] == [f"{decoder}.{n}" for n in range(LAYERS)]
    for layer in structure.layers:
        assert layer.module is families.shared(name).get_submodule(layer.name)


@each_family
def test_linears_are_found_with_the_features_they_take_and_give(name: str) -> None:
    family = FAMILIES[name]
    layers = find(name).layers
    for layer in layers if family.alike else layers[:1]:
        names = short([linear.name for linear in layer.linears], layer.name)
        sizes = [(linear.in_features, linear.out_features) for linear in layer.linears]
        assert dict(zip(names, sizes, strict=True)) == family.linears


@each_family
def test_a_linear_takes_and_gives_what_its_features_say(name: str) -> None:
    model = families.shared(name)
    for linear in find(name).layers[0].linears:
        module = model.get_submodule(linear.name)
        if not isinstance(module, nn.Linear) and type(module).__name__ != "Conv1D":
            continue  # a router gives more than its product
        given = module(torch.zeros(1, linear.in_features))
        assert given.shape == (1, linear.out_features)
        assert linear.type == type(module).__name__


@each_family
def test_norms_are_found_with_their_kind(name: str) -> None:
    family = FAMILIES[name]
    for layer in find(name).layers:
        names = short([norm.name for norm in layer.norms], layer.name)
        assert dict(zip(names, (norm.kind for norm in layer.norms), strict=True)) == family.norms
        whole = [norm for norm in layer.norms if norm.name.endswith("layernorm")]
        assert all(norm.size in (HIDDEN, 32, 16) for norm in whole)


@each_family
def test_norms_outside_the_layers_are_reported_apart(name: str) -> None:
    structure = find(name)
    assert tuple(norm.name for norm in structure.other_norms) == FAMILIES[name].other_norms


@each_family
def test_the_body_runs_every_layer_without_the_head(name: str) -> None:
    model = families.shared(name)
    structure = find(name)
    head = model.get_output_embeddings()
    inside = set(structure.body.modules())
    assert head is not None
    assert head not in inside
    assert all(layer.module in inside for layer in structure.layers)
    ids = torch.arange(3, 9)[None]
    output = structure.body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert output.last_hidden_state.shape == (1, 6, HIDDEN)


# The gain of a norm


def all_norms(structure: Structure) -> Iterator[NormModule]:
    for layer in structure.layers:
        yield from layer.norms
    yield from structure.other_norms


@each_family
def test_the_gain_is_what_the_norm_really_multiplies_with(name: str) -> None:
    model = families.new(name)
    generator = torch.Generator().manual_seed(3)
    expected = {}
    for norm in all_norms(find_structure(model)):
        weight = model.get_submodule(norm.name).weight
        gains = 0.5 + torch.rand(weight.shape, generator=generator)
        gains[-2] = 40.0  # one channel that outweighs all others
        weight.copy_(gains - 1 if FAMILIES[name].adds_one else gains)
        expected[norm.name] = float(gains.square().mean().sqrt())
    result = {norm.name: norm.gain_rms for norm in all_norms(find_structure(model))}
    assert result == {key: pytest.approx(value, rel=0.01) for key, value in expected.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_gain_is_observed_in_any_dtype(name: str, dtype: torch.dtype) -> None:
    model = families.new(name).to(dtype)
    norm = model.get_submodule(find(name).layers[1].norms[0].name)
    norm.weight.fill_(0.5 if FAMILIES[name].adds_one else 1.5)
    seen = find_structure(model).layers[1].norms[0]
    assert seen.gain_rms == pytest.approx(1.5, rel=0.01)
    assert seen.kind == next(iter(FAMILIES[name].norms.values()))


def test_a_bias_does_not_count_as_gain() -> None:
    model = families.new("gpt2")
    model.get_submodule("transformer.h.0.ln_1").bias.fill_(7.0)
    assert find_structure(model).layers[0].norms[0].gain_rms == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(("name", "kind"), [("llama", "rmsnorm"), ("gpt2", "layernorm")])
def test_a_norm_that_multiplies_with_zero_keeps_its_kind(name: str, kind: str) -> None:
    model = families.new(name)
    path = find(name).layers[0].norms[0].name
    model.get_submodule(path).weight.zero_()
    norm = find_structure(model).layers[0].norms[0]
    assert (norm.kind, norm.gain_rms) == (kind, 0.0)


def test_a_norm_without_data_has_no_gain() -> None:
    model = families.new("llama")
    model.model.layers[0].input_layernorm.to("meta")
    assert find_structure(model).layers[0].norms[0].gain_rms is None


def test_looking_at_a_model_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    find("llama")
    assert torch.equal(torch.rand(3), expected)


# Models of no known family


class ReturnsTuple(nn.Module):
    """A layer that returns its hidden states with something else, under unusual names."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Linear(8, 8)
        self.scaling = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.scaling(self.mixing(x)), None


def stack(count: int, wrap: type[nn.Module] = nn.ModuleList) -> nn.Module:
    members = [ReturnsTuple() for _ in range(count)]
    return wrap(*members) if wrap is nn.Sequential else wrap(members)


class Odd(nn.Module):
    """A model with the modules given and nothing else."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for key, part in parts.items():
            setattr(self, key, part)


@pytest.mark.parametrize("wrap", [nn.ModuleList, nn.Sequential])
def test_unusual_names_do_not_matter(wrap: type[nn.Module]) -> None:
    structure = find_structure(Odd(tokens=nn.Embedding(9, 8), blobs=stack(4, wrap)))
    assert structure.decoder == "blobs"
    assert len(structure.layers) == 4
    assert [linear.name for linear in structure.layers[2].linears] == ["blobs.2.mixing"]
    assert [norm.name for norm in structure.layers[2].norms] == ["blobs.2.scaling"]


def test_without_a_base_model_the_model_itself_is_run() -> None:
    model = Odd(blobs=stack(2))
    assert find_structure(model).body is model


def test_of_several_stacks_the_configured_number_of_layers_decides() -> None:
    model = Odd(vision=stack(5), text=stack(3))
    assert find_structure(model).decoder == "vision"
    model.config = type("Config", (), {"num_hidden_layers": 3})()
    assert find_structure(model).decoder == "text"


def test_an_embedding_is_no_linear() -> None:
    layers = nn.ModuleList(Odd(bias=nn.Embedding(9, 8), inner=nn.Linear(8, 8)) for _ in range(2))
    assert [linear.name for linear in find_structure(Odd(layers=layers)).layers[0].linears] == [
        "layers.0.inner"
    ]


def test_lists_inside_layers_are_not_the_stack() -> None:
    layers = nn.ModuleList(Odd(experts=stack(6), inner=nn.Linear(8, 8)) for _ in range(2))
    model = Odd(layers=layers)
    model.config = type("Config", (), {"num_hidden_layers": 6})()
    structure = find_structure(model)
    assert structure.decoder == "layers"
    assert len(structure.layers[0].linears) == 7


def test_a_model_without_decoder_stack_is_reported_what_was_found() -> None:
    model = Odd(encoder=nn.Linear(4, 4), heads=nn.ModuleList([nn.LayerNorm(4)]))
    with pytest.raises(InputError) as caught:
        find_structure(model)
    assert caught.value.message == (
        "Odd has no decoder stack: no list of modules that each hold linears "
        "(found: 1 linears, lists: heads)"
    )
    assert caught.value.hint == "name a decoder-only language model"


def test_an_empty_model_has_no_decoder_stack() -> None:
    with pytest.raises(InputError, match=r"found: 0 linears, lists: none"):
        find_structure(Odd())
