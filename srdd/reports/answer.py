"""The answer of a scan in a few sentences: what is worst, how sure, whether usual, what next.

The sentences are plain text and hold names from the scan, which each renderer escapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srdd.documents.sensitivity_figures import joint_of
from srdd.documents.sensitivity_figures import rows_of as costs_of
from srdd.errors import counted
from srdd.numerics.confidence import few_prompts
from srdd.reports.groups import Group
from srdd.reports.rows import Row, rows_of, whole, worst_first
from srdd.reports.verdicts import BROKEN, POOR_DB
from srdd.reports.view import Column, Measure

MOST_PATTERNS, MOST_SINGLES, MOST_COSTLY = 2, 2, 3
USUAL_DB = 2.0
"""How far below the floor inputs of down projections are even in models with random weights."""

NEXT = (
    "Local error is not damage: `srdd scan --kl` estimates and `srdd eval` measures what "
    "quantization costs the model's predictions; `srdd suggest` writes a noise configuration."
)
NEXT_WITH_COSTS = (
    "Local error is not damage: what quantization costs the model's predictions has its own "
    "table; `srdd suggest` writes a noise configuration."
)

_NOUNS = {
    "output": ("layer outputs", "the output"),
    "input": ("inputs of {}", "the input of {}"),
    "weight": ("weights of {}", "the weight of {}"),
    "linear": ("outputs of {} with both operands quantized", "the output of {}, both quantized,"),
}
_DECIBELS = Measure("dB", digits=1)
_PERCENT = Measure("%", scale=100.0, digits=0)
_ESTIMATE = Column("", _DECIBELS)


@dataclass(frozen=True)
class _Kind:
    """The tensors of one kind at one site."""

    rows: tuple[Row, ...]

    @property
    def low(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if (row.record.vs_floor_db or 0.0) < -POOR_DB)

    @property
    def median_db(self) -> float:
        found = sorted(r.record.vs_floor_db for r in self.rows if r.record.vs_floor_db is not None)
        return found[len(found) // 2] if found else 0.0

    @property
    def is_pattern(self) -> bool:
        return len(self.low) > 1 and 2 * len(self.low) >= len(self.rows)

    @property
    def is_usual(self) -> bool:
        """Whether it is what every gated MLP shows at the inputs of its down projections."""
        first = self.rows[0]
        kinds_here = {
            kind for row in rows_of([first.group], "tensor") for kind in (row.kind or "").split(",")
        }
        gated = {"gate", "up"} <= kinds_here or "gate_up" in kinds_here
        return first.group.site == "input" and first.kind == "down" and gated

    def named(self, *, one: bool = False) -> str:
        row = self.rows[0]
        nouns = _NOUNS.get(row.group.site, ("tensors {}", "tensor {}"))
        return nouns[one].format(row.kind)


def answer(groups: Sequence[Group]) -> list[str]:
    """One to four sentences about a scan, the finding first.

    Arguments:
        groups: of one scan, at least one; the first format is the one spoken of.
    """
    main = [group for group in groups if group.spec == groups[0].spec]
    rows = rows_of(main, "tensor")
    kinds = _kinds(rows)
    found = [*_broken(rows), *_cost(main[0]), _finding(main[0], rows, kinds), *_usual(kinds)]
    found += [*_formats(groups), *_few(main[0])]
    return [*found, NEXT if main[0].scan.sensitivity is None else NEXT_WITH_COSTS]


def _kinds(rows: Sequence[Row]) -> list[_Kind]:
    """The kinds at each site, the one with the lowest median first."""
    by_kind: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        if row.record.vs_floor_db is not None:
            by_kind.setdefault((row.group.site, row.kind), []).append(row)
    return sorted((_Kind(tuple(own)) for own in by_kind.values()), key=lambda kind: kind.median_db)


def _broken(rows: Sequence[Row]) -> list[str]:
    broken = [row for row in rows if BROKEN in row.words]
    if not broken:
        return []
    return [
        f"NaN or infinite values in {counted(len(broken), 'tensor')} of {len(rows):,}, "
        f"{_single(broken[0])} first; no figure counts them."
    ]


def _cost(group: Group) -> list[str]:
    """What quantization costs the predictions and where, if the scan has a sensitivity."""
    sensitivity = group.scan.sensitivity
    if sensitivity is None or all(change.format != group.spec for change in sensitivity.changes):
        return []
    joint = joint_of(sensitivity, group.spec)
    value = joint["predicted"] if joint["measured"] is None else joint["measured"]
    costs = sorted(costs_of(sensitivity, group.spec), key=lambda row: -row["kl"])[:MOST_COSTLY]
    listed = ", ".join(
        f"{row['kind']} in layer {row['layer']} ({_PERCENT.text(row['share'])} % of the sum)"
        for row in costs
        if row["share"] is not None
    )
    how = "estimated" if joint["measured"] is None else "measured"
    cost = Measure.of("kl").text(value)
    return [
        f"Quantizing all linears to {group.spec} costs the predictions {cost} mnat (thousandths of "
        f"a nat a token, {how}); the costliest: {listed}."
    ]


def _single(row: Row) -> str:
    return f"{_Kind((row,)).named(one=True)} in layer {row.layer}"


def _finding(main: Group, rows: Sequence[Row], kinds: Sequence[_Kind]) -> str:
    known = worst_first([row for row in rows if row.record.vs_floor_db is not None])
    if not known:
        reasons = {r.record.undefined.get("sqnr_db") for r in rows} - {None}
        why = f" ({', '.join(sorted(map(str, reasons)))})" if reasons else ""
        return f"No SQNR is defined in {main.spec}{why}, so nothing can be compared with its floor."
    floor = f"the Gaussian floor of {main.spec}"
    patterns = [kind for kind in kinds if kind.is_pattern]
    inside = {id(row) for kind in patterns for row in kind.rows}
    lowest = [row for row in known if (row.record.vs_floor_db or 0.0) < -POOR_DB]
    singles = [row for row in lowest if id(row) not in inside]
    if not lowest:
        return (
            f"Nothing stands out: all {counted(len(known), 'tensor')} are at most {POOR_DB:g} dB "
            f"below {floor}; the lowest is {_single(known[0])}, {_distance(known[0])}."
        )
    by_distance = [
        (
            worst.record.vs_floor_db or 0.0,
            f"{kind.named()} ({len(kind.low)} of {len(kind.rows)} more than {POOR_DB:g} dB below, "
            f"median {_DECIBELS.text(-kind.median_db)}, worst in layer {worst.layer}: "
            f"{_distance(worst)})",
        )
        for kind in patterns[:MOST_PATTERNS]
        for worst in worst_first(kind.rows)[:1]
    ]
    by_distance += [
        (row.record.vs_floor_db or 0.0, f"{_single(row)} ({_distance(row)})")
        for row in singles[:MOST_SINGLES]
    ]
    parts = [sentence for _, sentence in sorted(by_distance)]
    hidden = max(0, len(patterns) - MOST_PATTERNS), max(0, len(singles) - MOST_SINGLES)
    more = [
        counted(count, noun)
        for count, noun in zip(hidden, ("more kind", "more tensor"), strict=True)
        if count
    ]
    tail = f"; and {' and '.join(more)}" if more else ""
    return f"Furthest below {floor}: {'; '.join(parts)}{tail}."


def _distance(row: Row) -> str:
    """How far a row is below the floor or above it, with half of its interval."""
    distance = row.record.vs_floor_db or 0.0
    interval = row.estimate("sqnr_db").interval
    half = "" if interval is None else f" ±{_DECIBELS.text((interval[1] - interval[0]) / 2)}"
    return f"{_DECIBELS.text(abs(distance))}{half} dB {'below' if distance < 0 else 'above'}"


def _usual(kinds: Sequence[_Kind]) -> list[str]:
    patterns = [kind for kind in kinds if kind.is_pattern]
    usual = [kind for kind in patterns if kind.is_usual]
    if not usual:
        return []
    beyond = -usual[0].median_db > USUAL_DB
    return [
        "Inputs of down projections in gated MLPs (SwiGLU) are 1 to 2 dB below the floor even with "
        + (
            "random weights: here they are further below than that."
            if beyond
            else "random weights, so that part is usual."
        )
    ]


def _formats(groups: Sequence[Group]) -> list[str]:
    """Which format leaves more SQNR, over all sites that hold both."""
    specs = list(dict.fromkeys(group.spec for group in groups))
    members = [group for group in groups if group.operands in (None, "both")]
    if len(specs) < 2 or any(r.replicates is None for g in members for r in g.tensors):
        return []
    sqnr = {(g.site, g.spec): whole(g).record.metrics.sqnr_db for g in members}
    found = []
    for spec in specs[1:]:
        gains = [
            value - base
            for (site, own), value in sqnr.items()
            if own == spec
            and value is not None
            and (base := sqnr.get((site, specs[0]))) is not None
        ]
        if gains:
            found.append(f"{spec} {_range(min(gains), max(gains))}")
    return [f"SQNR against {specs[0]}, by site: {', '.join(found)} dB."] if found else []


def _range(low: float, high: float) -> str:
    ends = [Measure(digits=1, signed=True).text(end) for end in (low, high)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _few(group: Group) -> list[str]:
    """A scan of few prompts that does not say so among its warnings."""
    groups = max(record.prompt_groups for record in group.tensors)
    few = few_prompts(group.scan.calibration.prompts or 0, groups)
    if few is None or few in group.scan.warnings or group.site == "weight":
        return []
    return [f"{few[0].upper()}{few[1:]}."]
