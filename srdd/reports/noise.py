"""The noise configurations that a report shows: every strategy and control that a group allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from srdd.documents.rin import RinConfig
from srdd.errors import SrddError
from srdd.noise import CONTROLS, suggest
from srdd.reports.groups import Group


@dataclass(frozen=True)
class Idea:
    """What a strategy does, and what speaks for it and against it before any run."""

    title: str
    concept: str
    pros: tuple[str, ...]
    cons: tuple[str, ...]


IDEAS: Mapping[str, Idea] = {
    "targeted": Idea(
        "the worst layers alike, the others not at all",
        "noise in the layers with the largest errors, none elsewhere.",
        ("simple", "an ablation is one list of layers"),
        ("treats all chosen layers alike", "where the list ends is arbitrary"),
    ),
    "variable": Idea(
        "every layer, in proportion to its error",
        "multiplier = error of the layer / mean over the layers.",
        ("follows the measured errors", "no cutoff"),
        ("needs a trainer that takes a multiplier a layer", "many figures to ablate"),
    ),
    "zone": Idea(
        "tiers of zones, each with a schedule of its own",
        "zones of depth whose mean errors lie close together form a tier; the worst tier gets the "
        "most noise, the best none.",
        ("few figures to ablate", "keeps neighbouring layers together"),
        (
            "loses what differs within a zone",
            "tiers of different schedules are an experiment each in the guide's form",
        ),
    ),
    "uniform": Idea(
        "the baseline that every other has to beat",
        "the same noise in every layer.",
        ("needs no ranking, so none can mislead it", "every trainer with noise can do it"),
        ("uses nothing of the scan but the list of layers",),
    ),
}
"""In the order of the method's guide, with the baseline behind."""


def configurations(group: Group) -> tuple[dict[str, RinConfig], dict[str, SrddError]]:
    """The configuration of each strategy and control by its name, and why others cannot be."""
    made: dict[str, RinConfig] = {}
    failed: dict[str, SrddError] = {}
    for name in (*IDEAS, *CONTROLS):
        try:
            made[name] = suggest(
                group.scan, name, site=group.site, format=group.spec, metric=group.error
            )
        except SrddError as error:
            failed[name] = error
    return made, failed
