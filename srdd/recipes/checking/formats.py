"""What consumers' settings of a quantizer mean, in srdd's words.

A setting that is one of srdd's formats gets its name, whatever rule its scales follow; another is
described, such as `float8 per tensor`. None is full precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEPT = "bf16"


@dataclass(frozen=True)
class Operands:
    """The formats of a linear's weight and input; None where it stays in full precision."""

    weight: str | None = None
    input: str | None = None

    @property
    def quantized(self) -> bool:
        """Whether either is."""
        return self.weight is not None or self.input is not None

    def __str__(self) -> str:
        if self.weight == self.input:
            return self.weight or KEPT
        if self.input is None:
            return f"{self.weight} (weight)"
        return f"{self.weight or KEPT} (weight), {self.input} (input)"


FULL = Operands()


def of_compressed_tensors(args: Mapping[str, Any] | None) -> str | None:
    """A `QuantizationArgs` of compressed-tensors as JSON has it."""
    if not args:
        return None
    bits, floating = args.get("num_bits", 8), args.get("type", "int") == "float"
    size, strategy = args.get("group_size"), args.get("strategy")
    if strategy is None:
        strategy = "group" if size and size > 0 else "channel" if size == -1 else "tensor"
    symmetric = args.get("symmetric", True)
    powers = str(args.get("scale_dtype", "torch.uint8")).endswith("uint8")
    known: Mapping[Any, str] = {
        (4, True, "group", 32): "mxfp4",
        (6, True, "group", 32): "mxfp6_e2m3",
        (8, True, "group", 32): "mxfp8_e4m3",
        (4, True, "tensor_group", 16): "nvfp4",
    }
    if powers or strategy == "tensor_group":
        name = known.get((bits, floating, strategy, size))
        if name:
            return name
    if strategy in ("channel", "token") and symmetric and bits == 8:
        return "fp8_e4m3_token" if floating else "int8_token"
    if (bits, floating, strategy, symmetric) == (4, False, "group", True) and size in (32, 128):
        return f"int4_g{size}"
    what = f"{'float' if floating else 'int'}{bits}"
    if strategy == "block":
        structure = args.get("block_structure") or ("?", "?")
        where = f"blocks of {structure[0]} x {structure[1]}"
    else:
        where = f"groups of {size}" if size else f"per {strategy}"
    return f"{what} {where}" + ("" if symmetric else ", asymmetric")


PRESETS: Mapping[str, Operands] = {
    "UNQUANTIZED": FULL,
    "FP8": Operands("float8 per tensor", "float8 per tensor"),
    "FP8_DYNAMIC": Operands("fp8_e4m3_token", "fp8_e4m3_token"),
    "FP8_BLOCK": Operands("float8 blocks of 128 x 128", "float8 groups of 128"),
    "NVFP4A16": Operands("nvfp4"),
    "NVFP4": Operands("nvfp4", "nvfp4"),
    "MXFP4A16": Operands("mxfp4"),
    "MXFP4": Operands("mxfp4", "mxfp4"),
    "MXFP6A16": Operands("mxfp6_e2m3"),
    "MXFP6A8": Operands("mxfp6_e2m3", "mxfp8_e4m3"),
    "MXFP8A16": Operands("mxfp8_e4m3"),
    "MXFP8": Operands("mxfp8_e4m3", "mxfp8_e4m3"),
    "W8A8": Operands("int8_token", "int8_token"),
    "INT8": Operands("int8_token", "int8_token"),
    "W4A16": Operands("int4_g128"),
    "W4A16_ASYM": Operands("int4 groups of 128, asymmetric"),
    "W4AFP8": Operands("int4_g128", "fp8_e4m3_token"),
    "W4A8": Operands("int4_g128", "int8_token"),
    "W8A16": Operands("int8 groups of 128"),
}
"""Names of schemes of compressed-tensors (its PRESET_SCHEMES) that need no arguments."""

_ELEMENTS = {
    "e2m1": (2, 1),
    "e2m3": (2, 3),
    "e3m2": (3, 2),
    "e4m3": (4, 3),
    "e5m2": (5, 2),
    "e8m0": (8, 0),
}
_MODELOPT: Mapping[Any, str] = {
    ((2, 1), 32, (8, 0)): "mxfp4",
    ((2, 3), 32, (8, 0)): "mxfp6_e2m3",
    ((3, 2), 32, (8, 0)): "mxfp6_e3m2",
    ((4, 3), 32, (8, 0)): "mxfp8_e4m3",
    ((5, 2), 32, (8, 0)): "mxfp8_e5m2",
    (8, 32, (8, 0)): "mxint8",
    ((2, 1), 16, (4, 3)): "nvfp4",
    (4, 32, None): "int4_g32",
    (4, 128, None): "int4_g128",
}


