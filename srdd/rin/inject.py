"""Noise on and off: `with noisy(model, config, step=..., total_steps=...) as report:`.

Inside, the configured weights are w + N(0, sigma): drawn in float32, cast to the weight's type, and
added in it, as the published injectors do. Afterwards they have exactly the bits from before, which
are kept and copied back, whatever happens inside. The noise is not subtracted, since rounding would
change the weights a little at every step.

In bfloat16 much of a small sigma is lost: around 1, neighbouring values lie 0.004 to 0.008 apart.
The report says how much of the noise arrived (`std`) and how many weights it left as they were.

Where weights are tied, noise is added once. Where they are sharded, every process adds its part of
the same noise; each draws all of it and keeps its part. Clean copies cost as much memory as the
noisy weights do: negligible for norms, as much as the model for all its linears.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError
from srdd.rin import weights
from srdd.rin.draws import standard_normal
from srdd.rin.report import ModuleNoise, NoiseReport
from srdd.rin.targets import Target, Targets, plain_name, targets_of, unwrapped

AT_ONCE = 1 << 20
"""Elements that noise is added to at a time, so that it needs little memory of its own."""

_noisy_now: dict[tuple[str, int], str] = {}
"""Weights under noise in this process, by their memory, with the module's name."""


@contextmanager
def noisy(
    model: nn.Module, config: RinConfig, *, step: int, total_steps: int, seed: int = 0
) -> Iterator[NoiseReport]:
    """While this runs, the configured weights carry the noise of a training step.

    A backward pass belongs inside, with its forward pass. An optimizer's step does not: the clean
    bits come back, and what was written in between would be lost.

    Arguments:
        model: a causal language model, possibly in DDP, sharded by `fully_shard`, with adapters, or
            offloaded to the CPU by accelerate.
        config: made from a scan of such a model.
        step: of the run, 0 to total_steps - 1. In the first stage there is no noise.
        total_steps: length of the run.
        seed: same seed and step, same noise, in every process and on every device.

    Yields:
        What was added where.

    Raises:
        UsageError: a step outside the run; noise that is in the model already; or weights that were
            changed or replaced inside, raised once the model is clean again.
        InputError: the configuration is for another model, or the model's weights are out of reach:
            see `srdd.rin.targets` and `srdd.rin.weights`.
    """
    check_step(step, total_steps)
    weights.check_model(model)
    targets = targets_of(model, config)
    with noisy_targets(model, targets, step=step, total_steps=total_steps, seed=seed) as report:
        yield report


def check_step(step: int, total_steps: int) -> None:
    """Make sure that a step lies in the run.

    Raises:
        UsageError: it does not, or the run has no steps.
    """
    if total_steps < 1:
        raise UsageError(f"the run has {total_steps} steps", "give the number of training steps")
    if not 0 <= step < total_steps:
        raise UsageError(
            f"step is {step}, and the run has {total_steps} steps",
            f"count steps from 0 to {total_steps - 1}",
        )


@dataclass(frozen=True)
class _Holder:
    """A module that has a weight, with the parameter itself and the name that reports use."""

    name: str
    module: nn.Module
    key: str
    parameter: nn.Parameter

    @property
    def replaced(self) -> bool:
        """Whether the module has another parameter now. An offloaded one always changes."""
        now = self.module._parameters.get(self.key)
        return now is not self.parameter and not self.parameter.is_meta


@dataclass
class _Weight:
    """A weight under noise.

    Attributes:
        target: the configured module that gives the noise; of several the first.
        holders: all modules that have the weight.
        tensor: where it is read from.
        clean: this process's part of it, as it was.
        version: how often it was written to, once the noise is in it.
    """

    target: Target
    holders: list[_Holder]
    tensor: torch.Tensor
    clean: torch.Tensor
    version: int | None = None

    @property
    def tied(self) -> tuple[str, ...]:
        """The other modules that have it."""
        return tuple(sorted({each.name for each in self.holders} - {self.target.name}))


@contextmanager
def noisy_targets(
    model: nn.Module, targets: Targets, *, step: int, total_steps: int, seed: int
) -> Iterator[NoiseReport]:
    """`noisy`, for targets that were found before."""
    check_step(step, total_steps)
    weights.check_model(model)
    weights.reshard(model)
    claimed: list[tuple[str, int]] = []
    noisy: list[_Weight] = []
    try:
        groups = _by_memory(model, targets.noisy)
        for target, tensor, _ in groups:
            _claim(target, tensor, claimed)
        added = []
        for target, tensor, holders in groups:
            weight = _Weight(target, holders, tensor, weights.local(tensor).detach().clone())
            noisy.append(weight)
            added.append(_add(weight, step, total_steps, seed))
        yield _report(noisy, added, targets, step, total_steps, seed)
        _check_untouched(noisy)
    finally:
        with torch.no_grad():
            for weight in noisy:
                weights.local(weight.tensor).copy_(weight.clean)
        for key in claimed:
            del _noisy_now[key]
        weights.reshard(model)
        replaced = [each for weight in noisy for each in weight.holders if each.replaced]
        for each in replaced:
            each.module._parameters[each.key] = each.parameter
    if replaced:
        raise UsageError(
            f"the weight of {replaced[0].name!r} was replaced by another parameter while it "
            "carried noise, which that one may hold: the former parameter is back, and clean",
            "replace parameters after the noise is gone",
        )


