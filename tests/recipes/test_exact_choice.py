"""The choice under a limit, against every choice there is and against an integer program."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from srdd.recipes.choice import cheapest, steps_of

Figures = NDArray[np.float64]
BITS = np.array([4.25, 4.5, 6.25, 8.25, 16.0])


def made(groups: int, options: int, seed: int) -> tuple[Figures, Figures]:
    """Costs that fall with the bits, mostly, of groups of few sizes, so that weights tie."""
    rng = np.random.default_rng([groups, options, seed])
    scale = np.geomspace(1, 1e-3, options) * rng.lognormal(0, 0.8, (groups, options))
    cost = rng.lognormal(0, 1.5, (groups, 1)) * scale
    if seed % 2:
        cost[:, -1] = 0
    weight = rng.choice([1, 2, 4, 11], (groups, 1)) * BITS[:options]
    return cost, weight


def figures(cost: Figures, weight: Figures, choice: NDArray[np.intp]) -> tuple[float, float]:
    rows = np.arange(len(cost))
    return float(cost[rows, choice].sum()), float(weight[rows, choice].sum())


@pytest.mark.parametrize("seed", range(60))
def test_it_is_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, options = int(rng.integers(1, 7)), int(rng.integers(2, 6))
    cost, weight = made(groups, options, seed)
    every = np.array(list(itertools.product(range(options), repeat=groups)))
    rows = np.arange(groups)
    costs, weights = cost[rows, every].sum(axis=1), weight[rows, every].sum(axis=1)
    for limit in [
        *rng.uniform(0.9 * weights.min(), 1.05 * weights.max(), 20),
        weights[len(every) // 2],
    ]:
        found = cheapest(cost, weight, limit)
        within = weights <= limit * (1 + 1e-12)
        if found is None:
            assert not within.any()
            continue
        total, used = figures(cost, weight, found)
        assert used <= limit * (1 + 1e-9)
        assert total == pytest.approx(costs[within].min(), rel=1e-12)


@pytest.mark.parametrize(("groups", "seed"), [(30, 0), (30, 1), (84, 2), (112, 3), (140, 4)])
@pytest.mark.parametrize("bits", [4.3, 5.0, 6.5])
def test_it_is_as_good_as_an_integer_program(groups: int, seed: int, bits: float) -> None:
    cost, weight = made(groups, 5, seed)
    limit = bits * weight[:, 0].sum() / BITS[0]
    found = cheapest(cost, weight, limit)
    assert found is not None
    places = np.arange(cost.size)
    once = coo_array((np.ones(cost.size), (places // 5, places)), shape=(groups, cost.size))
    program = milp(
        cost.ravel() / cost.max(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(once.tocsr(), 1, 1),
            LinearConstraint(weight.reshape(1, -1) / limit, -np.inf, 1),
        ],
        options={"mip_rel_gap": 1e-7},
    )
    assert program.success
    total, used = figures(cost, weight, found)
    assert used <= limit * (1 + 1e-9)
    # The program's tolerance is on its scaled constraints and costs.
    assert total <= program.fun * cost.max() * (1 + 1e-6)
    assert total == pytest.approx(program.fun * cost.max(), rel=1e-4)


def test_every_step_of_the_curve_is_the_best_of_its_weight() -> None:
    cost, weight = made(6, 4, 7)
    steps = steps_of(cost, weight)
    every = np.array(list(itertools.product(range(4), repeat=6)))
    costs, weights = (each[np.arange(6), every].sum(axis=1) for each in (cost, weight))
    totals = []
    for count in range(len(steps.weight) + 1):
        total, used = figures(cost, weight, steps.after(count))
        assert total == pytest.approx(costs[weights <= used * (1 + 1e-12)].min(), rel=1e-12)
        totals.append(total)
    assert totals[0] == pytest.approx(cost[:, 0].sum())
    assert totals[-1] == pytest.approx(cost.min(axis=1).sum())
    assert len(totals) > 6


def test_nothing_fits_below_the_lightest() -> None:
    cost, weight = made(5, 3, 0)
    assert cheapest(cost, weight, 0.999 * weight[:, 0].sum()) is None
    assert (cheapest(cost, weight, weight[:, 0].sum()) == 0).all()


def test_a_format_with_more_bits_and_more_cost_is_never_chosen() -> None:
    cost = np.array([[3.0, 5.0, 1.0]] * 4)
    weight = np.array([[1.0, 2.0, 3.0]] * 4)
    for limit in (4, 6, 8, 9, 12, 100):
        found = cheapest(cost, weight, limit)
        assert found is not None
        assert 1 not in found
        assert (found == 2).sum() == min(4, (limit - 4) // 2)


def test_thousands_of_groups_can_be_solved() -> None:
    cost, weight = made(5000, 5, 1)
    limit = 5 / 4.25 * weight[:, 0].sum()
    found = cheapest(cost, weight, limit)
    assert found is not None
    assert 0.999 * limit < weight[np.arange(5000), found].sum() <= limit
