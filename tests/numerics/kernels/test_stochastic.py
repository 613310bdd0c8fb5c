"""Stochastic rounding: right on average, repeatable for a key and column, unrelated otherwise."""

from __future__ import annotations

import pytest
import torch

from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import eager, row_sums

SPEC = parse_spec("mxfp4:floor")
ROWS, COLUMNS = 2000, 256


def _draw(value: float, keys: torch.Tensor | None = None) -> torch.Tensor:
    """`value` in units of the scale, rounded once in every place but the first of each block."""
    x = torch.full((ROWS if keys is None else len(keys), COLUMNS), value)
    x[:, ::32] = 4.0  # keeps the scale at 1
    y = eager.quantize(x, SPEC, "stochastic", torch.arange(len(x)) if keys is None else keys)
    return y.reshape(len(x), -1, 32)[:, :, 1:].flatten()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.5), (0.5, 1.0), (1.5, 2.0), (2.0, 3.0), (4.0, 6.0)]
)
@pytest.mark.parametrize("share", [0.001, 1 / 16, 0.25, 0.5, 0.7, 15 / 16, 0.999])
def test_a_value_rounds_up_as_often_as_its_place_between_neighbours(
    low: float, high: float, share: float
) -> None:
    y = _draw(low + share * (high - low))
    assert set(y.tolist()) <= {low, high}
    deviation = (share * (1 - share) / y.numel()) ** 0.5
    assert abs((y == high).double().mean().item() - share) < 5 * deviation


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
def test_a_value_on_the_grid_stays(value: float) -> None:
    assert set(_draw(value).tolist()) == {value}


def test_draws_lie_between_the_multiples_of_their_precision() -> None:
    """So none is 0, which would let the least of values round up, and their mean is one half."""
    draws = eager._uniform(torch.arange(1000), 1000) * 2**24
    assert (draws % 2 == 1).all()
    assert draws.max() < 2**24


def test_a_rows_draws_follow_from_its_key_not_from_its_batch() -> None:
    x = torch.randn(50, 100)
    keys = torch.randint(-(2**62), 2**62, (50,))
    order = torch.randperm(50)
    for kernel in ("eager", "cpu"):
        whole = row_sums(x, SPEC, "stochastic", keys, kernel)
        alone = torch.cat(
            [row_sums(x[i, None], SPEC, "stochastic", keys[i, None], kernel) for i in range(50)]
        )
        mixed = row_sums(x[order], SPEC, "stochastic", keys[order], kernel)
        assert torch.equal(whole, alone)
        assert torch.equal(whole[order], mixed)


def test_a_values_draw_does_not_depend_on_what_stands_to_its_right() -> None:
    x = torch.randn(4, 96)
    keys = torch.arange(4)
    whole = eager.quantize(x, SPEC, "stochastic", keys)
    assert torch.equal(whole[:, :64], eager.quantize(x[:, :64], SPEC, "stochastic", keys))


@pytest.mark.parametrize("other", [1, 2**32, -1, 2**62], ids=["low", "high", "minus", "far"])
def test_another_key_gives_unrelated_draws(other: int) -> None:
    keys = torch.arange(0, 2 * ROWS, 2)
    first, second = _draw(0.25, keys), _draw(0.25, keys + other)
    agreement = (first == second).double().mean().item()
    assert abs(agreement - 0.5) < 5 * (0.25 / first.numel()) ** 0.5


@pytest.mark.parametrize("dim", [0, 1], ids=["rows", "columns"])
def test_neighbours_are_unrelated(dim: int) -> None:
    y = _draw(0.25).reshape(ROWS, -1)
    shifted = y.roll(1, dim)
    agreement = (y == shifted).double().mean().item()
    assert abs(agreement - 0.5) < 5 * (0.25 / y.numel()) ** 0.5


def test_keys_left_out_are_the_rows_numbers() -> None:
    x = torch.randn(9, 64)
    keys = torch.arange(9)
    for kernel in ("eager", "cpu"):
        left_out = row_sums(x, SPEC, "stochastic", kernel=kernel)
        assert torch.equal(left_out, row_sums(x, SPEC, "stochastic", keys, kernel))
