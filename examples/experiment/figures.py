"""From runs to figures: means over seeds, and differences paired by seed, with 95 % intervals.

All intervals are Student's t over seeds. A seed sets the order of the text and the noise, so they
say what another order and other noise would give, on this model, this text and these held-out
windows; they do not cover another model or other text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiment.plan import ARMS, BASELINE

CONFIDENCE = 0.95
FORMATS = ("w4a4", "bfloat16")
"""What the held-out loss is taken under; the first is what the experiment is about."""

Results = Mapping[tuple[int | None, str], Sequence[Mapping[str, Any]]]
"""Finished runs by level and arm, each in order of seed."""


def by_arm(runs: Sequence[Mapping[str, Any]]) -> Results:
    """Runs by level and arm, in the order in which they come."""
    found: dict[tuple[int | None, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault((run["level"], run["arm"]), []).append(run)
    return found


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> dict[str, float]:
    """Mean of `values` with half the width of its t interval, and the number of values.

    Raises:
        ValueError: fewer than two values: they have no spread.
    """
    if len(values) < 2:
        raise ValueError("an interval needs two seeds or more")
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half = reach * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": float(np.mean(values)), "half_width": half, "seeds": len(values)}


def differences(
    runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], form: str
) -> list[float]:
    """Held-out loss of `runs` minus that of `baseline`, seed by seed.

    Raises:
        RuntimeError: runs of a pair differ in seed, or saw different text.
    """
    for run, other in zip(runs, baseline, strict=True):
        if (run["seed"], run["data"]) != (other["seed"], other["data"]):
            raise RuntimeError(f"{run['run']} and {other['run']} are no pair")
    pairs = zip(runs, baseline, strict=True)
    return [run["held_out"][form] - other["held_out"][form] for run, other in pairs]


def paired(
    runs: Sequence[Mapping[str, Any]],
    baseline: Sequence[Mapping[str, Any]],
    form: str,
    confidence: float = CONFIDENCE,
) -> dict[str, float]:
    """The mean of `differences` with its interval. Below 0 is better.

    Raises:
        RuntimeError: see `differences`.
    """
    found = interval(differences(runs, baseline, form), confidence)
    return found | {"excludes_zero": abs(found["mean"]) > found["half_width"]}


def detectable(values: Sequence[float], power: float = 0.8) -> float:
    """How large a difference has to be to be seen four times in five with this scatter.

    Seen is a difference whose interval excludes zero. With s, the standard deviation of `values`
    over n seeds, that is (t_0.975 + t_power) s / sqrt(n), t with n - 1 degrees of freedom.
    """
    found = interval(values)
    reach = [float(stats.t.ppf(one, len(values) - 1)) for one in ((1 + CONFIDENCE) / 2, power)]
    return found["half_width"] * sum(reach) / reach[0]


def summary(
    results: Results, levels: int, before: Mapping[str, float], arms: Sequence[str] = ARMS
) -> dict[str, Any]:
    """All figures of an experiment. They are losses or errors: less is better.

    Arguments:
        results: every run.
        levels: how many levels of sigma there are.
        before: held-out losses of the model before training.
        arms: those with noise.

    Returns:
        `training`: whether the run without noise lowered the loss under 4 bits, without which the
        rest says nothing. `rows`: for each level and arm the loss, and the paired differences to
        no noise and to uniform noise. `comparisons`: how many intervals of the first kind exclude
        zero, how many would by chance, and how many still do when widened (Bonferroni) so that
        all of them hold at once with 95 %. `detectable`: the median over the arms of what
        `detectable` says of the differences to no noise, under 4 bits and in 16.
    """
    clean = results[None, BASELINE]
    gains = [run["held_out"]["w4a4"] - before["w4a4"] for run in clean]
    training = {"before": dict(before), "change": interval(gains)}
    training["learns"] = all(gain < 0 for gain in gains)

    cells = [(None, BASELINE), *((level, arm) for level in range(levels) for arm in arms)]
    many = levels * len(arms)
    widened = 1 - (1 - CONFIDENCE) / many
    rows, still = [], 0
    for level, arm in cells:
        runs = results[level, arm]
        row: dict[str, Any] = {"level": level, "arm": arm}
        for form in FORMATS:
            row[form] = {"loss": interval([run["held_out"][form] for run in runs])}
            if level is not None:
                row[form]["to_none"] = paired(runs, clean, form)
            if level is not None and arm != "uniform":
                row[form]["to_uniform"] = paired(runs, results[level, "uniform"], form)
        if level is not None:
            still += bool(paired(runs, clean, "w4a4", widened)["excludes_zero"])
        row["noise_energy"] = float(np.mean([run["noise_energy"] for run in runs]))
        rows.append(row)
    found = [row["w4a4"]["to_none"] for row in rows if row["level"] is not None]
    return {
        "confidence": CONFIDENCE,
        "method": "Student's t over seeds; differences are paired by seed",
        "training": training,
        "rows": rows,
        "detectable": {
            form: float(
                np.median(
                    [
                        detectable(differences(results[cell], clean, form))
                        for cell in cells
                        if cell[0] is not None
                    ]
                )
            )
            for form in FORMATS
        },
        "comparisons": {
            "number": many,
            "exclude_zero": sum(one["excludes_zero"] for one in found),
            "of_these_lower_loss": sum(one["excludes_zero"] and one["mean"] < 0 for one in found),
            "by_chance": many * (1 - CONFIDENCE),
            "exclude_zero_bonferroni": still,
        },
    }
