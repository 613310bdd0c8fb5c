"""Where 4-bit quantization hurts a language model, how sure that is, and what to do about it.

Public names are loaded when they are first used: importing srdd imports neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srdd.documents.merge import merge_scans
    from srdd.documents.reading import load_scan
    from srdd.documents.rin import RinConfig, load_rin
    from srdd.documents.scan import Scan
    from srdd.errors import SrddError
    from srdd.measurement.scanner import scan_model
    from srdd.noise import suggest
    from srdd.numerics.quantize import fake_quantize, measure
    from srdd.simulation.simulator import simulate

__version__ = "0.1.0"

_HOMES = {
    "RinConfig": "srdd.documents.rin",
    "Scan": "srdd.documents.scan",
    "SrddError": "srdd.errors",
    "fake_quantize": "srdd.numerics.quantize",
    "load_rin": "srdd.documents.rin",
    "load_scan": "srdd.documents.reading",
    "measure": "srdd.numerics.quantize",
    "merge_scans": "srdd.documents.merge",
    "scan_model": "srdd.measurement.scanner",
    "simulate": "srdd.simulation.simulator",
    "suggest": "srdd.noise",
}

__all__ = [
    "RinConfig",
    "Scan",
    "SrddError",
    "__version__",
    "fake_quantize",
    "load_rin",
    "load_scan",
    "measure",
    "merge_scans",
    "scan_model",
    "simulate",
    "suggest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'srdd' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
