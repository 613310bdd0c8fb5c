"""Noise: a Scan -> a RinConfig.

    uniform    every layer alike: the baseline that every other has to beat
    targeted   the worst layers alike, the others not at all
    variable   every layer, in proportion to how bad it is
    zone       tiers of layers, each with its own schedule
    balanced   every layer, so that the noise costs the predictions the same in each
    matched    every layer, so that it costs the same share of what quantizing the layer costs

and two controls, made from any but the first at the same noise energy: `inverse` gives the most
noise where there was the least, and `shuffled` deals the same multipliers to random layers. A
strategy whose run does not beat its controls has shown nothing about its choice of layers.
"""

from srdd.noise.figures import METRICS, Figures, figures_of
from srdd.noise.strategies import BY_COST, CONTROLS, STRATEGIES
from srdd.noise.suggestion import suggest
from srdd.noise.targets import ALWAYS_EXCLUDED, LAYER_TYPES

__all__ = [
    "ALWAYS_EXCLUDED",
    "BY_COST",
    "CONTROLS",
    "LAYER_TYPES",
    "METRICS",
    "STRATEGIES",
    "Figures",
    "figures_of",
    "suggest",
]
