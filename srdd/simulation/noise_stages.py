"""The KL divergence that noise really causes, stage by stage, beside what a scan predicts.

Every group of prompts has noise of its own, in every stage and draw. So one interval over groups
covers both: other prompts, and other noise. The groups are the replicates of a scan, and where a
scan saw the same prompts, its prediction is compared group by group.

    KL of a stage = sum over groups of the mean over draws / sum of predicted tokens
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from srdd.documents import evaluation as schema
from srdd.documents.noise_costs import noise_nats
from srdd.documents.records import REPLICATES, replicate_of
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.errors import UsageError
from srdd.measurement.forward import logits_of, run_halving
from srdd.measurement.listener import Listener
from srdd.model.running import device_of, evaluating, vocabulary_of
from srdd.numerics.confidence import mean_interval
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches
from srdd.rin.inject import noisy_targets
from srdd.rin.targets import Targets, targets_of
from srdd.simulation import predictions
from srdd.simulation.checking import dtype_of, in_float32

DRAWS = 32
"""Draws of the noise in a stage, dealt to the groups by how much of its cost each bears."""

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredNoise:
    """What noise costs, measured.

    Attributes:
        nats: (stages, groups) KL summed over the predicted tokens of a group, mean over its draws.
        tokens: (groups,) their number.
        draws: (groups,) of the noise in each stage.
        dtype: of the model that was measured.
    """

    nats: Sums
    tokens: Sums
    draws: NDArray[np.int64]
    dtype: str

    def of(self, stage: int) -> dict[str, Any]:
        """`measured`, nats a token, and `measured_interval`, 95 % over groups."""
        used = self.tokens > 0
        nats, tokens = self.nats[stage, used], self.tokens[used]
        return {
            "measured": float(nats.sum() / tokens.sum()),
            "measured_interval": mean_interval(nats, tokens, 0.0),
        }


@dataclass(frozen=True)
class StagedNoise:
    """The noise of all stages of a configuration.

    Attributes:
        config: the noise configuration.
        name: what it is called, such as its file.
        scan: of the same weights, with sensitivity: what predicts. None for no prediction.
        scan_name: its file; None for one in memory.
        seed: what the noise is drawn from.
    """

    config: RinConfig
    name: str
    scan: Scan | None = None
    scan_name: str | None = None
    seed: int = 0


def measure_noise(
    model: nn.Module,
    tokenized: TokenizedPrompts,
    config: RinConfig,
    *,
    scan: Scan | None = None,
    seed: int = 0,
    listener: Listener | None = None,
) -> MeasuredNoise:
    """Inject the noise of every stage, and measure the KL divergence from the clean model.

    Noise is drawn, and rounded, in the model's own type. The predictions are those of a copy in
    float32 where memory has room for one: in 16 bits, any change at all makes every later rounding
    fall otherwise, which costs more than small noise.

    Arguments:
        tokenized: prompts of two tokens or more.
        config: made from a scan of such a model.
        scan: one with sensitivity. Where it saw the same prompts, groups that are predicted to bear
            more of the cost get more draws; else, those with more tokens.
        seed: of the noise.

    Raises:
        InputError: the configuration is for another model; out of memory.
    """
    listener = listener or Listener()
    reference = in_float32(model)
    device = device_of(reference)
    targets = targets_of(model, config)
    stages = stages_of(config)
    groups = _groups(tokenized)
    tokens = np.zeros(REPLICATES)
    np.add.at(tokens, [replicate_of(name) for name in tokenized.fingerprints], tokenized.predicted)
    draws = _draws(tokens, config, scan)
    nats = np.zeros((stages, REPLICATES))
    passes = 1 + (stages - 1) * draws
    listener.started(
        f"measuring the noise of {stages} stages",
        sum(int(passes[group]) * batch.tokens for group, own in groups.items() for batch in own),
        "tokens",
    )
    with evaluating(model), evaluating(reference), torch.no_grad():
        for group, batches in groups.items():

            def add(batch: Batch, group: int = group) -> None:
                plain = logits_of(reference, batch, device)
                own = np.zeros(stages)
                for stage in range(1, stages):
                    for draw in range(draws[group]):
                        number = (seed * REPLICATES + group) * DRAWS + draw
                        with _noise(model, reference, targets, stage, stages, number):
                            logits = logits_of(reference, batch, device)
                        own[stage] += float(predictions.sums(plain, logits, batch)[:, 2].sum())
                nats[:, group] += own / draws[group]
                listener.advanced(int(passes[group] - 1) * batch.tokens)

            for batch in batches:
                for part in predictions.cut(batch, vocabulary_of(model) or 1):
                    run_halving(part, add, device, listener)
    return MeasuredNoise(nats, tokens, draws, dtype_of(reference))


def fingerprint_of(config: RinConfig) -> str:
    """A short fingerprint of a configuration's content."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]


def stages_of(config: RinConfig) -> int:
    """The number of stages of a configuration; the first is clean."""
    return max(len(tier.sigmas) for tier in config.tiers)


def _groups(tokenized: TokenizedPrompts) -> dict[int, list[Batch]]:
    """Replicate -> batches of its prompts alone."""
    groups: dict[int, list[int]] = {}
    for place, fingerprint in enumerate(tokenized.fingerprints):
        groups.setdefault(replicate_of(fingerprint), []).append(place)
    return {
        group: make_batches(tokenized.chosen(places)) for group, places in sorted(groups.items())
    }


