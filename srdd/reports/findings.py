"""What a group's figures say, in sentences that follow from them and claim no more.

The sentences are plain text. They hold names from the scan, which whoever shows them has to escape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from srdd.errors import counted
from srdd.noise.experiment import spans
from srdd.numerics.confidence import kendall_tau
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import NAMES, Group
from srdd.reports.overall import Overall, overall
from srdd.reports.tables import ranking_sentence, worst

WORST_BY_ERROR, WORST_BY_SQNR = 10, 5
"""How many layers the lists of the worst hold, as in the method's guide."""


def findings(group: Group) -> list[str]:
    """The sentences, the most important first; at least one."""
    found = [_flagged(group), *_against_floor(group)]
    found += [*_extremes(group, group.error), *_extremes(group, "sqnr_db")]
    found += [*_worst_range(group), *_zones(group), *_disagreement(group)]
    found += [ranking_sentence(ranking) for ranking in group.rankings] or [
        "Nothing says how stable these rankings are: the scan keeps no replicates."
    ]
    return [*found, *_undefined(group)]


def _with_unit(each: Overall, value: float | None) -> str:
    return f"{each.shown(value)} {'dB' if each.metric == 'sqnr_db' else '%'}"


def _flagged(group: Group) -> str:
    layers = len(group.layers)
    flagged = sum(word != "ok" for word in group.words)
    all_of_them = "The only layer breaches" if layers == 1 else f"All {layers} layers breach"
    start = (
        all_of_them + " at least one threshold"
        if flagged == layers
        else f"{flagged} of {counted(layers, 'layer')} "
        f"{'breaches' if flagged == 1 else 'breach'} at least one threshold"
        if flagged
        else f"No threshold is breached in {counted(layers, 'layer')}"
    )
    parts = [
        f"mean {NAMES[each.metric]} {_with_unit(each, each.mean)}{_flags(each)}"
        for each in overall(group, (group.error, "deadzone", "saturation", "sqnr_db"))
        if each.values
    ]
    return f"{start}: {', '.join(parts)}." if parts else f"{start}; no metric is defined."


def _flags(each: Overall) -> str:
    if each.limit is None:
        return ""
    side = "below" if METRICS[each.metric].higher_is_better else "above"
    unit = "dB" if each.metric == "sqnr_db" else "%"
    return f" (flagged {side} {each.threshold[1:]} {unit}; {each.status})"


def _against_floor(group: Group) -> list[str]:
    """How the layers stand to Gaussian data: what the format does is not the model's fault."""
    floor = group.floor
    if floor["sqnr_db"] is None:
        return []
    breached = group.thresholds.breaches(floor)
    gets = f"Ideal Gaussian data gets {floor['sqnr_db']:.1f} dB in {group.spec}"
    if group.operands is not None:
        gets += f" with {group.operands if group.operands != 'both' else 'both operands'} quantized"
    if breached:
        gets += f" and breaches {counted(len(breached), 'threshold')} itself"
    held = Counter(group.words)
    layers = len(group.layers)
    parts = [
        f"{_of(held[word], layers)} {'is' if held[word] == 1 else 'are'} {meaning}"
        for word, meaning in (
            ("ok", "within all thresholds"),
            ("at floor", "no more than 1 dB below that"),
            ("poor", "1 to 3 dB below it"),
            ("bad", "more than 3 dB below it"),
            ("flagged", "flagged without an SQNR to compare"),
            ("broken", "broken: NaN or infinite values, left out of the figures"),
        )
        if held[word]
    ]
    return [f"{gets}. Of {counted(layers, 'layer')}, {', '.join(parts)}."]


def _of(count: int, whole: int) -> str:
    return f"all {count}" if count == whole > 1 else str(count)


def _extremes(group: Group, metric: str) -> list[str]:
    order = worst(group.layers, metric, len(group.layers))
    if len(order) < 2:
        return []
    (each,) = overall(group, (metric,))
    bad, good = (
        f"{_with_unit(each, getattr(record.metrics, metric))} in layer {record.layer}"
        for record in (order[0], order[-1])
    )
    name = NAMES[metric]
    return [f"{name[0].upper()}{name[1:]} is worst at {bad} and best at {good}."]


