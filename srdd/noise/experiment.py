"""Statistics of an experiment: how far runs differ, and which differences could count.

What noise does to the policy, its KL divergence from the clean one, can be predicted for each run
before any of them is made: how far two runs differ in the amount of it, and in which layers it
arises. Two runs that differ in neither test nothing.

A run's accuracy over n questions has a binomial standard error sqrt(p (1 - p) / n), where p is the
accuracy. The difference of two runs, each averaged over s seeds, has sqrt(2 / s) times that, and
1.96 times this is what chance alone exceeds once in twenty. The seeds' own scatter comes on top, so
these are the smallest differences that could count, and reaching one is a sign rather than a proof.

Accuracy follows from KL within bounds only: where the noise costs k nats a token, the share of
right answers of t tokens moves by at most sqrt(t k / 2), since that is what the total variation
between the answers' distributions can be (Pinsker's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srdd.documents.document import Interval
from srdd.documents.noise_costs import mean_costs
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import NoiseCost
from srdd.errors import UsageError

QUESTIONS = 1319
"""As many as the test set of GSM8K has."""

SEEDS = (1, 3, 5)
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""

Z_POWER = 0.841621
"""Its 80 % quantile: a difference is to be seen in four experiments out of five."""

ALIKE = 0.1
"""Runs whose amounts, and whose shares of layers, differ by less than this test nothing."""

EQUAL = 0.005
"""Amounts that differ by less are equal."""

MOST_PROMPTS = 10_000
"""More prompts than that nobody measures KL on."""


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


@dataclass(frozen=True)
class Difference:
    """How far one run's noise differs from another's in effect on the policy, over the run.

    Attributes:
        kl: the difference of the mean KL, nats a token.
        interval: its 95 % interval over prompts, which are the same for both.
        relative: `kl` over the other run's.
        elsewhere: share of the KL that arises in other layers than the other run's, 0 to 1.
        prompts: how many prompts `srdd eval --rin` needs to see the difference, in four cases out
            of five; None where they are more than MOST_PROMPTS, or the scan cannot tell.
    """

    kl: float
    interval: Interval | None
    relative: float
    elsewhere: float
    prompts: int | None

    @property
    def told_apart(self) -> bool:
        """Whether the runs differ in amount or in place."""
        return abs(self.relative) >= ALIKE or self.elsewhere >= ALIKE


def difference(scan: Scan, run: RinConfig, other: RinConfig) -> Difference:
    """How far the noise of `run` differs from that of `other`.

    Raises:
        UsageError: the scan does not say what the noise costs.
    """
    from srdd.documents.sensitivity_figures import weighted  # needs numpy

    own, its = mean_costs(scan, run), mean_costs(scan, other)
    assert scan.sensitivity is not None
    both = [(cost, v) for _, cost, v in own] + [(cost, -v) for _, cost, v in its]
    found = weighted(both, scan.sensitivity, least=None)
    kl, interval = float(found["value"]), found["interval"]
    a, b = (_by_layer(costs) for costs in (own, its))
    whole, other_whole = math.fsum(a.values()), math.fsum(b.values())
    shares = [
        abs(a.get(layer, 0.0) / whole - b.get(layer, 0.0) / other_whole)
        if whole * other_whole
        else 0.0
        for layer in {*a, *b}
    ]
    relative = kl / other_whole if other_whole else 0.0
    prompts = None
    # Amounts that were made equal differ by the rounding of their multipliers only.
    if interval is not None and abs(relative) > EQUAL and scan.calibration.prompts:
        error = (interval[1] - interval[0]) / 2 / Z_95
        needed = scan.calibration.prompts * ((Z_95 + Z_POWER) * error / kl) ** 2
        prompts = max(2, math.ceil(needed)) if needed <= MOST_PROMPTS else None
    return Difference(kl, interval, relative, math.fsum(shares) / 2, prompts)


def _by_layer(costs: Sequence[tuple[int, NoiseCost, float]]) -> Mapping[int, float]:
    layers: dict[int, float] = {}
    for layer, cost, variance in costs:
        layers[layer] = layers.get(layer, 0.0) + cost.value * variance
    return layers


def most_moved(kl: float, tokens: int) -> float:
    """The most that noise can move the share of right answers of so many tokens, in [0, 1].

    Arguments:
        kl: nats a token.
    """
    return min(1.0, math.sqrt(tokens * kl / 2))


def questions_for(gap: float, accuracy: float, seeds: int) -> int:
    """How many questions make `gap` the smallest difference that could count.

    Arguments:
        gap: between the accuracies of two runs, a fraction above 0.
        accuracy: about which, in (0, 1).
    """
    return math.ceil(accuracy * (1 - accuracy) * 2 / seeds * (Z_95 / gap) ** 2)


def spans(layers: Sequence[int]) -> str:
    """Ascending layer indices with runs drawn together: `0-3, 7, 26-27`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
