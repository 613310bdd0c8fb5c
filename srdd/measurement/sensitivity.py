"""Sensitivity: what quantizing each linear, or noise on each parameter, does to the predictions.

For a linear whose output changes by dY while all else stays as it is, the KL divergence of the
next-token distribution from the model's own, summed over a prompt, is to second order

    KL = 1/2 dY' J' H J dY        H = diag(p) - p p' at each position, J: outputs -> logits

Labels y_t drawn from the model's own p_t at each position, and the gradient g of
L = - sum_t log p_t(y_t) with respect to the output, have E[g g'] = J' H J. Therefore

    KL = 1/2 E[s^2],     s = sum over all positions and channels of g * dY

with the sum over the prompt inside the square. Independent noise of variance sigma^2 on a parameter
costs 1/2 sigma^2 F with F = E[ || gradient of L with respect to it || ^2 ].

K samples of labels take one forward and K backward passes for all linears, operands and formats
together. Sums are kept by groups of prompts, the replicates of a scan, so that they can be added
and intervals be had from them.

    labels          labels and the gradient of their loss
    calls           what goes into linears and norms, and where their outputs lie in the graph
    passes          one forward and K backward passes, a layer at a time
    contributions   s and F from inputs and gradients
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srdd.documents.records import REPLICATES, replicate_of
from srdd.documents.scan import Operands
from srdd.errors import InputError, counted
from srdd.measurement.calls import (
    OVERWRITTEN,
    Call,
    LinearCall,
    NormCall,
    Target,
    targets_of,
)
from srdd.measurement.contributions import (
    contributions,
    squared_gradients,
    squared_gradients_of_rows,
)
from srdd.measurement.forward import run_halving
from srdd.measurement.labels import Positions, predicted, uniforms
from srdd.measurement.listener import Listener
from srdd.measurement.passes import Gradients, Passes, differentiable
from srdd.measurement.plan import KL_SAMPLES
from srdd.model.kinds import kind_of
from srdd.model.linears import find_weights
from srdd.model.running import device_of, vocabulary_of
from srdd.model.selection import Selection
from srdd.model.structure import Structure
from srdd.numerics.formats import FormatSpec
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches, split

LOGITS = 1 << 27
"""Logits of a batch at most, where it can be cut: 256 MiB in bfloat16, and twice that in all."""

Sums = NDArray[np.float64]
Change = tuple[str, FormatSpec, Operands]
Scope = tuple[Literal["all", "layer", "kind"], str]


@dataclass(frozen=True)
class Sensitivity:
    """Sums by group of prompts, each float64 (groups,).

    Attributes:
        samples: of labels for each prompt.
        tokens: predicted tokens of each group.
        changes: sum over prompts of the mean over samples of s^2, for each tensor, format and
            choice of operands. KL in nats a token is half its sum over the sum of `tokens`.
        joint: the same of the sum of s over all tensors, over those of a layer, and of a kind.
        noise: sum over prompts of the mean of || gradient ||^2, for norms and linears by name.
        layers: tensor or norm -> decoder layer, None for a norm outside all layers.
        norms: names of the norms among `noise`.
        unusable: tensors without figures, each with the reason.
        by_layer: whether the passes ran a layer at a time.
    """

    samples: int
    tokens: Sums
    changes: Mapping[Change, Sums]
    joint: Mapping[tuple[Scope, FormatSpec, Operands], Sums]
    noise: Mapping[str, Sums]
    layers: Mapping[str, int | None]
    norms: frozenset[str]
    unusable: Mapping[str, str]
    by_layer: bool

    def kl(self, change: Change) -> float:
        """Nats a token that one change costs."""
        return _halved(self.changes[change], self.tokens)

    def joint_kl(self, spec: FormatSpec, operands: Operands, scope: Scope = ("all", "")) -> float:
        """Nats a token that all changes of a scope cost together, with their interactions."""
        return _halved(self.joint[scope, spec, operands], self.tokens)

    def kl_per_sigma2(self, name: str) -> float:
        """Nats a token that noise of variance 1 on a norm's gain or a linear's weight costs."""
        return _halved(self.noise[name], self.tokens)


def _halved(sums: Sums, tokens: Sums) -> float:
    return 0.5 * float(sums.sum()) / float(tokens.sum())


def measure_sensitivity(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    specs: Sequence[FormatSpec],
    *,
    selection: Selection | None = None,
    samples: int = KL_SAMPLES,
    pad: int = 0,
    rounding: str = "even",
    batch_size: int | Literal["auto"] = "auto",
    skip_first_token: bool = False,
    seed: int = 0,
    listener: Listener | None = None,
) -> Sensitivity:
    """Run all prompts once and estimate what each change costs; the model is left as it was.

    Arguments:
        selection: which linears; all for None. Norms are always included.
        samples: of labels for each prompt, at least 1.
        pad: a token id to pad with.
        skip_first_token: leave out what is predicted from each prompt's first token.
        seed: of the labels, and of stochastic rounding.

    Raises:
        UsageError: gradients cannot be taken in this model (compiled, or in inference mode).
        InputError: no prompt has a token to predict; the model gives no logits; no weight is in
            memory; too little memory for a single prompt.
    """
    listener = listener or Listener()
    layers, others = targets_of(model, structure, selection or Selection())
    _check_weights(model, structure, selection)
    device = device_of(model)
    passes = Passes(model, [layer.module for layer in structure.layers], layers, others, device)
    run = _Run(passes, tokenized, specs, samples, rounding, skip_first_token, seed)
    if not any(len(ids) > 1 + skip_first_token for ids in tokenized.ids):
        raise InputError(
            "no prompt has a token to predict: each is a single token",
            "give prompts of two tokens or more",
        )
    amount = tokenized.tokens
    listener.started(
        f"estimating sensitivity on {counted(len(tokenized.ids), 'prompt')}", amount, "tokens"
    )
    vocabulary = vocabulary_of(model) or 1
    with differentiable(model):
        for batch in make_batches(tokenized, batch_size, pad):
            for part in _cut(batch, vocabulary):
                run_halving(part, run.add, device, listener)
    return run.result([*(target for layer in layers for target in layer), *others])


def _check_weights(model: nn.Module, structure: Structure, selection: Selection | None) -> None:
    weights = list(find_weights(model, structure, selection))
    reasons = [weight.unusable_reason() for weight in weights]
    if all(reasons):
        first = f"{weights[0].name}: {reasons[0]}" if weights else "the model has no linears"
        raise InputError(
            f"the sensitivity of no linear can be measured ({first})",
            "load the whole model into memory, on GPUs or on the CPU",
        )


def _cut(batch: Batch, vocabulary: int) -> list[Batch]:
    """Parts of a batch with at most LOGITS logits each, or of one prompt."""
    if len(batch.index) > 1 and batch.input_ids.numel() * vocabulary > LOGITS:
        return [part for half in split(batch) for part in _cut(half, vocabulary)]
    return [batch]


class _Run:
    """Adds batches up. A batch counts when it is complete."""

    def __init__(
        self,
        passes: Passes,
        tokenized: TokenizedPrompts,
        specs: Sequence[FormatSpec],
        samples: int,
        rounding: str,
        skip_first: bool,
        seed: int,
    ) -> None:
        self._passes = passes
        self._fingerprints = tokenized.fingerprints
        self._places = {number: place for place, number in enumerate(tokenized.index)}
        self._group = [replicate_of(name) for name in tokenized.fingerprints]
        self._specs, self._samples, self._rounding = specs, samples, rounding
        self._skip_first, self._seed = skip_first, seed
        self._tokens = np.zeros(REPLICATES)
        self._changes: dict[Change, Sums] = {}
        self._joint: dict[tuple[Scope, FormatSpec, Operands], Sums] = {}
        self._noise: dict[str, Sums] = {}
        self._unusable: dict[str, str] = {}

    def add(self, batch: Batch) -> None:
        """Count one batch, once all of its passes are done."""
        self._keep(batch, self._scores(batch))

    def _scores(self, batch: Batch) -> Scores:
        names = [self._fingerprints[self._places[number]] for number in batch.index]
        positions = predicted(batch, self._skip_first)
        drawn = uniforms(names, batch.input_ids.shape[1], self._samples, self._seed)
        labels = drawn[:, positions.rows, positions.columns]
        scores = Scores(batch, self._specs, self._samples, self._rounding, names, self._seed)
        scores.positions = positions
        self._passes.run(batch, positions, labels, scores.consume)
        return scores

    def _keep(self, batch: Batch, scores: Scores) -> None:
        assert scores.positions is not None
        places = np.array([self._group[self._places[number]] for number in batch.index])
        np.add.at(self._tokens, places, scores.positions.counts.numpy())

        def keep(totals: dict, key: object, squares: Tensor) -> None:  # type: ignore[type-arg]
            sums = totals.setdefault(key, np.zeros(REPLICATES))
            np.add.at(sums, places, squares.mean(0).cpu().numpy())

        joint: dict[tuple[Scope, FormatSpec, Operands], Tensor] = {}
        for (target, spec, operands), s in scores.changes.items():
            keep(self._changes, (target.tensor, spec, operands), s.square())
            scopes: list[Scope] = [
                ("all", ""),
                ("layer", str(target.layer)),
                ("kind", kind_of(target.tensor)),
            ]
            for scope in scopes:
                key = (scope, spec, operands)
                here = s.cpu()
                joint[key] = joint[key] + here if key in joint else here
        for key, s in joint.items():
            keep(self._joint, key, s.square())
        for target, squares in scores.noise().items():
            keep(self._noise, target.tensor, squares)
        self._unusable |= {target.tensor: reason for target, reason in scores.unusable.items()}

    def result(self, targets: Sequence[Target]) -> Sensitivity:
        unusable = self._unusable | {
            target.tensor: reason for target, reason in self._passes.unusable.items()
        }
        measured = {tensor for tensor, _, _ in self._changes} | set(self._noise)
        for target in targets:
            if target.tensor not in measured:
                unusable.setdefault(target.tensor, "no forward pass went through it")
        return Sensitivity(
            samples=self._samples,
            tokens=self._tokens,
            changes=self._changes,
            joint=self._joint,
            noise=self._noise,
            layers={target.tensor: target.layer for target in targets},
            norms=frozenset(t.tensor for t in targets if t.kind == "norm"),
            unusable=unusable,
            by_layer=bool(self._passes.by_layer),
        )


@dataclass
class Scores:
    """s and squared gradients of one batch, from the calls of its passes.

    Attributes:
        changes: (samples, prompts) for each target, format and choice of operands. Calls of one
            module add up before anything is squared.
        unusable: targets without figures, each with the reason.
    """

    batch: Batch
    specs: Sequence[FormatSpec]
    samples: int
    rounding: str
    fingerprints: Sequence[str]
    seed: int
    positions: Positions | None = None
    changes: dict[tuple[Target, FormatSpec, Operands], Tensor] = field(default_factory=dict)
    unusable: dict[Target, str] = field(default_factory=dict)
    _squares: dict[Target, Tensor] = field(default_factory=dict)
    _gains: dict[Target, Tensor] = field(default_factory=dict)
    _first: dict[tuple[int, str | None], Target] = field(default_factory=dict)

    def consume(self, calls: Sequence[Call], gradients: Gradients) -> None:
        """Add the calls of a segment of the model, with each sample's gradient at their outputs."""
        linears: dict[Target, list[tuple[LinearCall, Tensor]]] = {}
        for call, found in zip(calls, gradients, strict=True):
            given = [gradient for gradient in found if gradient is not None]
            if len(given) != self.samples:
                continue
            g = torch.stack(given)
            # A module that several layers share is one tensor, known by its first name.
            target = self._first.setdefault((id(call.target.module), call.target.key), call.target)
            if isinstance(call, NormCall):
                self._add_norm(target, call, g)
            else:
                linears.setdefault(target, []).append((call, g))
        for target, found_calls in linears.items():
            self._add_linear(target, found_calls)

    def noise(self) -> dict[Target, Tensor]:
        """|| gradient ||^2 for each norm and linear, (samples, prompts)."""
        gains = {target: g.square().sum(-1) for target, g in self._gains.items()}
        return {**self._squares, **gains}

    def _add_norm(self, target: Target, call: NormCall, g: Tensor) -> None:
        prompts = len(self.batch.index)
        size = call.normalized.shape[-1]
        rows = call.normalized.numel() // size
        if rows % prompts:
            self.unusable[target] = "its rows cannot be matched with prompts"
            return
        # Padding has no gradient, and may hold anything.
        terms = torch.where(g != 0, g.to(call.normalized.dtype) * call.normalized, 0.0)
        gain = terms.reshape(self.samples, prompts, -1, size).sum(2, dtype=torch.float64)
        self._gains[target] = self._gains[target] + gain if target in self._gains else gain

    def _add_linear(self, target: Target, calls: Sequence[tuple[LinearCall, Tensor]]) -> None:
        prompts, tokens = self.batch.input_ids.shape
        for call, _ in calls:
            if not call.is_intact:
                self.unusable[target] = OVERWRITTEN
                return
            if call.tokens is None and len(call.x) != prompts * tokens:
                self.unusable[target] = (
                    f"its {len(call.x)} rows cannot be matched with {prompts * tokens} tokens"
                )
                return
        again = target in self._squares
        by_expert: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        regular: list[tuple[Tensor, Tensor]] = []
        for call, gradient in calls:
            device = call.x.device
            at = (
                torch.arange(prompts * tokens, device=device)
                if call.tokens is None
                else (call.tokens.to(device))
            )
            prompt = at // tokens
            real = self.batch.attention_mask.to(device).reshape(-1).bool()[at]
            x = torch.where(real[:, None], call.x, 0.0)
            g = gradient.reshape(self.samples, len(x), -1)
            g = torch.where(real[:, None], g, 0.0)
            found = contributions(
                x,
                g,
                call.weight,
                self.specs,
                rounding=self.rounding,
                keys=self._keys(at, target),
                seed=self.seed,
            )
            for (spec, operands), rows in found.items():
                s = torch.zeros(self.samples, prompts, dtype=torch.float64, device=device)
                s.index_add_(1, prompt, rows)
                key = (target, spec, operands)
                self.changes[key] = self.changes[key] + s if key in self.changes else s
            if call.tokens is None:
                regular.append(
                    (x.reshape(prompts, tokens, -1), g.reshape(self.samples, prompts, tokens, -1))
                )
            else:
                by_expert.setdefault(call.weight.name, []).append((x, g, prompt))
        if again:
            # Gradients of one weight add before they are squared, and those of earlier layers
            # are gone.
            self.unusable[target] = "several layers share it, so what noise on it costs is unknown"
            self._squares[target] = self._squares[target] * torch.nan
            return
        if regular:
            self._squares[target] = squared_gradients(
                torch.cat([x for x, _ in regular], 1), torch.cat([g for _, g in regular], 2)
            )
        for parts in by_expert.values():
            squares = squared_gradients_of_rows(
                torch.cat([x for x, _, _ in parts]),
                torch.cat([g for _, g, _ in parts], 1),
                torch.cat([prompt for _, _, prompt in parts]),
                prompts,
            )
            known = self._squares.get(target)
            self._squares[target] = squares if known is None else known + squares

    def _keys(self, at: Tensor, target: Target) -> Tensor | None:
        """What stochastic rounding draws from, for the tokens `at` of the batch."""
        if self.rounding != "stochastic":
            return None
        tokens = self.batch.input_ids.shape[1]
        digests = [hashlib.sha256(f"{name}/{self.seed}".encode()) for name in self.fingerprints]
        names = torch.tensor(
            [int.from_bytes(digest.digest()[:5], "big") for digest in digests], device=at.device
        )
        return (names[at // tokens] << 20) + at % tokens + (target.layer or 0) * 0x9E3779B9
