"""What holds for any tensor: hypothesis looks for one for which it does not."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from srdd.numerics.formats import ROUNDINGS, SCALE_RULES, FormatSpec, parse_spec
from srdd.numerics.kernels import eager, row_sums
from srdd.numerics.sums import INDEX

quick = settings(deadline=None, max_examples=60, derandomize=True)

specs = st.sampled_from(SCALE_RULES).map(lambda rule: parse_spec(f"mxfp4:{rule}"))
roundings = st.sampled_from(ROUNDINGS)
deterministic = st.sampled_from([name for name in ROUNDINGS if name != "stochastic"])
kernels = st.sampled_from(["eager", "cpu"])


def tensors(
    bound: float | None = None, tiny: bool = True, block: bool = False
) -> st.SearchStrategy[torch.Tensor]:
    """float32 (tokens, channels), finite.

    Arguments:
        bound: of the magnitudes; None is float32's.
        tiny: also values below 2^-60.
        block: channels come in whole blocks.
    """
    channels = st.integers(1, 3).map(lambda n: 32 * n) if block else st.integers(1, 70)
    shapes = st.tuples(st.integers(1, 4), channels)
    values = st.floats(
        width=32,
        allow_nan=False,
        allow_infinity=False,
        min_value=None if bound is None else -bound,
        max_value=bound,
    )
    if not tiny:
        values = values.map(lambda v: v if abs(v) > 2.0**-60 else 0.0)
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=values)).map(
        torch.from_numpy
    )


def _quantize(x: torch.Tensor, spec: FormatSpec, rounding: str) -> torch.Tensor:
    return eager.quantize(x, spec, rounding, torch.arange(len(x)))


@quick
@given(tensors(), specs, roundings)
def test_what_has_been_quantized_stays(x: torch.Tensor, spec: FormatSpec, rounding: str) -> None:
    once = _quantize(x, spec, rounding)
    assert torch.equal(_quantize(once, spec, rounding), once)


@quick
@given(tensors(), specs, roundings, kernels)
def test_signs_do_not_matter(x: torch.Tensor, spec: FormatSpec, rounding: str, kernel: str) -> None:
    assert torch.equal(_quantize(-x, spec, rounding), -_quantize(x, spec, rounding))
    sums, mirrored = (row_sums(each, spec, rounding, kernel=kernel) for each in (x, -x))
    assert torch.equal(sums, mirrored)


@quick
@given(tensors(bound=2.0**40, tiny=False), st.integers(-30, 30), specs, roundings, kernels)
def test_powers_of_two_pass_through(
    x: torch.Tensor, power: int, spec: FormatSpec, rounding: str, kernel: str
) -> None:
    factor = 2.0**power
    scaled = _quantize(x * factor, spec, rounding)
    assert torch.equal(scaled, _quantize(x, spec, rounding) * factor)
    sums = row_sums(x, spec, rounding, kernel=kernel)
    for name in ("x2", "e2", "clipped_e2"):
        sums[:, INDEX[name]] *= factor**2
    for name in ("abs_x", "abs_e"):
        sums[:, INDEX[name]] *= factor
    assert torch.equal(row_sums(x * factor, spec, rounding, kernel=kernel), sums)


@quick
@given(tensors(block=True), st.randoms(), specs, deterministic, kernels)
def test_the_order_of_blocks_does_not_matter(
    x: torch.Tensor, random, spec: FormatSpec, rounding: str, kernel: str
) -> None:
    blocks = x.reshape(len(x), -1, 32)
    order = random.sample(range(blocks.shape[1]), blocks.shape[1])
    moved = blocks[:, order].reshape(x.shape)
    expected = _quantize(x, spec, rounding).reshape(blocks.shape)[:, order].reshape(x.shape)
    assert torch.equal(_quantize(moved, spec, rounding), expected)
    sums, other = (row_sums(each, spec, rounding, kernel=kernel) for each in (x, moved))
    np.testing.assert_allclose(sums.numpy(), other.numpy(), rtol=1e-12)


@quick
@given(tensors(), st.integers(0, 4), specs, roundings, kernels)
def test_rows_measured_apart_or_together_give_the_same(
    x: torch.Tensor, cut: int, spec: FormatSpec, rounding: str, kernel: str
) -> None:
    keys = torch.arange(len(x))
    parts = [
        row_sums(x[at], spec, rounding, keys[at], kernel) for at in (slice(cut), slice(cut, None))
    ]
    assert torch.equal(row_sums(x, spec, rounding, keys, kernel), torch.cat(parts))


@quick
@given(tensors(), specs, roundings, kernels)
def test_sums_keep_their_order(
    x: torch.Tensor, spec: FormatSpec, rounding: str, kernel: str
) -> None:
    sums = dict(zip(INDEX, row_sums(x, spec, rounding, kernel=kernel).T, strict=True))
    for less, more in (
        ("flushed", "nonzero"),
        ("saturated", "nonzero"),
        ("nonzero", "elements"),
        ("clipped_e2", "e2"),
        ("flushed", "relative"),
    ):
        assert (sums[less] <= sums[more]).all(), (less, more)
    assert all((values >= 0).all() for values in sums.values())
    assert (sums["elements"] + sums["nonfinite"] == x.shape[1]).all()


@quick
@given(tensors(), specs, deterministic)
def test_an_error_is_at_most_the_value_and_no_sign_changes(
    x: torch.Tensor, spec: FormatSpec, rounding: str
) -> None:
    y = _quantize(x, spec, rounding).double()
    assert ((y - x.double()).abs() <= x.double().abs()).all()
    assert (y.sign() * x.double().sign() >= 0).all()
