"""The fused kernel that writes values: the reference's bits, in every format."""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
from test_agreement import battery

from srdd.numerics import kernels
from srdd.numerics.formats import FORMATS, ROUNDINGS, parse_spec
from srdd.numerics.kernels import DTYPES, quantize

SPECS = [f"{name}:{rule}" for name, each in FORMATS.items() for rule in each.scale_rules]
KINDS = ["mxfp4:rceil", "nvfp4:tensor", "nvfp4_46", "int4_g32", "int4_g128", "int8_token"]
"""One format for each compiled kernel of a dtype and a rounding."""


def edges(dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """What only the writing can get wrong: the ends of the dtype's range, signs, odd values."""
    info = torch.finfo(dtype)
    ends = [info.max, info.tiny, info.smallest_normal * 1.5, info.smallest_normal / 2, 0.0, -0.0]
    ends += [info.max / 2, info.max * 0.9, math.nan, math.inf, -math.inf, 1.0]
    row = torch.tensor(ends, dtype=torch.float64).to(dtype)
    yield torch.stack([row.roll(n) * (-1) ** n for n in range(len(ends))])
    # Every size of a value in a row of its own: subnormal results, and scales at both ends.
    powers = torch.arange(math.floor(math.log2(info.smallest_normal)) - 12, 128)
    sizes = (2.0 ** powers.double()).clamp(max=info.max)
    steps = torch.tensor([1.0, -0.74, 0.51, -0.26, 0.13, 0.06, 0.031])
    yield (sizes[:, None] * steps).to(dtype)
    yield torch.zeros(0, 40, dtype=dtype)
    yield torch.zeros(3, 0, dtype=dtype)


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """NaN is NaN, whatever its payload; zeros have their sign."""
    assert found.dtype == expected.dtype
    integer = torch.int32 if found.dtype == torch.float32 else torch.int16
    nan = expected.isnan()
    bits = torch.equal(found.view(integer)[~nan], expected.view(integer)[~nan])
    return bits and torch.equal(found.isnan(), nan)


def _agrees(text: str, rounding: str, dtype: torch.dtype) -> None:
    spec = parse_spec(text)
    for x in (*battery(dtype), *edges(dtype)):
        keys = torch.arange(len(x)) * 7_919_000_011 - 3
        expected = quantize(x, spec, rounding, keys, kernel="eager")
        assert same_bits(quantize(x, spec, rounding, keys), expected), (text, x.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", SPECS)
def test_it_writes_the_bits_of_the_reference(text: str, dtype: torch.dtype) -> None:
    _agrees(text, "even", dtype)


@pytest.mark.parametrize("rounding", [name for name in ROUNDINGS if name != "even"])
def test_other_roundings_too(rounding: str) -> None:
    _agrees("mxfp4", rounding, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", [name for name in ROUNDINGS if name != "even"])
@pytest.mark.parametrize("text", KINDS)
def test_every_kernel_that_is_compiled(text: str, rounding: str, dtype: torch.dtype) -> None:
    _agrees(text, rounding, dtype)


@pytest.mark.parametrize("text", ["mxfp4:floor", "mxfp4:even", "mxfp8_e5m2:ceil"])
def test_every_bfloat16_becomes_what_the_oracle_says(text: str) -> None:
    """In blocks with neighbours of every size, against numpy and ml_dtypes alone."""
    spec = parse_spec(text)
    bits = oracle.all_bfloat16()
    x = np.random.default_rng(3).permutation(bits).reshape(-1, 64)
    expected = oracle.quantize(
        oracle.value_of_bfloat16(x), spec.scale_rule, oracle.GRIDS[spec.format.element.name]
    ).y
    given = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    finite = torch.isfinite(given)
    largest = torch.finfo(torch.bfloat16).max
    with np.errstate(over="ignore", invalid="ignore"):
        clamped = np.clip(expected, -largest, largest).astype(np.float32)
    wanted = torch.from_numpy(clamped.astype(ml_dtypes.bfloat16).view(np.int16))
    found = quantize(given, spec, "even", torch.arange(len(x)))
    assert torch.equal(found.view(torch.int16)[finite], wanted[finite])
    assert same_bits(found[~finite], given[~finite])


def test_threads_and_batches_do_not_show() -> None:
    x = torch.randn(5000, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    spec, keys = parse_spec("nvfp4"), torch.arange(5000)
    whole = quantize(x, spec, "stochastic", keys)
    parts = [
        quantize(part, spec, "stochastic", key)
        for part, key in zip(x.split(7), keys.split(7), strict=True)
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_a_rotated_format_is_quantized_by_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x, spec = torch.randn(20, 64).bfloat16(), parse_spec("mxfp4+hadamard32")
    expected = quantize(x, spec, "even", torch.arange(20), kernel="eager")
    monkeypatch.setattr(kernels.eager, "quantize", None)
    assert torch.equal(quantize(x, spec, "even", torch.arange(20)), expected)
