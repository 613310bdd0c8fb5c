"""What stands beside each other in a page: a series is one scan in one format, a place one site."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from srdd.numerics.sites import SITES
from srdd.reports.groups import Group
from srdd.reports.text import safe

LONGEST_LABEL = 48
"""Characters of a label at most."""


@dataclass(frozen=True)
class Series:
    """One scan in one format: a line of its own in every chart.

    Attributes:
        index: its number, which is its colour, too.
        scan: the number of its scan.
        spec: format and scale rule.
        label: what it is called, plain text from outside.
    """

    index: int
    scan: int
    spec: str
    label: str


@dataclass(frozen=True)
class Content:
    """All groups of a page, each with its series.

    Attributes:
        names: those of the scans.
        scans: for each scan its groups, at least one.
    """

    names: Sequence[str]
    scans: Sequence[Sequence[Group]]

    @cached_property
    def series(self) -> list[Series]:
        """In order of scans and their formats."""
        found: list[Series] = []
        for number, (name, groups) in enumerate(zip(self.names, self.scans, strict=True)):
            for spec in dict.fromkeys(group.spec for group in groups):
                label = spec if len(self.scans) == 1 else f"{short(name, 28)} {spec}"
                found.append(Series(len(found), number, spec, short(label)))
        return found

    @cached_property
    def members(self) -> list[tuple[Series, Group]]:
        """Every group with its series."""
        series = {(one.scan, one.spec): one for one in self.series}
        return [
            (series[number, group.spec], group)
            for number, groups in enumerate(self.scans)
            for group in groups
        ]

    @cached_property
    def places(self) -> list[str]:
        """What was measured, over all scans, in the order of srdd's sites."""
        found = dict.fromkeys(group.place for _, group in self.members)
        order = list(SITES)
        sites = {group.place: group.site for _, group in self.members}
        return sorted(
            found, key=lambda p: order.index(sites[p]) if sites[p] in order else len(order)
        )

    def at(self, place: str) -> list[tuple[Series, Group]]:
        """The groups of one place."""
        return [(series, group) for series, group in self.members if group.place == place]


def short(text: str, longest: int = LONGEST_LABEL) -> str:
    """A name as a label: of a long one its end, which tells most."""
    shown = safe(text, longest=10_000)
    return shown if len(shown) <= longest else f"…{shown[1 - longest :]}"


def drawn(text: str) -> str:
    """`text` as Plotly shows it literally: it takes tags such as `<b>` and `<a>` for markup."""
    return html.escape(text, quote=False)
