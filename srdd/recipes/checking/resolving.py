"""Entries and modules -> the format of each module, as a consumer decides it.

compressed-tensors   `ignore` wins. Of several targets: a name, then a regular expression, each in
                     the order of the alphabet, then a class. Regular expressions match from the
                     beginning (`re.match`)
llm-compressor       the same for each modifier, a later one over an earlier one
vllm                 the names of fused linears (`qkv_proj`); all their parts or none have to be
                     ignored. Of several targets the first: a name, a class, then the parts
verl                 everything that no pattern matches gets one format; a pattern is a substring
torchao              the name itself, else the first regular expression that matches in full
modelopt             shell patterns for the names of quantizers; the last that matches decides
megatron             shell patterns for the names of Megatron-Core; the first that matches decides
verl-megatron        as modelopt, for the names of Megatron-Core
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from srdd.model.inventory import Inventory
from srdd.recipes.checking import views
from srdd.recipes.checking.formats import FULL, Operands
from srdd.recipes.checking.patterns import matcher
from srdd.recipes.checking.reading import Entry, Rules
from srdd.recipes.checking.views import ViewedModule


@dataclass(frozen=True)
class Resolved:
    """A module with its format.

    Attributes:
        module: the module.
        operands: its format.
        matches: the numbers of all entries that match it.
        decided: the number of the entry that gave it its format; None for the default.
        problem: why the consumer stops here, or may.
    """

    module: ViewedModule
    operands: Operands
    matches: tuple[int, ...]
    decided: int | None
    problem: str | None = None


@dataclass(frozen=True)
class Resolution:
    """All modules of a model with their formats, in the model's order."""

    consumer: str
    rules: Rules
    modules: tuple[Resolved, ...]

    def matched(self) -> Counter[int]:
        """How many modules each entry matches, by its number."""
        return Counter(number for each in self.modules for number in each.matches)


class _Names:
    """The entries of a file, asked by name; names that are written out are looked up, not tried."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._others: list[tuple[int, Callable[[str], bool]]] = []
        self._known: dict[str, tuple[int, ...]] = {}
        for number, entry in enumerate(entries):
            if entry.how == "exact":
                self._exact.setdefault(entry.pattern, []).append(number)
            else:
                self._others.append((number, matcher(entry.pattern, entry.how)))

    def matching(self, name: str) -> tuple[int, ...]:
        """The numbers of the entries that match a name, in their order."""
        if name not in self._known:
            found = [number for number, matches in self._others if matches(name)]
            self._known[name] = tuple(sorted((*self._exact.get(name, ()), *found)))
        return self._known[name]


Resolver = Callable[[Rules, Sequence[ViewedModule]], list[Resolved]]


def _library(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    entries, names = rules.entries, _Names(rules.entries)
    rank = [("re:" in entry.text, entry.text) for entry in entries]
    resolved = []
    for module in modules:
        by_name = names.matching(module.name)
        by_class = names.matching(module.type)
        matches = tuple(sorted({*by_name, *by_class}))
        operands, decided = FULL, None
        if matches and module.type in ("Linear", "Embedding"):
            for block in sorted({entries[n].block for n in matches}):
                own = [n for n in matches if entries[n].block == block]
                kept = next((n for n in own if entries[n].keeps), None)
                if kept is not None:
                    # Another modifier's choice stays: this one only leaves the module alone.
                    decided = kept if decided is None else decided
                    continue
                named = sorted((n for n in own if n in by_name), key=lambda n: rank[n])
                decided = (named or sorted(own, key=lambda n: rank[n]))[0]
                operands = entries[decided].operands or FULL
        problem = None
        if module.quantizable and module.type == "Conv1D" and _targeted(entries, matches):
            problem = "compressed-tensors quantizes no Conv1D: targeted linears stay in 16 bits"
        resolved.append(Resolved(module, operands, matches, decided, problem))
    return resolved


def _targeted(entries: Sequence[Entry], matches: Sequence[int]) -> bool:
    return bool(matches) and not any(entries[n].keeps for n in matches)


_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_RENAMED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_VLLM_TYPES = {"router": "replicatedlinear", "head": "parallellmhead", "expert": "linear fusedmoe"}
"""Role -> the class in which vLLM looks for a target; experts take that of linears."""


def _vllm(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    entries, names = rules.entries, _Names(rules.entries)
    layers: dict[str, list[ViewedModule]] = {}
    asked: dict[str, str] = {}
    for module in modules:
        if module.quantizable or module.role in _VLLM_TYPES:
            layers.setdefault(_vllm_name(module), []).append(module)
            asked[module.name] = _part_name(module)
    resolved = {}
    for name, members in layers.items():
        parts = sorted({asked[each.name] for each in members}, key=_order)
        by_class = tuple(_by_class(entries, _VLLM_TYPES.get(members[0].role, "parallellinear")))
        if members[0].role == "expert":
            choices = [_vllm_choice(part, [part], entries, names, by_class) for part in parts]
        else:
            choices = [_vllm_choice(name, parts, entries, names, by_class)]
        formats = [FULL if n is None else entries[n].operands or FULL for n, _ in choices]
        decided = choices[0][0]
        problem = next((text for _, text in choices if text), None)
        if len(set(formats)) > 1:
            problem = f"gate, up and down of {name} have different formats"
        own = () if members[0].role == "expert" else names.matching(name)
        matches = {p: tuple(sorted({*names.matching(p), *own, *by_class})) for p in parts}
        for each in members:
            found = problem if each.quantizable else None
            own_matches = matches[asked[each.name]]
            resolved[each.name] = Resolved(each, formats[0], own_matches, decided, found)
    return [resolved.get(m.name) or Resolved(m, FULL, (), None) for m in modules]


def _by_class(entries: Sequence[Entry], types: str) -> Iterator[int]:
    for number, entry in enumerate(entries):
        if not entry.keeps and entry.how == "exact" and entry.pattern.lower() in types:
            yield number


def _vllm_name(module: ViewedModule) -> str:
    """The name of the layer that vLLM builds for a stored linear."""
    parent, _, last = module.name.rpartition(".")
    if module.role == "expert" and parent.rpartition(".")[2].isdecimal():
        return parent.rpartition(".")[0]
    return f"{parent}.{_FUSED[last]}" if last in _FUSED else module.name


def _part_name(module: ViewedModule) -> str:
    """The name that vLLM looks a part of a layer up by; of experts, the first one's."""
    if module.role != "expert":
        return module.name
    parent, _, last = module.name.rpartition(".")
    experts, _, number = parent.rpartition(".")
    return f"{experts}.0.{_RENAMED.get(last, last)}" if number.isdecimal() else module.name


