"""From sums by prompt to means over tokens, with intervals over prompts.

Intervals are percentiles of a bootstrap (Efron 1979). Prompts are drawn, not tokens, since tokens
of one prompt resemble each other; and the same prompts for every way to run the model, so that the
interval of a difference is that of paired prompts. It says nothing of prompts of another kind.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srdd.documents import evaluation as schema
from srdd.numerics.confidence import RESAMPLES
from srdd.simulation.simulator import Simulation
from srdd.simulation.ways import Way

Figures = NDArray[np.float64]


class Averages:
    """What the document says of each way to run the model.

    Arguments:
        predicted: (prompts,) number of predicted tokens.
        plain: (prompts,) sums of -log p, of the model as it is.
        seed: of the bootstrap.
    """

    def __init__(self, predicted: Figures, plain: Figures, seed: int) -> None:
        self._predicted = predicted
        self._plain = plain
        count = len(predicted)
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        self._draws = draws.astype(np.float64) if count > 1 else np.zeros((0, count))

    def _mean(self, sums: Figures) -> float | None:
        mean = float(sums.sum() / self._predicted.sum())
        return mean if math.isfinite(mean) else None

    def _interval(self, sums: Figures) -> tuple[float, float] | None:
        if not len(self._draws) or not np.isfinite(sums).all():
            return None
        means = (self._draws @ sums) / (self._draws @ self._predicted)
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    def _by_prompt(self, sums: Figures) -> list[float | None]:
        return [v if math.isfinite(v) else None for v in (sums / self._predicted).tolist()]

    def plain(self) -> schema.Result:
        """What the document says of the model as it is."""
        return schema.Result(
            **self._loss(self._plain),
            weights=None,
            activations=None,
            noise=False,
            loss_difference=None,
            loss_difference_interval=None,
            kl=None,
            kl_interval=None,
            kl_by_prompt=None,
            simulated=0,
            not_simulated=[],
        )

    def result(self, way: Way, sums: Figures, simulation: Simulation | None) -> schema.Result:
        """What the document says of a way, from the sums of srdd.simulation.predictions."""
        _, nll, kl = sums.T
        missing = {} if simulation is None else simulation.not_simulated
        names = () if simulation is None else simulation.modules
        return schema.Result(
            **self._loss(nll),
            weights=way.weights,
            activations=way.activations,
            noise=way.noise,
            loss_difference=self._mean(nll - self._plain),
            loss_difference_interval=self._interval(nll - self._plain),
            kl=self._mean(kl),
            kl_interval=self._interval(kl),
            kl_by_prompt=self._by_prompt(kl),
            simulated=sum(name not in missing for name in names),
            not_simulated=[
                schema.NotSimulated(module=name, reason=reason) for name, reason in missing.items()
            ],
        )

    def _loss(self, nll: Figures) -> dict[str, Any]:
        loss, interval = self._mean(nll), self._interval(nll)
        return {
            "loss": loss,
            "loss_interval": interval,
            "perplexity": _exponential(loss),
            "perplexity_interval": _exponentials(interval),
            "loss_by_prompt": self._by_prompt(nll),
        }


def _exponential(loss: float | None) -> float | None:
    return math.exp(loss) if loss is not None and loss < 700 else None


def _exponentials(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    if interval is None:
        return None
    low, high = map(_exponential, interval)
    return None if low is None or high is None else (low, high)
