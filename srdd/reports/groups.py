"""What a report shows together: one site in one format, layer by layer.

At site `linear` each choice of quantized operands is a group of its own. Where a layer has several
tensors, they are pooled: sums add, metrics do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from srdd.documents.scan import Operands, Ranking, Record, Scan
from srdd.errors import InputError, UsageError, unknown_name
from srdd.noise.zones import Zone, by_depth
from srdd.numerics.floors import WIDTH, floor_of
from srdd.numerics.formats import parse_spec
from srdd.numerics.metrics import METRICS, Thresholds
from srdd.numerics.sites import ranked_by

_OPERANDS: tuple[Operands | None, ...] = (None, "both", "weight", "input")


@dataclass(frozen=True)
class Group:
    """The records of one site in one format.

    Attributes:
        scan: the whole scan that they are from.
        site, operands: what was measured; operands at site `linear` alone.
        spec: format and scale rule, `mxfp4:floor`.
        tensors: the records as they were measured, in order of layers; at least one.
    """

    scan: Scan
    site: str
    operands: Operands | None
    spec: str
    tensors: tuple[Record, ...]

    @property
    def place(self) -> str:
        """The site, and which operands of its products are quantized."""
        return self.site if self.operands is None else f"{self.site}, {quantized(self.operands)}"

    @property
    def error(self) -> str:
        """The metric that tells the size of errors here: relative error, or what stands for it."""
        return ranked_by(self.site)[0]

    @property
    def several(self) -> bool:
        """Whether a layer has more than one tensor."""
        return len({record.layer for record in self.tensors}) < len(self.tensors)

    @cached_property
    def layers(self) -> tuple[Record, ...]:
        """One record a layer, its tensors pooled.

        Raises:
            InputError: a layer has several tensors, and their sums are not in the scan.
        """
        if not self.several:
            return self.tensors
        from srdd.documents.pool import pool_layers

        settings = self.scan.settings
        return tuple(pool_layers(self.tensors, rounding=settings.rounding))

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """How stable rankings of `layers` are; none where the scan cannot tell."""
        wanted = (self.site, self.operands, self.spec)
        return tuple(
            r
            for r in self.scan.rankings
            if (r.site, r.operands, f"{r.format}:{r.scale_rule}") == wanted
        )

    @property
    def thresholds(self) -> Thresholds:
        """Those that the scan was made with."""
        return Thresholds(**self.scan.settings.thresholds.model_dump())

    @property
    def zones(self) -> tuple[Zone, ...]:
        """The model's layers by depth."""
        return by_depth(len(self.scan.model.layers))

    @cached_property
    def floor(self) -> dict[str, float | None]:
        """What ideal Gaussian data gets in the format, by metric; None where that says nothing.

        A product of matrices has a floor of its own, of which the records tell the SQNR.
        """
        known = [
            record.metrics.sqnr_db - record.vs_floor_db
            for record in self.tensors
            if record.metrics.sqnr_db is not None and record.vs_floor_db is not None
        ]
        if self.operands is not None:
            nothing: dict[str, float | None] = dict.fromkeys(METRICS)
            return nothing | {"sqnr_db": known[0] if known else None}
        sums = [record.sums for record in self.tensors if record.sums is not None]
        tokens = sum(each.tokens for each in sums)
        values = sum(each.elements + each.nonfinite for each in sums)
        width = values / tokens if tokens else WIDTH
        floor = floor_of(parse_spec(self.spec), self.scan.settings.rounding, width)
        return {name: getattr(floor, name, None) for name in METRICS}

    def values(self, metric: str, layers: Sequence[int] | range | None = None) -> list[float]:
        """A metric's defined values over the layers, or over some of them, in order."""
        found = [
            getattr(record.metrics, metric)
            for record in self.layers
            if layers is None or record.layer in layers
        ]
        return [value for value in found if value is not None]


def quantized(operands: str) -> str:
    """Which operands of a product are quantized, in words."""
    return "both quantized" if operands == "both" else f"{operands} quantized"


def groups_of(
    scan: Scan, sites: Sequence[str] = (), formats: Sequence[str] = (), name: str = "the scan"
) -> list[Group]:
    """The groups of a scan in order of its sites and formats, at least one.

    Arguments:
        scan: what to read.
        sites: only these; all if empty.
        formats: only these, with or without their scale rule; all if empty.
        name: what errors call the scan.

    Raises:
        UsageError: the scan lacks such a site or format.
        InputError: it holds no figures there.
    """
    settings = scan.settings
    for site in sites:
        if site not in settings.sites:
            raise _lacks(name, "site", site, settings.sites)
    for spec in formats:
        if not any(_fits(spec, other) for other in settings.formats):
            raise _lacks(name, "format", spec, settings.formats)
    found = list(_groups(scan, sites, formats))
    if not found:
        where = f" at site {', '.join(sites)}" if sites else ""
        raise InputError(f"{name} holds no figures{where}", "name a scan that measured something")
    return found


def _lacks(name: str, kind: str, wanted: str, available: Sequence[str]) -> UsageError:
    error = unknown_name(kind, wanted, available)
    hint = error.hint.replace("choose from:", "it holds:")
    return UsageError(f"{name} holds no {kind} {wanted!r}", hint)


def _fits(wanted: str, spec: str) -> bool:
    return wanted in (spec, spec.partition(":")[0])


def _groups(scan: Scan, sites: Sequence[str], formats: Sequence[str]) -> Iterator[Group]:
    kept: dict[tuple[str, str | None, str], list[Record]] = {}
    for record in scan.records:
        key = (record.site, record.operands, f"{record.format}:{record.scale_rule}")
        kept.setdefault(key, []).append(record)
    for site in scan.settings.sites:
        if sites and site not in sites:
            continue
        for operands in _OPERANDS:
            for spec in scan.settings.formats:
                if formats and not any(_fits(wanted, spec) for wanted in formats):
                    continue
                records = kept.get((site, operands, spec))
                if records:
                    ordered = sorted(records, key=lambda record: record.layer)
                    yield Group(scan, site, operands, spec, tuple(ordered))
