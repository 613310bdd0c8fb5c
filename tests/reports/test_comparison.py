"""Formats beside each other."""

from __future__ import annotations

import math
from typing import Any

import families
import pytest
from rich.console import Console

from srdd.measurement.scanner import scan_model
from srdd.reports.comparison import flips, format_comparison


@pytest.fixture(scope="module")
def scan(request: pytest.FixtureRequest) -> Any:
    tokenizer = request.getfixturevalue("tokenizer")
    return scan_model(
        families.shared("llama"),
        tokenizer,
        ["one prompt", "and another one"],
        formats=["mxfp4:floor", "mxfp4:ceil", "mxfp4:even"],
        sites=["output", "input"],
    )


def shown(scan: Any, site: str, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        for part in format_comparison(scan, site):
            console.print(part)
    return capture.get()


@pytest.mark.parametrize("site", ["output", "input"])
def test_each_format_has_a_row_with_its_pooled_figures(scan: Any, site: str) -> None:
    text = shown(scan, site)
    for spec in ("mxfp4:floor", "mxfp4:ceil", "mxfp4:even"):
        row = next(line for line in text.splitlines() if line.startswith(spec))
        records = scan.select(site, spec)
        dead = sum(r.sums.flushed for r in records) / sum(r.sums.elements for r in records)
        assert f" {100 * dead:.1f} " in row


def test_ceil_is_behind_the_others_in_every_layer(scan: Any) -> None:
    by_format = {spec: scan.select("output", spec) for spec in scan.settings.formats}
    for records in zip(*by_format.values(), strict=True):
        assert min(records, key=lambda r: r.metrics.sqnr_db).scale_rule == "ceil"


def test_a_layer_with_another_order_is_named(scan: Any) -> None:
    by_format = {spec: list(scan.select("output", spec)) for spec in ("mxfp4:floor", "mxfp4:ceil")}
    assert flips(by_format) == []
    best, worst = by_format["mxfp4:floor"][1], by_format["mxfp4:ceil"][1]
    swapped = [best.metrics.sqnr_db, worst.metrics.sqnr_db]
    for records, value in zip(by_format.values(), reversed(swapped), strict=True):
        metrics = records[1].metrics.model_copy(update={"sqnr_db": value})
        records[1] = records[1].model_copy(update={"metrics": metrics})
    assert flips(by_format) == [(1, ["mxfp4:ceil", "mxfp4:floor"])]


def test_a_single_format_is_not_compared(tokenizer: Any) -> None:
    scan = scan_model(families.shared("llama"), tokenizer, ["abc"])
    assert format_comparison(scan, "output") == []


def test_products_are_held_against_the_floor_of_products(tokenizer: Any) -> None:
    model = families.shared("llama")
    scan = scan_model(
        model, tokenizer, ["one two", "three"], sites=["linear"], formats=["mxfp4", "nvfp4"]
    )
    text = shown(scan, "linear", width=120)
    rows = {line.split()[0]: line for line in text.splitlines() if ":" in line.split(" ")[0]}
    for spec, floor in (("mxfp4:floor", 18.788), ("nvfp4:token", 20.429)):
        r = 10 ** (-floor / 10)
        wanted = -10 * math.log10(2 * r + r * r)
        assert f" {wanted:.1f} " in rows[spec], rows[spec]
    assert "dead %" not in text
    assert "sum|e|/sum|x| %" in text
