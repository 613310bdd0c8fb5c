"""What `srdd eval --rin` takes: the noise of one training step, or of every stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.errors import InputError, UsageError
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.documents.rin import RinConfig
    from srdd.documents.scan import Scan
    from srdd.simulation.evaluator import Noise, StagedNoise

MOST = 8
"""Scans in the folder that are looked at, the newest ones."""


def read(rin: str | None, step: int | None, total_steps: int | None) -> RinConfig | None:
    """The noise configuration, if there is one, for a step inside its run or for all stages.

    Raises:
        UsageError: one of two options that belong together, or a step outside the run.
        InputError: the configuration cannot be read.
    """
    from srdd.documents.rin import load_rin

    if (step is None) != (total_steps is None) or (rin is None and step is not None):
        raise UsageError(
            "--step and --total-steps belong together, and to --rin",
            "write, for example, --rin rin.json --step 30 --total-steps 100; --rin rin.json alone "
            "measures every stage",
        )
    if step is not None and total_steps is not None and step >= total_steps:
        raise UsageError(
            f"--step {step} is outside a run of {total_steps} steps",
            f"steps count from 0 to {total_steps - 1}",
        )
    return None if rin is None else load_rin(rin)


def noise_of(
    config: RinConfig,
    name: str,
    step: int | None,
    total_steps: int | None,
    seed: int,
    scan: Scan | None,
    scan_name: str | None,
) -> Noise | StagedNoise:
    """The noise of a step, or of all stages with the scan that predicts it.

    Arguments:
        scan: the one that was named; for None the newest one here that fits, if there is one.
    """
    from srdd.simulation.evaluator import Noise, StagedNoise

    if step is not None and total_steps is not None:
        return Noise(config, name, step, total_steps, seed)
    if scan is None:
        scan, scan_name = newest_that_predicts(Path(), config)
    return StagedNoise(config, name, scan, None if scan_name is None else safe(scan_name), seed)


def newest_that_predicts(folder: Path, config: RinConfig) -> tuple[Scan, str] | tuple[None, None]:
    """The newest scan of a folder that says what this noise costs the model, and its file."""
    from srdd.cli import scans  # reads documents, which a help page does not need
    from srdd.documents.scan import load_scan

    for _, path in zip(range(MOST), scans.newest_first(folder), strict=False):
        try:
            scan = load_scan(path)
            scan.noise_kl(config)
        except (InputError, UsageError):  # broken, without --kl, or of another model
            continue
        if scan.model.fingerprint == config.source.model_fingerprint:
            console.say(f"read {safe(str(path))} for the KL that it predicts")
            return scan, str(path)
    return None, None