def _draws(tokens: Sums, config: RinConfig, scan: Scan | None) -> NDArray[np.int64]:
    """How often each group gets noise: DRAWS by its share, at least once, at most DRAWS times."""
    share = tokens
    if scan is not None and scan.sensitivity is not None and _same_tokens(scan, tokens):
        # A group without any tokens has none of the cost, either.
        share = np.array(noise_nats(scan, config, 1))
    total = share.sum()
    return np.clip(np.ceil(DRAWS * share / total if total else share), 1, DRAWS).astype(np.int64)


@contextmanager
def _noise(
    model: nn.Module, reference: nn.Module, targets: Targets, stage: int, stages: int, seed: int
) -> Iterator[None]:
    """Noise in the model, and the same weights in the reference; afterwards both are clean."""
    with noisy_targets(model, targets, step=stage, total_steps=stages, seed=seed):
        if reference is model:
            yield
            return
        pairs = _pairs(model, reference, targets)
        clean = [theirs.clone() for _, theirs in pairs]
        for ours, theirs in pairs:
            theirs.copy_(ours)
        try:
            yield
        finally:
            for (_, theirs), before in zip(pairs, clean, strict=True):
                theirs.copy_(before)


def _pairs(
    model: nn.Module, reference: nn.Module, targets: Targets
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The noisy weights of the model, each with that of its copy; tied ones once."""
    names = {id(module): name for name, module in model.named_modules()}
    pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for target in targets.noisy:
        copy = reference.get_submodule(names[id(target.module)])
        ours, theirs = target.parameter, copy._parameters[target.key]
        assert theirs is not None
        pairs[id(ours)] = ours.detach(), theirs.detach()
    return list(pairs.values())


def stages_document(
    model: nn.Module,
    tokenized: TokenizedPrompts,
    noise: StagedNoise,
    weights: str,
    listener: Listener,
) -> schema.NoiseStages:
    """Measure the noise of every stage, beside what the scan predicts.

    Arguments:
        weights: fingerprint of the model's.

    Raises:
        UsageError: the scan is of another model, or has no sensitivity.
        InputError: see `measure_noise`.
    """
    config, scan = noise.config, noise.scan
    if scan is not None and scan.model.fingerprint != weights:
        raise UsageError(
            f"the scan is of other weights, those of {scan.model.name}",
            "name a scan of this model, made with --kl",
        )
    predicted = None if scan is None else scan.noise_kl(config)
    measured = measure_noise(
        model, tokenized, config, scan=scan, seed=noise.seed, listener=listener
    )
    paired = scan is not None and _same_tokens(scan, measured.tokens)
    stages = []
    for stage in range(1, len(measured.nats)):
        row = None if predicted is None else predicted[stage]
        own = measured.of(stage)
        ratio, interval = None, None
        if scan is not None and row is not None and own["measured"]:
            ratio = row["kl"] / own["measured"]
            interval = (
                _paired(np.array(noise_nats(scan, config, stage)), measured, stage)
                if paired
                else _unpaired(row["kl"], row["kl_interval"], *own.values())
            )
        stages.append(
            schema.NoiseStage(
                stage=stage,
                sigma=_sigma(config, stage),
                arriving=None if row is None else row["arriving"],
                predicted=None if row is None else row["kl"],
                predicted_interval=None if row is None else row["kl_interval"],
                **own,
                ratio=ratio,
                ratio_interval=interval,
            )
        )
    return schema.NoiseStages(
        config=noise.name,
        strategy=config.strategy,
        fingerprint=fingerprint_of(config),
        seed=noise.seed,
        draws=int(measured.draws[measured.tokens > 0].sum()),
        groups=int((measured.tokens > 0).sum()),
        measured_in=measured.dtype,
        scan=None if scan is None else noise.scan_name or "in memory",
        same_prompts=paired,
        stages=stages,
    )


def _same_tokens(scan: Scan, tokens: Sums) -> bool:
    """Whether a scan's sensitivity is of the same prompts, as far as tokens by group tell."""
    known = scan.sensitivity
    return known is not None and known.tokens == tokens.astype(int).tolist()


def _sigma(config: RinConfig, stage: int) -> float:
    """Root mean square of sigma over the configured weights."""
    pairs = [
        (tier.sigmas[stage] * layer.multiplier, module.size)
        for tier in config.tiers
        for layer in tier.layers
        for module in layer.modules
    ]
    return sqrt(sum(sigma**2 * size for sigma, size in pairs) / sum(size for _, size in pairs))


def _paired(predicted: Sums, measured: MeasuredNoise, stage: int) -> tuple[float, float] | None:
    """The interval of predicted over measured, with both of a group left out together."""
    used = measured.tokens > 0
    return mean_interval(predicted[used], measured.nats[stage, used], 0.0)


def _unpaired(
    predicted: float,
    predicted_interval: Sequence[float] | None,
    measured: float,
    measured_interval: Sequence[float] | None,
) -> tuple[float, float] | None:
    """The same where both are of other prompts: relative widths add up as squares do."""
    if predicted_interval is None or measured_interval is None or not predicted:
        return None
    ratio = predicted / measured
    low = hypot(1 - predicted_interval[0] / predicted, measured_interval[1] / measured - 1)
    high = hypot(predicted_interval[1] / predicted - 1, 1 - measured_interval[0] / measured)
    return max(0.0, ratio * (1 - low)), ratio * (1 + high)
