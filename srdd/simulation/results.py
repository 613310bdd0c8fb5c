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
_NONE = {"loss_difference": None, "loss_difference_interval": None} | dict.fromkeys(
    ("kl", "kl_interval", "kl_by_prompt")
)


def plain_result(predicted: Values, nll: Values) -> schema.Result:
    """The result of the model as it is.

    Arguments:
        predicted: (prompts,) number of predicted tokens.
        nll: (prompts,) sums of -log p.
    """
    return schema.Result(
        weights=None,
        activations=None,
        noise=False,
        simulated=0,
        not_simulated=[],
        **_loss(predicted, nll),
        **_NONE,
    )


def result_of(
    variant: Variant, predicted: Values, sums: Values, simulation: Simulation | None
) -> schema.Result:
    """The result of a variant.

    Arguments:
        predicted: (prompts,) number of predicted tokens.
        sums: (prompts, 3) of srdd.simulation.predictions.
    """
    plain, nll, kl = sums.T
    missing = {} if simulation is None else simulation.not_simulated
    names = () if simulation is None else simulation.modules
    return schema.Result(
        weights=variant.weights,
        activations=variant.activations,
        noise=variant.noise,
        simulated=sum(name not in missing for name in names),
        not_simulated=[
            schema.NotSimulated(module=name, reason=reason) for name, reason in missing.items()
        ],
        loss_difference=_mean(predicted, nll - plain),
        loss_difference_interval=mean_interval(nll - plain, predicted),
        kl=_mean(predicted, kl),
        kl_interval=mean_interval(kl, predicted, least=0.0),
        kl_by_prompt=_by_prompt(predicted, kl),
        **_loss(predicted, nll),
    )


def warn_of_results(results: list[schema.Result], listener: Listener) -> None:
    """Warn of what a reader of the figures should know first."""
    for result in results:
        if result.loss is None or (result.kl is None and not result.is_plain):
            listener.warn(
                "NON-FINITE VALUES: the model's predictions hold NaN or infinity, with weights "
                f"{result.weights or 'as they are'} and activations "
                f"{result.activations or 'as they are'}"
            )
    missing = {each.module: each.reason for result in results for each in result.not_simulated}
    for reason in dict.fromkeys(missing.values()):
        names = [name for name, its in missing.items() if its == reason]
        listener.warn(
            f"{counted(len(names), 'linear')} computed in full precision, {names[0]} first: "
            f"{reason}"
        )


def _loss(predicted: Values, nll: Values) -> dict[str, Any]:
    loss, interval = _mean(predicted, nll), mean_interval(nll, predicted, least=0.0)
    ends = None if interval is None else [_exponential(end) for end in interval]
    return {
        "loss": loss,
        "loss_interval": interval,
        "perplexity": _exponential(loss),
        "perplexity_interval": None if ends is None or None in ends else tuple(ends),
        "loss_by_prompt": _by_prompt(predicted, nll),
    }


def _mean(predicted: Values, sums: Values) -> float | None:
    mean = float(sums.sum() / predicted.sum())
    return mean if math.isfinite(mean) else None


def _by_prompt(predicted: Values, sums: Values) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in (sums / predicted).tolist()]


def _exponential(loss: float | None) -> float | None:
    return math.exp(loss) if loss is not None and loss < 700 else None
