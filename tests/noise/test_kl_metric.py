"""Layers ranked by what quantizing them costs the predictions."""

from __future__ import annotations

import pytest
from made_scans import costing, made

from srdd import suggest
from srdd.documents.identity import fingerprint
from srdd.errors import UsageError
from srdd.noise import figures_of

COSTS = [0.1, 0.2, 0.4, 0.5, 0.01, 0.02]


def test_a_layers_cost_is_the_sum_over_its_tensors_and_its_badness_the_root() -> None:
    figures = figures_of(costing(COSTS), site=None, format=None, metric="kl")
    assert figures.values == pytest.approx((0.3, 0.9, 0.03))
    assert figures.intervals[1] == pytest.approx((0.9, 0.9))
    assert figures.badness == pytest.approx((0.3**0.5, 0.9**0.5, 0.03**0.5))
    assert figures.worst_first == [1, 0, 2]


def test_the_ranking_is_stable_where_all_prompts_agree() -> None:
    figures = figures_of(costing(COSTS), site=None, format=None, metric="kl")
    assert figures.stability(1) == (pytest.approx(1.0), pytest.approx(0.0))


def test_targeted_noise_goes_where_quantization_costs_most() -> None:
    config = suggest(costing(COSTS), strategy="targeted", metric="kl", top_k=1)
    assert [layer.layer for layer in config.layers if layer.multiplier > 0] == [1]
    assert config.source.metric == "kl"
    local = suggest(costing(COSTS), strategy="targeted", metric="relative_error", top_k=1)
    assert [layer.layer for layer in local.layers if layer.multiplier > 0] == [2]


def test_a_scan_without_it_says_how_to_get_it() -> None:
    with pytest.raises(UsageError, match="no sensitivity") as caught:
        suggest(made([0.1, 0.2]), strategy="variable", metric="kl")
    assert "`kl" in str(caught.value)


def test_costs_are_part_of_what_identifies_a_scan() -> None:
    assert fingerprint(costing(COSTS)) == fingerprint(costing(COSTS))
    assert fingerprint(costing(COSTS)) != fingerprint(costing([*COSTS[:-1], 0.03]))
