"""What is wrong with a resolution, and where two of them differ.

A finding is `wrong` where a model would not become what the file means, or where the consumer
stops; `note` where it only may be so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from srdd.errors import counted
from srdd.recipes.checking.formats import Operands
from srdd.recipes.checking.patterns import is_partial
from srdd.recipes.checking.reading import Entry
from srdd.recipes.checking.resolving import Resolution, Resolved
from srdd.recipes.checking.views import groups
from srdd.recipes.exports.consumers import CONSUMERS


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the file should look at.

    Attributes:
        what: the kind of finding.
        severity: see above.
        text: a sentence.
        modules: names of the modules that it is about, as the consumer knows them.
    """

    what: Literal["refused", "partial match", "unmatched", "twice", "mixed", "caught", "differs"]
    severity: Literal["wrong", "note"]
    text: str
    modules: tuple[str, ...] = ()


def findings(resolution: Resolution) -> list[Finding]:
    """All findings on a file, wrong ones first."""
    found = [
        *_refused(resolution.modules),
        *_partial(resolution),
        *_caught(resolution),
        *_mixed(resolution),
        *_twice(resolution),
        *_unmatched(resolution),
    ]
    return sorted(found, key=lambda each: each.severity != "wrong")


def _refused(modules: Iterable[Resolved]) -> Iterator[Finding]:
    by_problem: dict[str, list[str]] = {}
    for each in modules:
        if each.problem:
            by_problem.setdefault(each.problem, []).append(each.module.name)
    shown: dict[str, list[tuple[str, list[str]]]] = {}
    for problem, names in by_problem.items():
        shown.setdefault(problem.partition(":")[0], []).append((problem, names))
    for same in shown.values():
        problem, _ = same[0]
        more = f"; and {counted(len(same) - 1, 'more layer')} like it" if len(same) > 1 else ""
        names = [name for _, members in same for name in members]
        yield Finding("refused", "wrong", problem + more, tuple(names))


def _partial(resolution: Resolution) -> Iterator[Finding]:
    """Entries that match linears only because these names begin, or go on, like the pattern."""
    caught: dict[int, list[str]] = {}
    for each in resolution.modules:
        if not each.module.quantizable:
            continue
        for n in each.matches:
            entry = resolution.rules.entries[n]
            name = _matched_name(entry, each, resolution.consumer)
            if is_partial(entry.pattern, entry.how, name):
                caught.setdefault(n, []).append(each.module.name)
    for n, names in caught.items():
        entry = resolution.rules.entries[n]
        linears = counted(len(names), "linear")
        effect = f"keeps {linears} out of quantization" if entry.keeps else f"quantizes {linears}"
        yield Finding(
            "partial match",
            "wrong",
            f"{entry} {effect} by matching part of a word in their names: {_some(names)}",
            tuple(names),
        )


def _matched_name(entry: Entry, each: Resolved, consumer: str) -> str:
    """What an entry was matched against for a module."""
    if consumer in ("modelopt", "verl-megatron"):
        return f"{each.module.name}.weight_quantizer"
    return each.module.name


_ALWAYS_KEPT = ("router", "norm", "embedding", "head")


def _caught(resolution: Resolution) -> Iterator[Finding]:
    """Routers, norms, embeddings and heads that are quantized."""
    for role in _ALWAYS_KEPT:
        members = [
            each
            for each in resolution.modules
            if each.module.role == role and each.operands.quantized
        ]
        accidents = [each for each in members if not _is_meant(resolution, each)]
        if accidents:
            first = accidents[0]
            by = "by default" if first.decided is None else f"by {_entry(resolution, first)}"
            yield Finding(
                "caught",
                "wrong",
                f"{counted(len(accidents), role)} quantized to {first.operands} {by}: "
                f"{_some(each.module.name for each in accidents)}",
                tuple(each.module.name for each in accidents),
            )
        elif members:
            names = tuple(each.module.name for each in members)
            text = f"{counted(len(members), role)} quantized, named in full: {_some(names)}"
            yield Finding("caught", "note", text, names)


def _is_meant(resolution: Resolution, each: Resolved) -> bool:
    """Whether a module is quantized because its own name is written out."""
    if each.decided is None:
        return False
    entry = resolution.rules.entries[each.decided]
    return entry.pattern in (
        each.module.name,
        f"{each.module.name}.weight",
        f"{each.module.name}.weight_quantizer",
    )


def _entry(resolution: Resolution, each: Resolved) -> str:
    assert each.decided is not None
    return str(resolution.rules.entries[each.decided])


