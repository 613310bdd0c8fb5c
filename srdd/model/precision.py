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
    """Make sure that a checkpoint is in full precision, by its configuration.

    Arguments:
        config: the content of its config.json, or a configuration of transformers.

    Raises:
        InputError: it is quantized.
    """
    if quantization := _quantization(config):
        method = _method(quantization)
        hint = "scan the checkpoint in full precision that it was made from"
        if method in DEQUANTIZING:
            hint += (
                f"; if there is none, {_dequantize(method)} and pass the model to srdd.scan_model"
            )
        raise InputError(f"{name} is quantized already ({method})", hint)


def check_full_precision(model: Any) -> None:
    """Make sure that a model in memory is in full precision, or was dequantized on loading.

    Raises:
        InputError: its configuration says that it is quantized.
    """
    quantization = _quantization(getattr(model, "config", None))
    # transformers removes the entry from a model that it dequantized; some versions left it.
    if quantization and getattr(quantization, "dequantize", False) is not True:
        method = _method(quantization)
        hint = f"load the checkpoint in full precision that it was made from, without {KEY}"
        if method in DEQUANTIZING:
            hint += f"; if there is none, {_dequantize(method)}"
        raise InputError(f"the model is quantized already ({method})", hint)


def _quantization(config: Any) -> Any:
    """What a configuration, or that of its text model, says of quantization; None for nothing."""
    return _entry(config, KEY) or _entry(_entry(config, "text_config"), KEY)


def _method(quantization: Any) -> str:
    method = _entry(quantization, "quant_method")
    method = getattr(method, "value", method)  # in memory it is a member of an enumeration
    return method if isinstance(method, str) else f"by its {KEY}"


def _dequantize(method: str) -> str:
    return f"load it in Python with {KEY}=transformers.{DEQUANTIZING[method]}(dequantize=True)"


def _entry(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, dict) else getattr(config, key, None)
