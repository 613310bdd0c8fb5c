"""Figures of a scan's sensitivity: pooled by layer and kind, checked, compared, merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srdd.documents.sensitivity import (
    Changed,
    Checked,
    Figure,
    Magnitudes,
    NoiseCost,
    Operands,
    Sensitivity,
)
from srdd.errors import UsageError, counted, unknown_name
from srdd.model.kinds import kind_of
from srdd.numerics.confidence import (
    kendall_tau,
    leave_one_out,
    mean_interval,
    ranking_stability,
)

Sums = NDArray[np.float64]

DIGITS = 9
"""Significant digits of a sum in the file."""

CLOSE = 1.25
"""An estimate within this factor of what was measured counts as right."""

FEWEST_CHECKED = 4
"""With fewer tensors checked, a single one that is off would decide whether the estimate holds."""

BY = ("tensor", "layer", "kind")


def figure(nats: Sums, tokens: Sums, least: float | None = 0.0) -> dict[str, Any]:
    """The fields of a Figure, from sums and tokens of each group.

    Arguments:
        least: what an interval does not reach below; None for a difference.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = mean_interval(nats[tokens > 0], tokens[tokens > 0], least)
    return {
        "nats": [float(f"{value:.{DIGITS}g}") for value in nats],
        "value": float(nats.sum() / tokens.sum()),
        "interval": interval,
    }


def checked(
    tensor: str | None,
    format: str,
    operands: Operands,
    estimate: Sums,
    measured: Sums,
    tokens: Sums,
) -> Checked:
    """A check from the estimated and the measured nats of each group."""
    ratio, interval = None, None
    used = tokens > 0
    if measured.sum() > 0:
        ratio = float(estimate.sum() / measured.sum())
        if (leave_one_out(measured[used]) > 0).all():
            interval = mean_interval(estimate[used], measured[used], 0.0)
    return Checked(
        **figure(measured, tokens),
        tensor=tensor,
        format=format,
        operands=operands,
        estimate=float(estimate.sum() / tokens.sum()),
        ratio=ratio,
        ratio_interval=interval,
    )


def _chosen(sensitivity: Sensitivity, format: str, operands: Operands) -> list[Changed]:
    chosen = [c for c in sensitivity.changes if (c.format, c.operands) == (format, operands)]
    if not chosen:
        raise UsageError(
            f"the scan has no sensitivity for {format} with operands {operands!r}",
            "choose from: " + ", ".join(dict.fromkeys(c.format for c in sensitivity.changes)),
        )
    return chosen


def rows_of(
    sensitivity: Sensitivity, format: str, operands: Operands = "both", by: str = "tensor"
) -> list[dict[str, Any]]:
    """What each tensor, layer or kind costs, as flat dictionaries, in order of the model.

    Arguments:
        format: as the document writes it, such as `mxfp4:floor`.
        by: of BY. The tensors of a layer or kind are added up.

    Returns:
        `layer`, `tensor`, `kind` (None where a row has several), `operands`, `format`, `kl` in nats
        a token, `kl_interval`, and `share` of the sum of all rows.

    Raises:
        UsageError: `by` is unknown, or the document has no such changes.
    """
    if by not in BY:
        raise unknown_name("grouping", by, BY)
    chosen = _chosen(sensitivity, format, operands)
    groups: dict[object, list[Changed]] = {}
    for change in chosen:
        key = {"tensor": change.tensor, "layer": change.layer, "kind": kind_of(change.tensor)}[by]
        groups.setdefault(key, []).append(change)
    tokens = np.array(sensitivity.tokens, dtype=np.float64)
    total = sum(change.value for change in chosen)
    rows = []
    for key, members in groups.items():
        pooled = _pooled(members, tokens)
        layers = {member.layer for member in members}
        kinds = {kind_of(member.tensor) for member in members}
        rows.append(
            {
                "layer": layers.pop() if len(layers) == 1 else None,
                "tensor": key if by == "tensor" else None,
                "kind": kinds.pop() if len(kinds) == 1 else None,
                "operands": operands,
                "format": format,
                "kl": pooled["value"],
                "kl_interval": pooled["interval"],
                "share": pooled["value"] / total if total else None,
            }
        )
    return rows


