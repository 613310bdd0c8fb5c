"""Sigma by training step: which stage a step lies in, and what the schedule says there.

A run of S steps is cut into K stages of S / K steps: stage = floor(step / (S / K)). Stage 0 is
clean, and the last stage lasts to the end. With sigma from 0.05 to 0.0005, K = 10 and S = 30, every
stage takes three steps:

    steps  0-2  3-5   6-8    9-11   12-14  15-17  18-20  21-23  24-26   27-29
    sigma  0    0.05  .0281  .0158  .0089  .005   .0028  .0016  .00089  .0005

`srdd.documents.rin.Schedule` defines a schedule, and which ones are refused.
"""

from __future__ import annotations

from srdd.documents.rin import Schedule, unusable_reason
from srdd.errors import UsageError


def schedule(sigma_start: float, sigma_end: float, num_stages: int) -> Schedule:
    """A schedule from its three numbers.

    Raises:
        UsageError: with fewer than three stages, sigma that is not above 0, or sigma that grows.
    """
    if problem := unusable_reason(sigma_start, sigma_end, num_stages):
        raise UsageError(*problem)
    return Schedule(sigma_start=sigma_start, sigma_end=sigma_end, num_stages=num_stages)


def stage_of(step: int, total_steps: int, num_stages: int) -> int:
    """The stage that a step lies in, 0 to `num_stages` - 1.

    It is computed in floating point, as trainers do, so that the stage changes at the same step as
    theirs.

    Arguments:
        step: counted from 0. The step `total_steps` and any after it lie in the last stage.
        total_steps: length of the run, at least 1.
        num_stages: as in the schedule, at least 3.

    Raises:
        UsageError: step is negative, or total_steps is below 1.
    """
    if total_steps < 1:
        raise UsageError(f"the run has {total_steps} steps", "give the number of training steps")
    if step < 0:
        raise UsageError(f"step is {step}", "count steps from 0")
    return min(int(step // (total_steps / num_stages)), num_stages - 1)


def sigma_at(schedule: Schedule, step: int, total_steps: int) -> float:
    """Sigma of a layer with multiplier 1 at a training step.

    Raises:
        UsageError: see `stage_of`.
    """
    return schedule.sigmas[stage_of(step, total_steps, schedule.num_stages)]
