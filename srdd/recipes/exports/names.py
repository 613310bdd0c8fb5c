"""Names of modules as patterns that match them and nothing else, whichever way they are matched.

A regular expression is written from the beginning to `$`. So it means the same to `re.match`, to
`re.fullmatch` and to `re.search`, and the beginning of a longer name is not caught.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"^(?P<before>.*?(?:layers|h|blocks|layer)\.)(?P<layer>\d+)\.(?P<rest>.+)$")
_STACKED = re.compile(r"^(?P<experts>.*\.experts)\.(?P<last>[^.\d][^.]*)$")

_SINGLE = {
    "gate_up_proj": ("gate_proj", "up_proj", "gate_up_proj", "w1", "w3"),
    "down_proj": ("down_proj", "w2"),
}
"""What experts' linears are called one by one -> stacked."""


def is_stacked(name: str) -> bool:
    """Whether a module is the stacked weight of several experts."""
    return _STACKED.match(name) is not None


def expressions(names: Iterable[str], *, apart: bool) -> list[str]:
    """Regular expressions that match these names alone; linears of the same layers share one.

    Arguments:
        apart: also match stacked experts one by one, as files and engines name them:
            `experts.7.gate_proj` for `experts.gate_up_proj`.
    """
    layers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        found = _LAYER.match(name)
        before, rest = (found["before"], found["rest"]) if found else ("", name)
        numbers = layers.setdefault((before, _escaped(rest, apart)), [])
        if found:
            numbers.append(int(found["layer"]))
    shared: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (before, rest), numbers in layers.items():
        shared.setdefault((before, tuple(sorted(numbers))), []).append(rest)
    return [
        f"^{re.escape(before)}{_one_of(map(str, numbers))}"
        + r"\." * bool(numbers)
        + f"{_one_of(rests)}$"
        for (before, numbers), rests in shared.items()
    ]


def _escaped(rest: str, apart: bool) -> str:
    found = _STACKED.match(rest) if apart else None
    # transformers calls the block `mlp` in memory whatever a checkpoint calls it.
    if apart and rest == "mlp.gate":
        return r"(?:mlp|block_sparse_moe)\.gate"
    if not found:
        return re.escape(rest)
    block = re.escape(found["experts"]).replace("mlp", "(?:mlp|block_sparse_moe)", 1)
    return rf"{block}\.(?:\d+\.)?{_one_of(_SINGLE.get(found['last'], (found['last'],)))}"


def _one_of(choices: Iterable[str]) -> str:
    every = list(dict.fromkeys(choices))
    return every[0] if len(every) == 1 else f"(?:{'|'.join(every)})" if every else ""