def nats_by_layer(figures: Iterable[tuple[int, Figure]], sensitivity: Sensitivity) -> Sums:
    """Sums of figures, each with its layer, for each group of prompts that has tokens.

    Returns:
        (groups, layers), the layers in ascending order.
    """
    layers: dict[int, Sums] = {}
    for layer, figure in figures:
        layers[layer] = layers.get(layer, 0.0) + np.array(figure.nats)
    used = np.array(sensitivity.tokens) > 0
    return np.stack([layers[layer] for layer in sorted(layers)], axis=1)[used]


def stability_of(nats: Sums, top_k: int, seed: int) -> tuple[float | None, float | None]:
    """How stable the ranking of layers is; see `srdd.numerics.confidence.ranking_stability`.

    Arguments:
        nats: (groups, layers).

    Returns:
        None where there are fewer than two groups of prompts or layers.
    """
    if min(nats.shape) < 2:
        return None, None
    # All layers have the same tokens, so sums rank as means do.
    return ranking_stability(nats[:, :, None], lambda each: each[..., 0], -1.0, top_k, seed=seed)


def joint_of(sensitivity: Sensitivity, format: str, operands: Operands = "both") -> dict[str, Any]:
    """What quantizing all tensors at once costs.

    Returns:
        `predicted`, the sum over the tensors, with `predicted_interval`; `with_interactions`, the
        second-order figure of all changes together, which varies more, with its interval (None for
        a direct measurement); `measured` and `measured_interval`, None where it was not checked.

    Raises:
        UsageError: the document has no such changes.
    """
    chosen = _chosen(sensitivity, format, operands)
    pooled = _pooled(chosen, np.array(sensitivity.tokens, dtype=np.float64))
    together = _first(
        joint
        for joint in sensitivity.joint
        if (joint.scope, joint.format, joint.operands) == ("all", format, operands)
    )
    measured = _first(
        check
        for check in sensitivity.checks
        if (check.tensor, check.format, check.operands) == (None, format, operands)
    )
    return {
        "predicted": pooled["value"],
        "predicted_interval": pooled["interval"],
        "with_interactions": together.value if together else None,
        "with_interactions_interval": together.interval if together else None,
        "measured": measured.value if measured else None,
        "measured_interval": measured.interval if measured else None,
    }


def verdict(sensitivity: Sensitivity, format: str) -> tuple[bool | None, str]:
    """Whether the estimate agrees with what was measured directly, and how, in words.

    It does not where more than a quarter of the checked tensors, or all of them together, are off
    by more than CLOSE with an interval that does not reach 1, nor where the median ratio of single
    tensors is off by more than CLOSE: wide intervals hide what all have in common. None where too
    little was checked.
    What was measured in 16 bits says nothing of single tensors, whose cost is near that of the
    rounding.
    """
    usable, single = _checks(sensitivity, format)
    if not usable:
        return None, "the estimate was not checked"
    whole = [check for check in usable if check.tensor is None]
    agree = ranks_tensors(sensitivity, format) is not False
    holds = agree and not any(_is_off(check) for check in whole)
    parts, median = [], 1.0
    if single:
        median = float(np.median([check.ratio or 0.0 for check in single]))
        text = f"{counted(len(single), 'tensor')}: median ratio {median:.2f}"
        if len(single) > 2:
            text += f", Spearman {spearman(single):.2f}"
        parts.append(text)
    parts += [f"the whole: ratio {check.ratio:.2f}" for check in whole]
    what = "; ".join(parts)
    if 0 < len(single) < FEWEST_CHECKED and not any(_is_off(check) for check in whole):
        return None, f"too few tensors were checked to judge the estimate ({what})"
    if holds and not 1 / CLOSE <= median <= CLOSE:
        return False, (
            f"the estimates of single tensors are about {median:.2g} times what they cost: they "
            f"rank tensors, no more ({what})"
        )
    if holds:
        return True, f"the estimate agrees with direct measurement ({what})"
    if single and agree:
        return False, (
            "single tensors agree with direct measurement, but their sum does NOT give what all "
            f"cost together ({what})"
        )
    return False, f"the estimate does NOT hold on this model ({what}); use --kl-direct"


def ranks_tensors(sensitivity: Sensitivity, format: str) -> bool | None:
    """Whether the estimates of single tensors agree with what was measured; see `verdict`.

    None where none of them was measured in a type that can tell.
    """
    _, single = _checks(sensitivity, format)
    return 4 * sum(_is_off(check) for check in single) <= len(single) if single else None


