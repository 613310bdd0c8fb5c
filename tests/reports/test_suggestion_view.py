"""A noise configuration as blocks: each layer's error beside the noise that it gets."""

from __future__ import annotations

import pytest
from made_scans import rising, thorough

from srdd.noise import suggest
from srdd.reports.suggestion_view import multipliers_table, suggestion_blocks
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
