"""Explanations: every word that our own tables print has its text, also without docstrings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from made_scans import rising, scan_of, thorough

from srdd.comparison import compare_scans
from srdd.errors import UsageError
from srdd.noise import CONTROLS, STRATEGIES, suggest
from srdd.noise.exports import TRAINERS
from srdd.numerics.formats import FORMATS, USED_BY
from srdd.numerics.metrics import METRICS
from srdd.numerics.sites import SITES
from srdd.reports import comparison_view, verdicts
from srdd.reports.explanations import KINDS, explain, topics
from srdd.reports.formats_view import formats_blocks
from srdd.reports.groups import groups_of
from srdd.reports.rows import VIEWS
from srdd.reports.scan_view import scan_blocks
from srdd.reports.site_view import overall, zone_table
from srdd.reports.suggestion_view import suggestion_blocks
from srdd.reports.view import Block, Table


def shown() -> list[Block]:
    """Blocks of all kinds of tables."""
    levels = {"mlp.down_proj": [17.0, 16.0], "mlp.up_proj": [18.0, 18.0]}
    scan = scan_of(
        {"input": levels, "linear": levels}, formats={"mxfp4:floor": 0, "nvfp4:token": 1}
    )
    long = thorough(rising(28))
    (group,) = groups_of(long)
    zones = zone_table(group)
    assert zones is not None
    blocks = [b for by in VIEWS for b in scan_blocks(groups_of(scan), by, everything=True)]
    blocks += comparison_view.comparison_blocks(
        compare_scans(thorough([20.0, 10.0]), thorough([10.0, 20.0]))
    )
    return [
        *blocks,
        *formats_blocks(),
        *suggestion_blocks(suggest(long), long),
        overall(group),
        zones,
    ]


def test_every_title_of_a_column_is_explained() -> None:
    titles = {c.title for block in shown() if isinstance(block, Table) for c in block.columns}
    assert {"vs floor", "W4A16", "multiplier", "rank in OLD", "std"} <= titles
    for title in titles - {""}:
        assert explain(title.removeprefix("mean "))[0].summary


def test_every_name_and_word_is_explained() -> None:
    known = {topic.name for topic in topics()}
    for names in (METRICS, FORMATS, USED_BY, STRATEGIES, CONTROLS, TRAINERS, SITES):
        assert set(names) <= known
    for word in (*verdicts.MEANINGS, *comparison_view.MEANINGS):
        assert explain(word.text)[0].kind == "verdict"
    assert {topic.kind for topic in topics()} == set(KINDS)


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("dead %", "deadzone"),
        ("SQNR dB", "sqnr_db"),
        ("rel. err", "relative_error"),
        ("tau", "kendall's tau"),
        ("energy", "energy"),
        ("unchanged", "unchanged"),
        ("±", "interval"),
        ("At-Floor", "at floor"),
        ("natural", "natural breaks"),
        ("surog", "surogate"),
        ("even", "even"),
        ("floor", "floor"),
    ],
)
def test_a_word_is_found_by_alias_title_and_prefix(name: str, topic: str) -> None:
    assert explain(name)[0].name == topic


def test_a_prefix_of_several_words_names_them() -> None:
    with pytest.raises(UsageError) as caught:
        explain("relative")
    assert "relative_l1" in caught.value.hint
    assert "relative_error" in caught.value.hint


def test_without_docstrings_nothing_is_missing() -> None:
    code = "from srdd.cli.app import run; raise SystemExit(run(['explain', 'vs', 'floor']))"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Gaussian" in done.stdout or "normal values" in done.stdout
