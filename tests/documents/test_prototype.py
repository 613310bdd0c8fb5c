"""The prototype's scan files: recognised, converted, and honest about what they lack."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_scans import DATA, PROTOTYPE, made, prototype, rising

import srdd
from srdd.documents.scan import Scan, is_scan, load_scan
from srdd.errors import InputError
from srdd.numerics.metrics import Thresholds

Change = Callable[[dict[str, Any]], None]


def converted(change: Change | None = None) -> Scan:
    found = prototype()
    if change is not None:
        change(found)
    return Scan.parse(json.dumps(found).encode(), "scan.json")


def test_the_public_reader_reads_it() -> None:
    assert srdd.load_scan(PROTOTYPE) == load_scan(PROTOTYPE) == converted()


def test_its_figures_are_those_of_the_published_table() -> None:
    with (DATA / "qwen2.5-1.5b-instruct_mxfp4_output.csv").open() as file:
        expected = list(csv.DictReader(file))
    rows = load_scan(PROTOTYPE).rows()
    assert len(rows) == len(expected) == 28
    for row, wanted in zip(rows, expected, strict=True):
        assert row["layer"] == int(wanted["layer"])
        for name in ("sqnr_db", "deadzone", "relative_error"):
            assert row[name] == float(wanted[name])


def test_what_it_cannot_give_is_null_with_a_reason() -> None:
    scan = load_scan(PROTOTYPE)
    record = scan.records[0]
    assert record.metrics.saturation is None
    assert "near the largest" in record.undefined["saturation"]
    assert set(record.undefined) == {"saturation", "clipping_share", "relative_l1"}
    assert record.sums is record.replicates is record.intervals is record.token_sqnr_db is None
    assert scan.calibration.tokens is scan.calibration.prompts is None
    assert scan.model.source == "prototype"
    assert scan.model.fingerprint is None
    assert all(layer.name is None and layer.norms == [] for layer in scan.model.layers)
    assert scan.settings.rounding == "half-away"
    assert "mean over prompts" in scan.warnings[0]


def test_distance_from_the_floor_is_worked_out() -> None:
    record = load_scan(PROTOTYPE).records[0]
    assert record.metrics.sqnr_db is not None
    assert record.vs_floor_db == pytest.approx(record.metrics.sqnr_db - 18.788, abs=1e-9)


def test_it_survives_being_written_as_our_scan(tmp_path: Path) -> None:
    scan = load_scan(PROTOTYPE)
    scan.save(tmp_path / "scan.json")
    assert load_scan(tmp_path / "scan.json") == scan


def test_without_thresholds_it_has_those_of_the_guide() -> None:
    scan = converted(lambda found: found["config"].pop("thresholds"))
    assert scan.settings.thresholds.model_dump() == vars(Thresholds())


def test_layers_without_figures_are_told() -> None:
    scan = converted(lambda found: found["report"]["per_layer"].pop(5))
    assert [one.module for one in scan.not_measured] == ["layer 5"]


def put(value: Any, *path: str | int) -> Change:
    def change(found: dict[str, Any]) -> None:
        inner: Any = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


LAYER = ("report", "per_layer", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(-0.1, *LAYER, "deadzone_ratio"), "report.per_layer.3.deadzone_ratio: Input should be"),
        (put(1.5, *LAYER, "deadzone_ratio"), "less than or equal to 1"),
        (put(-1.0, *LAYER, "relative_error"), "report.per_layer.3.relative_error: Input should be"),
        (put("much", *LAYER, "sqnr_db"), "report.per_layer.3.sqnr_db"),
        (put(2, *LAYER, "layer_id"), "layer 2 occurs twice in output"),
        (put(28, *LAYER, "layer_id"), "a record names layer 28, which the model lacks"),
        (put(-1, *LAYER, "layer_id"), "report.per_layer.3.layer_id"),
        (put(10**12, "config", "num_layers"), "config.num_layers"),
        (put("q4_k_m", "config", "quant_type"), "scan.json is a scan in 'q4_k_m'"),
        (put([], "report", "per_layer"), "scan.json holds no layers"),
        (put([None], "report", "per_layer"), "report.per_layer.0"),
    ],
)
def test_a_file_that_cannot_be_is_refused(change: Change, message: str) -> None:
    with pytest.raises(InputError) as caught:
        converted(change)
    assert message in caught.value.message
    assert caught.value.message.startswith("scan.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "scan.json is empty"),
        (PROTOTYPE.read_bytes()[:3000], "scan.json is not valid JSON"),
        (PROTOTYPE.read_bytes().replace(b"0.30078125", b"NaN"), "scan.json is not valid JSON"),
        (b"[1, 2]", "scan.json holds no JSON object"),
        (b'{"kind": "srdd.rin"}', "not a document of kind 'srdd.scan': it is a 'srdd.rin'"),
        (b'{"results": []}', "it has no such `kind`"),
        (b'{"kind": "srdd.scan", "schema_version": 99}', "schema version 99, and this srdd reads"),
    ],
)
def test_a_file_that_is_no_scan_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Scan.parse(content, "scan.json")
    assert message in caught.value.message
    assert caught.value.hint


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load_scan(tmp_path / "scan.json")


def test_scans_are_told_from_other_files_by_their_keys() -> None:
    assert is_scan(prototype())
    assert is_scan(json.loads(made(rising(2)).to_json()))
    assert not is_scan({"config": {"quant_type": "mxfp4"}})
    assert not is_scan({"config": [], "report": {"per_layer": []}})
    assert not is_scan({"kind": "srdd.rin", **prototype()})
