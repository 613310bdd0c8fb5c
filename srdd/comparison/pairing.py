"""Which records of two scans belong together: same site, same operands, same layer, same tensor.

A tensor is known by its name within its layer, so that a model that was wrapped in another still
has the same tensors; a layer has one output, whatever its name. The formats may differ, since they
can be what is compared. What has no partner is left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from srdd.documents.comparison import Place, Selection
from srdd.documents.scan import Operands, Record, Scan
from srdd.errors import InputError, UsageError, counted, unknown_name
from srdd.model.kinds import ORDER, kinds_of

VIEWS = ("layer", "kind", "tensor")
"""What a row of a comparison can stand for; the first is the default."""

MOST_NAMED = 6

Key = tuple[int, str]
"""Layer and the tensor's name within it."""

Pair = tuple[Record, Record]
"""A tensor's record in OLD and in NEW."""

_Source = tuple[str, Operands | None, str]
"""Site, operands and format of some records."""


@dataclass(frozen=True)
class Matched:
    """Records of one selection, each with its partner.

    Attributes:
        selection: the site, and the format of each scan.
        pairs: by layer and the tensor's name in it; at least one, in the order of layers, and there
            in OLD's order of tensors.
    """

    selection: Selection
    pairs: dict[Key, Pair]

    def rows(self, by: str) -> dict[Place, list[Pair]]:
        """The pairs by layer, kind or tensor, in the order in which a model uses them."""
        grouped: dict[Place, list[Pair]] = {}
        for (layer, tensor), pair in self.pairs.items():
            if by == "kind":
                kinds = kinds_of([tensor, *pair[1].shared_with]) if tensor else self.selection.site
                place = Place(layer=None, tensor=kinds)
            else:
                place = Place(layer=layer, tensor=(tensor or None) if by == "tensor" else None)
            grouped.setdefault(place, []).append(pair)
        if by != "kind":
            return grouped
        return dict(sorted(grouped.items(), key=lambda entry: _order_of(entry[0].label)))


def _order_of(kinds: str) -> int:
    first = kinds.partition(",")[0]
    return ORDER.index(first) if first in ORDER else len(ORDER)


def match(
    old: Scan,
    new: Scan,
    *,
    sites: Sequence[str] = (),
    old_format: str | None = None,
    new_format: str | None = None,
) -> tuple[list[Matched], list[str]]:
    """What can be compared, and in words what cannot.

    Arguments:
        sites: only these; all that both have for none.
        old_format, new_format: see `pair_formats`.

    Raises:
        UsageError: a site or format that is asked for is not there.
        InputError: nothing is left to compare.
    """
    for which, scan in (("OLD", old), ("NEW", new)):
        if not scan.records:
            raise InputError(f"{which} has no records to compare", "scan the model again")
        known = dict.fromkeys(record.site for record in scan.records)
        for site in sites:
            if site not in known:
                raise unknown_name(f"site of {which}", site, known)
    formats = pair_formats(old, new, old_format, new_format)
    first, second = _index(old, sites), _index(new, sites)
    left_out = _only("", "site", [source[0] for source in first], [source[0] for source in second])
    if old_format is None and new_format is None and formats[0][0] == formats[0][1]:
        left_out += _only("", "format", _formats(old), _formats(new))
    matched = []
    for site, operands in dict.fromkeys(source[:2] for source in second):
        for old_spec, new_spec in formats:
            ours = first.get((site, operands, old_spec), {})
            theirs = second.get((site, operands, new_spec), {})
            if not ours or not theirs:
                continue
            left_out += _unpaired(site, ours, theirs)
            shared = sorted((key for key in ours if key in theirs), key=lambda key: key[0])
            if shared:
                selection = Selection(
                    site=site, operands=operands, old_format=old_spec, new_format=new_spec
                )
                pairs = {key: (ours[key], theirs[key]) for key in shared}
                matched.append(Matched(selection, pairs))
    if not matched:
        raise InputError(
            f"nothing is left to compare: OLD has {_contents(old)}; NEW has {_contents(new)}",
            "compare scans of the same sites and tensors",
        )
    return matched, list(dict.fromkeys(left_out))


