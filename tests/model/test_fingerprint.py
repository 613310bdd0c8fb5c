"""The fingerprint of the weights: equal for equal weights, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM

from srdd.errors import InputError
from srdd.model.fingerprint import SAMPLE, fingerprint

LARGE = 3 * SAMPLE + 5
"""More values than enter one by one."""


class Holder(nn.Module):
    """A model of one tensor."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values, requires_grad=False)


def of(values: torch.Tensor) -> str:
    return fingerprint(Holder(values))


def noise(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_it_is_64_hexadecimal_digits_and_repeats() -> None:
    first, second = fingerprint(families.new("llama")), fingerprint(families.new("llama"))
    assert first == second
    assert len(first) == 64
    assert int(first, 16)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 4099, LARGE])
def test_one_changed_value_changes_it_wherever_it_stands(count: int, dtype: torch.dtype) -> None:
    before = of(noise(count, dtype))
    for place in {0, 1, 2, count // 2, count - 2, count - 1} & set(range(count)):
        values = noise(count, dtype)
        values[place] = -values[place]
        assert of(values) != before, place


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_change_of_a_value_changes_it(dtype: torch.dtype) -> None:
    values = noise(LARGE, dtype)
    before = of(values)
    values.view(torch.int16)[-3] ^= 1
    assert of(values) != before


@pytest.mark.parametrize("count", [10, 4097, LARGE])
def test_values_that_changed_places_change_it(count: int) -> None:
    values = noise(count)
    before = of(values)
    assert of(values.flip(0)) != before
    assert of(values.roll(1)) != before


def test_matrices_that_changed_places_change_it() -> None:
    model = families.new("llama")
    before = fingerprint(model)
    first, second = (model.model.layers[n].mlp.up_proj.weight for n in (0, 1))
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)
    assert fingerprint(model) != before


def test_rows_that_changed_places_in_a_large_matrix_change_it() -> None:
    values = noise(512 * 64).reshape(512, 64)
    before = of(values.clone())
    values[[100, 101]] = values[[101, 100]]
    assert of(values) != before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_changes_it(dtype: torch.dtype) -> None:
    zeros = torch.zeros(8)
    assert of(zeros.to(dtype)) != of(zeros)
    bits = noise(8, dtype)
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    assert of(bits) != of(bits.view(other))
    model = families.new("llama")
    before = fingerprint(model)
    assert fingerprint(model.to(dtype)) != before


def test_another_shape_changes_it() -> None:
    assert of(torch.zeros(4, 6)) != of(torch.zeros(6, 4))


def test_another_name_changes_it() -> None:
    other = nn.Module()
    other.gain = nn.Parameter(torch.zeros(3), requires_grad=False)
    assert fingerprint(other) != of(torch.zeros(3))


def test_the_number_of_files_does_not_matter(tmp_path: Path) -> None:
    model = families.shared("llama")
    result = []
    for name, size in (("whole", "1GB"), ("shards", "60KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        result.append(fingerprint(loaded))
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 1
    with safe_open(files[-1], framework="pt") as shard:
        assert len(list(shard.keys())) < len(list(model.parameters()))
    assert result == [fingerprint(model)] * 2


def test_the_layout_in_memory_does_not_matter() -> None:
    values = noise(4100)
    storage = torch.zeros(4101)
    storage[1:] = values
    assert of(storage[1:]) == of(values)  # does not begin at a multiple of eight bytes
    matrix = noise(60).reshape(6, 10)
    assert of(matrix.T.contiguous().T) == of(matrix)


def test_weights_elsewhere_enter_by_name_and_shape() -> None:
    assert of(torch.zeros(3, device="meta")) == of(torch.ones(3, device="meta"))
    assert of(torch.zeros(3, device="meta")) != of(torch.zeros(4, device="meta"))


def test_an_empty_weight_is_no_obstacle() -> None:
    assert of(torch.zeros(0)) != of(torch.zeros(0, 2))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_have_one_too(dtype: torch.dtype) -> None:
    values = noise(100)
    assert of(values.to(dtype)) != of((-values).to(dtype))
    values[99] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity: weight"):
        of(values.to(dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_non_finite_weights_are_refused_by_name(bad: float, dtype: torch.dtype) -> None:
    model = families.new("llama").to(dtype)
    model.model.layers[1].mlp.up_proj.weight[5, 7] = bad
    with pytest.raises(InputError) as caught:
        fingerprint(model)
    assert caught.value.message == (
        "the weights hold NaN or infinity: model.layers.1.mlp.up_proj.weight"
    )
    assert caught.value.hint == "scan a checkpoint from before the training broke"


def test_of_many_broken_tensors_three_are_named() -> None:
    model = families.new("llama")
    for parameter in model.model.layers[0].parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(InputError, match=r"(?m)layers\.0\.\S+, \S+, \S+ and 6 more$"):
        fingerprint(model)


def test_a_sum_that_overflows_is_not_taken_for_infinity() -> None:
    values = torch.full((1000,), 60000.0, dtype=torch.float16)
    assert values.sum().isinf()
    assert of(values)
    assert of(torch.full((4,), torch.finfo(torch.float32).max))
