"""What a scan says of the model it measured, and of the software that measured it."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from torch import nn

from srdd.documents import scan as schema
from srdd.documents.rollouts import Rollouts
from srdd.model.linears import stacked_in
from srdd.model.running import text_config
from srdd.model.structure import DecoderLayer, Structure
from srdd.prompts.batches import TokenizedPrompts


@dataclass(frozen=True)
class Origin:
    """Where the model came from, for the document only."""

    name: str
    source: Literal["folder", "hub", "memory"] = "memory"
    revision: str | None = None
    command: str | None = None
    notes: tuple[str, ...] = ()


def describe(model: nn.Module, tokenizer: Any, weights: str, origin: Origin) -> dict[str, Any]:
    """What every document says of a model; `weights` is their fingerprint."""
    words = len(tokenizer) if hasattr(tokenizer, "__len__") else 0
    return {
        "name": origin.name,
        "source": origin.source,
        "revision": origin.revision,
        "fingerprint": weights,
        "architecture": type(model).__name__,
        "dtype": str(getattr(model, "dtype", None) or next(model.parameters()).dtype).removeprefix(
            "torch."
        ),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokenizer": None if tokenizer is None else f"{type(tokenizer).__name__} of {words} tokens",
    }


def describe_model(
    model: nn.Module, tokenizer: Any, structure: Structure, weights: str, origin: Origin
) -> schema.Model:
    """The model's part of a scan; `tokenizer` may be None."""
    owners: dict[object, str] = {}

    def tied_to(name: str) -> str | None:
        """The first module with this one's weight, where that is another."""
        weight = model.get_submodule(name)._parameters["weight"]
        assert weight is not None
        owner = owners.setdefault((not weight.is_meta and weight.data_ptr()) or id(weight), name)
        return None if owner == name else owner

    def layer_of(layer: DecoderLayer) -> schema.Layer:
        return schema.Layer(
            index=layer.index,
            name=layer.name,
            type=type(layer.module).__name__,
            norms=[schema.Norm(**asdict(norm), tied_to=tied_to(norm.name)) for norm in layer.norms],
            linears=[
                schema.Linear(**asdict(linear), tied_to=tied_to(linear.name))
                for linear in layer.linears
            ],
            experts=[
                schema.Experts(name=f"{name}.{key}", experts=len(stack), size=stack.numel())
                for name in layer.stacked
                for key, stack in stacked_in(model.get_submodule(name))
            ],
        )

    return schema.Model(
        **describe(model, tokenizer, weights, origin),
        model_type=str(getattr(getattr(model, "config", None), "model_type", "unknown")),
        hidden_size=int(getattr(text_config(model), "hidden_size", 0) or 0),
        decoder=structure.decoder,
        layers=[layer_of(layer) for layer in structure.layers],
        other_norms=[schema.Norm(**asdict(norm)) for norm in structure.other_norms],
    )


def describe_rollouts(tokenized: TokenizedPrompts) -> Rollouts | None:
    """What every document says of the rollouts that it is of; None for prompts."""
    counts = tokenized.rollouts
    if counts is None:
        return None
    return Rollouts(**{name: getattr(counts, name) for name in Rollouts.model_fields})


def versions() -> dict[str, str]:
    """Of srdd, Python, and the packages that figures depend on."""
    names = ("srdd", "torch", "transformers", "numpy", "numba")
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(name: str) -> str:
    """Of a package; of one that is not installed (a bare checkout), what its module says."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(name), "__version__", "unknown"))
