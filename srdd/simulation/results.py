"""From sums by prompt to the results of an evaluation: means over tokens, intervals over prompts.

Differences and divergences are taken prompt by prompt, so their intervals are those of paired
prompts. See srdd.numerics.confidence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srdd.documents import evaluation as schema
from srdd.errors import counted
from srdd.measurement.listener import Listener
from srdd.numerics.confidence import mean_interval
from srdd.simulation.simulator import Simulation
from srdd.simulation.variants import Variant

Values = NDArray[np.float64]


def result_of(
    variant: Variant, predicted: Values, sums: Values, simulation: Simulation
) -> schema.Result:
    """The result of a variant; `Variant()` is the model as it is.

    Arguments:
        predicted: (prompts,) number of predicted tokens.
        sums: (prompts, 3) of srdd.simulation.predictions.
    """
    plain, nll, kl = sums.T
    figures = {"loss": nll, "loss_difference": nll - plain, "kl": kl}
    if variant == Variant():
        figures = {"loss": plain}
    result: dict[str, Any] = dict.fromkeys(schema.Result.model_fields)
    for name, values in figures.items():
        least = None if name == "loss_difference" else 0.0
        result[name] = _finite(values.sum() / predicted.sum())
        result[f"{name}_interval"] = mean_interval(values, predicted, least)
        if least is not None:
            result[f"{name}_by_prompt"] = [_finite(value) for value in values / predicted]
    ends = [_exponential(end) for end in result["loss_interval"] or (None, None)]
    missing = simulation.not_simulated
    assigned = variant.assignment
    result |= {
        "weights": variant.weights,
        "activations": variant.activations,
        "noise": variant.noise,
        "assigned": None if assigned is None else assigned.about,
        "perplexity": _exponential(result["loss"]),
        "perplexity_interval": None if None in ends else ends,
        "simulated": sum(name not in missing for name in simulation.modules),
        "not_simulated": [{"module": name, "reason": why} for name, why in missing.items()],
    }
    return schema.Result.model_validate(result)


def warn_of_results(results: list[schema.Result], listener: Listener) -> None:
    """Warn of what a reader of the figures should know first."""
    for result in results:
        if result.loss is None or (result.kl is None and not result.is_plain):
            listener.warn(
                "NON-FINITE VALUES: the model's predictions hold NaN or infinity, with "
                + _formats_of(result)
            )
    missing = {each.module: each.reason for result in results for each in result.not_simulated}
    for reason in dict.fromkeys(missing.values()):
        names = [name for name, its in missing.items() if its == reason]
        listener.warn(
            f"{counted(len(names), 'linear')} computed in full precision, {names[0]} first: "
            f"{reason}"
        )


def _formats_of(result: schema.Result) -> str:
    if result.assigned is not None:
        return result.assigned.name
    operands = (("weights", result.weights), ("activations", result.activations))
    return " and ".join(f"{name} {spec or 'as they are'}" for name, spec in operands)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _exponential(loss: float | None) -> float | None:
    return math.exp(loss) if loss is not None and loss < 700 else None
