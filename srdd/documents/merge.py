"""Merging scans: the scans of the parts of a prompt set make the scan of the whole, exactly.

Sums add. A prompt's replicate follows from its number in the whole set, and the prompts of the
second scan come after those of the first, so the second's replicates move up by the number of
prompts in the first before they are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from srdd.documents.records import Measured, build, from_record
from srdd.documents.scan import Calibration, Scan
from srdd.errors import MergeError, counted
from srdd.numerics.confidence import few_prompts
from srdd.prompts.fingerprints import set_fingerprint

_MUST_AGREE: tuple[tuple[str, Callable[[Scan], object]], ...] = (
    ("model fingerprint", lambda scan: scan.model.fingerprint),
    ("architecture", lambda scan: scan.model.architecture),
    ("dtype", lambda scan: scan.model.dtype),
    ("tokenizer", lambda scan: scan.model.tokenizer),
    ("formats", lambda scan: sorted(scan.settings.formats)),
    ("sites", lambda scan: sorted(scan.settings.sites)),
    ("include", lambda scan: scan.settings.include),
    ("exclude", lambda scan: scan.settings.exclude),
    ("rounding", lambda scan: scan.settings.rounding),
    ("seed", lambda scan: scan.settings.seed),
    ("thresholds", lambda scan: scan.settings.thresholds.model_dump()),
    ("max_length", lambda scan: scan.calibration.max_length),
    ("chat_template", lambda scan: scan.calibration.chat_template),
    ("skip_first_token", lambda scan: scan.calibration.skip_first_token),
)


def _check_settings(first: Scan, other: Scan, who: str) -> None:
    for name, read in _MUST_AGREE:
        a, b = read(first), read(other)
        if a != b:
            raise MergeError(
                f"{who} differ in {name}: {a} and {b}",
                "merge scans of one model that were made with the same settings",
            )


def _check_prompts(first: Calibration, other: Calibration, who: str) -> None:
    """Refuse prompts that both hold, and tell an overlap from a prompt that stands there twice.

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
    if places == overlap:
        where = "they overlap: the last of one are the first of the other"
    elif count == len(other.prompt_fingerprints):
        where = "all that the second holds"
    else:
        where = f"such as number {places[0][0]} of one and number {places[0][1]} of the other"
    raise MergeError(
        f"{who} have {counted(count, 'prompt')} in common, which would count twice; {where}",
        "cut a prompt set into parts with --skip and --limit; where a prompt does stand twice in "
        "it, `srdd merge --repeated` and merge_scans(repeated=True) count it twice, as a scan of "
        "the whole would",
    )


def _counts(scan: Scan) -> dict[str, int]:
    names = ("prompts", "tokens", "truncated", "left_out")
    return {name: getattr(scan.calibration, name) or 0 for name in names}


def _join(a: Measured, b: Measured, shift: int) -> Measured:
    if a.site == "weight":
        return a  # the same weights in both, whatever the prompts
    return replace(
        a,
        replicates=a.replicates + np.roll(b.replicates, shift, axis=0),
        tokens_by_sqnr=a.tokens_by_sqnr + b.tokens_by_sqnr,
        undefined_tokens=a.undefined_tokens + b.undefined_tokens,
    )


def _warnings(a: Scan, b: Scan, prompts: int) -> list[str]:
    """What both parts' readers were told, without what is true of a part only."""
    told = [
        sentence
        for part in (a, b)
        for sentence in part.warnings
        if sentence != few_prompts(part.calibration.prompts or 0)
    ]
    few = few_prompts(prompts)
    return list(dict.fromkeys([*told, *([few] if few else [])]))


def _merge_two(a: Scan, b: Scan) -> Scan:
    def by_tensor(scan: Scan) -> dict[tuple[object, ...], Measured]:
        found = [from_record(record) for record in scan.records]
        return {(one.layer, *one.group, one.tensor): one for one in found}

    first, second = by_tensor(a), by_tensor(b)
    counted = [_counts(a), _counts(b)]
    shift = counted[0]["prompts"]
    joined = [
        _join(one, second[key], shift) if key in second else one for key, one in first.items()
    ]
    for key, one in second.items():
        if key not in first:
            moved = np.roll(one.replicates, shift, axis=0)
            joined.append(replace(one, replicates=moved))
    totals = {name: counted[0][name] + counted[1][name] for name in counted[0]}
    fingerprints = a.calibration.prompt_fingerprints + b.calibration.prompt_fingerprints
    records, rankings = build(
        joined, rounding=a.settings.rounding, prompts=totals["prompts"], seed=a.settings.seed
    )
    sources = dict.fromkeys((a.calibration.source, b.calibration.source))
    calibration = a.calibration.model_copy(
        update={
            "source": " + ".join(source for source in sources if source) or None,
            "fingerprint": set_fingerprint(fingerprints) if fingerprints else None,
            "prompt_fingerprints": fingerprints,
            **totals,
        }
    )
    elapsed = (a.run.elapsed_s or 0.0) + (b.run.elapsed_s or 0.0)
    still_missing = {(one.module, one.site) for one in b.not_measured}
    missing = [one for one in a.not_measured if (one.module, one.site) in still_missing]
    return a.model_copy(
        update={
            "calibration": calibration,
            "run": a.run.model_copy(update={"elapsed_s": elapsed}),
            "records": records,
            "rankings": rankings,
            "not_measured": missing,
            "warnings": _warnings(a, b, totals["prompts"]),
        }
    )


def merge_scans(
    scans: Sequence[Scan], *, repeated: bool = False, names: Sequence[str] = ()
) -> Scan:
    """The scan of all prompts of `scans`, in their order, as if they had been measured together.

    Model, run and command are those of the first; elapsed times add.

    Arguments:
        scans: at least one.
        repeated: whether a prompt that several hold really stands several times in the whole, and
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
    return reduce(_merge_two, scans)
