"""How sure a scan is: intervals of its metrics and the stability of a ranking, from replicates.

Prompts are dealt into replicates, and each replicate keeps its own sums. Prompts are the units of
all that follows, not tokens: tokens of one prompt resemble each other, and intervals over tokens
would be far too narrow.

A 95 % interval is value +- t(0.975, df) * error. With d_i the metric without replicate i (of G)
minus the mean of all G of these, the error is that of the jackknife (Tukey 1958):

    error^2 = (G - 1) / G * sum of d_i^2        k = G * sum of d_i^4 / (sum of d_i^2)^2
    df = G / (k - 2), at least 1 and at most G - 1

The degrees of freedom are the effective ones. Where the replicates contribute alike, the kurtosis k
is about 3 and df is G - 1; where one of them carries everything, k is near G and df is 1, which
makes t 12.7 in place of 2. A bootstrap of few, heavy-tailed prompts gives intervals that are far
too narrow; benchmarks/coverage.py compares the two, and others, on several populations.

What this does not cover: prompts of another kind than those measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.errors import counted
from srdd.numerics.metrics import FIGURES, METRICS, derive
from srdd.numerics.sums import Sums, field

RESAMPLES = 1000
HALVES = 100
"""Random halves of the replicates from which the stability of a ranking is estimated."""
FEWEST_REPLICATES = 2
"""With a single replicate nothing can be said about the spread between prompts."""
FEW_PROMPTS = 10
"""Below this, intervals may be too narrow where some prompts are unlike the others."""
ROWS_AT_ONCE = 256
"""Rows of the n x n comparisons of Kendall's tau that are held at once."""
AT_ONCE = 500
"""Records whose intervals are computed together: 64 replicates of these take 3 MB."""

Values = NDArray[np.float64]

_T = (0.672927, 1.210208, 0.707181, 0.169608, -0.319952, 0.102119)
"""log t(0.975, df) as a polynomial in 1 / df, lowest power first; exact to 1e-4 from 1 up."""


def few_prompts(prompts: int, replicates: int) -> str | None:
    """What a reader of intervals and rankings from so few prompts has to know, if anything.

    Arguments:
        replicates: how many groups the prompts were dealt into; two prompts can share one.
    """
    if not 0 < prompts < FEW_PROMPTS:
        return None
    narrow = "intervals may be too narrow"
    if replicates < FEWEST_REPLICATES:
        narrow = "there are no intervals" if prompts == 1 else "too few for intervals"
    amount = f"only {counted(prompts, 'prompt')}"
    return f"{amount}: {narrow}, and rankings of similar layers mean little"