def _checks(sensitivity: Sensitivity, format: str) -> tuple[list[Checked], list[Checked]]:
    """The checks in a format that have a ratio, and those of them that tell of single tensors."""
    checks = [check for check in sensitivity.checks if check.format == format]
    usable = [check for check in checks if check.ratio is not None]
    precise = sensitivity.measured_in in (None, "float32")
    return usable, [check for check in usable if check.tensor is not None and precise]


def spearman(checks: Sequence[Checked]) -> float:
    """Spearman's rank correlation of estimates and measured values; NaN where one has no order."""
    a = _ranks([check.estimate for check in checks])
    b = _ranks([check.value for check in checks])
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> Sums:
    """Ranks from 0, the mean of theirs for equal values."""
    array = np.array(values)
    below = (array[None, :] < array[:, None]).sum(1)
    equal = (array[None, :] == array[:, None]).sum(1)
    ranks: Sums = below + (equal - 1) / 2
    return ranks


def agreement(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau between two figures of the same tensors or layers."""
    return kendall_tau(np.array(a), np.array(b))


def merged(parts: Sequence[Sensitivity]) -> Sensitivity | None:
    """The sensitivity of all prompts of several scans; None where their methods differ.

    Checks are left out: each is of the prompts of one part.
    """
    first = parts[0]
    if any((part.method, part.samples) != (first.method, first.samples) for part in parts):
        return None
    tokens = np.sum([part.tokens for part in parts], axis=0)

    def added(figures: Sequence[Sequence[Any]]) -> list[Any]:
        """Figures of one thing in all parts added up; what one part lacks is left out."""
        by_name: dict[tuple[object, ...], list[Any]] = {}
        left_out = {*Figure.model_fields, "magnitudes"}
        for each in figures:
            for one in each:
                name = tuple(v for k, v in vars(one).items() if k not in left_out)
                by_name.setdefault(name, []).append(one)
        return [
            members[0].model_copy(update=_pooled(members, tokens))
            for members in by_name.values()
            if len(members) == len(parts)
        ]

    return first.model_copy(
        update={
            "tokens": tokens.tolist(),
            "changes": added([part.changes for part in parts]),
            "joint": added([part.joint for part in parts]),
            "noise": _with_magnitudes(added([part.noise for part in parts]), parts),
            "checks": [],
            "not_measured": {k: v for part in parts for k, v in part.not_measured.items()},
        }
    )


def _with_magnitudes(noise: Sequence[NoiseCost], parts: Sequence[Sensitivity]) -> list[NoiseCost]:
    """Magnitudes of the same weights, their shares averaged by what noise costs in each part."""
    by_tensor: dict[str, list[NoiseCost]] = {}
    for part in parts:
        for cost in part.noise:
            by_tensor.setdefault(cost.tensor, []).append(cost)
    return [
        cost.model_copy(update={"magnitudes": _mean_magnitudes(by_tensor[cost.tensor])})
        for cost in noise
    ]


def _mean_magnitudes(costs: Sequence[NoiseCost]) -> Magnitudes | None:
    known = [cost.magnitudes for cost in costs if cost.magnitudes is not None]
    if len({(each.dtype, tuple(each.exponents)) for each in known}) != 1 or len(known) < len(costs):
        return None
    by_cost = [sum(cost.nats) for cost in costs]
    weights = by_cost if sum(by_cost) else None

    def mean(name: str) -> list[float]:
        values = np.average([getattr(each, name) for each in known], axis=0, weights=weights)
        return [float(f"{value:.4g}") for value in values]

    return known[0].model_copy(
        update={"share": mean("share"), "powers_of_two": mean("powers_of_two")}
    )


def weighted(
    members: Iterable[tuple[Figure, float]], sensitivity: Sensitivity, least: float | None = 0.0
) -> dict[str, Any]:
    """The fields of a Figure for the sum of figures, each times its factor; see `figure`."""
    tokens = np.array(sensitivity.tokens, dtype=np.float64)
    nats = np.sum([np.array(each.nats) * factor for each, factor in members], axis=0)
    return figure(nats, tokens, least)


def _pooled(members: Iterable[Figure], tokens: Sums) -> dict[str, Any]:
    return figure(np.sum([member.nats for member in members], axis=0), tokens)


def _first(found: Iterable[Any]) -> Any:
    return next(iter(found), None)


def _is_off(check: Checked) -> bool:
    assert check.ratio is not None
    if 1 / CLOSE <= check.ratio <= CLOSE:
        return False
    return check.ratio_interval is None or not (
        check.ratio_interval[0] <= 1 <= check.ratio_interval[1]
    )