def _mixed(resolution: Resolution) -> Iterator[Finding]:
    """Groups that one kernel multiplies and that have more than one format."""
    modules = resolution.modules
    mixed: dict[tuple[str, ...], list[tuple[str, list[int]]]] = {}
    for name, places in groups(each.module for each in modules).items():
        if any(modules[n].problem for n in places):
            continue  # reported already
        formats = tuple(dict.fromkeys(str(modules[n].operands) for n in places))
        if len(formats) > 1:
            mixed.setdefault(formats, []).append((name, places))
    fuses = CONSUMERS[resolution.consumer].fuses
    for formats, members in mixed.items():
        reason = "" if fuses else "; an engine that fuses them cannot do that"
        yield Finding(
            "mixed",
            "wrong" if fuses else "note",
            f"{counted(len(members), 'fused group')} with mixed formats ({', '.join(formats)}): "
            f"{_some(name for name, _ in members)}{reason}",
            tuple(modules[n].module.name for _, places in members for n in places),
        )


def _twice(resolution: Resolution) -> Iterator[Finding]:
    """Modules that two entries give different formats, where their order is easily mistaken.

    Model Optimizer and Megatron-Core are meant to be used with general patterns before or after
    special ones: there, only two entries of which neither is a catch-all count.
    """
    entries = resolution.rules.entries
    ordered = CONSUMERS[resolution.consumer].ordered
    pairs: dict[tuple[int, int], list[str]] = {}
    for each in resolution.modules:
        if not each.module.quantizable:
            continue
        setting = [n for n in each.matches if not entries[n].keeps and entries[n].operands]
        if ordered:
            setting = [n for n in setting if not _is_catch_all(entries[n], resolution)]
        by_format = {entries[n].operands: n for n in reversed(setting) if _is_side(entries[n])}
        if len(by_format) > 1 and each.decided is not None:
            numbers = sorted(by_format.values())
            pairs.setdefault((numbers[0], numbers[1]), []).append(each.module.name)
    for (a, b), names in pairs.items():
        decided = next(each.decided for each in resolution.modules if each.module.name == names[0])
        winner = entries[a if decided is None else decided]
        yield Finding(
            "twice",
            "note" if ordered else "wrong",
            f"{counted(len(names), 'module')} matched twice, by {entries[a]} and by {entries[b]}; "
            f"{winner} decides: {_some(names)}",
            tuple(names),
        )


def _is_side(entry: Entry) -> bool:
    """Whether an entry is for whole modules or their weights, and not for their inputs."""
    return not entry.pattern.endswith("input_quantizer")


def _is_catch_all(entry: Entry, resolution: Resolution) -> bool:
    plain = entry.pattern.replace("weight_quantizer", "").replace("input_quantizer", "")
    return not plain.strip("*._")


def _unmatched(resolution: Resolution) -> Iterator[Finding]:
    """Entries that match no module of the model."""
    matched = resolution.matched()
    usual = CONSUMERS[resolution.consumer].usual
    for n, entry in enumerate(resolution.rules.entries):
        if matched[n]:
            continue
        harmless = entry.keeps and (entry.text in usual or entry.parent is not None)
        other = entry.pattern.endswith(("output_quantizer", "bmm_quantizer"))
        yield Finding(
            "unmatched",
            "note" if harmless or other else "wrong",
            f"{entry} matches no module",
        )


def differences(training: Resolution, rollout: Resolution) -> list[Finding]:
    """Stored modules whose format differs between two files, by pairs of formats."""
    ours, theirs = _by_stored(training), _by_stored(rollout)
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, operands in ours.items():
        other = theirs.get(name)
        if other is not None and other != operands:
            pairs.setdefault((str(operands), str(other)), []).append(name)
    return [
        Finding(
            "differs",
            "wrong",
            f"{counted(len(names), 'module')} in {a} ({training.rules.source}) and in {b} "
            f"({rollout.rules.source}): {_some(names)}",
            tuple(names),
        )
        for (a, b), names in sorted(pairs.items(), key=lambda pair: -len(pair[1]))
    ]


def _by_stored(resolution: Resolution) -> Mapping[str, Operands]:
    return {name: each.operands for each in resolution.modules for name in each.module.stored}


def tally(resolution: Resolution) -> list[tuple[str, str, int]]:
    """Format, role and how many modules, the most frequent format first.

    Norms are left out where they stay in full precision, as everybody leaves them.
    """
    counts = Counter(
        (str(each.operands), each.module.role)
        for each in resolution.modules
        if each.operands.quantized or each.module.role != "norm"
    )
    totals: Counter[str] = Counter()
    for (operands, _), count in counts.items():
        totals[operands] += count
    return [
        (operands, role, count)
        for (operands, role), count in sorted(
            counts.items(), key=lambda item: (-totals[item[0][0]], item[0][0], -item[1])
        )
    ]


def _some(names: Iterable[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    every: Sequence[str] = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
