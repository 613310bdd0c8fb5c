"""Where 4-bit quantization hurts a language model, how sure that is, and what to do about it.

Public names are loaded when they are first used: importing srdd imports neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srdd.errors import SrddError
    from srdd.merge import merge_scans
    from srdd.quantize import fake_quantize, measure
    from srdd.reading import load_scan
    from srdd.scan import scan_model
    from srdd.schema.rin import RinConfig, load_rin
    from srdd.schema.scan import Scan
    from srdd.simulation import simulate
    from srdd.strategies import suggest

__version__ = "0.1.0"

_HOMES = {
    "RinConfig": "srdd.schema.rin",
    "Scan": "srdd.schema.scan",
    "SrddError": "srdd.errors",
    "fake_quantize": "srdd.quantize",
    "load_rin": "srdd.schema.rin",
    "load_scan": "srdd.reading",
    "measure": "srdd.quantize",
    "merge_scans": "srdd.merge",
    "scan_model": "srdd.scan",
    "simulate": "srdd.simulation",
    "suggest": "srdd.strategies",
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
