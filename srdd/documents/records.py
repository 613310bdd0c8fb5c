"""From sums to the records of a Scan, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from srdd.documents import scan as schema
from srdd.errors import MergeError, counted
from srdd.numerics import histogram, sums
from srdd.numerics.confidence import few_carry_most, few_prompts, intervals, stability
from srdd.numerics.floors import WIDTH, floor_of, product_floor_db
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.metrics import derive, why_undefined
from srdd.numerics.sites import UNDEFINED, needs_prompts, ranked_by

REPLICATES = 64
"""Groups of prompts whose sums are kept apart; see `replicate_of`."""

TOP_K = 10


def replicate_of(fingerprint: str) -> int:
    """The replicate of the prompt with this fingerprint, which is 40 bits or more in hexadecimal.

    It follows from the prompt alone, so that scans of parts add up to the scan of the whole, and
    that no order in the file, such as by kind of prompt, shows in the replicates.
    """
    return int(fingerprint[:10], 16) % REPLICATES


@dataclass(frozen=True)
class Measured:
    """What was added up for one tensor in one format.

    Attributes:
        shared_with: other modules that read the same tensor.
        replicates: sums of each replicate, (REPLICATES, fields).
        tokens_by_sqnr: histogram over the SQNR of single tokens.
        undefined_tokens: tokens that are all zero or reproduced exactly.
        operands: which are quantized, at site `linear`; None at others.
        floor_db: the SQNR of Gaussian operands, at site `linear`, whose sums are of outputs and do
            not tell how long the operands' rows are; None at others.
    """

    layer: int
    site: str
    tensor: str
    shared_with: tuple[str, ...]
    spec: FormatSpec
    replicates: sums.Sums
    tokens_by_sqnr: histogram.Histogram
    undefined_tokens: int
    operands: schema.Operands | None = None
    floor_db: float | None = None

    @property
    def group(self) -> tuple[str, str, str | None]:
        """What it is ranked within: the site, the format and the operands."""
        return self.site, str(self.spec), self.operands


def add(a: Measured, b: Measured) -> Measured:
    """Two tensors pooled, or one tensor over two sets of prompts; the rest is that of `a`."""
    return replace(
        a,
        replicates=a.replicates + b.replicates,
        tokens_by_sqnr=a.tokens_by_sqnr + b.tokens_by_sqnr,
        undefined_tokens=a.undefined_tokens + b.undefined_tokens,
    )


def _floor_db(measured: Measured, pooled: sums.Sums, rounding: str) -> float:
    if measured.floor_db is not None:
        return measured.floor_db
    width, tokens = float(WIDTH), float(sums.field(pooled, "tokens"))
    if measured.operands is None and tokens:
        values = sums.field(pooled, "elements") + sums.field(pooled, "nonfinite")
        width = float(values) / tokens
    floor = floor_of(measured.spec, rounding, width).sqnr_db
    return product_floor_db(floor, measured.operands)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _record(
    measured: Measured, rounding: str, stored: int, ends: dict[str, tuple[float, float]]
) -> schema.Record:
    pooled = measured.replicates.sum(axis=0)
    metrics = {name: _defined(float(value)) for name, value in derive(pooled).items()}
    meaningless = UNDEFINED.get(measured.site, {})
    metrics |= dict.fromkeys(meaningless)
    sqnr = metrics["sqnr_db"]
    first_bin, counts = histogram.to_span(measured.tokens_by_sqnr)
    quantiles = [histogram.quantile(measured.tokens_by_sqnr, q) for q in (0.05, 0.50, 0.95)]
    single = {name: values[0] for name, values in sums.to_lists(pooled[None]).items()}
    return schema.Record.model_validate(
        {
            **{name: getattr(measured, name) for name in ("layer", "site", "tensor", "operands")},
            "shared_with": list(measured.shared_with),
            "format": measured.spec.format.name,
            "scale_rule": measured.spec.scale_rule,
            "metrics": metrics,
            "vs_floor_db": None if sqnr is None else sqnr - _floor_db(measured, pooled, rounding),
            "intervals": {
                name: None if np.isnan(pair).any() or name in meaningless else pair
                for name, pair in ends.items()
            },
            "token_sqnr_db": {
                **dict(zip(("p5", "p50", "p95"), quantiles, strict=True)),
                "first_bin": first_bin,
                "counts": counts,
                "undefined": measured.undefined_tokens,
            },
            "undefined": why_undefined(pooled) | meaningless,
            "sums": single,
            "replicates": sums.to_lists(measured.replicates[:stored]),
        }
    )


def records_of(group: Sequence[Measured], *, rounding: str) -> list[schema.Record]:
    """The records of tensors of one site, in the order given.

    Arguments:
        group: tensors of one site. Replicates after the last that any of them fills are not stored.
        rounding: what the floors are those of.
    """
    stacked = np.stack([one.replicates for one in group], axis=1)
    pairs = {name: both.tolist() for name, both in intervals(stacked).items()}
    ends = [
        {name: tuple(both[place]) for name, both in pairs.items()} for place in range(len(group))
    ]
    filled = np.flatnonzero(sums.field(stacked, "tokens").any(axis=1))
    stored = 1 + int(filled[-1]) if len(filled) else 1
    return [_record(one, rounding, stored, own) for one, own in zip(group, ends, strict=True)]


def _rankings(group: Sequence[Measured], seed: int) -> list[schema.Ranking]:
    """How stable the rankings of whole layers are; a layer may have several tensors."""
    layers = sorted({one.layer for one in group})
    by_layer = sums.new(REPLICATES, len(layers))
    for one in group:
        by_layer[:, layers.index(one.layer)] += one.replicates
    first = group[0]
    return [
        schema.Ranking(
            site=first.site,
            format=first.spec.format.name,
            scale_rule=first.spec.scale_rule,
            operands=first.operands,
            **vars(stability(by_layer, metric, TOP_K, seed=seed)),
        )
        for metric in ranked_by(first.site)
    ]


def build(
    measured: Sequence[Measured], *, rounding: str, seed: int
) -> tuple[list[schema.Record], list[schema.Ranking]]:
    """All records of a scan, with intervals, and how stable the ranking in each group is.

    Arguments:
        measured: in any order; the records come in order of site, format and layer.
        rounding: what the floors are those of.
        seed: of the draws that tell the stability of the rankings.
    """
    groups: dict[tuple[str, str, str | None], list[Measured]] = {}
    for one in sorted(measured, key=lambda one: one.layer):  # in a layer, as its tensors come
        groups.setdefault(one.group, []).append(one)
    order = dict.fromkeys(one.group for one in measured)
    records, rankings = [], []
    for key in order:
        records += records_of(groups[key], rounding=rounding)
        rankings += _rankings(groups[key], seed)
    return records, rankings


def prompt_warnings(measured: Iterable[Measured], prompts: int) -> list[str]:
    """Why intervals of figures from so many prompts may be too narrow, in at most one sentence."""
    on_prompts = [one for one in measured if needs_prompts([one.site])]
    filled = [int(np.count_nonzero(sums.field(one.replicates, "tokens"))) for one in on_prompts]
    if few := few_prompts(prompts, max(filled, default=0)):
        return [few]
    if not on_prompts:
        return []
    numbers = few_carry_most(np.stack([one.replicates for one in on_prompts], axis=1))
    if np.isnan(numbers).all():
        return []
    worst = on_prompts[int(np.nanargmin(numbers))]
    tensors = {(on_prompts[n].site, on_prompts[n].tensor) for n in np.flatnonzero(numbers > 0)}
    return [
        f"a few prompts carry most of the energy in {counted(len(tensors), 'tensor')}, most of all "
        f"in {worst.tensor} (site {worst.site}), worth {np.nanmin(numbers):.1f} equal prompts: "
        "SQNR there is that of these prompts, and its interval may be too narrow"
    ]


_UNSEEN = re.compile(r"experts? (\d+(?:, \d+)*) of (\d+) saw no token")


def unseen_experts(experts: Iterable[int], count: int) -> str | None:
    """The reason for `NotMeasured` that some of `count` stacked experts saw no token, if any."""
    names = ", ".join(str(expert) for expert in sorted(experts))
    if not names:
        return None
    return f"{'experts' if ', ' in names else 'expert'} {names} of {count} saw no token"


def experts_in(reason: str) -> tuple[set[int], int] | None:
    """The inverse of `unseen_experts`; None for any other reason."""
    match = _UNSEEN.fullmatch(reason)
    return match and ({int(name) for name in match[1].split(", ")}, int(match[2]))


def from_record(record: schema.Record) -> Measured:
    """What a record was built from.

    Raises:
        MergeError: the record keeps no sums, because another program made the scan.
    """
    if record.replicates is None or record.token_sqnr_db is None:
        raise MergeError(
            f"the record of layer {record.layer} has no sums, so it cannot be merged",
            "merge scans that `srdd scan` made",
        )
    stored = sums.from_lists(vars(record.replicates))
    replicates = sums.new(REPLICATES)
    replicates[: len(stored)] = stored
    tokens = record.token_sqnr_db
    sqnr, distance = record.metrics.sqnr_db, record.vs_floor_db
    floor_db = None
    if record.operands is not None and sqnr is not None and distance is not None:
        floor_db = sqnr - distance
    return Measured(
        layer=record.layer,
        site=record.site,
        tensor=record.tensor,
        shared_with=tuple(record.shared_with),
        spec=parse_spec(f"{record.format}:{record.scale_rule}"),
        operands=record.operands,
        floor_db=floor_db,
        replicates=replicates,
        tokens_by_sqnr=histogram.from_span(tokens.first_bin, tokens.counts),
        undefined_tokens=tokens.undefined,
    )
