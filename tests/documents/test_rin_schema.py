"""The RinConfig document: what is written is read back, and what does not hold together is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_scans import PROTOTYPE, made, rising, with_costs

from srdd.documents.rin import RinConfig, load_rin
from srdd.documents.scan import load_scan
from srdd.errors import InputError, OutputError
from srdd.noise import BY_COST, CONTROLS, STRATEGIES, suggest

Change = Callable[[dict[str, Any]], None]

WHOLE = suggest(made(rising(4)), "variable")


@pytest.mark.parametrize("strategy", [*STRATEGIES, *CONTROLS])
@pytest.mark.parametrize("named", [True, False])
def test_written_and_read_it_is_the_same(strategy: str, named: bool, tmp_path: Path) -> None:
    scan = made(rising(12)) if named else load_scan(PROTOTYPE)
    if strategy in BY_COST:
        if not named:
            pytest.skip("a scan without names tells no costs")
        scan = with_costs(scan, rising(12), rising(12))
    config = suggest(scan, strategy, equal_energy=True)
    config.save(tmp_path / "rin.json")
    assert load_rin(tmp_path / "rin.json") == config
    assert RinConfig.parse(config.to_json(), "standard input") == config


def test_it_states_its_parts() -> None:
    found = json.loads(WHOLE.to_json())
    assert found["kind"] == "srdd.rin"
    assert found["schema_version"] == 1
    assert set(found) == {
        "kind",
        "schema_version",
        "strategy",
        "control",
        "source",
        "parameters",
        "layer_type",
        "exclude_patterns",
        "excluded",
        "tiers",
        "energy",
        "kl",
        "recommendation",
        "warnings",
    }
    (tier,) = found["tiers"]
    assert len(tier["sigmas"]) == tier["schedule"]["num_stages"] == 10
    layer = tier["layers"][0]
    assert {"multiplier", "sigma", "signal_to_noise_db", "sqnr_db", "modules"} <= set(layer)


def test_the_former_name_of_a_metric_is_read() -> None:
    config = suggest(made(rising(4)), "variable", metric="vs_floor_db")
    old = json.loads(config.to_json())
    old["source"]["metric"] = "floor_distance_db"
    for entry in old["tiers"][0]["layers"]:
        entry["value"] *= -1
    assert RinConfig.parse(json.dumps(old).encode(), "rin.json") == config


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rin.json"
    WHOLE.save(path)
    with pytest.raises(OutputError, match="exists already"):
        WHOLE.save(path)
    WHOLE.save(path, force=True)


def put(value: Any, *path: str | int) -> Change:
    def change(found: dict[str, Any]) -> None:
        inner: Any = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


TIER = ("tiers", 0)
LAYER = (*TIER, "layers", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("srdd.scan", "kind"), "not a document of kind 'srdd.rin': it is a 'srdd.scan'"),
        (put(2, "schema_version"), "schema version 2, and this srdd reads up to 1"),
        (put("random", "strategy"), "strategy: Input should be"),
        (put([], "tiers"), "tiers: List should have at least 1 item"),
        (put([], *TIER, "layers"), "tiers.0.layers: List should have at least 1 item"),
        (put(0.0, *TIER, "schedule", "sigma_end"), "tiers.0.schedule.sigma_end"),
        (put(2, *TIER, "schedule", "num_stages"), "num_stages 2 makes trainers divide by zero"),
        (put(0.04, *TIER, "schedule", "sigma_start"), "the sigmas are not those of the schedule"),
        (put([0.0, 0.05], *TIER, "sigmas"), "the sigmas are not those of the schedule"),
        (put(1.5, *LAYER, "multiplier"), "the sigma of layer 1 is not its multiplier times"),
        (put(0.0, *LAYER, "multiplier"), "tiers.0.layers.1.multiplier"),
        (put(-1.0, *LAYER, "multiplier"), "tiers.0.layers.1.multiplier"),
        (put(0, *LAYER, "layer"), "layer 0 gets noise twice"),
        (put(4, *LAYER, "layer"), "a tier names layer 4, and the model has 4 layers"),
        (put("here", "unheard_of"), "unheard_of: Extra inputs are not permitted"),
    ],
)
def test_a_document_that_does_not_hold_together_is_refused(change: Change, message: str) -> None:
    found = json.loads(WHOLE.to_json())
    change(found)
    with pytest.raises(InputError) as caught:
        RinConfig.parse(json.dumps(found).encode(), "rin.json")
    assert message in caught.value.message
    assert caught.value.message.startswith("rin.json")
    assert caught.value.hint


def test_a_document_that_is_cut_short_or_holds_nan_is_refused() -> None:
    content = WHOLE.to_json()
    for broken in (content[:-100], content.replace(b"0.05", b"NaN", 1)):
        with pytest.raises(InputError, match=r"rin\.json is not valid JSON"):
            RinConfig.parse(broken, "rin.json")


def test_its_json_schema_can_be_printed() -> None:
    assert RinConfig.model_json_schema()["properties"]["tiers"]
