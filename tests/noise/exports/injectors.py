"""What each trainer's injector does with its settings, as far as RIN needs it: sigma by layer.

Written from the description of the injectors, apart from the code under test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LAYER_INDEX = re.compile(r"(?:layers|h|blocks|layer)\.(\d+)")


def sigma_of_stage(settings: Mapping[str, Any], stage: int) -> float:
    start, end, stages = (settings[k] for k in ("sigma_start", "sigma_end", "num_stages"))
    if stage == 0:
        return 0.0
    return float(start * (end / start) ** ((stage - 1) / (stages - 2)))


def hit(settings: Mapping[str, Any], module: str) -> bool:
    targets = settings.get("target_modules") or []
    spared = settings.get("exclude_patterns") or []
    if any(pattern in module for pattern in spared):
        return False
    return not targets or any(pattern in module for pattern in targets)


def guide(root: Mapping[str, Any], module: str, stage: int) -> float:
    settings = root["trainer"]["noise_injection"]
    actual = LAYER_INDEX.search(module)
    layer = int(actual[1]) if actual else None
    if not settings["enabled"] or not hit(settings, module):
        return 0.0
    if settings.get("target_layers") is not None and layer not in settings["target_layers"]:
        return 0.0
    multiplier = 1.0
    if settings.get("use_variable_sigma"):
        by_layer = {int(k): v for k, v in settings["layer_multipliers"].items()}
        multiplier = by_layer.get(layer, 1.0) if layer is not None else 1.0
    return multiplier * sigma_of_stage(settings, stage)


def verl_rin(root: Mapping[str, Any], module: str, stage: int) -> float:
    settings = root["trainer"]["noise_injection"]
    if not settings["enabled"] or not hit(settings, module):
        return 0.0
    multiplier = 1.0
    own = settings.get("layer_sigma_config")
    if own and own["enabled"]:
        actual = LAYER_INDEX.search(module)
        by_layer = {str(k): v for k, v in own["layer_multipliers"].items()}
        layer = actual[1] if actual else None
        multiplier = by_layer.get(layer, own["default_multiplier"])
    return float(multiplier * sigma_of_stage(settings, stage))


def whole_model(settings: Mapping[str, Any], module: str, stage: int) -> float:
    return sigma_of_stage(settings, stage)
