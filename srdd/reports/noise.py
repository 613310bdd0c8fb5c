"""The noise configurations that a report shows: every strategy and control that a group allows."""

from __future__ import annotations

from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.errors import SrddError
from srdd.noise import BY_COST, CONTROLS, STRATEGIES, suggest
from srdd.noise.figures import KL, default_metric
from srdd.reports.groups import Group


def strategies_for(scan: Scan) -> list[str]:
    """The strategies that a scan has the figures for."""
    return [name for name in STRATEGIES if scan.sensitivity is not None or name not in BY_COST]


def metric_for(group: Group) -> str:
    """What layers are ranked by: what quantizing them costs where that is known, else errors."""
    return KL if default_metric(group.scan, group.spec) == KL else group.error


def configurations(group: Group) -> tuple[dict[str, RinConfig], dict[str, SrddError]]:
    """The configuration of each strategy and control by its name, and why others cannot be."""
    made: dict[str, RinConfig] = {}
    failed: dict[str, SrddError] = {}
    metric = metric_for(group)
    for name in (*strategies_for(group.scan), *CONTROLS):
        try:
            made[name] = suggest(
                group.scan, name, site=group.site, format=group.spec, metric=metric
            )
        except SrddError as error:
            failed[name] = error
    return made, failed
