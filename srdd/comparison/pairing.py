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
from srdd.model.kinds import ORDER, kinds_of

VIEWS = ("layer", "kind", "tensor")
"""What a row of a comparison can stand for; the first is the default."""

MOST_NAMED = 6


@dataclass(frozen=True)
class Place:
    """What a figure belongs to.

    Attributes:
        layer: its index; None for a kind of tensor, and for everything together.
        tensor: the name of a tensor within its layer, or a kind such as `q,k,v`; None for a whole
            layer, and for everything together.
    """

    layer: int | None
    tensor: str | None

    @property
    def label(self) -> str:
        """It in words, such as `5`, `down` or `5 mlp.down_proj`; untrusted text."""
        parts = [str(part) for part in (self.layer, self.tensor) if part not in (None, "")]
        return " ".join(parts) or "all together"


@dataclass(frozen=True)
class Pair:
    """A tensor's record in OLD and in NEW; `tensor` is its name within the layer."""

    layer: int
    tensor: str
    old: Record
    new: Record


@dataclass(frozen=True)
class Matched:
    """Records of one site, each with its partner.

    Attributes:
        site: what was measured.
        operands: at site `linear`, which operands are quantized.
        old_format, new_format: format and scale rule in each, such as `mxfp4:floor`.
        pairs: at least one, by layer and in OLD's order of tensors.
    """

    site: str
    operands: str | None
    old_format: str
    new_format: str
    pairs: tuple[Pair, ...]

    def rows(self, by: str) -> dict[Place, list[Pair]]:
        """The pairs by layer, kind or tensor, in the order in which a model uses them."""
        grouped: dict[Place, list[Pair]] = {}
        for pair in self.pairs:
            grouped.setdefault(_place_of(pair, by), []).append(pair)
        if by != "kind":
            return grouped
        return dict(sorted(grouped.items(), key=lambda entry: _order_of(entry[0].tensor or "")))


def _place_of(pair: Pair, by: str) -> Place:
    if by == "layer" or (by == "tensor" and not pair.tensor):
        return Place(pair.layer, None)
    if by == "tensor":
        return Place(pair.layer, pair.tensor)
    tensors = [pair.new.tensor, *pair.new.shared_with]
    return Place(None, kinds_of(tensors) if pair.tensor else pair.new.site)


def _order_of(kinds: str) -> int:
    first = kinds.partition(",")[0]
    return ORDER.index(first) if first in ORDER else len(ORDER)


def _spec(record: Record) -> str:
    return f"{record.format}:{record.scale_rule}"


def _formats(scan: Scan) -> list[str]:
    return list(dict.fromkeys(map(_spec, scan.records)))


def _choose(name: str | None, partner: str | None, formats: Sequence[str], which: str) -> str:
    """The format of one scan: the one that is named, else the partner's, else its only one."""
    wanted = name or partner
    fitting = [spec for spec in formats if wanted in (spec, spec.partition(":")[0])]
    if name is None and not fitting and len(formats) == 1:
        return formats[0]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{which} has several {wanted}", f"name one of: {', '.join(fitting)}")
    if name is not None:
        raise unknown_name(f"format of {which}", name, formats)
    raise UsageError(
        f"{which} has no {wanted}, but {', '.join(formats)}",
        f"name one of these with --{which.lower()}-format",
    )


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
        first = _choose(old_format, None, ours, "OLD")
        return [(first, _choose(new_format, first, theirs, "NEW"))]
    if new_format is not None:
        second = _choose(new_format, None, theirs, "NEW")
        return [(_choose(None, second, ours, "OLD"), second)]
    shared = [(spec, spec) for spec in theirs if spec in ours]
    if shared:
        return shared
    if len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    raise UsageError(
        f"no format is in both: OLD has {', '.join(ours)}, NEW has {', '.join(theirs)}",
        "name one of each with --old-format and --new-format",
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
        sites: only these; all that both have for none.
        old_format, new_format: see `pair_formats`.

    Raises:
        UsageError: a site or format that is asked for is not there.
        InputError: nothing is left to compare.
    """
    for which, scan in (("OLD", old), ("NEW", new)):
        if not scan.records:
            raise InputError(f"{which} has no records to compare", "scan the model again")
        known = list(dict.fromkeys(record.site for record in scan.records))
        for site in sites:
            if site not in known:
                raise unknown_name(f"site of {which}", site, known)
    formats = pair_formats(old, new, old_format, new_format)
    first, second = _index(old, sites), _index(new, sites)
    places = [list(dict.fromkeys(key[:2] for key in index)) for index in (first, second)]
    left_out = _alone("site", *([site for site, _ in each] for each in places))
    if old_format is None and new_format is None and formats[0][0] == formats[0][1]:
        left_out += _alone("format", _formats(old), _formats(new))
    matched: list[Matched] = []
    for site, operands in [place for place in places[1] if place in places[0]]:
        for specs in formats:
            ours, theirs = (
                index.get((site, operands, spec), {})
                for index, spec in zip((first, second), specs, strict=True)
            )
            pairs = [Pair(*key, ours[key], theirs[key]) for key in ours if key in theirs]
            left_out += _unpaired(site, ours, theirs)
            if pairs:
                pairs.sort(key=lambda pair: pair.layer)
                matched.append(Matched(site, operands, *specs, tuple(pairs)))
    if not matched:
        raise InputError(
            f"nothing is left to compare: OLD has {_contents(old)}; NEW has {_contents(new)}",
            "compare scans of the same sites and tensors",
        )
    return matched, list(dict.fromkeys(left_out))


_Key = tuple[int, str]
"""Layer and the tensor's name within it."""


def _index(
    scan: Scan, sites: Sequence[str]
) -> dict[tuple[str, str | None, str], dict[_Key, Record]]:
    """Records by site, operands and format, and there by layer and tensor."""
    index: dict[tuple[str, str | None, str], dict[_Key, Record]] = {}
    for record in scan.records:
        if sites and record.site not in sites:
            continue
        prefix = scan.model.layers[record.layer].name
        name = record.tensor.removeprefix(f"{prefix}.") if prefix else record.tensor
        key = (record.layer, "" if record.site == "output" else name)
        index.setdefault((record.site, record.operands, _spec(record)), {})[key] = record
    return index


def _alone(noun: str, old: Iterable[str], new: Iterable[str]) -> list[str]:
    """A sentence on what only OLD has, and one on what only NEW has."""
    ours, theirs = dict.fromkeys(old), dict.fromkeys(new)
    sentences = []
    for which, names, others in (("OLD", ours, theirs), ("NEW", theirs, ours)):
        alone = [name for name in names if name not in others]
        if alone:
            sentences.append(f"only {which} has {counted(len(alone), noun)}: {_few(alone)}")
    return sentences


def _unpaired(site: str, old: dict[_Key, Record], new: dict[_Key, Record]) -> Iterable[str]:
    """Layers that only one scan has, and tensors of layers that both have."""
    layers = [sorted({layer for layer, _ in records}) for records in (old, new)]
    shared = set(layers[0]) & set(layers[1])
    yield from (
        _alone(f"layer at site {site}", *(map(str, each) for each in layers)) if shared else ()
    )
    alone = [
        f"{layer} {tensor}"
        for layer, tensor in [*old, *new]
        if layer in shared and not ((layer, tensor) in old and (layer, tensor) in new)
    ]
    if alone:
        yield f"{counted(len(alone), 'tensor')} at site {site} in one scan only: {_few(alone)}"


def _contents(scan: Scan) -> str:
    return _few(list(dict.fromkeys(f"{r.site} in {_spec(r)}" for r in scan.records)))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
