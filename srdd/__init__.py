"""Where 4-bit quantization hurts a language model, how sure that is, and what to do about it.

Public names are loaded when they are first used: importing srdd imports neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srdd import rin as rin
    from srdd.comparison import compare_scans as compare
    from srdd.documents.merge import merge_scans
    from srdd.documents.recipe import Recipe, load_recipe
    from srdd.documents.rin import RinConfig, load_rin
    from srdd.documents.scan import Scan, load_scan
    from srdd.errors import SrddError
    from srdd.measurement import sensitivity as sensitivity
    from srdd.measurement.scanner import scan_model
    from srdd.noise import suggest
    from srdd.numerics.quantize import fake_quantize, measure
    from srdd.recipes import recipe
    from srdd.reports.report import report
    from srdd.simulation.evaluator import evaluate_model as evaluate
    from srdd.simulation.monitor import MismatchCallback
    from srdd.simulation.simulator import simulate

__version__ = "0.1.0"

_HOMES = {
    "MismatchCallback": "srdd.simulation.monitor:MismatchCallback",
    "Recipe": "srdd.documents.recipe:Recipe",
    "RinConfig": "srdd.documents.rin:RinConfig",
    "Scan": "srdd.documents.scan:Scan",
    "SrddError": "srdd.errors:SrddError",
    "compare": "srdd.comparison:compare_scans",
    "evaluate": "srdd.simulation.evaluator:evaluate_model",
    "fake_quantize": "srdd.numerics.quantize:fake_quantize",
    "load_recipe": "srdd.documents.recipe:load_recipe",
    "load_rin": "srdd.documents.rin:load_rin",
    "load_scan": "srdd.documents.scan:load_scan",
    "measure": "srdd.numerics.quantize:measure",
    "merge_scans": "srdd.documents.merge:merge_scans",
    "recipe": "srdd.recipes:recipe",
    "report": "srdd.reports.report:report",
    "rin": "srdd.rin",
    "scan_model": "srdd.measurement.scanner:scan_model",
    "sensitivity": "srdd.measurement.sensitivity",
    "simulate": "srdd.simulation.simulator:simulate",
    "suggest": "srdd.noise:suggest",
}
"""Public name -> its module, and its name there; the module itself where that is missing."""

__all__ = [
    "MismatchCallback",
    "Recipe",
    "RinConfig",
    "Scan",
    "SrddError",
    "__version__",
    "compare",
    "evaluate",
    "fake_quantize",
    "load_recipe",
    "load_rin",
    "load_scan",
    "measure",
    "merge_scans",
    "recipe",
    "report",
    "rin",
    "scan_model",
    "sensitivity",
    "simulate",
    "suggest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'srdd' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute) if attribute else import_module(module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
