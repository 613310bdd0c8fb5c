"""The noise configurations that a report shows: every strategy and control that a group allows."""

from __future__ import annotations

from srdd.documents.rin import RinConfig
from srdd.errors import SrddError
from srdd.noise import CONTROLS, STRATEGIES, suggest
from srdd.reports.groups import Group


def configurations(group: Group) -> tuple[dict[str, RinConfig], dict[str, SrddError]]:
    """The configuration of each strategy and control by its name, and why others cannot be."""
    made: dict[str, RinConfig] = {}
    failed: dict[str, SrddError] = {}
    for name in (*STRATEGIES, *CONTROLS):
        try:
            made[name] = suggest(
                group.scan, name, site=group.site, format=group.spec, metric=group.error
            )
        except SrddError as error:
            failed[name] = error
    return made, failed
