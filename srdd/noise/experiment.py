"""Statistics of an experiment: which differences between runs could count.

A run's accuracy over n questions has a binomial standard error sqrt(p (1 - p) / n), where p is the
accuracy. The difference of two runs, each averaged over s seeds, has sqrt(2 / s) times that, and
1.96 times this is what chance alone exceeds once in twenty. The seeds' own scatter comes on top, so
these are the smallest differences that could count, and reaching one is a sign rather than a proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from srdd.errors import UsageError

QUESTIONS = 1319
"""As many as the test set of GSM8K has."""

SEEDS = (1, 3, 5)
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def standard_error(accuracy: float, questions: int) -> float:
    """Binomial standard error of an accuracy, a fraction as the accuracy itself.

    Arguments:
        accuracy: in [0, 1].
        questions: how many were asked, at least 1.

    Raises:
        UsageError: the accuracy is no fraction, or nothing was asked.
    """
    if questions < 1:
        raise UsageError(f"{questions} questions", "give the size of the evaluation set")
    if not 0 <= accuracy <= 1:
        raise UsageError(
            f"accuracy {accuracy:g} is no fraction",
            "56.4 % is written 0.564; leave it out if unknown",
        )
    return math.sqrt(accuracy * (1 - accuracy) / questions)


def smallest_difference(accuracy: float, questions: int, seeds: int) -> float:
    """The difference between two means over `seeds` runs that chance exceeds once in twenty.

    Raises:
        UsageError: see `standard_error`.
    """
    return Z_95 * math.sqrt(2 / seeds) * standard_error(accuracy, questions)


def spans(layers: Sequence[int]) -> str:
    """Ascending layer indices with runs drawn together: `0-3, 7, 26-27`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
