"""Merging scans: the scans of the parts of a prompt set make the scan of the whole, exactly.

Sums add. A prompt's replicate follows from its number in the whole set, and the prompts of the
second scan come after those of the first, so the second's replicates move up by the number of
prompts in the first before they are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from srdd.confidence import few_prompts
from srdd.errors import MergeError, counted
from srdd.records import Measured, build, from_record
from srdd.schema.scan import Scan, set_fingerprint

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


def _check_together(first: Scan, other: Scan) -> None:
    for name, read in _MUST_AGREE:
        a, b = read(first), read(other)
        if a != b:
            raise MergeError(
                f"the scans differ in {name}: {a} and {b}",
                "merge scans of one model that were made with the same settings",
            )
    shared = set(first.calibration.prompt_fingerprints) & set(other.calibration.prompt_fingerprints)
    if shared:
        raise MergeError(
            f"the scans have {counted(len(shared), 'prompt')} in common, which would count twice",
            "merge scans of different prompts; --skip and --limit cut a prompt set into parts",
        )


def _counts(scan: Scan) -> dict[str, int]:
    names = ("prompts", "tokens", "truncated", "left_out")
    return {name: getattr(scan.calibration, name) or 0 for name in names}


def _join(a: Measured, b: Measured, shift: int) -> Measured:
    if a.site == "weight":
        return a  # the same weights in both, whatever the prompts
    return Measured(
        layer=a.layer,
        site=a.site,
        tensor=a.tensor,
        shared_with=a.shared_with,
        spec=a.spec,
        operands=a.operands,
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
    _check_together(a, b)

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
            joined.append(Measured(**{**one.__dict__, "replicates": moved}))
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


def merge_scans(scans: Sequence[Scan]) -> Scan:
    """The scan of all prompts of `scans`, in their order, as if they had been measured together.

    Model, run and command are those of the first; elapsed times add.

    Raises:
        MergeError: there is no scan, they are of different models or settings (the message names
            the first setting that differs), or they share prompts.
    """
    if not scans:
        raise MergeError("there is no scan to merge", "give at least one scan")
    merged = scans[0]
    for scan in scans[1:]:
        merged = _merge_two(merged, scan)
    return merged