def _by_memory(
    model: nn.Module, targets: Sequence[Target]
) -> list[tuple[Target, torch.Tensor, list[_Holder]]]:
    """Each weight once: the first target that has it, its tensor, and all modules that have it."""
    holders: dict[int, list[_Holder]] = {}
    for name, module in unwrapped(model).named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                full = plain_name(name) + ("" if key == "weight" else f".{key}")
                holder = _Holder(full, module, key, parameter)
                holders.setdefault(id(parameter), []).append(holder)
    groups: dict[object, tuple[Target, torch.Tensor, list[_Holder]]] = {}
    for target in targets:
        tensor = weights.weight_of(target)
        key = weights.identity(tensor) or id(target.parameter)
        groups.setdefault(key, (target, tensor, []))[2].extend(holders[id(target.parameter)])
    return list(groups.values())


def _claim(target: Target, tensor: torch.Tensor, claimed: list[tuple[str, int]]) -> None:
    key = weights.identity(tensor)
    if key is None:
        return
    if key in _noisy_now:
        raise UsageError(
            f"the weight of {target.name!r} carries noise already (as {_noisy_now[key]!r})",
            "leave the other `noisy` first: two at once would put noise on noise",
        )
    _noisy_now[key] = target.name
    claimed.append(key)


def _add(weight: _Weight, step: int, total_steps: int, seed: int) -> list[torch.Tensor]:
    """Add the noise, some rows at a time.

    Returns:
        For each such part, the sums that `_report` needs: squares of what was added, number of
        weights that it left unchanged, squares of the clean weights.
    """
    sigma = weight.target.sigma(step, total_steps)
    part = weights.local(weight.tensor)
    wide = torch.promote_types(part.dtype, torch.float32)
    sums = []
    if sigma:
        with torch.no_grad():
            for rows, noise in _noise(weight, seed, step):
                target, clean = part[rows], weight.clean[rows].to(wide)
                # In place, so that autograd notices weights that change before the backward pass.
                target.add_((noise * sigma).to(target.device, target.dtype))
                difference = target.to(wide) - clean
                unchanged = (difference == 0).sum(dtype=wide)
                squares, signal = difference.square().sum(), clean.square().sum()
                sums.append(torch.stack((squares, unchanged, signal)))
    weight.version = _version(weight.tensor)
    return sums


def _noise(weight: _Weight, seed: int, step: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """N(0, 1) for this process's part of a weight, by rows."""
    shape = weight.tensor.shape
    if weights.is_sharded(weight.tensor):
        whole = standard_normal(seed, step, weight.target.name, 0, shape.numel()).reshape(shape)
        yield slice(None), weights.local_part(whole, weight.tensor)
        return
    width = shape[1:].numel()
    rows = max(1, AT_ONCE // width)
    for first in range(0, shape[0], rows):
        last = min(first + rows, shape[0])
        noise = standard_normal(
            seed, step, weight.target.name, first * width, (last - first) * width
        )
        yield slice(first, last), noise.reshape(last - first, *shape[1:])


def _version(tensor: torch.Tensor) -> int | None:
    """How often a tensor was written to; None where torch does not count.

    A sharded tensor counts what is written to it as a whole, not to its local part as is done here.
    """
    return None if tensor.is_inference() else tensor._version


def _check_untouched(noisy: Sequence[_Weight]) -> None:
    """Make sure that nobody wrote to the noisy weights.

    Raises:
        UsageError: somebody did.
    """
    for weight in noisy:
        if weight.version is not None and _version(weight.tensor) != weight.version:
            raise UsageError(
                f"the weight of {weight.target.name!r} was changed while it carried noise, and "
                "this change is lost: the clean weights are back",
                "let the optimizer step after the noise is gone",
            )


def _report(
    noisy: Sequence[_Weight],
    added: Sequence[Sequence[torch.Tensor]],
    targets: Targets,
    step: int,
    total_steps: int,
    seed: int,
) -> NoiseReport:
    modules, energy, realised = [], 0.0, 0.0
    for weight, sums in zip(noisy, added, strict=True):
        target = weight.target
        sigma = target.sigma(step, total_steps)
        count = weight.clean.numel()
        parts = [part.tolist() for part in sums] or [[0.0, count, 0.0]]
        squares, unchanged, signal = (math.fsum(figures) for figures in zip(*parts, strict=True))
        gain = target.gain_rms if target.gain_rms is not None else 1.0
        if weight.tensor.ndim > 1:
            gain = math.sqrt(signal / count) if count else 0.0
        modules.append(
            ModuleNoise(
                name=target.name,
                layer=target.layer,
                tied=weight.tied,
                size=weight.tensor.numel(),
                sigma=sigma,
                std=math.sqrt(squares / count) if count else None,
                unchanged=unchanged / count if count else None,
                signal_to_noise_db=20 * math.log10(gain / sigma) if sigma and gain else None,
            )
        )
        energy += weight.tensor.numel() * sigma * sigma
        realised += squares
    return NoiseReport(step, total_steps, seed, tuple(modules), energy, realised, targets.left_out)
