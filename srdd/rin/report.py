"""What noise really did to a model's weights: by module, and in all."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ModuleNoise:
    """The noise on one module.

    Attributes:
        name: as the configuration has it, or as the model where the configuration names none; of
            stacked experts, the parameter's.
        layer: index of its decoder layer.
        tied: names of other modules that share its weight, and so its noise. Where several of them
            are configured, the first gives sigma.
        size: number of weights, over all processes.
        sigma: standard deviation that the configuration asks for at this step.
        std: root mean square of what was really added, after rounding to the weight's type. Of a
            sharded weight, over this process's part; None where that is empty.
        unchanged: share of the weights that rounding left as they were; as for `std`.
        signal_to_noise_db: 20 log10(gain / sigma), as in the configuration. The gain of a norm is
            the one from the configuration, or else observed, or else 1; that of a linear is the
            root mean square of its clean weights. None without noise or gain.
    """

    name: str
    layer: int
    tied: tuple[str, ...]
    size: int
    sigma: float
    std: float | None
    unchanged: float | None
    signal_to_noise_db: float | None


@dataclass(frozen=True)
class NoiseReport:
    """The noise in a model.

    Attributes:
        step, total_steps, seed: what it was drawn for.
        modules: those that the configuration names, by layer and name; tied ones once.
        energy: sum over all noisy weights of sigma^2.
        realised_energy: sum of the squares of what was really added to weights in this process.
        left_out: weights of the same kind in the configured layers that get no noise, such as
            routers and excluded modules.
    """

    step: int
    total_steps: int
    seed: int
    modules: tuple[ModuleNoise, ...]
    energy: float
    realised_energy: float
    left_out: tuple[str, ...] = ()

    @property
    def sigma(self) -> float:
        """Root mean square of sigma over the configured weights; theirs where all have the same."""
        return math.sqrt(self.energy / sum(module.size for module in self.modules))

    @property
    def unchanged(self) -> float | None:
        """Share of the configured weights that rounding left as they were, in this process."""
        known = [(m.unchanged, m.size) for m in self.modules if m.unchanged is not None]
        size = sum(size for _, size in known)
        return sum(share * size for share, size in known) / size if size else None
