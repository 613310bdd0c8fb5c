"""Quantiles from a histogram that merges, against quantiles of the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdd.numerics import histogram


def filled(values: np.ndarray) -> histogram.Histogram:
    counts = histogram.new()
    place = np.floor((values - histogram.LOWEST_DB) / histogram.BIN_DB).astype(int)
    np.add.at(counts, np.clip(place, 0, histogram.BINS - 1), 1)
    return counts


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_quantile_is_right_to_within_one_bin(share: float) -> None:
    values = np.random.default_rng(3).normal(17, 3, 20_000)
    found = histogram.quantile(filled(values), share)
    assert found == pytest.approx(np.quantile(values, share), abs=histogram.BIN_DB)


def test_there_is_no_quantile_without_tokens() -> None:
    assert histogram.quantile(histogram.new(), 0.5) is None


@given(st.lists(st.floats(-60, 140), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_lies_among_the_occupied_bins(values: list[float], share: float) -> None:
    counts = filled(np.array(values))
    occupied = np.flatnonzero(counts)
    found = histogram.quantile(counts, share)
    assert found is not None
    low = histogram.LOWEST_DB + histogram.BIN_DB * occupied[0]
    high = histogram.LOWEST_DB + histogram.BIN_DB * (occupied[-1] + 1)
    assert low <= found <= high


@given(st.lists(st.floats(-60, 140), max_size=50))
def test_the_stored_span_gives_the_histogram_back(values: list[float]) -> None:
    counts = filled(np.array(values)) if values else histogram.new()
    assert (histogram.from_span(*histogram.to_span(counts)) == counts).all()


def test_a_span_beyond_the_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="outside 0 to 640"):
        histogram.from_span(639, [1, 1])
