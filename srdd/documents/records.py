"""From sums to the records of a Scan, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srdd.documents import scan as schema
from srdd.errors import MergeError
from srdd.numerics import histogram, sums
from srdd.numerics.confidence import intervals, stability
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.metrics import derive, floor_of, product_floor_db, why_undefined
from srdd.numerics.sites import UNDEFINED, ranked_by

REPLICATES = 64
"""Prompt number i belongs to replicate i mod 64."""

TOP_K = 10


@dataclass(frozen=True)
class Measured:
    """What was added up for one tensor in one format.

    Attributes:
        shared_with: other modules that read the same tensor.
        replicates: sums of each replicate, (REPLICATES, fields).
        tokens_by_sqnr: histogram over the SQNR of single tokens.
        undefined_tokens: tokens that are all zero or reproduced exactly.
        operands: which are quantized, at site `linear`; None at others.
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

    @property
    def group(self) -> tuple[str, str, str | None]:
        """What it is ranked within: the site, the format and the operands."""
        return self.site, str(self.spec), self.operands


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _record(
    measured: Measured, rounding: str, used: int, ends: dict[str, tuple[float, float]]
) -> schema.Record:
    pooled = measured.replicates.sum(axis=0)
    metrics = {name: _defined(float(value)) for name, value in derive(pooled).items()}
    meaningless = UNDEFINED.get(measured.site, {})
    metrics |= dict.fromkeys(meaningless)
    sqnr = metrics["sqnr_db"]
    floor = product_floor_db(floor_of(measured.spec, rounding).sqnr_db, measured.operands)
    first_bin, counts = histogram.to_span(measured.tokens_by_sqnr)
    quantiles = [histogram.quantile(measured.tokens_by_sqnr, q) for q in (0.05, 0.50, 0.95)]
    single = {name: values[0] for name, values in sums.to_lists(pooled[None]).items()}
    return schema.Record.model_validate(
        {
            "layer": measured.layer,
            "site": measured.site,
            "tensor": measured.tensor,
            "shared_with": list(measured.shared_with),
            "format": measured.spec.format.name,
            "scale_rule": measured.spec.scale_rule,
            "operands": measured.operands,
            "metrics": metrics,
            "vs_floor_db": None if sqnr is None else sqnr - floor,
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
            "replicates": sums.to_lists(measured.replicates[:used]),
        }
    )


def _by_layer(group: Sequence[Measured]) -> sums.Sums:
    """Sums of whole layers, (REPLICATES, layers, fields): a layer may have several tensors."""
    layers = sorted({one.layer for one in group})
    pooled = sums.new(REPLICATES, len(layers))
    for one in group:
        pooled[:, layers.index(one.layer)] += one.replicates
    return pooled


def build(
    measured: Sequence[Measured], *, rounding: str, prompts: int, seed: int
) -> tuple[list[schema.Record], list[schema.Ranking]]:
    """All records of a scan, with intervals, and how stable the ranking in each group is.

    Arguments:
        measured: in any order; the records come in order of site, format and layer.
        prompts: how many prompts were measured; replicates beyond them are not stored.
        seed: of the bootstrap.
    """
    groups: dict[tuple[str, str, str | None], list[Measured]] = {}
    for one in measured:
        groups.setdefault(one.group, []).append(one)
    records, rankings = [], []
    for group in groups.values():
        group = sorted(group, key=lambda one: one.layer)  # in a layer, as its tensors come
        stacked = np.stack([one.replicates for one in group], axis=1)
        ends = intervals(stacked, seed=seed)
        # Weights do not vary with the prompts and fill the first replicate only.
        used = 1 if group[0].site == "weight" else min(REPLICATES, prompts)
        for place, one in enumerate(group):
            pairs = {
                name: (float(both[place, 0]), float(both[place, 1])) for name, both in ends.items()
            }
            records.append(_record(one, rounding, used, pairs))
        by_layer = _by_layer(group)
        for metric in ranked_by(group[0].site):
            found = stability(by_layer, metric, TOP_K, seed=seed)
            rankings.append(
                schema.Ranking(
                    site=group[0].site,
                    format=group[0].spec.format.name,
                    scale_rule=group[0].spec.scale_rule,
                    operands=group[0].operands,
                    metric=metric,
                    top_k=found.top_k,
                    tau_halves=found.tau_halves,
                    top_k_change=found.top_k_change,
                    spread=found.spread,
                )
            )
    return records, rankings


def from_record(record: schema.Record) -> Measured:
    """What a record was built from.

    Raises:
        MergeError: the record keeps no sums, because another program made the scan.
    """
    if record.replicates is None or record.token_sqnr_db is None:
        raise MergeError(
            f"the record of layer {record.layer} holds no sums, so it cannot be merged",
            "merge scans that `srdd scan` made",
        )
    stored = sums.from_lists(record.replicates.model_dump())
    replicates = sums.new(REPLICATES)
    replicates[: len(stored)] = stored
    tokens = record.token_sqnr_db
    return Measured(
        layer=record.layer,
        site=record.site,
        tensor=record.tensor,
        shared_with=tuple(record.shared_with),
        spec=parse_spec(f"{record.format}:{record.scale_rule}"),
        operands=record.operands,
        replicates=replicates,
        tokens_by_sqnr=histogram.from_span(tokens.first_bin, tokens.counts),
        undefined_tokens=tokens.undefined,
    )
