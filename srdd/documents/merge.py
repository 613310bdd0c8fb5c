"""Merging scans: the scans of the parts of a prompt set make the scan of the whole.

Sums add, and a prompt's replicate follows from the prompt alone, so the figures are those of one
scan up to rounding of the forward pass: prompts that run in other batches see other padding, which
can change a model's last digits. With a batch size of 1 they are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import attrgetter

from srdd.documents.records import (
    Measured,
    add,
    build,
    experts_in,
    from_record,
    prompt_warnings,
    unseen_experts,
)
from srdd.documents.rollouts import Rollouts
from srdd.documents.scan import Calibration, NotMeasured, Scan
from srdd.documents.sensitivity_figures import merged
from srdd.errors import MergeError, counted
from srdd.prompts.fingerprints import set_fingerprint

_MUST_AGREE = (
    *("model.fingerprint", "model.architecture", "model.dtype", "model.tokenizer"),
    *("settings.formats", "settings.sites", "settings.include", "settings.exclude"),
    *("settings.rounding", "settings.seed", "settings.thresholds"),
    *("calibration.max_length", "calibration.chat_template", "calibration.skip_first_token"),
)
"""Paths in the document; the order of a list does not matter."""


def _check_settings(first: Scan, other: Scan, who: str) -> None:
    if "order" in (first.calibration.replicate_rule, other.calibration.replicate_rule):
        raise MergeError(
            f"{who} cannot be merged: one was made by a version of srdd whose replicates follow "
            "the order of the prompts",
            "scan the model again",
        )
    for path in _MUST_AGREE:
        a, b = (attrgetter(path)(scan) for scan in (first, other))
        if (sorted(a) != sorted(b)) if isinstance(a, list) else (a != b):
            raise MergeError(
                f"{who} differ in {path}: {a} and {b}",
                "merge scans of one model that were made with the same settings",
            )


def _check_prompts(first: Calibration, other: Calibration, who: str) -> None:
    """Refuse prompts that are in both, and tell an overlap from prompts that repeat.

    Parts that were cut so that they overlap share the last prompts of one and the first of the
    other. Any other pattern rather means that the prompts themselves repeat.
    """
    place_of = {text: place for place, text in enumerate(first.prompt_fingerprints)}
    places = [
        (place_of[text], place)
        for place, text in enumerate(other.prompt_fingerprints)
        if text in place_of
    ]
    if not places:
        return
    count = len(places)
    overlap = [(len(first.prompt_fingerprints) - count + n, n) for n in range(count)]
    where = f"such as number {places[0][0]} of one and number {places[0][1]} of the other"
    if places == overlap:
        where = "they overlap: the last prompts of one part are the first of the other"
    raise MergeError(
        f"{who} have {counted(count, 'prompt')} in common, which would count twice; {where}",
        "cut the prompt set into parts that do not overlap (`skip` and `limit`); if prompts are "
        "meant to occur twice, `repeated` counts them as a scan of the whole would",
    )


def _added(parts: Sequence[Scan]) -> list[Measured]:
    """The sums of all parts."""
    total: dict[tuple[object, ...], Measured] = {}
    for part in parts:
        for measured in map(from_record, part.records):
            key = (measured.layer, *measured.group, measured.tensor)
            if key not in total:
                total[key] = measured
            elif measured.site != "weight":  # the same weights in all, whatever the prompts
                total[key] = add(total[key], measured)
    return list(total.values())


def _not_measured(parts: Sequence[Scan]) -> list[NotMeasured]:
    """What has no figures in any part; of stacked experts, those that saw no token in any."""
    by_part = [{(each.module, each.site): each for each in part.not_measured} for part in parts]
    in_all = [key for key in by_part[0] if all(key in part for part in by_part)]
    merged = (functools.reduce(_in_both, [part.get(key) for part in by_part]) for key in in_all)
    return [each for each in merged if each is not None]


def _in_both(a: NotMeasured | None, b: NotMeasured | None) -> NotMeasured | None:
    if a is None or b is None:
        return None
    unseen_a, unseen_b = experts_in(a.reason), experts_in(b.reason)
    if unseen_a is None or unseen_b is None:
        # One of the two may not have been measured at all: then the other tells more.
        return b if unseen_a is None and unseen_b is not None else a
    reason = unseen_experts(unseen_a[0] & unseen_b[0], unseen_a[1])
    return a.model_copy(update={"reason": reason}) if reason else None


def _warnings(parts: Sequence[Scan], measured: Sequence[Measured], prompts: int) -> list[str]:
    """The warnings of all parts, without what is true of a part only."""
    kept: list[str] = []
    for part in parts:
        own = prompt_warnings(map(from_record, part.records), part.calibration.prompts or 0)
        kept += [sentence for sentence in part.warnings if sentence not in own]
    return list(dict.fromkeys([*kept, *prompt_warnings(measured, prompts)]))


def _merge(parts: Sequence[Scan]) -> Scan:
    first = parts[0]
    totals = {
        name: sum(getattr(part.calibration, name) or 0 for part in parts)
        for name in ("prompts", "tokens", "truncated", "left_out")
    }
    of_rollouts = [part.calibration.rollouts for part in parts]
    measured = _added(parts)
    records, rankings = build(measured, rounding=first.settings.rounding, seed=first.settings.seed)
    fingerprints = [text for part in parts for text in part.calibration.prompt_fingerprints]
    sources = dict.fromkeys(part.calibration.source for part in parts if part.calibration.source)
    calibration = first.calibration.model_copy(
        update={
            "source": " + ".join(sources) or None,
            "fingerprint": set_fingerprint(fingerprints) if fingerprints else None,
            "prompt_fingerprints": fingerprints,
            **totals,
            "rollouts": functools.reduce(_added_rollouts, of_rollouts),
        }
    )
    elapsed_s = sum(part.run.elapsed_s or 0.0 for part in parts)
    costs = [part.sensitivity for part in parts if part.sensitivity is not None]
    return first.model_copy(
        update={
            "calibration": calibration,
            "run": first.run.model_copy(update={"elapsed_s": elapsed_s}),
            "records": records,
            "rankings": rankings,
            "sensitivity": merged(costs) if len(costs) == len(parts) else None,
            "not_measured": _not_measured(parts),
            "warnings": _warnings(parts, measured, totals["prompts"]),
        }
    )


def _added_rollouts(a: Rollouts | None, b: Rollouts | None) -> Rollouts | None:
    return None if a is None or b is None else a.added(b)


def merge_scans(
    scans: Sequence[Scan], *, repeated: bool = False, names: Sequence[str] = ()
) -> Scan:
    """The scan of all prompts of `scans`, in their order, as if they had been measured together.

    Model, run and command are those of the first; elapsed times add.

    Arguments:
        scans: at least one.
        repeated: whether a prompt in several scans really occurs several times in the whole, and
            counts as often; otherwise it is taken for a mistake in cutting the prompts.
        names: what errors call the scans, one each.

    Raises:
        MergeError: there is no scan, they are of different models or settings (the message names
            the first setting that differs), or they share prompts.
    """
    if not scans:
        raise MergeError("there is no scan to merge", "give at least one scan")
    for place, scan in enumerate(scans):
        for earlier, other in enumerate(scans[:place]):
            who = f"{names[earlier]} and {names[place]}" if names else "the scans"
            if earlier == 0:
                _check_settings(other, scan, who)
            if not repeated:
                _check_prompts(other.calibration, scan.calibration, who)
    return scans[0] if len(scans) == 1 else _merge(scans)
