"""Assignments: formats of single linears under a name, and how recipes compare with others.

A recipe is one; beside it, its lowest format everywhere, and what people choose by habit at about
as many bits (srdd.recipes).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from srdd.documents import evaluation as schema
from srdd.documents.recipe import KEPT, TOLERANCE, Recipe
from srdd.errors import InputError, counted
from srdd.model.linears import find_weights
from srdd.model.structure import find_structure
from srdd.numerics.confidence import mean_interval
from srdd.recipes.heuristics import average_bits, heuristics

Formats = tuple[str | None, str | None]
"""Of a linear's weight and of what goes into it; None is full precision."""


@dataclass(frozen=True)
class Assignment:
    """A format for each of some linears.

    Attributes:
        about: what a result says of it.
        modules: as `srdd.simulate` takes them.
    """

    about: schema.Assigned
    modules: Mapping[str, Formats] = field(compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether it leaves every linear as it is."""
        return all(formats == (None, None) for formats in self.modules.values())


@dataclass(frozen=True)
class RecipeRun:
    """A recipe, and what it is compared with.

    Attributes:
        own: the recipe as it is.
        others: its lowest format everywhere, heuristics, and the other recipes.
    """

    recipe: Recipe
    own: Assignment
    others: tuple[Assignment, ...]

    def result(
        self, results: Sequence[schema.Result], predicted: Sequence[int], weights: str
    ) -> schema.RecipeResult:
        """The recipe's result beside those of the others, prompt by prompt.

        Arguments:
            results: those of all assignments among them.
            predicted: (prompts,) number of predicted tokens.
            weights: fingerprint of the model that was run.
        """
        by_name = {one.assigned.name: one for one in results if one.assigned and not one.noise}
        counts = np.array(predicted, dtype=np.float64)
        own = by_name[self.own.about.name]
        known = self.recipe.model.fingerprint
        return schema.RecipeResult(
            name=self.own.about.name,
            fingerprint=hashlib.sha256(self.recipe.to_json()).hexdigest()[:16],
            of_these_weights=None if known is None else known == weights,
            ratio=self.recipe.predicted_kl / own.kl if own.kl else None,
            others=[_beside(own, by_name[each.about.name], counts) for each in self.others],
        )


def runs_of(recipes: Mapping[str, Recipe]) -> list[RecipeRun]:
    """Each recipe with what it is compared with; what is the same for several occurs once.

    Arguments:
        recipes: by name.
    """
    own = {name: _of_recipe(recipe, name) for name, recipe in recipes.items()}
    known = dict(own)

    def named(other: Assignment, of: str) -> Assignment:
        """Under a name that no other assignment has."""
        before = known.setdefault(other.about.name, other)
        if before.modules == other.modules:
            return before
        name = f"{other.about.name} ({of})"
        return known.setdefault(
            name, replace(other, about=other.about.model_copy(update={"name": name}))
        )

    return [
        RecipeRun(
            recipe,
            own[name],
            (
                *(named(other, name) for other in _alternatives(recipe)),
                *(other for other in own.values() if other is not own[name]),
            ),
        )
        for name, recipe in recipes.items()
    ]


def check_names(model: nn.Module, recipes: Mapping[str, Recipe]) -> None:
    """Make sure that recipes name linears of a model only. Its weights may be on the meta device.

    Raises:
        InputError: one names another; or the model has no decoder layers.
    """
    names = [weight.name for weight in find_weights(model, find_structure(model))]
    for recipe, content in recipes.items():
        unknown = [name for name in content.formats_by_module if name not in set(names)]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, n=3, cutoff=0.0)
            raise InputError(
                f"{recipe} names {counted(len(unknown), 'linear')} that this model does not have, "
                f"{unknown[0]} first",
                f"make a recipe from a scan of this model; the nearest are: {', '.join(near)}",
            )


def _of_recipe(recipe: Recipe, name: str) -> Assignment:
    about = schema.Assigned(
        name=name,
        role="recipe",
        bits=recipe.bits,
        predicted_kl=recipe.predicted_kl,
        predicted_interval=recipe.predicted_interval,
    )
    modules = {each.module: _formats(each.format, each.operands) for each in recipe.modules}
    return Assignment(about, modules)


def _alternatives(recipe: Recipe) -> Iterator[Assignment]:
    """Rules that people use, with at most as many bits; the first is the lowest format everywhere.

    Formats that the recipe has pinned are pinned in these, too.
    """
    pinned = {each.module: each.format for each in recipe.modules if each.pinned}
    rules = heuristics(recipe.modules, recipe.formats, recipe.bits, pinned)
    for place, rule in enumerate(rules):
        bits = average_bits(recipe.modules, rule.formats)
        if place == 0 or bits <= recipe.bits * (1 + TOLERANCE):
            about = schema.Assigned(
                name=rule.name,
                role="heuristic" if place else "lowest",
                bits=bits,
                predicted_kl=None if place else recipe.all_low_kl,
                predicted_interval=None,
            )
            yield Assignment(about, _modules(recipe, rule.formats))


def _modules(recipe: Recipe, formats: Sequence[str]) -> dict[str, Formats]:
    """These formats of the recipe's modules, in the operands that it quantizes."""
    operands = next((each.operands for each in recipe.modules if each.operands), "both")
    return {
        each.module: _formats(spec, operands)
        for each, spec in zip(recipe.modules, formats, strict=True)
    }


def _formats(format: str, operands: str | None) -> Formats:
    if format == KEPT:
        return None, None
    return format, None if operands == "weight" else format


def _beside(own: schema.Result, other: schema.Result, counts: np.ndarray) -> schema.Compared:
    assert other.assigned is not None
    ours, theirs = (
        np.array([np.nan if kl is None else kl for kl in one.kl_by_prompt or ()])
        for one in (own, other)
    )
    apart = (theirs - ours) * counts
    finite = bool(np.isfinite(apart).all())
    return schema.Compared(
        name=other.assigned.name,
        kl_difference=float(apart.sum() / counts.sum()) if finite else None,
        kl_difference_interval=mean_interval(apart, counts) if finite else None,
    )