def _order(part: str) -> int:
    """Where a part stands in what vLLM fuses: q, k, v; gate, up, down."""
    last = part.rpartition(".")[2]
    return list(_FUSED).index(last) if last in _FUSED else len(_FUSED)


def _vllm_choice(
    name: str,
    parts: Sequence[str],
    entries: Sequence[Entry],
    names: _Names,
    by_class: Sequence[int],
) -> tuple[int | None, str | None]:
    """The entry that decides on a layer of vLLM, and why vLLM stops there or may."""
    own = names.matching(name)
    found = [names.matching(part) for part in parts]
    ignored = [next((n for n in each if entries[n].keeps), None) for each in found]
    whole = next((n for n in own if entries[n].keeps and entries[n].text == name), None)
    if whole is not None or None not in ignored:
        return (ignored[0] if whole is None else whole), None
    if any(n is not None for n in ignored):
        kept = ", ".join(p for p, n in zip(parts, ignored, strict=True) if n is not None)
        return None, f"vLLM stops: of {name}, which is one product, only {kept} is ignored"
    targeted = [next((n for n in each if not entries[n].keeps), None) for each in found]
    by_name = [n for n in own if not entries[n].keeps]
    by_parts = targeted if None not in targeted else []
    decided = next(iter((*by_name, *by_class, *by_parts)), None)
    if decided is None:
        return None, f"some versions of vLLM stop: {name} is neither targeted nor ignored"
    formats = {str(entries[n].operands) for n in targeted if n is not None}
    if len(formats) > 1 or (formats and None in targeted):
        return decided, f"vLLM gives all of {name} one format, its parts are targeted differently"
    return decided, None


