"""Capture: hooks that measure activations while a model runs, and are always removed.

A point is a module's output or its input. Several modules often read one and the same tensor (the
query, key and value projections; gate and up): it is measured once, at the module that reads it
first, and the others are noted there.

A hook never keeps an activation. It runs the kernel on it at once, while it is still in cache, and
adds the result to sums on the same device. No hook waits for the device: rows that must not count
(padding, a first token) are not selected but added to a bin that nobody reads.

A batch counts when it is complete. Until then its sums are kept apart, so that a batch that fails
half-way can be repeated in smaller parts.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from srdd import histogram
from srdd.formats import FormatSpec
from srdd.kernels import row_sums
from srdd.records import REPLICATES, Measured
from srdd.sums import FIELDS, INDEX

NOT_COUNTED = REPLICATES
"""The bin of rows that do not count: one past the last replicate."""


@dataclass(frozen=True)
class Point:
    """A module whose output or input is measured.

    Attributes:
        layer: index of its decoder layer.
        site: what is measured there; `input` is what goes into the module, else what comes out.
        tensor: the module's name.
    """

    layer: int
    site: str
    tensor: str
    module: nn.Module


class _Tally:
    """Sums and token histogram of one point in one format, on the device where it runs."""

    def __init__(self, device: torch.device) -> None:
        # One histogram bin more, for tokens without an SQNR; one replicate more, see NOT_COUNTED.
        self.sums = torch.zeros(REPLICATES + 1, len(FIELDS), dtype=torch.float64, device=device)
        self.tokens = torch.zeros(histogram.BINS + 1, dtype=torch.int64, device=device)

    def add(self, rows: torch.Tensor, replicate: torch.Tensor) -> None:
        """Add the sums of rows (tokens, fields), each to its replicate (tokens,)."""
        self.sums.index_add_(0, replicate, rows)
        x2, e2 = rows[:, INDEX["x2"]], rows[:, INDEX["e2"]]
        sqnr_db = 10 * torch.log10(x2 / e2)
        place = ((sqnr_db - histogram.LOWEST_DB) / histogram.BIN_DB).floor()
        place = place.clamp(0, histogram.BINS - 1)
        place = torch.where((x2 > 0) & (e2 > 0), place, histogram.BINS).to(torch.int64)
        self.tokens.index_add_(0, place, (replicate != NOT_COUNTED).to(torch.int64))

    def merge(self, other: _Tally) -> None:
        self.sums += other.sums
        self.tokens += other.tokens


class _Rows:
    """The replicate and key of each row of the current batch, copied to a device only once."""

    def __init__(self, replicates: torch.Tensor, keys: torch.Tensor | None) -> None:
        self._replicates = replicates.reshape(-1)
        self._keys = None if keys is None else keys.reshape(-1)
        self._copies: dict[torch.device, tuple[torch.Tensor, torch.Tensor | None]] = {}

    @property
    def count(self) -> int:
        return self._replicates.numel()

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        if device not in self._copies:
            keys = None if self._keys is None else self._keys.to(device, non_blocking=True)
            self._copies[device] = (self._replicates.to(device, non_blocking=True), keys)
        return self._copies[device]


def _hidden_states(output: object) -> torch.Tensor | None:
    """The hidden states in what a layer returns: a tensor, or the first in a tuple or mapping."""
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        for part in output:
            found = _hidden_states(part)
            if found is not None:
                return found
    return None


class Capture:
    """Measures a set of points in a set of formats while batches run through the model.

    Example:
        capture = Capture(points, specs, rounding="even")
        with capture.hooked():
            for batch in batches:
                with capture.batch(replicates, keys):
                    model(batch)
        capture.measured()
    """

    def __init__(
        self, points: Sequence[Point], specs: Sequence[FormatSpec], *, rounding: str = "even"
    ) -> None:
        self._points = tuple(points)
        self._specs = tuple(specs)
        self._rounding = rounding
        self._totals: dict[tuple[Point, FormatSpec], _Tally] = {}
        self._current: dict[tuple[Point, FormatSpec], _Tally] | None = None
        self._rows = _Rows(torch.empty(0, dtype=torch.int64), None)
        self._read: dict[int, tuple[weakref.ref[torch.Tensor], Point]] = {}
        self._shared: dict[Point, list[str]] = {}
        self._unmatched: dict[Point, str] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While this runs, the hooks are in place; afterwards they are gone, whatever happened."""
        handles = []
        try:
            for point in self._points:
                handles.append(self._hook(point))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def batch(self, replicates: torch.Tensor, keys: torch.Tensor | None = None) -> Iterator[None]:
        """Forward passes in here count together, and only if all goes well.

        Arguments:
            replicates: (batch, tokens) int64, the replicate of each token or NOT_COUNTED.
            keys: (batch, tokens) int64, what stochastic rounding draws its noise from.
        """
        self._current = {}
        self._read = {}
        self._rows = _Rows(replicates, keys)
        try:
            yield
            for key, tally in self._current.items():
                if key in self._totals:
                    self._totals[key].merge(tally)
                else:
                    self._totals[key] = tally
        finally:
            self._current = None

    def _hook(self, point: Point) -> Any:
        if point.site == "input":

            def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
                hidden = _hidden_states((*given, *named.values()))
                if self._current is not None and not self._is_known(point, hidden):
                    self._measure(point, hidden)

            return point.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: nn.Module, given: object, output: object) -> None:
            if self._current is not None:
                self._measure(point, _hidden_states(output))

        return point.module.register_forward_hook(after)

    def _is_known(self, point: Point, hidden: torch.Tensor | None) -> bool:
        """Whether another point of this batch has measured this very tensor; if so, note it there.

        By identity, held weakly: nothing lives longer for having been measured.
        """
        if hidden is None:
            return False
        known = self._read.get(id(hidden))
        if known is not None and known[0]() is hidden:
            readers = self._shared.setdefault(known[1], [])
            if point.tensor not in readers:
                readers.append(point.tensor)
            return True
        self._read[id(hidden)] = (weakref.ref(hidden), point)
        return False

    def _measure(self, point: Point, hidden: torch.Tensor | None) -> None:
        assert self._current is not None
        tokens = self._rows.count
        if hidden is None or hidden.shape[:-1].numel() != tokens:
            shape = "none" if hidden is None else " x ".join(map(str, hidden.shape))
            self._unmatched[point] = (
                f"its rows cannot be matched with tokens (shape {shape} for {tokens} tokens)"
            )
            return
        rows = hidden.detach().reshape(-1, hidden.shape[-1])
        if rows.dtype == torch.float64:
            rows = rows.float()
        replicate, keys = self._rows.on(rows.device)
        if keys is not None:
            # Layers draw from streams of their own.
            keys = keys + point.layer * 0x9E3779B9
        for spec in self._specs:
            found = row_sums(rows, spec, self._rounding, keys)
            key = (point, spec)
            if key not in self._current:
                self._current[key] = _Tally(found.device)
            self._current[key].add(found, replicate.to(found.device))

    def not_measured(self) -> dict[str, str]:
        """Module names of points without figures, each with the reason."""
        measured = {point for point, _ in self._totals}
        named = {name for readers in self._shared.values() for name in readers}
        reasons = {}
        for point in self._points:
            if point not in measured and not (point.site == "input" and point.tensor in named):
                reason = self._unmatched.get(point, "no forward pass went through it")
                reasons[point.tensor] = reason
        return reasons

    def measured(self) -> list[Measured]:
        """What was added up, point by point and format by format; waits for the device."""
        found = []
        for (point, spec), tally in self._totals.items():
            tokens = tally.tokens.cpu().numpy()
            found.append(
                Measured(
                    layer=point.layer,
                    site=point.site,
                    tensor=point.tensor,
                    shared_with=tuple(self._shared.get(point, ())),
                    spec=spec,
                    replicates=tally.sums[:REPLICATES].cpu().numpy(),
                    tokens_by_sqnr=tokens[: histogram.BINS].astype(np.int64),
                    undefined_tokens=int(tokens[histogram.BINS]),
                )
            )
        return found
