"""A noise configuration as blocks: each layer's error beside the noise that it gets."""

from __future__ import annotations

import pytest
from made_scans import costed, rising, thorough

from srdd.noise import suggest
from srdd.reports.suggestion_view import multipliers_table, noise_chart, suggestion_blocks
from srdd.reports.terminal import plain
from srdd.reports.view import Estimate, Table, Text

SCAN = thorough(rising(28))


def table(strategy: str) -> Table:
    blocks = suggestion_blocks(suggest(SCAN, strategy), SCAN)
    (found,) = (block for block in blocks if isinstance(block, Table))
    return found


@pytest.mark.parametrize("strategy", ["variable", "targeted", "zone"])
def test_a_noisy_layer_has_its_error_multiplier_sigma_and_noise(strategy: str) -> None:
    found = table(strategy)
    titles = [column.title for column in found.columns]
    assert titles == [
        *("layer", "zone", "rel. err", "multiplier", "sigma", "noise", "quantization"),
    ]
    for entry in suggest(SCAN, strategy).layers:
        row = dict(zip(titles, found.rows[entry.layer], strict=True))
        assert isinstance(row["rel. err"], Estimate)
        assert row["rel. err"].value == entry.value
        assert row["rel. err"].interval is not None
        assert (row["multiplier"], row["sigma"]) == (entry.multiplier, entry.sigma)
        assert (row["noise"], row["quantization"]) == (entry.signal_to_noise_db, entry.sqnr_db)


def test_layers_without_noise_have_dashes() -> None:
    found = table("targeted")
    assert found.rows[0][3:6] == (None, None, None)


def test_tiers_stand_in_place_of_zones() -> None:
    zones = {row[1] for row in table("zone").rows}
    assert zones <= {"high", "medium", "low", "none"}
    assert {row[1] for row in table("variable").rows} >= {"First", "Last"}


def test_the_answer_stands_first_and_warnings_last() -> None:
    blocks = suggestion_blocks(suggest(SCAN, "targeted"), SCAN)
    assert isinstance(blocks[0], Text)
    assert blocks[0].role == "answer"
    assert isinstance(blocks[-1], Text)
    assert blocks[-1].role == "warning"
    assert "targeted: made/up, mxfp4:floor, site output" in plain(blocks)


def test_multipliers_of_all_strategies_stand_beside_each_other() -> None:
    configs = {name: suggest(SCAN, name) for name in ("uniform", "targeted")}
    found = multipliers_table(configs)
    assert [column.title for column in found.columns] == ["layer", "uniform", "targeted"]
    assert found.rows[0] == (0, 1.0, 0.0)
    assert found.rows[27] == (27, 1.0, 1.0)


def tables(strategy: str, **options: float) -> list[Table]:
    scan = costed()
    blocks = suggestion_blocks(suggest(scan, strategy, **options), scan)  # type: ignore[arg-type]
    return [block for block in blocks if isinstance(block, Table)]


def column(table: Table, title: str) -> list[object]:
    place = [column.title for column in table.columns].index(title)
    return [row[place] for row in table.rows]


def test_noise_stands_beside_what_quantizing_each_layer_costs() -> None:
    layers, _ = tables("balanced", sigma_start=0.01)
    costs = [each.value for each in column(layers, "KL of noise") if isinstance(each, Estimate)]
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-3)
    quantizing = [0.03, 0.09, 0.002, 0.008]
    shares = [cost / whole for cost, whole in zip(costs, quantizing, strict=True) if cost]
    assert column(layers, "of W4A4") == pytest.approx(shares)
    noise = [each.value for each in column(layers, "kl_per_sigma2") if isinstance(each, Estimate)]
    assert noise == pytest.approx([8.0, 2.0, 0.5, 32.0])


def test_every_noisy_stage_has_its_sigma_energy_and_cost() -> None:
    _, stages = tables("uniform")
    sigmas = [0.05 * 10 ** (-2 * k / 8) for k in range(9)]
    assert column(stages, "stage") == list(range(1, 10))
    assert column(stages, "sigma") == pytest.approx(sigmas)
    # Four layers of two norms with 64 weights each.
    assert column(stages, "energy") == pytest.approx([512 * s**2 for s in sigmas], rel=5e-3)
    costs = [each.value for each in column(stages, "KL of noise") if isinstance(each, Estimate)]
    assert costs == pytest.approx([42.5 * s**2 for s in sigmas])
    assert column(stages, "of W4A4") == pytest.approx([42.5 * s**2 / 0.13 for s in sigmas])
    assert column(stages, "arriving") == pytest.approx([1.0] * 9)


def test_the_cost_and_the_ranking_are_in_words() -> None:
    scan = costed()
    text = " ".join(plain(suggestion_blocks(suggest(scan, "variable"), scan)).split())
    assert "% of what W4A4 of all linears costs: 130.00 ±" in text
    assert "estimated" in text
    assert "Layers are ranked by what quantizing them costs the predictions (kl); by" in text
    assert "relative_error their order is another one (Kendall's tau -0.33)" in text
    text = plain(suggestion_blocks(suggest(scan, "uniform"), scan))
    assert "ranked" not in text


def test_the_chart_has_the_cost_of_each_strategy_beside_that_of_quantizing() -> None:
    scan = costed()
    configs = {name: suggest(scan, name) for name in ("uniform", "matched", "inverse")}
    chart = noise_chart(scan, "mxfp4:floor", configs)
    found = {series.label: series.values for series in chart.series}
    assert list(found) == ["uniform", "matched", "W4A4"]
    costs = [0.05**2 * value for value in (8.0, 2.0, 0.5, 32.0)]
    assert found["uniform"] == pytest.approx(costs)
    assert found["matched"] == pytest.approx(found["W4A4"], rel=2e-3)
    assert found["W4A4"] == pytest.approx((0.03, 0.09, 0.002, 0.008))
