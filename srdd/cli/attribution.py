"""What `srdd eval --rollouts` takes from a scan: which linears bring the mismatch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.errors import InputError, SrddError, UsageError
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.documents.evaluation import Evaluation
    from srdd.documents.scan import Scan

MOST = 8
"""Scans in the folder that are looked at, the newest ones."""


def parse_clip(text: str | None) -> tuple[float, float] | None:
    """`LOW:HIGH` as two numbers.

    Raises:
        UsageError: it is not of this form, or does not hold the ratio 1.
    """
    if text is None:
        return None
    from srdd.numerics.mismatch import check_clip

    low, _, high = text.partition(":")
    try:
        clip = float(low), float(high)
    except ValueError:
        raise UsageError(
            f"--clip {text!r} is no range", "write, for example, --clip 0.8:1.28"
        ) from None
    check_clip(clip)
    return clip


def read_scan(source: str | None) -> Scan | None:
    """The scan that was named, which has to have a sensitivity.

    Raises:
        InputError: it cannot be read, or has none.
    """
    if source is None:
        return None
    from srdd.cli import scans  # reads documents, which a help page does not need

    scan = scans.load(source)
    if scan.sensitivity is None:
        raise InputError(
            f"{source} does not say what quantizing each linear costs", "scan the model with --kl"
        )
    return scan


def attribute(evaluation: Evaluation, scan: Scan | None, source: str | None) -> Evaluation:
    """The evaluation with what brings its mismatch, from the named scan or the newest that fits.

    Without a fitting scan it stays as it is; where the named one does not fit, with a warning: what
    was measured may have taken long.
    """
    from srdd.documents.attribution import attributed, misfit
    from srdd.documents.scan import load_scan

    if all(result.mismatch is None for result in evaluation.results):
        return evaluation
    if scan is not None:
        try:
            return attributed(evaluation, scan, safe(str(source)))
        except InputError as error:
            console.warn(f"{error.message}; {error.hint}")
            return evaluation
    from srdd.cli import scans

    for _, path in zip(range(MOST), scans.newest_first(Path()), strict=False):
        try:
            found = load_scan(path)
            if misfit(evaluation.model.fingerprint, found) is None:
                result = attributed(evaluation, found, safe(str(path)))
                console.say(f"read {safe(str(path))} for what brings the mismatch")
                return result
        except SrddError:  # broken, or of other formats: an older one may do
            continue
    return evaluation
