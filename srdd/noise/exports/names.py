"""How trainers find a layer by the names of its modules.

They look for a substring of the name, or for the first number behind `layers.`, `h.`, `blocks.` or
`layer.`. A substring has to end with a dot: `layers.1` is also in `layers.10.mlp`.
"""

from __future__ import annotations

import re

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.errors import UsageError

_INDEX = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)", re.ASCII)


def target_modules(config: RinConfig) -> list[str] | None:
    """For each layer that gets noise a substring of its modules' names; None if they are unknown.

    The last two parts of the layer's name will do, such as `layers.14.`: what stands before them
    differs between a trainer and its inference engine. Where that would hit another layer's module
    too, it is the whole name.
    """
    layers = config.layers
    if any(entry.name is None for entry in layers):
        return None
    return [_substring(entry, layers) for entry in layers]


def _substring(entry: LayerNoise, layers: list[LayerNoise]) -> str:
    name = entry.name or ""
    short = ".".join(name.split(".")[-2:]) + "."
    hit = {other.layer for other in layers for m in other.modules if short in m.name}
    return short if hit <= {entry.layer} else name + "."


def check_indices(config: RinConfig, consumer: str) -> None:
    """Make sure that a trainer finds the index of every layer in the names of its modules.

    Raises:
        UsageError: it would find another one or none, and use the default multiplier.
    """
    for entry in config.layers:
        for module in entry.modules:
            found = _INDEX.search(module.name)
            if found is None or int(found[1]) != entry.layer:
                raise UsageError(
                    f"{consumer} cannot tell the layer of {module.name!r}: it looks for a number "
                    "behind layers., h., blocks. or layer.",
                    "use --for srdd, which names every module",
                )