def of_modelopt(attributes: Mapping[str, Any]) -> str:
    """The attributes of a quantizer of Model Optimizer."""
    bits = _element(attributes.get("num_bits", 8))
    sizes = dict(attributes.get("block_sizes") or {})
    block = sizes.get(-1, sizes.get("-1"))
    scale = _element(sizes.get("scale_bits"))
    name = _MODELOPT.get((bits, block, scale))
    if name:
        return name
    axis = attributes.get("axis")
    what = f"int{bits}" if isinstance(bits, int) else f"float{1 + sum(bits or ())}"
    if bits == 8 and axis == 0 and not block:
        return "int8_token"
    if bits == (4, 3) and axis == 0 and not block:
        return "fp8_e4m3_token"
    return what + (f" groups of {block}" if block else " per tensor" if axis is None else "")


def _element(value: Any) -> Any:
    if isinstance(value, str):
        return _ELEMENTS.get(value.lower(), value)
    return tuple(value) if isinstance(value, list) else value


def of_torchao(config: Mapping[str, Any] | None) -> Operands:
    """A configuration of torchao as `config_to_dict` writes it."""
    if config is None:
        return FULL
    kind, data = str(config.get("_type")), config.get("_data") or {}
    weight, inputs = (_plain(data.get(key)) for key in ("weight_dtype", "activation_dtype"))
    grains = data.get("granularity")
    grains = grains if isinstance(grains, list) else [grains]
    rows = {_kind(grain) for grain in grains} <= {"PerRow", None}
    if kind == "MXDynamicActivationMXWeightConfig":
        weight, inputs = weight or "float8_e4m3fn", inputs or "float8_e4m3fn"
        return Operands(_MX.get(weight, f"mx {weight}"), _MX.get(inputs, f"mx {inputs}"))
    if kind == "NVFP4DynamicActivationNVFP4WeightConfig":
        return Operands("nvfp4", "nvfp4")
    if kind == "NVFP4WeightOnlyConfig":
        return Operands("nvfp4")
    if kind in _BY_ROW:
        both, name = _BY_ROW[kind]
        # The default granularity of this one configuration is the whole tensor.
        whole = kind == "Float8DynamicActivationFloat8WeightConfig" and grains == [None]
        found = name if rows and not whole else f"{name.split('_')[0]} {_grain(grains[-1])}"
        return Operands(found, found if both else None)
    if kind == "IntxWeightOnlyConfig":
        size = ((grains[0] or {}).get("_data") or {}).get("group_size")
        symmetric = (_plain(data.get("mapping_type")) or "SYMMETRIC") == "SYMMETRIC"
        if weight == "int4" and symmetric and size in (32, 128):
            return Operands(f"int4_g{size}")
        return Operands(f"{weight} {f'groups of {size}' if size else 'per channel'}")
    return Operands(kind.removesuffix("Config"))


_MX = {
    "float4_e2m1fn_x2": "mxfp4",
    "float8_e4m3fn": "mxfp8_e4m3",
    "float8_e5m2": "mxfp8_e5m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp6_e3m2": "mxfp6_e3m2",
}
_BY_ROW = {
    "Float8DynamicActivationFloat8WeightConfig": (True, "fp8_e4m3_token"),
    "Float8WeightOnlyConfig": (False, "fp8_e4m3_token"),
    "Int8DynamicActivationInt8WeightConfig": (True, "int8_token"),
    "Int8WeightOnlyConfig": (False, "int8_token"),
}


def _plain(value: Any) -> str | None:
    found = value.get("_data") if isinstance(value, Mapping) else value
    return None if found is None else str(found)


def _kind(grain: Any) -> str | None:
    return grain.get("_type") if isinstance(grain, Mapping) else grain


def _grain(grain: Any) -> str:
    return "per tensor" if _kind(grain) in (None, "PerTensor") else str(_kind(grain))


_TE = {
    "mxfp8": "mxfp8_e4m3",
    "tensorwise": "float8 per tensor",
    "blockwise": "float8 blocks",
    "nvfp4": "nvfp4",
}


def of_transformer_engine(recipe: Mapping[str, Any]) -> Operands:
    """A `training_recipe` or `evaluation_recipe` of Megatron-Core."""
    chosen = recipe.get("fp8_quantization_recipe") or recipe.get("fp4_quantization_recipe")
    if chosen is None:
        return FULL
    name = _TE.get(chosen, str(chosen))
    if chosen == "mxfp8" and recipe.get("fp8_format") == "hybrid":
        name = "mxfp8_e4m3"  # hybrid is E4M3 in the forward pass
    return Operands(name, name)
