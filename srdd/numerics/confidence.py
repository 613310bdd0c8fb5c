"""How sure a scan is: intervals per layer and the stability of a ranking, from replicates alone.

Prompts are dealt into replicates, and each replicate keeps its own sums. Drawing replicates with
replacement and adding their sums gives what the scan might have been with other prompts of the same
kind (percentile bootstrap, Efron 1979). The prompts are the units here, not the tokens: tokens of
one prompt resemble each other, and intervals over tokens would be far too narrow.

What this does not cover: prompts of another kind than those measured. With fewer than about ten
replicates the intervals are too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.errors import counted
from srdd.numerics.metrics import METRICS, derive
from srdd.numerics.sums import Sums, field

RESAMPLES = 1000
CHUNK = 64
"""Records that are resampled at once: 6 MB of sums, however many records there are."""
FEWEST_REPLICATES = 2
"""With a single replicate nothing can be said about the spread between prompts."""
FEW_PROMPTS = 10
"""Below this, intervals are too narrow to be taken at face value."""


def few_prompts(prompts: int) -> str | None:
    """What a reader of intervals and rankings from so few prompts has to know, if anything."""
    if not 0 < prompts < FEW_PROMPTS:
        return None
    return (
        f"only {counted(prompts, 'prompt')}: intervals are too narrow and rankings of similar "
        "layers mean little"
    )


def occupied(replicates: Sums) -> Sums:
    """The replicates that hold any token in any record, of (replicates, records, fields)."""
    kept: Sums = replicates[field(replicates, "tokens").sum(axis=1) > 0]
    return kept


def _draws(replicates: Sums, resamples: int, seed: int) -> Sums:
    """Sums of `resamples` bootstrap draws: (replicates, records, fields) -> (resamples, ...)."""
    count = len(replicates)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    drawn = weights @ replicates.reshape(count, -1)
    sums: Sums = drawn.reshape(resamples, *replicates.shape[1:])
    return sums


def intervals(
    replicates: Sums, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Bootstrap intervals of every metric.

    Arguments:
        replicates: (replicates, records, fields). Records are drawn together, so that layers stay
            paired.
        level: coverage aimed at, in (0, 1).

    Returns:
        For each metric an array (records, 2) of lower and upper ends; NaN with fewer than two
        occupied replicates, or where the metric is undefined in a draw.
    """
    held = occupied(replicates)
    if len(held) < FEWEST_REPLICATES:
        empty = np.full((replicates.shape[1], 2), np.nan)
        return {name: empty.copy() for name in derive(replicates[:1])}
    tail = (1 - level) / 2
    ends: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, held.shape[1], CHUNK):
        # One seed, so that the records of all chunks see the same draws.
        drawn = derive(_draws(held[:, start : start + CHUNK], resamples, seed))
        for name, values in drawn.items():
            ends.setdefault(name, []).append(np.quantile(values, [tail, 1 - tail], axis=0).T)
    return {name: np.concatenate(chunks) for name, chunks in ends.items()}


def kendall_tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kendall's tau-b of two scorings (n,) of the same things: 1 same order, -1 reversed.

    NaN when one of them has no order at all (n < 2 or all equal). Source: Kendall 1945.
    """
    upper = np.triu_indices(len(a), k=1)
    order_a = np.sign(a[:, None] - a[None, :])[upper]
    order_b = np.sign(b[:, None] - b[None, :])[upper]
    pairs = np.sqrt(np.count_nonzero(order_a) * float(np.count_nonzero(order_b)))
    return float(np.nan) if pairs == 0 else float((order_a * order_b).sum() / pairs)


@dataclass(frozen=True)
class Stability:
    """How far the ranking of layers by one metric can be relied on.

    Attributes:
        metric: what the layers are ranked by.
        top_k: size of the set of worst layers that was looked at.
        tau_halves: mean Kendall's tau between rankings from random halves of the replicates; 1 is
            the same order in both, 0 no relation.
        top_k_change: share of bootstrap draws in which the set of the worst `top_k` layers is not
            the one that the whole scan gives.
        spread: coefficient of variation of the metric over layers (standard deviation / mean).
    """

    metric: str
    top_k: int
    tau_halves: float | None
    top_k_change: float | None
    spread: float | None


def stability(
    replicates: Sums, metric: str, top_k: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Stability:
    """Stability of the ranking of layers (replicates, layers, fields) by `metric`, worst first."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    whole = derive(replicates.sum(axis=0))[metric]
    layers = len(whole)
    top_k = min(top_k, layers)
    mean = float(np.mean(whole))
    spread = float(np.std(whole, ddof=1) / abs(mean)) if layers > 1 and mean != 0 else np.nan
    held = occupied(replicates)
    tau = change = np.nan
    if len(held) >= FEWEST_REPLICATES and layers > 1 and np.isfinite(whole).all():
        rng = np.random.default_rng(seed)
        taus = []
        for _ in range(100):
            order = rng.permutation(len(held))
            cut = len(held) // 2
            first = derive(held[order[:cut]].sum(axis=0))[metric]
            second = derive(held[order[cut:]].sum(axis=0))[metric]
            taus.append(kendall_tau(first, second))
        tau = float(np.mean(taus))
        drawn = sign * derive(_draws(held, resamples, seed))[metric]
        worst = np.argsort(sign * whole, kind="stable")[:top_k]
        sets = np.argsort(drawn, axis=1, kind="stable")[:, :top_k]
        change = float(np.mean((np.sort(sets) != np.sort(worst)).any(axis=1)))
    defined = [None if np.isnan(v) else float(v) for v in (tau, change, spread)]
    return Stability(metric, top_k, *defined)
