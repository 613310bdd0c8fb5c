"""Costs, groups and pinned formats as one problem: the best recipe for a budget, and its curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from srdd.recipes.choice import cheapest, steps_of
from srdd.recipes.costs import Costs, Figures, Indices
from srdd.recipes.groups import Group

FOLDS = 5
"""Parts of the prompts, each left out in turn of what a recipe is chosen by."""


@dataclass(frozen=True)
class Point:
    """A choice (linears,) of formats, with its bits a weight and its cost in nats a token."""

    choice: Indices
    bits: float
    kl: float


@dataclass(frozen=True)
class Problem:
    """Which choices there are.

    Attributes:
        costs: of every linear in every format.
        groups: linears that get one format.
        pinned: place of a group -> that of the format it has in every choice.
    """

    costs: Costs
    groups: tuple[Group, ...]
    pinned: Mapping[int, int]

    @cached_property
    def _free(self) -> list[int]:
        return [place for place in range(len(self.groups)) if place not in self.pinned]

    @cached_property
    def _of(self) -> Indices:
        """(linears,) the place of each linear's group."""
        places = np.empty(len(self.costs.linears), dtype=np.intp)
        for place, group in enumerate(self.groups):
            places[list(group.members)] = place
        return places

    def _by_group(self, figures: Figures) -> Figures:
        """(linears, formats) -> (groups, formats), added up."""
        summed = np.zeros((len(self.groups), figures.shape[1]))
        np.add.at(summed, self._of, figures)
        return summed

    @cached_property
    def _bits(self) -> Figures:
        return self._by_group(self.costs.bits)

    def _whole(self, free: Indices) -> Indices:
        """The choice (linears,) that has these formats in the groups that are not pinned."""
        by_group = np.empty(len(self.groups), dtype=np.intp)
        by_group[self._free] = free
        for place, option in self.pinned.items():
            by_group[place] = option
        whole: Indices = by_group[self._of]
        return whole

    def _fixed(self, figures: Figures) -> float:
        """What the pinned groups add to a sum of (groups, formats)."""
        return float(sum(figures[place, option] for place, option in self.pinned.items()))

    def lightest(self) -> Point:
        """Every group that is not pinned in its format of fewest bits, of several the cheapest."""
        return self.curve[0]

    def at_bits(self, bits: float, prompts: NDArray[np.bool_] | None = None) -> Indices | None:
        """The choice with the least cost of at most `bits` bits a weight; None where none has.

        Arguments:
            prompts: (groups of prompts,) whose costs count; all for None.
        """
        used = np.arange(len(self.costs.tokens)) if prompts is None else np.flatnonzero(prompts)
        kl = self._by_group(self.costs.kl_in(used))
        limit = bits * self.costs.parameters - self._fixed(self._bits)
        free = cheapest(kl[self._free], self._bits[self._free], limit)
        return None if free is None else self._whole(free)

    def within_kl(self, max_kl: float) -> Indices | None:
        """The choice of fewest bits with a cost of at most `max_kl`, of several the cheapest.

        None where pinned groups alone cost more.
        """
        kl = self._by_group(self.costs.kl)
        limit = max_kl - self._fixed(kl)
        if limit < 0:
            return None
        free = cheapest(self._bits[self._free], kl[self._free], limit)
        if free is None:
            return None
        return self.at_bits(self.costs.average_bits(self._whole(free)))

    def point(self, choice: Indices) -> Point:
        """A choice with its figures."""
        kl = self.costs.kl[np.arange(len(choice)), choice].sum()
        return Point(choice, self.costs.average_bits(choice), float(kl))

    @cached_property
    def curve(self) -> tuple[Point, ...]:
        """Choices from the fewest bits to the least cost, each the best of at most its bits.

        They are those on the lower convex hull of all choices: between two of them there may be
        others, which `at_bits` finds, above the line that joins the two.
        """
        steps = steps_of(self._by_group(self.costs.kl)[self._free], self._bits[self._free])
        return tuple(
            self.point(self._whole(steps.after(count))) for count in range(len(steps.weight) + 1)
        )

    def cross_fit(self, bits: float) -> Figures | None:
        """(groups of prompts,) nats of recipes of `bits` on prompts that did not choose them.

        The groups of prompts are dealt into FOLDS parts; for each, the others choose a recipe. None
        with a single group of prompts, or where no choice has so few bits.
        """
        count = len(self.costs.tokens)
        folds = min(FOLDS, count)
        if folds < 2:
            return None
        nats = np.empty(count)
        for fold in range(folds):
            held_out = np.arange(count) % folds == fold
            choice = self.at_bits(bits, ~held_out)
            if choice is None:
                return None
            nats[held_out] = self.costs.nats_of(choice)[held_out]
        return nats
