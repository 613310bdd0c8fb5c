"""Layers that moved in rank."""

from __future__ import annotations

import numpy as np
import pytest
from made_pairs import scan_of

from srdd.comparison import compare_scans
from srdd.comparison.ranks import ranks
from srdd.documents.comparison import Move


def test_rank_one_is_the_worst_whichever_way_the_metric_runs() -> None:
    values = np.array([20.0, 15.0, 18.0])
    assert ranks(values, "sqnr_db").tolist() == [3, 1, 2]
    assert ranks(values, "relative_error").tolist() == [1, 3, 2]


def test_moves_stand_the_farthest_first_with_ranks_by_hand() -> None:
    # SQNR falls with noise: in OLD layer 3 is the worst, in NEW layer 0.
    old = scan_of([[noise] * 12 for noise in (1.0, 2.0, 3.0, 4.0)])
    new = scan_of([[noise] * 12 for noise in (9.0, 2.0, 3.0, 4.0)], weights="b" * 64)
    group = compare_scans(old, new).groups[0]
    assert group.moved_in_rank == (
        Move(layer=0, tensor=None, old=4, new=1, significant=True),
        Move(layer=1, tensor=None, old=3, new=4, significant=True),
        Move(layer=2, tensor=None, old=2, new=3, significant=True),
        Move(layer=3, tensor=None, old=1, new=2, significant=True),
    )
    # Of six pairs, the three with layer 0 stand the other way round.
    assert group.kendall_tau == pytest.approx(0.0)


def test_the_metric_decides_the_ranks() -> None:
    old, new = ([[n] * 12 for n in noise] for noise in ((1.0, 2.0), (2.0, 1.0)))
    comparison = compare_scans(scan_of(old), scan_of(new), metric="saturation")
    assert comparison.groups[0].moved_in_rank == ()  # all zero: no order
    assert comparison.groups[0].kendall_tau is None


def test_a_move_among_equals_is_not_significant() -> None:
    rng = np.random.default_rng(5)
    old, new = (np.exp(rng.normal(0, 0.5, (6, 30))) for _ in range(2))
    moves = compare_scans(scan_of(list(old)), scan_of(list(new))).groups[0].moved_in_rank
    assert moves
    assert not any(move.significant for move in moves)


def test_moves_of_weights_are_significant() -> None:
    old, new = ([[noise] for noise in pair] for pair in ((1.0, 2.0), (2.0, 1.0)))
    moves = (
        compare_scans(scan_of(old, site="weight"), scan_of(new, site="weight"))
        .groups[0]
        .moved_in_rank
    )
    assert [move.significant for move in moves] == [True, True]


def test_without_replicates_it_is_unknown() -> None:
    moves = compare_scans(scan_of([[1.0], [2.0]]), scan_of([[2.0], [1.0]])).groups[0].moved_in_rank
    assert [move.significant for move in moves] == [None, None]
