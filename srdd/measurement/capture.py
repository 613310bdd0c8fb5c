"""Capture: hooks that measure activations while a model runs, and are always removed.

A point is a module's output, its input, or its product. Several modules often read the same tensor
(the query, key and value projections; gate and up): as an input it is measured once, at the module
that reads it first, whose record names the others. Experts that are stacked in one parameter have
no modules to hook; srdd.model.experts reports their products.

A hook never keeps an activation. It runs the kernel on it at once, while it is still in cache, and
adds the result to sums on the same device. No hook waits for the device.

A batch counts when it is complete. Until then its sums are kept apart, so that a batch that fails
half-way can be repeated in smaller parts. Rows of padding are measured and added to a bin that
nobody reads (srdd.measurement.tallies), since selecting rows would wait for the device.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from srdd.documents.records import Measured, unseen_experts
from srdd.documents.scan import Operands
from srdd.measurement.calls import first_float
from srdd.measurement.plan import Plan
from srdd.measurement.products import product_sums
from srdd.measurement.tallies import NOT_COUNTED, Rows, Tally
from srdd.measurement.work import Part
from srdd.model.experts import Product, one_by_one, watching
from srdd.model.linears import Weight, stacked_in, stream_of, weight_of
from srdd.numerics.floors import floor_of, product_floor_db
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.kernels import row_sums

UNREACHED = "no forward pass went through it"
STACKED = "its experts run in a way that cannot be matched with tokens"


@dataclass(frozen=True)
class Point:
    """A module at which something is measured.

    Attributes:
        layer: index of its decoder layer.
        site: what is measured there, of srdd.numerics.sites.SITES, but for weights.
        tensor: the module's name; of stacked experts, the parameter's.
        key: of the parameter in which the module's experts are stacked; None for other modules.
    """

    layer: int
    site: str
    tensor: str
    module: nn.Module
    key: str | None = None


Key = tuple[Point, FormatSpec, Operands | None]

ORDER = "order"


class Capture:
    """Measures points in a plan's formats while batches run through the model.

    Example:
        capture = Capture(points, plan)
        with capture.hooked():
            for batch in batches:
                with capture.batch(replicates, keys):
                    model(batch)
        capture.measured()
    """

    def __init__(self, points: Sequence[Point], plan: Plan) -> None:
        self._points = points
        self._plan = plan
        self._totals: dict[Key, Tally] = {}
        self._restored: dict[Key, Tally] = {}
        """Totals of before that no batch has been added to since; see `restore`."""
        self._order: list[Key] = []
        """Of the totals that were restored."""
        self._current: dict[Key, Tally] | None = None
        """Sums of the batch that is running; None between batches."""
        self._rows = Rows(torch.empty(0, dtype=torch.int64), None)
        self._inputs: dict[tuple[int, int], tuple[weakref.ref[torch.Tensor], Point]] = {}
        """id and version of an input of this batch -> the input and its first reader."""
        self._readers: dict[Point, list[str]] = {}
        """Point -> other modules that read its input."""
        self._unmatched: dict[Point, str] = {}
        """Point -> why it cannot be measured."""
        self._experts: dict[Point, set[int]] = {}
        """Point of stacked experts -> those that saw a token."""
        self._widths: dict[Point, int] = {}
        """Point of site `linear` -> input features."""

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """In here the hooks are in place; afterwards they are gone, also after an error."""
        stacks: dict[nn.Module, list[Point]] = {}
        with ExitStack() as stack:
            for point in self._points:
                if point.key is None:
                    stack.callback(self._hook(point).remove)
                else:
                    stacks.setdefault(point.module, []).append(point)
            for module, points in stacks.items():
                stack.enter_context(watching(module, self._product_hook(points)))
            stack.enter_context(one_by_one(stacks))
            yield

    @contextmanager
    def batch(self, replicates: torch.Tensor, keys: torch.Tensor | None = None) -> Iterator[None]:
        """Forward passes in here count together, and only if all goes well.

        Arguments:
            replicates: (batch, tokens) int64, the replicate of each token or tallies.NOT_COUNTED.
            keys: (batch, tokens) int64, for stochastic rounding; see srdd.numerics.kernels.
        """
        self._current = {}
        self._inputs = {}
        self._rows = Rows(replicates, keys)
        try:
            yield
            for key, tally in self._current.items():
                if key in self._restored:
                    self._totals[key] = self._restored.pop(key).on(tally.device)
                total = self._totals.setdefault(key, tally)
                if total is not tally:
                    total.merge(tally)
        finally:
            self._current = None

    def _hook(self, point: Point) -> Any:
        if point.site == "output":

            def after(module: nn.Module, given: object, output: object) -> None:
                if self._current is not None:
                    self._measure(point, first_float(output))

            return point.module.register_forward_hook(after)

        def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = first_float((*given, *named.values()))
            if self._current is None:
                return
            if point.site == "linear":
                weight = weight_of(point.layer, point.tensor, module)
                self._measure(point, hidden, weight)
            elif not self._is_shared(point, hidden):
                self._measure(point, hidden)

        return point.module.register_forward_pre_hook(before, with_kwargs=True)

    def _product_hook(self, points: Sequence[Point]) -> Callable[[Product], None]:
        """What to do with a product of stacked experts."""

        def measure(product: Product) -> None:
            for point in points:
                if self._current is None or point.key != product.key:
                    continue
                self._experts.setdefault(point, set()).add(product.expert)
                name = f"{point.tensor}[{product.expert}]"
                weight = None
                if point.site == "linear":
                    weight = Weight(point.layer, name, product.weight.detach(), transposed=False)
                self._measure(point, product.x, weight, product.tokens, name)

        return measure

    def _is_shared(self, point: Point, hidden: torch.Tensor | None) -> bool:
        """Whether another point has read this very tensor in this batch; if so, that one names it.

        By identity and the count of changes in place; by a weak reference, so that nothing lives
        longer for having been measured.
        """
        if hidden is None:
            return False
        key = (id(hidden), 0 if hidden.is_inference() else hidden._version)
        known = self._inputs.get(key)
        if known is None or known[0]() is not hidden:
            self._inputs[key] = (weakref.ref(hidden), point)
            return False
        readers = self._readers.setdefault(known[1], [])
        if point.tensor not in readers:
            readers.append(point.tensor)
        return True

    def _measure(
        self,
        point: Point,
        hidden: torch.Tensor | None,
        weight: Weight | None = None,
        chosen: torch.Tensor | None = None,
        name: str | None = None,
    ) -> None:
        """Add what quantization does to a tensor, or to its product with `weight`.

        Arguments:
            chosen: which of the batch's tokens its rows belong to; all, in order, for None.
            name: of the tensor, for stochastic rounding; the point's for None.
        """
        assert self._current is not None
        reason = self._unusable_reason(hidden, weight, chosen)
        if hidden is None or reason is not None:
            self._unmatched[point] = reason or ""
            return
        rows = hidden.detach().reshape(-1, hidden.shape[-1])
        if rows.dtype == torch.float64:
            rows = rows.float()
        replicate, keys = self._rows.on(rows.device, chosen)
        if keys is not None:  # every tensor draws numbers of its own
            keys = keys + stream_of(name or point.tensor, self._plan.seed)
        if weight is not None:
            self._widths[point] = rows.shape[-1]
            counts = replicate != NOT_COUNTED
            products = product_sums(rows, weight, self._plan, keys, counts)
            for (spec, operands), sums in products.items():
                self._add((point, spec, operands), sums, replicate)
            return
        for spec in self._plan.specs:
            x = rows
            if spec.scale_rule == "tensor":  # its scale is not taken from rows that do not count
                x = torch.where((replicate != NOT_COUNTED)[:, None], rows, 0)
            self._add((point, spec, None), row_sums(x, spec, self._plan.rounding, keys), replicate)

    def _unusable_reason(
        self, hidden: torch.Tensor | None, weight: Weight | None, chosen: torch.Tensor | None
    ) -> str | None:
        """Why a tensor, or its product with a weight, cannot be measured; None where it can."""
        tokens = self._rows.count if chosen is None else len(chosen)
        if hidden is None or hidden.shape[:-1].numel() != tokens:
            shape = "none" if hidden is None else " x ".join(map(str, hidden.shape))
            return f"its rows cannot be matched with tokens (shape {shape} for {tokens} tokens)"
        if weight is None:
            return None
        reason = weight.unusable_reason()
        if reason is None and weight.sides[1] != hidden.shape[-1]:
            reason = f"it takes {hidden.shape[-1]} values a token, its weight {weight.sides[1]}"
        return reason

    def _add(self, key: Key, sums: torch.Tensor, replicate: torch.Tensor) -> None:
        assert self._current is not None
        if key not in self._current:
            self._current[key] = Tally(sums.device)
        self._current[key].add(sums, replicate.to(sums.device))

    def part(self) -> Part:
        """What was added up so far; waits for the device."""
        part = Part(facts={ORDER: []})
        for (point, spec, operands), tally in self._all_totals().items():
            name = json.dumps([point.site, point.tensor, str(spec), operands])
            part.facts[ORDER].append(name)
            part.sums |= {f"{kind} {name}": sums for kind, sums in tally.arrays().items()}
        for kind, facts in self._facts().items():
            for point, values in facts.items():
                part.facts[json.dumps([kind, point.site, point.tensor])] = values
        return part

    def restore(self, part: Part) -> None:
        """Go on from what `part` gave, of the same points."""
        points = {(point.site, point.tensor): point for point in self._points}
        self._totals, self._restored = {}, {}
        self._order = []
        for name in part.facts[ORDER]:
            site, tensor, spec, operands = json.loads(name)
            key = points[site, tensor], parse_spec(spec), operands
            self._restored[key] = Tally.of(part.sums[f"sums {name}"], part.sums[f"tokens {name}"])
            self._order.append(key)
        for name, values in part.facts.items():
            if name == ORDER:
                continue
            kind, site, tensor = json.loads(name)
            point = points[site, tensor]
            if kind == "readers":
                self._readers[point] = list(values)
            elif kind == "experts":
                self._experts[point] = set(values)
            elif kind == "unmatched":
                self._unmatched[point] = values[0]
            else:
                self._widths[point] = values[0]

    def _facts(self) -> dict[str, dict[Point, list[Any]]]:
        return {
            "readers": {point: list(names) for point, names in self._readers.items()},
            "experts": {point: sorted(experts) for point, experts in self._experts.items()},
            "unmatched": {point: [reason] for point, reason in self._unmatched.items()},
            "widths": {point: [width] for point, width in self._widths.items()},
        }

    def not_measured(self) -> dict[tuple[str, str], str]:
        """Tensors and sites of points without figures, or with figures in part, with the reason."""
        measured = {point for point, _, _ in self._all_totals()}
        read_with = {name: point for point, names in self._readers.items() for name in names}
        reasons = {}
        for point in self._points:
            first = read_with.get(point.tensor) if point.site == "input" else None
            reason: str | None
            if point in self._unmatched:
                reason = self._unmatched[point]
            elif point in measured:
                reason = None if point.key is None else self._unseen(point)
            elif first is not None:
                reason = self._unmatched.get(first)
            else:
                reason = UNREACHED if point.key is None else STACKED
            if reason is not None:
                reasons[point.tensor, point.site] = reason
        return reasons

    def _unseen(self, point: Point) -> str | None:
        """Which of a point's experts saw no token, in words."""
        count = len(dict(stacked_in(point.module))[point.key or ""])
        return unseen_experts(set(range(count)) - self._experts.get(point, set()), count)

    def measured(self) -> list[Measured]:
        """What was added up, point by point and format by format; waits for the device.

        A point that could not be measured in one batch has no figures: they would be of a part.
        """
        return [
            Measured(
                layer=point.layer,
                site=point.site,
                tensor=point.tensor,
                shared_with=tuple(self._readers.get(point, ())),
                spec=spec,
                operands=operands,
                floor_db=self._floor_db(point, spec, operands),
                **tally.read(),
            )
            for (point, spec, operands), tally in self._all_totals().items()
            if point not in self._unmatched
        ]

    def _all_totals(self) -> dict[Key, Tally]:
        """In the order in which a forward pass comes to them."""
        order = dict.fromkeys((*self._order, *self._totals))
        return {key: self._totals.get(key) or self._restored[key] for key in order}

    def _floor_db(self, point: Point, spec: FormatSpec, operands: Operands | None) -> float | None:
        if point not in self._widths:
            return None
        floor = floor_of(spec, self._plan.rounding, self._widths[point]).sqnr_db
        return product_floor_db(floor, operands)
