"""What arrives of noise that is added to a weight, once the sum is rounded to the weight's type.

A weight w becomes round(w + n) with n from N(0, sigma^2), rounded to the nearest value of the type.
Where values lie a spacing u apart, the step from w has the variance

    E[step^2] = u^2 * sum over k of k^2 * P((k - 1/2) u < n < (k + 1/2) u)
              = 2 u^2 * sum over k >= 1 of (2 k - 1) * Q((k - 1/2) u / sigma)

with Q the upper tail of the standard normal distribution. A sigma far below u is swallowed; from
sigma = u on, the sum is sigma^2 + u^2 / 12 to eight digits (the error falls as
exp(-2 pi^2 sigma^2 / u^2)). In between, rounding can add a little more than it takes.

u is that of the binade of w. A power of two has half the spacing on its inner side, which is taken
into account; a step that crosses into another binade is counted with the spacing of its own.
"""

from __future__ import annotations

import math

TYPES = {
    "bfloat16": (7, -126),
    "float16": (10, -14),
    "float32": (23, -126),
    "float64": (52, -1022),
}
"""Bits of the fraction and least exponent of a normal value, by type."""

LEAST_EXPONENT = -40
"""Smaller values count with this one: their spacing is below any sigma in use."""


def spacing(exponent: int, dtype: str) -> float:
    """How far values of a type lie apart from 2^exponent to 2^(exponent + 1)."""
    bits, least = TYPES[dtype]
    return math.ldexp(1.0, max(exponent, least) - bits)


def arriving(sigma: float, exponent: int, dtype: str, *, power_of_two: bool = False) -> float:
    """The variance that arrives of noise of variance sigma^2; from 0 to about 1.34 sigma^2.

    Arguments:
        sigma: standard deviation of the noise, at least 0.
        exponent: of the weight: floor(log2 |w|).
        dtype: of TYPES.
        power_of_two: whether |w| is 2^exponent itself.
    """
    step = spacing(exponent, dtype)
    if not power_of_two:
        return _on_grid(sigma, step)
    return (_on_grid(sigma, step) + _on_grid(sigma, spacing(exponent - 1, dtype))) / 2


def _on_grid(sigma: float, step: float) -> float:
    if sigma >= step:
        return sigma * sigma + step * step / 12
    if sigma < step / 80:  # the first tail is 0 in double precision
        return 0.0
    tails = (
        (2 * k - 1) * math.erfc((k - 0.5) * step / (sigma * math.sqrt(2))) for k in range(1, 12)
    )
    return step * step * math.fsum(tails)
