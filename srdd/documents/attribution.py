"""From a scan's sensitivity to what brings the mismatch of an evaluation's rollouts."""

from __future__ import annotations

from collections.abc import Iterable

from srdd.documents.evaluation import Evaluation, Result
from srdd.documents.mismatch import Attribution, Share
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Changed
from srdd.errors import InputError
from srdd.model.kinds import kind_of
from srdd.model.selection import Selection

TENSORS = 10
"""Costliest tensors that are kept."""


def attributed(evaluation: Evaluation, scan: Scan, name: str) -> Evaluation:
    """The evaluation, with what brings the mismatch of each result that the scan can tell of.

    Arguments:
        scan: of the same model, with a sensitivity.
        name: of the scan's file.

    Raises:
        InputError: the scan is of other weights, has no sensitivity, or has none in these formats.
    """
    if problem := misfit(evaluation.model.fingerprint, scan):
        raise InputError(
            f"{name} cannot say which linears bring the mismatch: {problem}",
            "scan this model with --kl and the formats of this evaluation",
        )
    results, known = [], False
    for result in evaluation.results:
        found = attribution(evaluation, result, scan, name)
        known |= found is not None
        if found is not None and result.mismatch is not None:
            section = result.mismatch.model_copy(update={"attribution": found})
            result = result.model_copy(update={"mismatch": section})
        results.append(result)
    if not known:
        formats = ", ".join(dict.fromkeys(change.format for change in _changes(scan)))
        raise InputError(
            f"{name} has no sensitivity in the formats of this evaluation (it has {formats})",
            "scan this model with --kl and the formats of this evaluation",
        )
    return evaluation.model_copy(update={"results": results})


def misfit(fingerprint: str, scan: Scan) -> str | None:
    """Why a scan cannot be of use for a model whose weights have this fingerprint, if so."""
    if scan.sensitivity is None:
        return "it has no sensitivity"
    if scan.model.fingerprint != fingerprint:
        return "it is of other weights"
    return None


def attribution(
    evaluation: Evaluation, result: Result, scan: Scan, name: str
) -> Attribution | None:
    """Which linears bring the mismatch of one result; None where the scan cannot tell."""
    if result.mismatch is None or scan.sensitivity is None:
        return None
    settings = evaluation.settings
    selection = Selection(tuple(settings.include), tuple(settings.exclude))
    left_out = {each.module for each in result.not_simulated}
    costs = {
        change.tensor: change
        for change in _fitting(result, scan)
        if selection.takes(change.tensor)
        and change.tensor not in left_out
        and (kind_of(change.tensor) != "router" or settings.include)
    }
    whole = sum(change.value for change in costs.values())
    if whole <= 0:
        return None

    def shares(names: Iterable[tuple[str, float]]) -> list[Share]:
        sums: dict[str, float] = {}
        for one, kl in names:
            sums[one] = sums.get(one, 0.0) + kl
        ordered = sorted(sums.items(), key=lambda item: -item[1])
        return [Share(name=one, kl=kl, share=min(1.0, kl / whole)) for one, kl in ordered]

    every = costs.values()
    tensors = shares((change.tensor, change.value) for change in every)[:TENSORS]
    return Attribution(
        scan=name,
        same_text=scan.calibration.fingerprint == evaluation.text.fingerprint,
        method=scan.sensitivity.method,
        kl=whole,
        count=len(costs),
        tensors=[one.model_copy(update={"layer": costs[one.name].layer}) for one in tensors],
        layers=shares((str(change.layer), change.value) for change in every),
        kinds=shares((kind_of(change.tensor), change.value) for change in every),
    )


def _changes(scan: Scan) -> list[Changed]:
    return [] if scan.sensitivity is None else scan.sensitivity.changes


def _fitting(result: Result, scan: Scan) -> list[Changed]:
    """The scan's changes that this result makes; none where its operands differ in format."""
    weights, activations = result.weights, result.activations
    if weights is not None and activations is not None and weights != activations:
        return []
    operands = "both" if None not in (weights, activations) else "weight" if weights else "input"
    return [
        change
        for change in _changes(scan)
        if (change.format, change.operands) == (weights or activations, operands)
    ]
