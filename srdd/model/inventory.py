"""What a checkpoint holds, by the names and shapes in its files; no weight is read, and no torch.

A module is named as its tensors are: `model.layers.0.mlp.down_proj` for a tensor
`model.layers.0.mlp.down_proj.weight`. Experts that are stacked in one tensor have no `.weight`;
they go by the tensor's own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from srdd.errors import InputError
from srdd.model.checkpoint import DEMO, find, first_line
from srdd.model.kinds import kind_of

Role = Literal["linear", "expert", "router", "norm", "embedding", "head", "other"]
Shape = tuple[int, ...]

QUANTIZABLE: tuple[Role, ...] = ("linear", "expert")
"""What a recipe is about; the other roles are kept in full precision by nearly everybody."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.", re.ASCII)
_EMBEDDINGS = re.compile(r"(?:^|_)(?:embed|embeddings?|embed_tokens|wte|wpe|embed_in|embd)(?:_|$)")
_HEADS = ("lm_head", "embed_out", "output", "output_layer")
_TOWERS = re.compile(r"(?:^|\.)[a-z_]*(?:vision|visual|audio)[a-z_]*\.")


@dataclass(frozen=True)
class StoredModule:
    """A module of a checkpoint.

    Attributes:
        name: see above.
        role: what it is for; `other` for what is none of these, such as a vision tower.
        layer: the number of its decoder layer; None outside of them.
        shape: of its weight; None where only an index is at hand.
    """

    name: str
    role: Role
    layer: int | None
    shape: Shape | None


@dataclass(frozen=True)
class Inventory:
    """The modules of a checkpoint that have weights, by layer and name.

    Attributes:
        model: what the user called it.
        architecture: the class that config.json names.
        modules: each once; with a head even where it shares the embedding's weight.
    """

    model: str
    architecture: str | None
    modules: tuple[StoredModule, ...]


def read_inventory(name: str, *, revision: str | None = None) -> Inventory:
    """The modules of a model, from a folder, the Hub's cache or the Hub.

    Of a folder only config.json and the headers of safetensors files are read; an index is enough
    where the files themselves were not downloaded.

    Raises:
        InputError: there is no such model, or it has no safetensors files.
    """
    folder = _folder(name, revision)
    if folder is None:
        config, shapes = _from_hub(name, revision)
    else:
        config, shapes = _from_folder(folder)
    modules = sorted(_modules(shapes), key=lambda m: (-1 if m.layer is None else m.layer, m.name))
    text = config.get("text_config")
    tied = config.get("tie_word_embeddings", isinstance(text, dict) or None)
    if tied is not False and not any(each.role == "head" for each in modules):
        modules.append(StoredModule("lm_head", "head", None, None))
    architectures = config.get("architectures") or [None]
    return Inventory(name, architectures[0], tuple(modules))


def read_config(name: str, *, revision: str | None = None) -> dict[str, Any]:
    """The config.json of a model, of the language model where it has several parts.

    Raises:
        InputError: as `read_inventory`.
    """
    folder = _folder(name, revision)
    config = _from_hub(name, revision)[0] if folder is None else _object(folder / "config.json")
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _folder(name: str, revision: str | None) -> Path | None:
    """The folder that holds a model; None where it is on the Hub and not in its cache."""
    path = Path(name).expanduser()
    index = path / "model.safetensors.index.json"
    if name != DEMO and (path / "config.json").exists() and index.exists():
        return path  # its weights may be elsewhere
    found = find(name, revision=revision)
    if found.source == "folder":
        return Path(found.location)
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(cached, str):
        return None
    folder = Path(cached).parent
    return folder if any(folder.glob("*.safetensors*")) else None


def _from_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Shape | None]]:
    config = _object(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        files = [folder / "model.safetensors"]
        names: dict[str, Shape | None] = {}
    else:
        weight_map = _object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InputError(f"{index} is not a weight index", "download it again")
        files = [folder / file for file in dict.fromkeys(map(str, weight_map.values()))]
        names = dict.fromkeys(weight_map)
    for file in files:
        if file.exists() or not names:
            names |= _header(file)
    return config, names


def _object(file: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"cannot read {file}: {first_line(error)}", "download it again") from None
    return content if isinstance(content, dict) else {}


def _header(file: Path) -> dict[str, Shape | None]:
    """Names and shapes of the tensors of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read the header of {file}: {first_line(error)}",
            "name a model that is stored as safetensors",
        ) from None


def _from_hub(name: str, revision: str | None) -> tuple[dict[str, Any], dict[str, Shape | None]]:
    """Ask the Hub for config.json and the headers, which it serves without the weights."""
    import huggingface_hub

    try:
        config = huggingface_hub.hf_hub_download(name, "config.json", revision=revision)
        metadata = huggingface_hub.get_safetensors_metadata(name, revision=revision)
    except Exception as error:  # the network's client raises errors of many kinds
        raise InputError(
            f"cannot read the safetensors headers of {name} ({first_line(error)})",
            "download the model, and name its folder",
        ) from None
    shapes: dict[str, Shape | None] = {}
    for file in metadata.files_metadata.values():
        shapes |= {key: tuple(each.shape) for key, each in file.tensors.items()}
    return _object(Path(config)), shapes


def _modules(shapes: Mapping[str, Shape | None]) -> Iterable[StoredModule]:
    for tensor, shape in shapes.items():
        name = tensor.removesuffix(".weight")
        stacked = ".experts." in name and (shape is None or len(shape) == 3)
        if name == tensor and not (stacked and _is_projection(name)):
            continue
        yield StoredModule(name, *_role(name, shape), shape)


def _is_projection(name: str) -> bool:
    """Whether the last part names a product and not one of its biases or scales."""
    return kind_of(name) in ("gate", "up", "gate_up", "down")


def _role(name: str, shape: Shape | None) -> tuple[Role, int | None]:
    last = name.rpartition(".")[2]
    found = _LAYER.search(f"{name}.")
    layer = int(found[1]) if found else None
    if _TOWERS.search(name):
        return "other", None
    if (shape is not None and len(shape) == 1) or _names_norm(last):
        return "norm", layer
    if layer is None:
        if last in _HEADS:
            return "head", None
        return ("embedding" if _EMBEDDINGS.search(last) else "other"), None
    if shape is not None and len(shape) not in (2, 3):
        return "other", layer
    if ".experts." in name:
        return "expert", layer
    if shape is not None and len(shape) == 3:
        return "other", layer
    router = kind_of(name) == "router" or name.split(".")[-2:-1] == ["router"]
    return ("router" if router else "linear"), layer


def _names_norm(last: str) -> bool:
    return "norm" in last or last.startswith("ln_")
