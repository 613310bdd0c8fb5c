"""Scores of one batch: s of every change and squared gradients, from the calls of its passes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from srdd.documents.scan import Operands
from srdd.measurement.calls import OVERWRITTEN, Call, LinearCall, NormCall, Target
from srdd.measurement.contributions import (
    contributions,
    squared_gradients,
    squared_gradients_of_rows,
)
from srdd.measurement.labels import Positions
from srdd.measurement.passes import Gradients
from srdd.numerics.formats import FormatSpec
from srdd.prompts.batches import Batch


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

    def by_element(self) -> dict[Target, Tensor]:
        """The same for each element of a norm's gain, the mean over samples: (size,)."""
        return {target: g.square().mean(0).sum(0) for target, g in self._gains.items()}

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
