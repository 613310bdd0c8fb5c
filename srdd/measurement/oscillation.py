"""Codes that flip between two checkpoints, read from their files a slice at a time.

For a weight w that becomes w', quantized in the same format: does its code change? A value that
moves by |w' - w| crosses the boundary of its code with probability |w' - w| / (distance of codes)
if it lay anywhere in between. Many more flips than that are values that sit at a boundary and are
pushed over it and back by small updates: oscillation (Nagel et al., Overcoming Oscillations in
Quantization-Aware Training, 2022).

Neither model is loaded: of each tensor, at most srdd.model.linears.SLICE values are in memory, or
the whole tensor for a scale over all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srdd.documents import oscillation as schema
from srdd.errors import InputError, counted
from srdd.measurement.listener import Listener
from srdd.model import checkpoint
from srdd.model.kinds import kind_of
from srdd.model.linears import SLICE, find_weights
from srdd.model.load import quiet_imports
from srdd.model.structure import find_structure
from srdd.numerics import kernels
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.kernels import eager

_IN_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")
"""A tensor of a layer: the layer's number, and the rest of the name."""

FIELDS = ("values", "flipped", "changed", "expected", "blocks", "rescaled", "moved2", "norm2")


@dataclass(frozen=True)
class _Found:
    """A weight in a checkpoint: how it lies in its file, and that file."""

    layer: int
    file: str
    shape: tuple[int, ...]
    dtype: str


def measure_oscillation(
    old: str, new: str, format: str = "mxfp4", *, listener: Listener | None = None
) -> schema.Oscillation:
    """Compare the codes of two checkpoints of one model.

    Arguments:
        old, new: folders of models with weights as safetensors.
        format: such as `mxfp4:floor`.

    Raises:
        UsageError: an unknown format.
        InputError: a folder is no model, or they have no weight of a linear in common.
    """
    spec = parse_spec(format)
    listener = listener or Listener()
    folders = [Path(checkpoint.find(name).location) for name in (old, new)]
    tensors = [_tensors(folder) for folder in folders]
    known = _orientations(folders[0])
    names = [name for name in tensors[0] if name in tensors[1]]
    left_out = [
        schema.LeftOut(tensor=name, reason=f"only in {'OLD' if side == 0 else 'NEW'}")
        for side in (0, 1)
        for name in tensors[side]
        if name not in tensors[1 - side]
    ]
    weights = []
    total = sum(torch.Size(tensors[0][name].shape).numel() for name in names)
    listener.started(f"comparing {counted(len(names), 'weight')}", total, "values")
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for name in names:
            first, second = tensors[0][name], tensors[1][name]
            transposed = known.get(_place(name), None if len(first.shape) == 3 else False)
            reason = _unusable(first, second, transposed)
            if reason is None:
                reason = _bad_rotation(spec, first.shape, bool(transposed))
            if reason is not None:
                left_out.append(schema.LeftOut(tensor=name, reason=reason))
                continue
            slices = [
                _opened(files, folder / each.file, stack).get_slice(name)
                for folder, each in zip(folders, (first, second), strict=True)
            ]
            sums = torch.zeros(len(FIELDS), dtype=torch.float64)
            for before, after in _parts(slices, first.shape, bool(transposed), spec):
                sums += _sums(before, after, spec)
                listener.advanced(before.numel())
            weights.append(_flips(name, first.layer, sums))
    if not weights:
        reason = left_out[0].reason if left_out else "they have no linears in layers"
        raise InputError(
            f"{old} and {new} have no weight of a linear to compare ({reason})",
            "name two checkpoints of one model, saved as safetensors",
        )
    dtypes = [", ".join(sorted({each.dtype for each in side.values()})) for side in tensors]
    return schema.Oscillation(
        old=schema.Checkpoint(folder=old, dtype=dtypes[0]),
        new=schema.Checkpoint(folder=new, dtype=dtypes[1]),
        format=str(spec),
        weights=sorted(weights, key=lambda weight: weight.layer),
        left_out=left_out,
    )


def _tensors(folder: Path) -> dict[str, _Found]:
    """The two- and three-dimensional tensors in layers, by name.

    Raises:
        InputError: its weights are not safetensors.
    """
    from safetensors import safe_open

    found = {}
    for file in checkpoint.safetensors_of(folder):
        with safe_open(str(folder / file), framework="pt") as content:
            for name in content.keys():  # noqa: SIM118
                piece = content.get_slice(name)
                shape = tuple(piece.get_shape())
                place = _IN_LAYER.search(name)
                if place and len(shape) in (2, 3) and not name.endswith((".bias", "conv1d.weight")):
                    found[name] = _Found(int(place[1]), file, shape, piece.get_dtype())
    return found


