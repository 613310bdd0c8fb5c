"""Which records of two scans belong together: same site, same operands, same layer, same tensor.

A tensor is known by its name within its layer, so that a model that was wrapped in another still
has the same tensors; a layer has one output, whatever its name. The formats may differ, since they
can be what is compared. What has no partner is left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from srdd.documents.scan import Record, Scan
from srdd.errors import InputError, UsageError, counted, unknown_name

Place = tuple[str, str | None]
"""A site, and at site `linear` which operands are quantized."""


@dataclass(frozen=True)
class LayerPair:
    """The records of one layer that both scans hold, in the same order of tensors."""

    layer: int
    old: tuple[Record, ...]
    new: tuple[Record, ...]


@dataclass(frozen=True)
class Matched:
    """Records of one site, each with its partner.

    Attributes:
        site: what was measured.
        operands: at site `linear`, which operands are quantized.
        old_format, new_format: format and scale rule in each, such as `mxfp4:floor`.
        layers: at least one, in order.
    """

    site: str
    operands: str | None
    old_format: str
    new_format: str
    layers: tuple[LayerPair, ...]

    @property
    def place(self) -> str:
        """The site, with the operands where there are several ways."""
        return self.site if self.operands is None else f"{self.site} ({self.operands})"


def _spec(record: Record) -> str:
    return f"{record.format}:{record.scale_rule}"


def _place(record: Record) -> Place:
    return record.site, record.operands


def _formats(scan: Scan) -> list[str]:
    return list(dict.fromkeys(map(_spec, scan.records)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _named(name: str, held: Sequence[str], which: str) -> str:
    """The one format among `held` that `name` means."""
    fitting = [spec for spec in held if name in (spec, spec.partition(":")[0])]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{which} holds several {name}", f"name one of: {', '.join(fitting)}")
    raise unknown_name(f"format of {which}", name, held)


def pair_formats(
    old: Scan, new: Scan, old_format: str | None, new_format: str | None
) -> list[tuple[str, str]]:
    """Which format of OLD is held against which of NEW.

    Those that are named; else each format that both hold against itself; else, where each holds
    only one, these two.

    Raises:
        UsageError: a name fits none or several, or nothing says which belong together.
    """
    held = _formats(old), _formats(new)
    shared = [spec for spec in held[1] if spec in held[0]]
    if old_format is None and new_format is None:
        if shared:
            return [(spec, spec) for spec in shared]
        if len(held[0]) == len(held[1]) == 1:
            return [(held[0][0], held[1][0])]
        raise UsageError(
            f"no format is in both: OLD holds {_listed(held[0])}, NEW holds {_listed(held[1])}",
            "name one of each with --old-format and --new-format",
        )
    first = None if old_format is None else _named(old_format, held[0], "OLD")
    second = None if new_format is None else _named(new_format, held[1], "NEW")
    return [(first or _partner(second, held[0], "OLD"), second or _partner(first, held[1], "NEW"))]


def _partner(spec: str | None, held: Sequence[str], which: str) -> str:
    """The format to hold against a named one where the other scan's is not named."""
    if spec in held:
        return str(spec)
    if len(held) == 1:
        return held[0]
    raise UsageError(
        f"{which} does not hold {spec}, but {_listed(held)}",
        f"name one of these with --{which.lower()}-format",
    )


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
        old, new: the two scans.
        sites: only these; all that both hold for none.
        old_format, new_format: see `pair_formats`.

    Raises:
        UsageError: a site or format that is asked for is not there.
        InputError: nothing is left to compare.
    """
    for which, scan in (("OLD", old), ("NEW", new)):
        if not scan.records:
            raise InputError(
                f"{which} holds no figures, so there is nothing to compare", "scan the model again"
            )
        for site in sites:
            held = list(dict.fromkeys(record.site for record in scan.records))
            if site not in held:
                raise unknown_name(f"site of {which}", site, held)
    formats = pair_formats(old, new, old_format, new_format)
    places = _places(old, sites), _places(new, sites)
    left_out = _alone("site", [site for site, _ in places[0]], [site for site, _ in places[1]])
    if old_format is None and new_format is None and formats[0][0] == formats[0][1]:
        left_out += _alone("format", _formats(old), _formats(new))
    found: list[Matched] = []
    for place in [place for place in places[1] if place in places[0]]:
        for specs in formats:
            layers = _layers(old, new, place, specs, left_out)
            if layers:
                found.append(Matched(place[0], place[1], specs[0], specs[1], tuple(layers)))
    if not found:
        raise InputError(
            f"nothing is left to compare: OLD holds {_held(old)}; NEW holds {_held(new)}",
            "compare scans of the same sites and tensors",
        )
    return found, list(dict.fromkeys(left_out))


def _alone(noun: str, first: Sequence[str], second: Sequence[str]) -> list[str]:
    """What only one of the two holds, in a sentence for each."""
    found = []
    for which, names, others in (("OLD", first, second), ("NEW", second, first)):
        lone = [name for name in dict.fromkeys(names) if name not in others]
        if lone:
            found.append(f"only {which} holds {counted(len(lone), noun)}: {_few(lone)}")
    return found


def _held(scan: Scan) -> str:
    kinds = dict.fromkeys(f"{record.site} in {_spec(record)}" for record in scan.records)
    return _few(list(kinds))


def _places(scan: Scan, sites: Sequence[str]) -> list[Place]:
    kept = [record for record in scan.records if not sites or record.site in sites]
    return list(dict.fromkeys(map(_place, kept)))


def _by_layer(scan: Scan, place: Place, spec: str) -> dict[int, dict[str, Record]]:
    found: dict[int, dict[str, Record]] = {}
    for record in scan.records:
        if (_place(record), _spec(record)) == (place, spec):
            prefix = scan.model.layers[record.layer].name
            name = record.tensor.removeprefix(f"{prefix}.") if prefix else record.tensor
            # A layer has one output, and its name is that of the layer.
            found.setdefault(record.layer, {})["" if record.site == "output" else name] = record
    return found


def _layers(
    old: Scan, new: Scan, place: Place, specs: tuple[str, str], left_out: list[str]
) -> list[LayerPair]:
    first, second = _by_layer(old, place, specs[0]), _by_layer(new, place, specs[1])
    pairs = []
    lone_tensors: list[str] = []
    for layer in sorted(first.keys() & second.keys()):
        shared = [name for name in first[layer] if name in second[layer]]
        lone_tensors += [
            f"{layer}: {n}" for n in (*first[layer], *second[layer]) if n not in shared
        ]
        if shared:
            one, other = first[layer], second[layer]
            pairs.append(
                LayerPair(layer, tuple(one[n] for n in shared), tuple(other[n] for n in shared))
            )
    for which, own, others in (("OLD", first, second), ("NEW", second, first)):
        lone = [str(layer) for layer in sorted(own.keys() - others.keys())]
        if lone:
            many = counted(len(lone), "layer")
            left_out.append(f"only {which} holds {many} of {place[0]}: {_few(lone)}")
    if lone_tensors:
        count = counted(len(lone_tensors), "tensor")
        left_out.append(
            f"{count} of {place[0]} in one of them only, by layer: {_few(lone_tensors)}"
        )
    return pairs


def _few(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
