"""Every bfloat16 there is, and block maxima next to every power of two, against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from srdd.numerics.formats import SCALE_RULES, parse_spec
from srdd.numerics.kernels import eager, row_sums

LARGEST = float(np.finfo(np.float32).max)


def _bfloat16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def _check(x: torch.Tensor, rule: str) -> None:
    """`x` (tokens, channels): values and sums of both kernels are the oracle's."""
    spec = parse_spec(f"mxfp4:{rule}")
    expected = oracle.quantize(x.double().numpy(), rule)
    y = eager.quantize(x, spec, "even", torch.zeros(len(x), dtype=torch.int64)).double().numpy()
    # What float32 cannot hold is its largest value here; infinities in x come back as they are.
    in_range = np.where(np.isfinite(expected.y), np.clip(expected.y, -LARGEST, LARGEST), expected.y)
    np.testing.assert_array_equal(y, in_range)
    for kernel in ("eager", "cpu"):
        sums = row_sums(x, spec, kernel=kernel).numpy()
        np.testing.assert_array_equal(sums[:, :6], expected.sums[:, :6])
        np.testing.assert_allclose(sums[:, 9:], expected.sums[:, 9:], rtol=1e-6)
        # The square of an error below 2^-63 scales underflows: 380 dB under its block's largest.
        off = np.abs(sums - expected.sums)[:, 6:9]
        assert (off <= 1e-6 * expected.sums[:, 6:9] + 1e-36 * expected.sums[:, 6:7]).all()


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_every_bfloat16_in_a_block_of_its_own(rule: str) -> None:
    _check(_bfloat16(oracle.all_bfloat16())[:, None], rule)


@pytest.mark.parametrize("amax", [2.0**-126, 1e-30, 0.75, 0.875, 1.0, 440.0, 3.3e38])
@pytest.mark.parametrize("rule", SCALE_RULES)
def test_every_bfloat16_in_a_block_with_a_given_maximum(rule: str, amax: float) -> None:
    bits = oracle.all_bfloat16()
    top = _bfloat16(bits[:1]).fill_(amax)
    x = _bfloat16(bits)
    x = x[~(x.abs() > top)]  # larger values would set the scale themselves; NaN may stay
    x = torch.nn.functional.pad(x, (0, -len(x) % 31)).reshape(-1, 31)
    _check(torch.cat([x, top.expand(len(x), 1)], dim=-1), rule)


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_block_maxima_next_to_every_power_of_two(rule: str) -> None:
    amax = torch.from_numpy(oracle.around_powers_of_two())
    fractions = torch.tensor([1.0, -0.9, 0.7, 0.5, -0.3, 0.2, 0.1, 0.0625, -0.03, 1e-3, 1e-20])
    _check(amax[:, None] * fractions, rule)


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_block_maxima_next_to_each_rules_threshold(rule: str) -> None:
    """Mantissas of 0.75 and 0.875, where `rceil` and `even` change, in every binade."""
    marks = np.float32([0.75, 0.875])
    near = [np.nextafter(marks, np.float32(side)) for side in (0, 1)]
    mantissas = np.concatenate([marks, *near])
    amax = torch.from_numpy(np.ldexp(mantissas, np.arange(-125, 128)[:, None]).ravel())
    _check(amax[:, None] * torch.tensor([1.0, -0.6, 0.25, 0.1]), rule)
