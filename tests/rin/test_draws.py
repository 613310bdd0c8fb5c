"""Noise as a pure function of seed, step, module and element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from srdd.rin.draws import BLOCK, standard_normal

NAME = "model.layers.0.input_layernorm"


def test_these_values_are_what_runs_have_been_drawn_with() -> None:
    """A change here changes every run that somebody wants to repeat or resume."""
    found = standard_normal(0, 5, NAME, 0, 4)
    # The shortest decimals of float32 values, which name them exactly.
    pinned = [-0.82070446, 0.9066205, -1.5384592, -1.5349179]
    assert found.tolist() == torch.tensor(pinned).tolist()


def test_a_part_is_that_part_of_the_whole() -> None:
    whole = standard_normal(3, 1, NAME, 0, 3 * BLOCK + 100)
    for first, count in [
        (0, 1),
        (1, 5),
        (BLOCK - 1, 2),
        (BLOCK, BLOCK),
        (7, 2 * BLOCK),
        (2 * BLOCK + 3, BLOCK + 97),
        (3 * BLOCK + 99, 1),
    ]:
        part = standard_normal(3, 1, NAME, first, count)
        assert torch.equal(part, whole[first : first + count]), (first, count)


def test_nothing_is_asked_for_and_nothing_comes() -> None:
    assert standard_normal(3, 1, NAME, 17, 0).shape == (0,)


def test_it_does_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = standard_normal(3, 1, NAME, 0, 2 * BLOCK)
        torch.set_num_threads(2)
        assert torch.equal(one, standard_normal(3, 1, NAME, 0, 2 * BLOCK))
    finally:
        torch.set_num_threads(before)


def test_it_is_standard_normal_in_one_block_and_over_many_draws() -> None:
    long = standard_normal(0, 0, NAME, 0, 4 * BLOCK).numpy()
    short = np.concatenate([standard_normal(0, step, NAME, 0, 64).numpy() for step in range(2000)])
    for values in (long, short):
        assert stats.kstest(values, "norm").pvalue > 1e-3
        assert abs(values.mean()) < 4 / np.sqrt(len(values))
        assert abs(values.std() - 1) < 4 / np.sqrt(2 * len(values))


@pytest.mark.parametrize(
    "other", [(1, 5, NAME), (0, 6, NAME), (0, 5, f"{NAME}s"), (-1, 5, NAME), (2**64, 5, NAME)]
)
def test_another_seed_step_or_module_is_unrelated(other: tuple[int, int, str]) -> None:
    here, there = standard_normal(0, 5, NAME, 0, BLOCK), standard_normal(*other, 0, BLOCK)
    assert abs(float(np.corrcoef(here, there)[0, 1])) < 4 / np.sqrt(BLOCK)


def test_blocks_are_unrelated() -> None:
    whole = standard_normal(0, 5, NAME, 0, 2 * BLOCK)
    assert abs(float(np.corrcoef(whole[:BLOCK], whole[BLOCK:])[0, 1])) < 4 / np.sqrt(BLOCK)
    assert not torch.equal(whole[:8], whole[BLOCK : BLOCK + 8])


def test_seeds_and_steps_that_read_alike_when_joined_differ() -> None:
    assert not torch.equal(standard_normal(1, 12, NAME, 0, 4), standard_normal(11, 2, NAME, 0, 4))
