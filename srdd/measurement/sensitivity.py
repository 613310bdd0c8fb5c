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
    scores          both of one batch
    magnitudes      of the weights that noise falls on
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srdd.documents.records import REPLICATES, replicate_of
from srdd.documents.scan import Operands
from srdd.documents.sensitivity import Magnitudes
from srdd.errors import InputError, counted
from srdd.measurement.calls import (
    Target,
    targets_of,
)
from srdd.measurement.forward import run_halving
from srdd.measurement.labels import check_predicted, predicted, uniforms
from srdd.measurement.listener import Listener
from srdd.measurement.magnitudes import magnitudes_of
from srdd.measurement.passes import Passes, differentiable
from srdd.measurement.plan import KL_SAMPLES
from srdd.measurement.scores import Scores
from srdd.measurement.work import Part, current
from srdd.model.kinds import kind_of
from srdd.model.linears import find_weights
from srdd.model.running import device_of, vocabulary_of
from srdd.model.selection import Selection
from srdd.model.structure import Structure
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches, split

TOKENS, ORDER = "tokens", ""
"""Names in a Part beside those of tensors."""

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
        magnitudes: how large the values of these weights are, where they are in reach.
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
    magnitudes: Mapping[str, Magnitudes | None]
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
    check_predicted(tokenized, skip_first_token)
    amount = tokenized.tokens
    listener.started(
        f"estimating sensitivity on {counted(len(tokenized.ids), 'prompt')}", amount, "tokens"
    )
    vocabulary = vocabulary_of(model) or 1
    with differentiable(model):
        batches = [
            part
            for batch in make_batches(tokenized, batch_size, pad)
            for part in _cut(batch, vocabulary)
        ]
        work = current()
        own = work.share(batches, [batch.tokens for batch in batches])
        for batch in work.through(
            "sensitivity", own, run, lambda batch: listener.advanced(batch.tokens)
        ):
            run_halving(batch, run.add, device, listener)
    work.unite(run)
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
        self._by_element: dict[str, Tensor] = {}
        self._unusable: dict[str, str] = {}

    def part(self) -> Part:
        """What was added up so far."""
        named = {
            json.dumps(["change", tensor, str(spec), operands]): sums
            for (tensor, spec, operands), sums in self._changes.items()
        }
        named |= {
            json.dumps(["joint", *scope, str(spec), operands]): sums
            for (scope, spec, operands), sums in self._joint.items()
        }
        named |= {json.dumps(["noise", tensor]): sums for tensor, sums in self._noise.items()}
        named |= {
            json.dumps(["element", tensor]): sums.numpy()
            for tensor, sums in self._by_element.items()
        }
        unusable = self._unusable | {t.tensor: why for t, why in self._passes.unusable.items()}
        facts = {tensor: [reason] for tensor, reason in unusable.items()}
        return Part({TOKENS: self._tokens, **named}, facts | {ORDER: list(named)})

    def restore(self, part: Part) -> None:
        """Go on from what `part` gave."""
        self._tokens = part.sums[TOKENS].copy()
        self._changes, self._joint, self._noise, self._by_element = {}, {}, {}, {}
        for name in part.facts[ORDER]:
            sums = part.sums[name].copy()
            match json.loads(name):
                case "change", tensor, spec, operands:
                    self._changes[tensor, parse_spec(spec), operands] = sums
                case "joint", scope, key, spec, operands:
                    self._joint[(scope, key), parse_spec(spec), operands] = sums
                case "noise", tensor:
                    self._noise[tensor] = sums
                case _, tensor:
                    self._by_element[tensor] = torch.from_numpy(sums)
        self._unusable = {name: why[0] for name, why in part.facts.items() if name != ORDER}

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
        for target, elements in scores.by_element().items():
            known, here = self._by_element.get(target.tensor), elements.cpu().double()
            self._by_element[target.tensor] = here if known is None else known + here
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
            magnitudes={
                target.tensor: magnitudes_of(weight, self._by_element.get(target.tensor))
                for target in targets
                if target.tensor in self._noise
                and (weight := target.module._parameters.get(target.key or "weight")) is not None
            },
            layers={target.tensor: target.layer for target in targets},
            norms=frozenset(t.tensor for t in targets if t.kind == "norm"),
            unusable=unusable,
            by_layer=bool(self._passes.by_layer),
        )