def _verl(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    names = _Names(rules.entries)
    resolved = []
    for module in modules:
        matches = names.matching(module.name)
        kept = bool(matches) or module.type != "Linear"
        decided = matches[0] if matches else None
        resolved.append(Resolved(module, FULL if kept else rules.default, matches, decided))
    return resolved


def _torchao(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    entries, names = rules.entries, _Names(rules.entries)
    default = next((n for n, entry in enumerate(entries) if entry.text == "_default"), None)
    resolved = []
    for module in modules:
        stack = module.type == "Experts"
        parameter = names.matching(module.name if stack else f"{module.name}.weight")
        own = () if stack else names.matching(module.name)
        decided, problem = _torchao_choice(entries, parameter, own)
        if decided is None and default is not None and module.type == "Linear":
            decided, own = default, (*own, default)
        operands = FULL if decided is None else entries[decided].operands or FULL
        matches = tuple(sorted({*parameter, *own}))
        resolved.append(Resolved(module, operands, matches, decided, problem))
    return [*resolved, *_torchao_containers(entries, names, modules)]


def _torchao_choice(
    entries: Sequence[Entry], parameter: Sequence[int], module: Sequence[int]
) -> tuple[int | None, str | None]:
    """The entry that decides, and why torchao stops: it quantizes a weight each time it is matched.

    The name of the parameter comes first, then the module's; then expressions for the parameter,
    all of them, then the first for the module.
    """
    exact = next((n for n in parameter if entries[n].how == "exact"), None)
    if exact is None:
        named = next((n for n in module if entries[n].how == "exact"), None)
        if named is not None:
            return named, None
    elif entries[exact].keeps:
        return exact, None
    expressions = [n for n in parameter if entries[n].how != "exact"]
    applied = [n for n in (exact, *expressions) if n is not None and not entries[n].keeps]
    if len(applied) > 1:
        texts = " and ".join(entries[n].text for n in applied[:2])
        return applied[0], f"torchao stops: {texts} both match a weight"
    if applied or expressions:
        return (applied or expressions)[0], None
    return next((n for n in module if entries[n].how != "exact"), None), None


def _torchao_containers(
    entries: Sequence[Entry], names: _Names, modules: Sequence[ViewedModule]
) -> Iterator[Resolved]:
    """Modules around others that an expression matches; torchao looks for a weight in them."""
    parents: dict[str, ViewedModule] = {}
    for module in modules:
        parts = module.name.split(".")
        for end in range(1, len(parts)):
            parents.setdefault(".".join(parts[:end]), module)
    for name in parents.keys() - {module.name for module in modules}:
        found = names.matching(name)
        decided = next((n for n in found if entries[n].how == "exact"), next(iter(found), None))
        if decided is not None and not entries[decided].keeps:
            container = ViewedModule(name, "other", None, "Module", None, ())
            text = f"torchao stops: {entries[decided].text} matches {name}, which has no weight"
            yield Resolved(container, FULL, found, decided, text)


_QUANTIZED_CLASSES = ("Linear", "Conv1D", "Experts", "TELinear", "Embedding")


def _modelopt(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    entries, names = rules.entries, _Names(rules.entries)
    resolved = []
    for module in modules:
        if module.type not in _QUANTIZED_CLASSES:
            resolved.append(Resolved(module, FULL, (), None))
            continue
        joint = "_" if module.type == "Experts" else "."
        found: list[str | None] = []
        matches: set[int] = set()
        decided: int | None = None
        for side, default in (("weight", rules.default.weight), ("input", rules.default.input)):
            label, enabled = default, True
            for n in names.matching(f"{module.name}{joint}{side}_quantizer"):
                entry = entries[n]
                if entry.parent is not None and not _is_a(module, entry.parent):
                    continue
                matches.add(n)
                enabled = not entry.keeps
                if entry.operands is not None and not entry.keeps:
                    label = entry.operands.weight
                if side == "weight":
                    decided = n
            found.append(label if enabled else None)
        if module.type == "Embedding":
            found[1] = None  # its input is integers
        resolved.append(Resolved(module, Operands(*found), tuple(sorted(matches)), decided))
    return resolved


def _is_a(module: ViewedModule, parent: str) -> bool:
    return parent.rpartition(".")[2] == module.type


def _megatron(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    names = _Names(rules.entries)
    resolved = []
    for module in modules:
        matches = names.matching(module.name)
        decided = matches[0] if matches else None
        operands = FULL if decided is None else rules.entries[decided].operands or FULL
        resolved.append(Resolved(module, operands, matches, decided))
    return resolved


def _verl_megatron(rules: Rules, modules: Sequence[ViewedModule]) -> list[Resolved]:
    names = _Names(rules.entries)
    resolved = []
    for module in modules:
        matches = names.matching(f"{module.name}.weight_quantizer")
        decided = matches[-1] if matches else None
        resolved.append(Resolved(module, FULL if matches else rules.default, matches, decided))
    return resolved


_RESOLVERS: Mapping[str, tuple[views.View, Resolver]] = {
    "compressed-tensors": (views.stored, _library),
    "llm-compressor": (views.stored, _library),
    "vllm": (views.stored, _vllm),
    "verl": (views.stored, _verl),
    "torchao": (views.stacked, _torchao),
    "modelopt": (views.stacked, _modelopt),
    "megatron": (views.megatron, _megatron),
    "verl-megatron": (views.megatron, _verl_megatron),
}


def resolve(rules: Rules, inventory: Inventory, consumer: str) -> Resolution:
    """The format of every module of a model, as `consumer` decides it.

    Raises:
        InputError: a pattern is not valid.
    """
    view, resolver = _RESOLVERS[consumer]
    return Resolution(consumer, rules, tuple(resolver(rules, view(inventory))))
