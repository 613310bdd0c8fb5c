"""Noise injection: sigma by training step, the noise itself, and a callback for trainers.

Public names are loaded when they are first used: `srdd.rin.schedule` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srdd.rin.callback import RinCallback
    from srdd.rin.inject import noisy
    from srdd.rin.report import ModuleNoise, NoiseReport

_HOMES = {
    "ModuleNoise": "srdd.rin.report",
    "NoiseReport": "srdd.rin.report",
    "RinCallback": "srdd.rin.callback",
    "noisy": "srdd.rin.inject",
}

__all__ = ["ModuleNoise", "NoiseReport", "RinCallback", "noisy"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'srdd.rin' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