def _orientations(folder: Path) -> dict[str, bool | None]:
    """Whether weights are stored as (in, out), by their place in the layers of the empty model.

    Empty where transformers does not know the model: its weights then count as (out, in), and
    stacked experts are left out.
    """
    with quiet_imports():
        from transformers import AutoConfig, AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        weights = find_weights(model, find_structure(model))
    except Exception:  # a configuration that transformers cannot make a model of
        return {}
    return {
        _place(f"{w.name}.weight" if w.data.ndim == 2 else w.name): w.transposed for w in weights
    }


def _place(name: str) -> str:
    """A tensor's name from the number of its layer on: checkpoints differ in what is before."""
    found = _IN_LAYER.search(name)
    return name if found is None else f"{found[1]}.{found[2]}"


def _unusable(first: _Found, second: _Found, transposed: bool | None) -> str | None:
    if first.shape != second.shape:
        return f"of shape {first.shape} in OLD and {second.shape} in NEW"
    for each in (first, second):
        if each.dtype not in ("BF16", "F16", "F32", "F64"):
            return f"stored as {each.dtype}, which is quantized already"
    if transposed is None:
        return "it is not known which of its axes is the input's"
    return None


def _bad_rotation(spec: FormatSpec, shape: tuple[int, ...], transposed: bool) -> str | None:
    size, channels = spec.format.rotation, shape[-2] if transposed else shape[-1]
    return (
        f"its {channels} input channels are no multiple of {size}"
        if (size and channels % size)
        else None
    )


def _opened(files: dict[Path, Any], path: Path, stack: ExitStack) -> Any:
    from safetensors import safe_open

    if path not in files:
        files[path] = stack.enter_context(safe_open(str(path), framework="pt"))
    return files[path]


def _parts(
    slices: list[Any], shape: tuple[int, ...], transposed: bool, spec: FormatSpec
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same output rows of both checkpoints, (rows, in) in float32 or as they are stored."""
    rows, channels = (shape[-1], shape[-2]) if transposed else shape[-2:]
    step = rows if spec.scale_rule == "tensor" else max(1, SLICE // max(channels, 1))
    for expert in range(shape[0]) if len(shape) == 3 else (None,):
        for start in range(0, rows, step):
            part = slice(start, start + step)
            index = (slice(None), part) if transposed else (part, slice(None))
            pair = [
                each[index] if expert is None else each[(slice(expert, expert + 1), *index)][0]
                for each in slices
            ]
            before, after = (each.t() if transposed else each for each in pair)
            yield _measurable(before), _measurable(after)


def _measurable(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float64 else x


def _sums(before: Tensor, after: Tensor, spec: FormatSpec) -> Tensor:
    """FIELDS of (rows, in) of both checkpoints, float64."""
    (old_scale, old_v, old_q, old), (new_scale, _, new_q, new) = (
        kernels.codes(each, spec) for each in (before, after)
    )
    both = torch.isfinite(old) & torch.isfinite(new)
    flipped = both & (old_q != new_q)
    changed = both & (old_q * old_scale != new_q * new_scale)
    moved = torch.where(both, (new - old).double(), 0.0)
    distance = eager.spacing(old_v, spec.format.element).double() * old_scale
    expected = (moved.abs() / distance).clamp(max=1.0)
    kept = both.any(-1)
    rescaled = kept & (old_scale != new_scale).squeeze(-1)
    return torch.stack(
        [
            both.sum().double(),
            flipped.sum().double(),
            changed.sum().double(),
            expected.sum(),
            kept.sum().double(),
            rescaled.sum().double(),
            moved.square().sum(),
            torch.where(both, old.double(), 0.0).square().sum(),
        ]
    )


def _flips(name: str, layer: int, sums: Tensor) -> schema.Flips:
    values = dict(zip(FIELDS, sums.tolist(), strict=True))
    counts = {n: int(values[n]) for n in ("values", "flipped", "changed", "blocks", "rescaled")}
    return schema.Flips(
        tensor=name.removesuffix(".weight"),
        layer=layer,
        kind=kind_of(name.removesuffix(".weight")),
        **(values | counts),
    )
