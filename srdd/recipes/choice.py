"""The cheapest choice of one option for each group, under a limit on their summed weight.

That is a multiple-choice knapsack. It is solved exactly, in four steps:

1.  A step up within a group goes to a heavier and cheaper option. Steps on the lower convex hull
    of the group's (weight, cost) points, taken by falling saving per weight, solve the problem
    whose choices may be fractions (Sinha and Zoltners 1979). Where such a choice fills a limit
    exactly, no step is split, and it is the optimum for that limit: the trade-off curve consists
    of these. Else the saving per weight of the step that no longer fits is the price p of weight.
2.  With price p, any choice x costs  bound + sum of r(x) + p * (limit - weight(x)),  where r >= 0
    is the reduced cost of an option: its cost plus p times its weight, minus the least of its
    group. So `bound` is a lower bound, and every choice within the limit costs at least bound + r
    for each option that it takes.
3.  A feasible choice is known from step 1. Options whose bound + r exceeds its cost are in no
    better choice and are dropped. Few groups keep more than one option.
4.  Of these, all choices are built up group by group. One is dropped where its summed r exceeds
    the gap, or where another is no heavier and no dearer (Nemhauser and Ullmann 1969).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Figures = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Steps:
    """Steps on the convex hulls of all groups, by falling saving per weight.

    Attributes:
        lightest: (groups,) the option of each group to start from: its lightest, and of several the
            cheapest.
        group, option: (steps,) which group goes to which option.
        weight, saving: (steps,) what a step adds to the weight, and takes off the cost; above 0.
    """

    lightest: Indices
    group: Indices
    option: Indices
    weight: Figures
    saving: Figures

    def after(self, count: int) -> Indices:
        """The choice (groups,) after the first `count` steps."""
        choice = self.lightest.copy()
        # Of several steps of a group the last counts: they come in order.
        choice[self.group[:count]] = self.option[:count]
        return choice


def steps_of(cost: Figures, weight: Figures) -> Steps:
    """The steps of all groups, of cost and weight (groups, options)."""
    rows = np.arange(len(cost))
    tied = np.where(weight == weight.min(axis=1, keepdims=True), cost, np.inf)
    lightest = tied.argmin(axis=1)
    found: list[tuple[Indices, Indices, Figures, Figures, Figures]] = []
    at, last = lightest.copy(), np.full(len(cost), np.inf)
    for _ in range(cost.shape[1] - 1):
        more = weight - weight[rows, at][:, None]
        saving = cost[rows, at][:, None] - cost
        useful = (more > 0) & (saving > 0)
        rate = np.where(useful, saving / np.where(useful, more, 1.0), 0.0)
        # Of several in one line the farthest, so that a group has one step at a rate.
        to = np.where(rate == rate.max(axis=1, keepdims=True), more, -np.inf).argmax(axis=1)
        moving = np.flatnonzero(useful.any(axis=1))
        to = to[moving]
        # Rates of a group fall, in rounding too, so that sorting keeps its steps in order.
        last[moving] = np.minimum(last[moving], rate[moving, to])
        found.append((moving, to, more[moving, to], saving[moving, to], last[moving]))
        at[moving] = to
    group, option = (np.concatenate([each[k] for each in found]) for k in (0, 1))
    added, saved, rates = (np.concatenate([each[k] for each in found]) for k in (2, 3, 4))
    order = np.argsort(-rates, kind="stable")
    return Steps(lightest, group[order], option[order], added[order], saved[order])


def cheapest(cost: Figures, weight: Figures, limit: float) -> Indices | None:
    """The choice with the least summed cost whose summed weight is at most `limit`.

    Arguments:
        cost, weight: (groups, options), finite and from 0 on.
        limit: on the summed weight, in its unit.

    Returns:
        (groups,) the index of an option for each; None where even the lightest choice is too heavy.
    """
    rows = np.arange(len(cost))
    # Sums of weights that are equal on paper may differ in their last place.
    limit = limit + 1e-12 * abs(limit)
    steps = steps_of(cost, weight)
    reached = weight[rows, steps.lightest].sum() + np.concatenate([[0.0], steps.weight.cumsum()])
    if reached[0] > limit:
        return None
    taken = int(np.searchsorted(reached, limit, side="right")) - 1
    relaxed = steps.after(taken)
    if taken == len(steps.weight) or reached[taken] == limit:
        return relaxed
    known = _filled(steps, taken, relaxed, limit - reached[taken])
    price = steps.saving[taken] / steps.weight[taken]
    reduced = cost + price * weight
    reduced -= reduced.min(axis=1, keepdims=True)
    bound = cost[rows, relaxed].sum() - price * (limit - reached[taken])
    gap = cost[rows, known].sum() - bound
    gap += 1e-9 * abs(gap) + 1e-15 * abs(bound)
    kept = reduced <= gap
    kept[rows, known] = True
    open_groups = np.flatnonzero(kept.sum(axis=1) > 1)
    fixed = known.copy()
    closed = np.flatnonzero(kept.sum(axis=1) == 1)
    fixed[closed] = kept[closed].argmax(axis=1)
    rest = limit - weight[closed, fixed[closed]].sum()
    best = _best(
        cost[open_groups], weight[open_groups], reduced[open_groups], kept[open_groups], rest, gap
    )
    if best is not None:
        fixed[open_groups] = best
    better = best is not None and cost[rows, fixed].sum() <= cost[rows, known].sum()
    return fixed if better else known


def _filled(steps: Steps, taken: int, choice: Indices, spare: float) -> Indices:
    """A choice that also takes later steps, of groups that have skipped none, while they fit."""
    choice = choice.copy()
    skipped: set[int] = set()
    least = np.minimum.accumulate(steps.weight[::-1])[::-1]
    for place in range(taken, len(steps.weight)):
        if least[place] > spare:
            break
        group = int(steps.group[place])
        if group in skipped or steps.weight[place] > spare:
            skipped.add(group)
            continue
        choice[group] = steps.option[place]
        spare -= steps.weight[place]
    return choice


def _best(
    cost: Figures,
    weight: Figures,
    reduced: Figures,
    kept: NDArray[np.bool_],
    limit: float,
    gap: float,
) -> Indices | None:
    """The cheapest choice (groups,) among the kept options; None where none is within the gap."""
    # The lightest of what is to come has to fit, too.
    lightest = np.where(kept, weight, np.inf).min(axis=1)
    to_come = np.concatenate([lightest[::-1].cumsum()[::-1], [0.0]])
    sums = np.zeros((3, 1))  # of weight, cost and reduced cost of each partial choice
    history: list[tuple[Indices, Indices]] = []
    for group in range(len(cost)):
        options = np.flatnonzero(kept[group])
        own = np.stack([each[group, options] for each in (weight, cost, reduced)])
        both = (sums[:, None, :] + own[:, :, None]).reshape(3, -1)
        places = np.flatnonzero((both[2] <= gap) & (both[0] + to_come[group + 1] <= limit))
        places = places[np.lexsort((both[1, places], both[0, places]))]
        costs = both[1, places]
        before = np.minimum.accumulate(np.concatenate([[np.inf], costs[:-1]]))
        places = places[costs < before]
        if not len(places):
            return None
        option, parent = np.divmod(places, sums.shape[1])
        history.append((options[option], parent))
        sums = both[:, places]
    place = int(sums[1].argmin())
    choice = np.empty(len(cost), dtype=np.intp)
    for group in range(len(cost) - 1, -1, -1):
        option, parent = history[group]
        choice[group], place = option[place], int(parent[place])
    return choice
