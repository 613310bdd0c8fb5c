"""The Recipe document: which linear is quantized in which format, and which is kept in 16 bits.

It names every linear whose cost the scan has, as the scan names it, and knows no quantizer or
trainer: exports turn it into what one of them reads. A linear that it does not name stays as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from srdd.documents.context import complete_format
from srdd.documents.document import AboveZero, Count, Document, Interval, Number, Part, Positive
from srdd.numerics.formats import parse_spec

KEPT = "bf16"
"""The format of a linear that is not quantized."""

KEPT_BITS = 16.0

GRANULARITIES = ("linear-group", "tensor", "layer")
"""What gets one format: linears that one kernel fuses, each linear, or each layer."""

TOLERANCE = 1e-6
"""Relative; figures of a recipe agree with those of its modules to this."""


def bits_of(format: str) -> float:
    """Bits a weight takes in `bf16`, or in a format such as `mxfp4:floor` with its scales."""
    return KEPT_BITS if format == KEPT else parse_spec(format).format.bits_per_value


def _format_or_kept(text: str) -> str:
    return text if text == KEPT else complete_format(text)


Candidate = Annotated[str, AfterValidator(_format_or_kept)]


class Model(Part):
    """The model that was scanned; the fingerprint is of its weights, as in the scan."""

    name: str
    fingerprint: str | None
    architecture: str | None


class Source(Part):
    """What the recipe was chosen by.

    Attributes:
        scan: SHA-256 of what was measured (`srdd.documents.identity.fingerprint`).
        method: whether costs were estimated, or measured directly one tensor at a time.
        tokens: predicted tokens that the costs are means over.
        holds: whether the scan's check of its estimates found that single tensors and their sum
            agree with direct measurement; null where nothing was checked.
        check: the result of that check, a sentence.
    """

    scan: str
    method: Literal["estimate", "direct"]
    tokens: Count
    holds: bool | None
    check: str


class Budget(Part):
    """The limit that was given: bits a weight on average, or nats a token; the other is null."""

    bits: AboveZero | None
    max_kl: Positive | None

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.bits is None) == (self.max_kl is None):
            raise ValueError("a budget is either of bits or of max_kl")
        return self


class Module(Part):
    """A linear with its format.

    Attributes:
        module: dotted name, as in the scan; of stacked experts, the parameter's name.
        layer: index of its decoder layer.
        kind: what it does, such as `down`; see `srdd.model.kinds`.
        parameters: number of weights.
        format: `bf16`, or a format with its scale rule such as `mxfp4:floor`.
        operands: what is quantized: `both` weight and input, or the `weight` alone; null for bf16.
        kl: predicted cost when this linear alone is quantized so, nats a token; 0 for bf16.
        group: name of the group whose linears have one format.
        pinned: whether the format was fixed beforehand and not chosen.
        why: reason for the format, a phrase.
    """

    module: str
    layer: Count
    kind: str
    parameters: Annotated[int, Field(strict=True, ge=1, le=1 << 62)]
    format: Candidate
    operands: Literal["both", "weight"] | None
    kl: Positive
    group: str
    pinned: bool
    why: str

    @model_validator(mode="after")
    def _kept_costs_nothing(self) -> Module:
        if (self.format == KEPT) != (self.operands is None):
            raise ValueError(f"operands of {self.module} do not fit its format {self.format}")
        if self.format == KEPT and self.kl:
            raise ValueError(f"{self.module} is kept in {KEPT} and has a cost")
        return self


class Comparison(Part):
    """A rule without costs, beside the recipe of the same bits.

    Attributes:
        name: the rule, such as `down_proj in bf16`; see `srdd.recipes.heuristics`.
        bits: average bits a weight of the rule.
        kl: its predicted cost, nats a token.
        recipe_kl: that of the recipes of at most these bits, each chosen by other prompts than it
            is evaluated on; of the recipe chosen by all where there is one group of prompts.
        difference: `recipe_kl` minus `kl`; below 0 the recipe costs less.
        difference_interval: 95 % interval over prompts, paired; null with one group of prompts.
    """

    name: str
    bits: AboveZero
    kl: Positive
    recipe_kl: Positive
    difference: Number
    difference_interval: Interval | None

    @property
    def verdict(self) -> Literal["lower", "open", "higher"]:
        """Whether the recipe costs less or more than the rule; open where 0 is in the interval."""
        if self.difference_interval is None:
            return "open"
        low, high = self.difference_interval
        return "lower" if high < 0 else "higher" if low > 0 else "open"


class Recipe(Document):
    """Which linear gets which format. Read one with `srdd.load_recipe`.

    Attributes:
        budget: the limit that the recipe keeps.
        granularity: what gets one format, of GRANULARITIES.
        bits: average bits a weight over `modules`, scales included.
        predicted_kl: sum of the modules' costs, nats a token.
        predicted_interval: its 95 % interval over prompts; null with a single group of prompts.
        cross_fit_kl: the same sum for recipes of these bits, each chosen by other prompts than it
            is evaluated on, with its interval; null with a single group of prompts. `predicted_kl`
            is the cost on the very prompts that chose the recipe, which makes it too low.
        all_low_kl: the same sum with every module in the format of fewest bits; what `50%` of a
            budget is a share of.
        formats: the candidates, by bits, `bf16` last.
        comparisons: rules that people use, each beside the recipe of its bits.
        left_out: linears of the decoder layers that are not among `modules` because the scan has no
            cost of them; they stay in 16 bits and do not count in `bits`.
        warnings: what a reader has to know.
    """

    PRETTY = True
    HINT = "`srdd recipe SCAN --bits BITS` writes a recipe"

    kind: Literal["srdd.recipe"] = "srdd.recipe"
    schema_version: Literal[1] = 1
    model: Model
    source: Source
    budget: Budget
    granularity: Literal["linear-group", "tensor", "layer"]
    bits: AboveZero
    predicted_kl: Positive
    predicted_interval: Interval | None
    cross_fit_kl: Positive | None = None
    cross_fit_interval: Interval | None = None
    all_low_kl: Positive
    formats: list[Candidate] = Field(min_length=2)
    modules: list[Module] = Field(min_length=1)
    comparisons: list[Comparison] = []
    left_out: list[str]
    warnings: list[str]

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        self._check_modules()
        self._check_figures()
        return self

    def _check_modules(self) -> None:
        names = Counter([*(m.module for m in self.modules), *self.left_out])
        name, times = names.most_common(1)[0]
        if times > 1:
            raise ValueError(f"module {name} occurs {times} times")
        if self.formats[-1] != KEPT or len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats are not each once with {KEPT} last")
        groups: dict[str, str] = {}
        for each in self.modules:
            if each.format not in self.formats:
                raise ValueError(f"{each.module} has format {each.format}, which is no candidate")
            if groups.setdefault(each.group, each.format) != each.format:
                raise ValueError(f"group {each.group} has more than one format")

    def _check_figures(self) -> None:
        for each in self.comparisons:
            if not _close(each.difference, each.recipe_kl - each.kl):
                raise ValueError(f"the difference from {each.name} is not that of the two costs")
        if not _close(self.bits, average_bits(self.modules)):
            raise ValueError("bits is not the average over the modules")
        if not _close(self.predicted_kl, math.fsum(m.kl for m in self.modules)):
            raise ValueError("predicted_kl is not the sum over the modules")
        limits = ((self.bits, self.budget.bits), (self.predicted_kl, self.budget.max_kl))
        if any(limit is not None and value > limit * (1 + TOLERANCE) for value, limit in limits):
            raise ValueError("the recipe is above its budget")

    @property
    def formats_by_module(self) -> dict[str, str]:
        """Module -> its format, in the order of the model."""
        return {each.module: each.format for each in self.modules}


def average_bits(modules: Sequence[Module]) -> float:
    """Bits a weight on average over modules, scales included."""
    total = sum(each.parameters for each in modules)
    return math.fsum(each.parameters * bits_of(each.format) for each in modules) / total


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12)


def load_recipe(path: str | Path) -> Recipe:
    """Read a Recipe from a file.

    Raises:
        InputError: the file cannot be read, is no Recipe, is newer than this srdd, or contradicts
            itself.
    """
    return Recipe.load(path)
