"""Noise: a Scan -> a RinConfig.

    uniform    every layer alike: the baseline that every other has to beat
    targeted   the worst layers alike, the others not at all
    variable   every layer, in proportion to how bad it is
    zone       tiers of layers, each with its own schedule

and two controls, made from any of the last three at the same noise energy: `inverse` gives the most
noise where there was the least, and `shuffled` deals the same multipliers to random layers. A
strategy whose run does not beat its controls has shown nothing about its choice of layers.
"""

from srdd.noise.figures import METRICS, Figures, figures_of
from srdd.noise.strategies import CONTROLS, STRATEGIES
from srdd.noise.suggestion import suggest
from srdd.noise.targets import ALWAYS_EXCLUDED, LAYER_TYPES

__all__ = [
    "ALWAYS_EXCLUDED",
    "CONTROLS",
    "LAYER_TYPES",
    "METRICS",
    "STRATEGIES",
    "Figures",
    "figures_of",
    "suggest",
]