def _worst_range(group: Group) -> list[str]:
    """Where the worst layers lie, if the list of the worst is not simply most of the model."""
    if len(group.values(group.error)) < 2 * WORST_BY_ERROR:
        return []
    held = sorted(r.layer for r in worst(group.layers, group.error, WORST_BY_ERROR))
    where = spans(held)
    kind = "are one contiguous range" if held[-1] - held[0] == len(held) - 1 else "are"
    return [f"The {len(held)} worst layers by {NAMES[group.error]} {kind}: {where}."]


def _zones(group: Group) -> list[str]:
    means = [
        (float(np.mean(values)), zone)
        for zone in group.zones
        if (values := group.values(group.error, zone.layers))
    ]
    if len(means) < 2:
        return []
    (high, bad), (low, good) = (
        pick(means, key=lambda one: one[0])
        for pick in (max, min)  # ties: the shallower zone
    )
    return [
        f"By depth, zone {bad.name} ({layers_in(bad.layers)}) has the highest mean "
        f"{NAMES[group.error]}, {100 * high:.1f} %, and {good.name} ({layers_in(good.layers)}) the "
        f"lowest, {100 * low:.1f} %."
    ]


def agreement(group: Group) -> float | None:
    """Kendall's tau between the layers' order by the size of their errors and that by SQNR.

    1 is the same order and -1 the reverse; None where there is no order.
    """
    both = [(getattr(r.metrics, group.error), r.metrics.sqnr_db) for r in group.layers]
    pairs = [(error, -sqnr) for error, sqnr in both if error is not None and sqnr is not None]
    if len(pairs) < 2:
        return None
    first, second = np.array(pairs).T
    tau = kendall_tau(first, second)
    return None if np.isnan(tau) else tau


def ranks(group: Group, metric: str) -> dict[int, int]:
    """The place of each layer by a metric, 1 for the worst; layers without a figure have none."""
    order = worst(group.layers, metric, len(group.layers))
    return {record.layer: place for place, record in enumerate(order, 1)}


def disputed(group: Group) -> list[int]:
    """Layers that only one of the two orders counts among the worst, in order of layers.

    Among the worst are as many as the list by size of error holds, but at most half of the layers.
    """
    by_error, by_sqnr = ranks(group, group.error), ranks(group, "sqnr_db")
    count = min(WORST_BY_ERROR, len(group.layers) // 2)
    both = sorted(by_error.keys() & by_sqnr.keys())
    return [layer for layer in both if (by_error[layer] <= count) != (by_sqnr[layer] <= count)]


def _disagreement(group: Group) -> list[str]:
    tau = agreement(group)
    if tau is None:
        return []
    found = f"Kendall's tau between the order by {NAMES[group.error]} and that by SQNR is {tau:.2f}"
    held = disputed(group)
    count = min(WORST_BY_ERROR, len(group.layers) // 2)
    if count < 2:
        return [f"{found}."]
    if not held:
        return [f"{found}; both count the same {count} layers as the worst."]
    return [
        f"{found}: the two disagree about the {count} worst, and {layers_in(held)} "
        f"{'stands' if len(held) == 1 else 'stand'} in one of the two lists alone."
    ]


def layers_in(layers: Sequence[int]) -> str:
    """`layer 3` or `layers 0-2, 7`."""
    return f"{'layer' if len(layers) == 1 else 'layers'} {spans(layers)}"


def _undefined(group: Group) -> list[str]:
    """Metrics that some layer lacks, with the first reason; those that lack for one in one go."""
    why: dict[tuple[str, str], list[str]] = {}
    for metric in ("sqnr_db", "relative_error", "deadzone", "saturation"):
        without = [r for r in group.layers if getattr(r.metrics, metric) is None]
        if not without:
            continue
        reasons = [r.undefined[metric] for r in without if metric in r.undefined]
        every = len(without) == len(group.layers) > 1
        which = "every layer" if every else layers_in([record.layer for record in without])
        why.setdefault((which, reasons[0] if reasons else "no reason is given"), []).append(metric)
    found = []
    for (which, reason), metrics in why.items():
        names = " and ".join(NAMES[metric] for metric in metrics)
        verb = "is" if len(metrics) == 1 else "are"
        found.append(f"{names[0].upper()}{names[1:]} {verb} undefined in {which}: {reason}.")
    return found
