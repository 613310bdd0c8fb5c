"""Site `linear` in a terminal: which operand of a product brings the error, and whether they add.

For every row SQNRs of the product with its weight quantized, its input, and both. Were the errors
of the two independent, their energies would add; `vs sum` is how far the SQNR of both lies above
what that would give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from srdd.documents.pool import pool, pool_layers
from srdd.documents.scan import Operands, Record, Scan
from srdd.noise.zones import by_depth, zone_of
from srdd.numerics.formats import parse_spec
from srdd.numerics.sites import OPERANDS
from srdd.reports.cells import distance, sqnr
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted
from srdd.reports.tensors import kind_place, kinds, lowest, worst_tensors
from srdd.reports.verdict import STYLES, thresholds_of, verdict

ALIKE_DB = 1.0
"""Two errors whose energies differ by less count as alike."""

Row = Mapping[Operands, Record]


def label(spec: str, operands: Operands) -> str:
    """What a choice of quantized operands is called: `W4A16`, `W16A4` or `W4A4` with 4 bits."""
    bits = parse_spec(spec).format.element.bits
    weight = 16 if operands == "input" else bits
    return f"W{weight}A{16 if operands == 'weight' else bits}"


def _energy(record: Record) -> float | None:
    """The error's energy over the product's; None where the product is zero or exact."""
    value = record.metrics.sqnr_db
    return None if value is None else 10 ** (-value / 10)


def beyond_sum(row: Row) -> float | None:
    """The SQNR of both operands, minus that of errors whose energies add, dB."""
    parts = [_energy(row[operands]) for operands in OPERANDS]
    weight, given, both = parts
    if weight is None or given is None or both is None:
        return None
    return 10 * math.log10((weight + given) / both)


def dominant(row: Row) -> str:
    """`weight` or `input`, whose error has more energy, or `alike`."""
    weight, given = row["weight"].metrics.sqnr_db, row["input"].metrics.sqnr_db
    if weight is None or given is None:
        return "-"
    if abs(weight - given) < ALIKE_DB:
        return "alike"
    return "weight" if weight < given else "input"


def _columns(spec: str, rows: Sequence[Row]) -> list[Column]:
    return [
        Column(f"{label(spec, 'weight')} dB", [sqnr(row["weight"]) for row in rows]),
        Column(f"{label(spec, 'input')} dB", [sqnr(row["input"]) for row in rows]),
        Column(f"{label(spec, 'both')} dB", [sqnr(row["both"]) for row in rows]),
        Column("vs floor", [distance(row["both"]) for row in rows], WIDE),
        Column("vs sum", [_signed(beyond_sum(row)) for row in rows], NARROW),
        Column("more from", [dominant(row) for row in rows], NARROW, "left"),
    ]


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:+.2f}"  # no minus before a zero


def _paired(by_operands: Mapping[Operands, Sequence[Record]]) -> list[Row]:
    """Records of the three choices, of the same tensors in the same order -> a row for each."""
    return [
        dict(zip(by_operands, records, strict=True))
        for records in zip(*by_operands.values(), strict=True)
    ]


def operand_tables(scan: Scan, spec: str, by: str) -> list[RenderableType]:
    """What a person sees of site `linear` in one format.

    Arguments:
        by: of srdd.reports.tensors.VIEWS.
    """
    records = {which: scan.select("linear", spec, which) for which in OPERANDS}
    if not records["both"]:
        return [Text("nothing was measured here")]
    rounding, seed = scan.settings.rounding, scan.settings.seed
    thresholds = thresholds_of(scan)
    if by == "tensor":
        rows = _paired(records)
        words = [verdict(row["both"], thresholds) for row in rows]
        first = [
            Column("layer", [str(row["both"].layer) for row in rows]),
            Column("tensor", [kinds(row["both"]) for row in rows], justify="left"),
        ]
        last = Column("verdict", [Text(w, STYLES[w]) for w in words], justify="left")
        return [Fitted("Tensor by tensor", [*first, *_columns(spec, rows), last])]
    if by == "kind":
        groups: dict[str, dict[Operands, list[Record]]] = {}
        for which, found in records.items():
            for record in sorted(found, key=kind_place):
                groups.setdefault(kinds(record), {}).setdefault(which, []).append(record)
        rows = [
            {which: pool(found, rounding=rounding, seed=seed) for which, found in group.items()}
            for group in groups.values()
        ]
        worst = [lowest(group["both"]) for group in groups.values()]
        last = Column("worst in layer", [f"{r.layer} ({sqnr(r)})" for r in worst], justify="left")
        first = [Column("kind", list(groups), justify="left")]
        return [
            Fitted("By kind of linear (pooled over layers)", [*first, *_columns(spec, rows), last])
        ]
    rows = _paired(
        {
            which: pool_layers(found, rounding=rounding, seed=seed)
            for which, found in records.items()
        }
    )
    words = [verdict(row["both"], thresholds) for row in rows]
    zones = by_depth(len(scan.model.layers))
    return [
        Fitted(
            "Layer by layer, products pooled",
            [
                Column("layer", [str(row["both"].layer) for row in rows]),
                Column("zone", [zone_of(zones, r["both"].layer).name for r in rows], WIDE, "left"),
                *_columns(spec, rows),
                worst_tensors(records["both"]),
                Column("verdict", [Text(w, STYLES[w]) for w in words], justify="left"),
            ],
        )
    ]


def legend(spec: str) -> str:
    """What the columns of these tables mean."""
    weight, given, both = (label(spec, which) for which in OPERANDS)
    return (
        f"SQNR of each linear's product with its weight ({weight}), its input ({given}) and both "
        f"({both}) quantized, biases left out. vs sum: dB above what it would be if the energies "
        "of the two errors added. more from: the operand whose error has more energy, by "
        f"{ALIKE_DB:g} dB."
    )