def pair_formats(
    old: Scan, new: Scan, old_format: str | None, new_format: str | None
) -> list[tuple[str, str]]:
    """Which format of OLD is compared with which of NEW.

    Those that are named; else each format that both have with itself; else, where each has only
    one, these two.

    Raises:
        UsageError: a name fits none or several, or it is not clear which belong together.
    """
    ours, theirs = _formats(old), _formats(new)
    if old_format is not None:
        first = _choose("OLD", ours, old_format, named=True)
        second = _choose("NEW", theirs, new_format or first, named=new_format is not None)
        return [(first, second)]
    if new_format is not None:
        second = _choose("NEW", theirs, new_format, named=True)
        return [(_choose("OLD", ours, second, named=False), second)]
    shared = [(spec, spec) for spec in theirs if spec in ours]
    if not shared and len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    if not shared:
        raise UsageError(
            f"no format is in both: OLD has {', '.join(ours)}, NEW has {', '.join(theirs)}",
            "name one of each with `old_format` and `new_format`",
        )
    return shared


def _choose(which: str, formats: Sequence[str], wanted: str, *, named: bool) -> str:
    """The format of one scan that is named, or else the one like its partner, or its only one."""
    fitting = [spec for spec in formats if wanted in (spec, spec.partition(":")[0])]
    if len(fitting) == 1:
        return fitting[0]
    if not named and len(formats) == 1:
        return formats[0]
    if named and not fitting:
        raise unknown_name(f"format of {which}", wanted, formats)
    raise UsageError(
        f"{which} has {'several' if fitting else 'no'} {wanted}",
        f"choose `{which.lower()}_format` from: {', '.join(fitting or formats)}",
    )


def _spec(record: Record) -> str:
    return f"{record.format}:{record.scale_rule}"


def _formats(scan: Scan) -> list[str]:
    return list(dict.fromkeys(map(_spec, scan.records)))


def name_in_layer(scan: Scan, layer: int, tensor: str) -> str:
    """A tensor's name without its layer's."""
    prefix = scan.model.layers[layer].name
    return tensor.removeprefix(f"{prefix}.") if prefix else tensor


def _index(scan: Scan, sites: Sequence[str]) -> dict[_Source, dict[Key, Record]]:
    """Records by what they are of, and there by layer and the tensor's name in it."""
    index: dict[_Source, dict[Key, Record]] = {}
    for record in scan.records:
        if sites and record.site not in sites:
            continue
        name = name_in_layer(scan, record.layer, record.tensor)
        key = (record.layer, "" if record.site == "output" else name)
        index.setdefault((record.site, record.operands, _spec(record)), {})[key] = record
    return index


def _unpaired(site: str, old: Mapping[Key, Record], new: Mapping[Key, Record]) -> Iterator[str]:
    """Layers that only one scan has, and tensors of layers that both have."""
    old_layers, new_layers = ({layer for layer, _ in records} for records in (old, new))
    yield from _only(f"at site {site}, ", "layer", old_layers, new_layers)
    old_names, new_names = (
        [f"{layer} {tensor}" for layer, tensor in records if layer in old_layers & new_layers]
        for records in (old, new)
    )
    yield from _only(f"at site {site}, ", "tensor", old_names, new_names)


def _only(where: str, noun: str, old: Iterable[object], new: Iterable[object]) -> list[str]:
    """A sentence on what only OLD has, and one on what only NEW has."""
    ours, theirs = dict.fromkeys(old), dict.fromkeys(new)
    return [
        f"{where}only {which} has {counted(len(alone), noun)}: {_few(alone)}"
        for which, names, others in (("OLD", ours, theirs), ("NEW", theirs, ours))
        if (alone := [str(name) for name in names if name not in others])
    ]


def _contents(scan: Scan) -> str:
    return _few(list(dict.fromkeys(f"{r.site} in {_spec(r)}" for r in scan.records)))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
