"""Models that are quantized already, by their configuration; they are not measured.

Their activations are those of a quantized model and their weights are codes, so figures measured on
them would not be of the model that somebody is about to quantize. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

from srdd.errors import InputError

KEY = "quantization_config"

DEQUANTIZING = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Methods that models are released in and in nothing else, by the class of transformers that
dequantizes them on loading.
"""


def refuse_quantized(name: str, config: Any) -> None:
    """Make sure that a model is in full precision, or was dequantized on loading.

    Arguments:
        name: of the model, for the error.
        config: the content of its config.json, or a configuration of transformers.

    Raises:
        InputError: its configuration says that it is quantized.
    """
    quantization = _entry(config, KEY) or _entry(_entry(config, "text_config"), KEY)
    # transformers removes the entry from a model that it dequantized; some versions left it.
    if not quantization or getattr(quantization, "dequantize", False) is True:
        return
    method = _entry(quantization, "quant_method")
    method = getattr(method, "value", method)  # in memory it is a member of an enumeration
    method = method if isinstance(method, str) else f"by its {KEY}"
    hint = "use the checkpoint in full precision that it was made from"
    if method in DEQUANTIZING:
        load = f"{KEY}=transformers.{DEQUANTIZING[method]}(dequantize=True)"
        hint += f"; if there is none, load it in Python with {load} and pass the model to srdd"
    raise InputError(f"{name} is quantized already ({method})", hint)


def check_full_precision(model: Any) -> None:
    """`refuse_quantized` for a model in memory."""
    refuse_quantized("the model", getattr(model, "config", None))


def _entry(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, dict) else getattr(config, key, None)