def few_carry_most(replicates: Sums) -> Values:
    """The effective number of replicates where it is small, NaN elsewhere.

    It is (sum e)^2 / sum e^2 over the replicates' energies e (Kish 1965), of the values or of their
    errors, whichever is less: the number of equal replicates that an SQNR is worth. Small is below
    FEW_PROMPTS and below half of the replicates.

    Arguments:
        replicates: (replicates, records, fields).

    Returns:
        (records,); all NaN with fewer than FEW_PROMPTS replicates, see `few_prompts`.
    """
    kept = occupied(replicates)
    if len(kept) < FEW_PROMPTS:
        return np.full(replicates.shape[1], np.nan)
    energies = np.stack([field(kept, "x2"), field(kept, "e2")])
    energies = energies / np.maximum(energies.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    squares = np.square(energies).sum(axis=1)
    number = np.square(energies.sum(axis=1)) / np.where(squares == 0, np.nan, squares)
    least: Values = np.fmin(*number)
    with np.errstate(invalid="ignore"):
        return np.where(least < min(FEW_PROMPTS, len(kept) / 2), least, np.nan)


def occupied(replicates: Sums) -> Sums:
    """The replicates that hold any token in any record, of (replicates, records, fields)."""
    kept: Sums = replicates[field(replicates, "tokens").sum(axis=1) > 0]
    return kept


def occupied_in_both(old: Sums, new: Sums, *, paired: bool) -> tuple[Sums, Sums] | None:
    """The occupied replicates of two sets of records; None where one of them has a single one.

    Arguments:
        old, new: (replicates, records, fields).
        paired: whether replicate i of both holds the same prompts. Then the same ones are kept.
    """
    if paired:
        both = occupied(np.concatenate([old, new], axis=1))
        old, new = both[:, : old.shape[1]], both[:, old.shape[1] :]
    else:
        old, new = occupied(old), occupied(new)
    return None if min(len(old), len(new)) < FEWEST_REPLICATES else (old, new)


def leave_one_out(replicates: Values) -> Values:
    """Sums of all replicates but one, for each of them: (replicates, ...) -> (replicates, ...).

    They are added up from both ends, since subtracting one replicate from the sum of all would
    leave nothing but rounding errors of a replicate that holds nearly everything.
    """
    none = np.zeros_like(replicates[:1])
    before = np.concatenate([none, np.cumsum(replicates[:-1], axis=0)])
    after = np.concatenate([none, np.cumsum(replicates[:0:-1], axis=0)])[::-1]
    both: Values = before + after
    return both


@dataclass(frozen=True)
class Error:
    """The standard error of figures (...), and its effective degrees of freedom (...)."""

    size: Values
    degrees: Values

    @classmethod
    def of(cls, without: Values) -> Error:
        """From the figures without each replicate in turn, (replicates >= 2, ...)."""
        count = len(without)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            apart = without - without.mean(axis=0)
            size = np.sqrt((count - 1) / count * np.square(apart).sum(axis=0))
            unit = apart / np.sqrt(np.square(apart).mean(axis=0))
            kurtosis = np.power(unit, 4).mean(axis=0)
            degrees = count / np.maximum(kurtosis - 2, count / (count - 1))
        return cls(size, np.maximum(np.nan_to_num(degrees, nan=1.0), 1.0))

    def minus(self, other: Error) -> Error:
        """That of the difference of independent figures (Welch 1947)."""
        size = np.hypot(self.size, other.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = (self.size / size) ** 4 / self.degrees
            parts = parts + (other.size / size) ** 4 / other.degrees
            return Error(size, np.nan_to_num(1 / parts, nan=1.0, posinf=1.0))

    def around(
        self, figures: Values, least: float | None = None, largest: float | None = None
    ) -> Values:
        """95 % intervals (..., 2) of figures (...) that lie between `least` and `largest`."""
        reach = np.exp(np.polynomial.polynomial.polyval(1 / self.degrees, _T)) * self.size
        ends: Values = np.stack([figures - reach, figures + reach], axis=-1)
        return ends if least is None and largest is None else np.clip(ends, least, largest)


def _parts(records: int) -> Iterator[slice]:
    for start in range(0, records, AT_ONCE):
        yield slice(start, start + AT_ONCE)


def intervals(replicates: Sums) -> dict[str, Values]:
    """95 % intervals of every metric.

    Arguments:
        replicates: (replicates, records, fields).

    Returns:
        For each metric an array (records, 2) of lower and upper ends; NaN with fewer than two
        occupied replicates, or where the metric is undefined without one of them.
    """
    kept = occupied(replicates)
    ends = {name: np.full((replicates.shape[1], 2), np.nan) for name in METRICS}
    if len(kept) < FEWEST_REPLICATES:
        return ends
    for part in _parts(replicates.shape[1]):
        figures = derive(kept[:, part].sum(axis=0))
        without = derive(leave_one_out(kept[:, part]))
        for name, metric in METRICS.items():
            error = Error.of(without[name])
            ends[name][part] = error.around(figures[name], metric.least, metric.largest)
    return ends


def difference_intervals(
    old: Sums, new: Sums, metrics: Iterable[str] = METRICS, *, paired: bool
) -> tuple[dict[str, Values], dict[str, Values]] | None:
    """95 % intervals of NEW - OLD and of NEW, for each metric (records, 2).

    None where one of them has a single occupied replicate.

    Arguments:
        old, new: (replicates, records, fields).
        metrics: of FIGURES.
        paired: whether replicate i of both holds the same prompts, so that they are left out
            together; otherwise the two are independent.
    """
    kept = occupied_in_both(old, new, paired=paired)
    if kept is None:
        return None
    old, new = kept
    of_difference = {name: np.empty((old.shape[1], 2)) for name in metrics}
    of_new = {name: np.empty((old.shape[1], 2)) for name in metrics}
    for part in _parts(old.shape[1]):
        whole = [each[:, part].sum(axis=0) for each in (old, new)]
        without = [leave_one_out(each[:, part]) for each in (old, new)]
        for name in of_new:
            metric = FIGURES[name]
            figures = [metric.compute(each) for each in whole]
            others = [metric.compute(each) for each in without]
            first, second = map(Error.of, others)
            error = Error.of(others[1] - others[0]) if paired else second.minus(first)
            of_difference[name][part] = error.around(figures[1] - figures[0])
            of_new[name][part] = second.around(figures[1], metric.least, metric.largest)
    return of_difference, of_new


def mean_interval(
    sums: Values, counts: Values, least: float | None = None
) -> tuple[float, float] | None:
    """The 95 % interval of sum(sums) / sum(counts) over prompts (prompts,).

    None with fewer than two prompts, or where a sum is not finite.
    """
    if len(sums) < FEWEST_REPLICATES or not np.isfinite(sums).all():
        return None
    without = leave_one_out(sums) / leave_one_out(counts)
    low, high = Error.of(without).around(np.asarray(sums.sum() / counts.sum()), least)
    return float(low), float(high)


def draws(replicates: int, resamples: int, seed: int | list[int]) -> Values:
    """How often each replicate is in each bootstrap draw, (resamples, replicates)."""
    rng = np.random.default_rng(seed)
    shares = np.full(replicates, 1 / replicates)
    return rng.multinomial(replicates, shares, size=resamples).astype(np.float64)


def kendall_tau(a: Values, b: Values) -> float:
    """Kendall's tau-b of two scorings (n,) of the same things: 1 same order, -1 reversed.

    NaN when one of them has no order at all (n < 2 or all equal). Source: Kendall 1945.
    """
    same, apart_a, apart_b = 0.0, 0, 0
    for start in range(0, len(a), ROWS_AT_ONCE):  # each pair twice, which cancels
        part = slice(start, start + ROWS_AT_ONCE)
        order_a = np.sign(a[part, None] - a[None, :])
        order_b = np.sign(b[part, None] - b[None, :])
        same += float((order_a * order_b).sum())  # NaN where a score is
        apart_a += int(np.count_nonzero(order_a))
        apart_b += int(np.count_nonzero(order_b))
    return same / math.sqrt(apart_a * apart_b) if apart_a and apart_b else math.nan


def kendall_tau_interval(
    a: Values, b: Values, without_a: Values, without_b: Values
) -> tuple[float, float] | None:
    """The 95 % jackknife interval of Kendall's tau between two scorings (n,), over prompts.

    Arguments:
        without_a, without_b: (groups, n) the scorings without each group of prompts in turn.

    Returns:
        The ends, within -1 and 1; None with fewer than two groups, or where an order is undefined.
    """
    if len(without_a) < FEWEST_REPLICATES:
        return None
    tau = kendall_tau(a, b)
    without = np.array([kendall_tau(*pair) for pair in zip(without_a, without_b, strict=True)])
    if not np.isfinite([tau, *without]).all():
        return None
    low, high = Error.of(without).around(np.asarray(tau), -1.0, 1.0)
    return float(low), float(high)


@dataclass(frozen=True)
class Stability:
    """How far the ranking of layers by one metric can be relied on.

    Attributes:
        metric: what the layers are ranked by.
        top_k: size of the set of worst layers that was looked at, at most half of the layers.
        tau_halves: mean Kendall's tau between rankings from random halves of the replicates; 1 is
            the same order in both, 0 no relation.
        top_k_change: share of bootstrap draws (Efron 1979) in which the set of the worst `top_k`
            layers is not the one that the whole scan gives.
        spread: coefficient of variation of the metric over layers (standard deviation / mean); of
            an SQNR, that of the errors' relative amplitudes 10^(-dB/20).
    """

    metric: str
    top_k: int
    tau_halves: float | None
    top_k_change: float | None
    spread: float | None


def _spread(metric: str, figures: Values) -> float:
    if METRICS[metric].unit == "dB":
        figures = np.power(10, -(figures - figures.max()) / 20)
    mean = float(np.mean(figures))
    return float(np.std(figures, ddof=1) / abs(mean)) if len(figures) > 1 and mean != 0 else np.nan


def ranking_stability(
    replicates: Values,
    figures: Callable[[Values], Values],
    sign: float,
    top_k: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """How stable a ranking is: Kendall's tau between halves, and how often the worst change.

    Arguments:
        replicates: sums (replicates, things, fields), of at least two replicates and two things.
        figures: (..., things, fields) -> (..., things), finite for all of them.
        sign: sorting by sign * figure puts the worst first.
        top_k: size of the set of worst things.

    Returns:
        The mean tau between rankings from random halves of the replicates, and the share of
        bootstrap draws (Efron 1979) in which the set of the worst is another one.
    """
    count = len(replicates)
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(count), (HALVES, 1)), axis=1)
    halves = (order < count // 2).astype(np.float64)
    first = figures(np.tensordot(halves, replicates, axes=1))
    second = figures(np.tensordot(1 - halves, replicates, axes=1))
    tau = float(np.mean([kendall_tau(a, b) for a, b in zip(first, second, strict=True)]))
    drawn = figures(np.tensordot(draws(count, resamples, seed), replicates, axes=1))
    worst = np.argsort(sign * figures(replicates.sum(axis=0)), kind="stable")[:top_k]
    sets = np.argsort(sign * drawn, axis=1, kind="stable")[:, :top_k]
    change = float(np.mean((np.sort(sets) != np.sort(worst)).any(axis=1)))
    return _defined(tau), _defined(change)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def stability(
    replicates: Sums, metric: str, top_k: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Stability:
    """Stability of the ranking of layers (replicates, layers, fields) by `metric`, worst first."""
    figures = METRICS[metric].compute
    whole = figures(replicates.sum(axis=0))
    top_k = min(top_k, max(1, len(whole) // 2))
    kept = occupied(replicates)
    tau = change = None
    if len(kept) >= FEWEST_REPLICATES and len(whole) > 1 and np.isfinite(whole).all():
        tau, change = ranking_stability(
            kept, figures, METRICS[metric].sign, top_k, resamples=resamples, seed=seed
        )
    return Stability(metric, top_k, tau, change, _defined(_spread(metric, whole)))
