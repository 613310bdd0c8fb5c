"""The Scan document: what it holds comes back, and what does not hold together is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_scans import made, rising, thorough
from pydantic import ValidationError

from srdd import load_scan
from srdd.documents.scan import Scan
from srdd.errors import InputError, OutputError, UsageError
from srdd.numerics.metrics import METRICS
from srdd.numerics.sums import COUNTS, FIELDS


@pytest.fixture(scope="module")
def scan() -> Scan:
    return thorough(rising(3))


def content(scan: Scan) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(scan.to_json())
    return copy.deepcopy(found)


def refusal(found: dict[str, Any]) -> InputError:
    """The error that reading ends with."""
    with pytest.raises(InputError) as caught:
        Scan.from_object(found, "scan.json")
    assert caught.value.hint
    assert caught.value.message.startswith("scan.json")
    return caught.value


# The way through a file


def test_a_saved_scan_is_read_as_it_was(scan: Scan, tmp_path: Path) -> None:
    scan.save(tmp_path / "scan.json")
    assert load_scan(tmp_path / "scan.json") == scan


def test_a_read_scan_is_saved_byte_by_byte(scan: Scan, tmp_path: Path) -> None:
    scan.save(tmp_path / "scan.json")
    assert load_scan(tmp_path / "scan.json").to_json() == scan.to_json()


def test_saving_keeps_an_existing_file(scan: Scan, tmp_path: Path) -> None:
    scan.save(tmp_path / "scan.json")
    with pytest.raises(OutputError, match="exists already"):
        scan.save(tmp_path / "scan.json")
    scan.save(str(tmp_path / "scan.json"), force=True)


def test_the_document_says_what_it_is(scan: Scan) -> None:
    found = content(scan)
    assert list(found)[:2] == ["kind", "schema_version"]
    assert (found["kind"], found["schema_version"]) == ("srdd.scan", 2)


def test_the_json_schema_can_be_printed() -> None:
    schema = Scan.model_json_schema()
    assert schema["properties"]["kind"]["const"] == "srdd.scan"
    assert orjson.dumps(schema)


def test_version_1_is_read_with_the_sign_of_the_floor_distance_changed(scan: Scan) -> None:
    old = content(scan) | {"schema_version": 1}
    for record in old["records"]:
        record["floor_distance_db"] = -record.pop("vs_floor_db")
    assert Scan.from_object(old, "old.json") == scan


@pytest.mark.parametrize("name", ["vs_floor_db", "floor_distance_db"])
def test_a_record_has_the_distance_of_its_version(name: str, scan: Scan) -> None:
    old = content(scan) | {"schema_version": 1 if name == "floor_distance_db" else 2}
    del old["records"][0]["vs_floor_db"]
    assert refusal(old).message == "scan.json: records.0.vs_floor_db: Field required"


# What is refused

Path_ = tuple[str | int, ...]


def put(found: Any, path: Path_, value: object) -> dict[str, Any]:
    """The document with one value replaced."""
    *way, last = path
    place = found
    for step in way:
        place = place[step]
    place[last] = value
    return found  # type: ignore[no-any-return]


RECORD: Path_ = ("records", 0)

BROKEN: dict[str, tuple[Path_, object]] = {
    "newer version": (("schema_version",), 3),
    "no version": (("schema_version",), None),
    "another kind": (("kind",), "srdd.rin"),
    "unknown key": (("colour",), "red"),
    "unknown key deep inside": ((*RECORD, "metrics", "psnr_db"), 1.0),
    "negative count": ((*RECORD, "sums", "tokens"), -1),
    "half a count": ((*RECORD, "sums", "tokens"), 1.5),
    "count as text": ((*RECORD, "sums", "tokens"), "many"),
    "negative energy": ((*RECORD, "sums", "x2"), -0.5),
    "fraction beyond one": ((*RECORD, "metrics", "deadzone"), 1.01),
    "negative fraction": ((*RECORD, "metrics", "saturation"), -0.01),
    "share beyond one": ((*RECORD, "metrics", "clipping_share"), 1.5),
    "negative error": ((*RECORD, "metrics", "relative_error"), -0.1),
    "metric missing": ((*RECORD, "metrics"), {}),
    "metric as text": ((*RECORD, "metrics", "sqnr_db"), "high"),
    "interval of one end": ((*RECORD, "intervals", "sqnr_db"), [1.0]),
    "replicates of unequal length": ((*RECORD, "replicates", "x2"), [1.0]),
    "layer that the model lacks": ((*RECORD, "layer"), 3),
    "negative layer": ((*RECORD, "layer"), -1),
    "layers out of order": (("model", "layers", 0, "index"), 1),
    "no layers": (("model", "layers"), []),
    "no formats": (("settings", "formats"), []),
    "unknown norm": (("model", "layers", 0, "norms", 0, "kind"), "batchnorm"),
    "rank correlation beyond one": (("rankings", 0, "tau_halves"), 1.5),
    "threshold that is no fraction": (("settings", "thresholds", "deadzone"), 5),
    "histogram beyond its bins": ((*RECORD, "token_sqnr_db", "counts"), [0] * 641),
    "negative count in the histogram": ((*RECORD, "token_sqnr_db", "counts"), [-1]),
    "records that are no list": (("records",), {}),
    "null for a part": (("settings",), None),
}


@pytest.mark.parametrize("path_and_value", BROKEN.values(), ids=BROKEN)
def test_a_scan_that_does_not_hold_together_is_refused(
    path_and_value: tuple[Path_, object], scan: Scan
) -> None:
    path, value = path_and_value
    refusal(put(content(scan), path, value))


def test_the_fault_is_named_by_its_place(scan: Scan) -> None:
    error = refusal(put(content(scan), (*RECORD, "metrics", "deadzone"), 1.01))
    assert error.message == (
        "scan.json: records.0.metrics.deadzone: Input should be less than or equal to 1"
    )


def test_a_newer_scan_asks_for_an_update(scan: Scan) -> None:
    error = refusal(put(content(scan), ("schema_version",), 3))
    assert error.message == "scan.json has schema version 3, and this srdd reads up to 2"
    assert error.hint.startswith("update srdd")


@pytest.mark.parametrize("name", ["kind", "schema_version"])
def test_a_document_that_does_not_say_what_it_is_is_no_scan(name: str, scan: Scan) -> None:
    found = content(scan)
    del found[name]
    assert name in refusal(found).message


def test_a_missing_part_is_named(scan: Scan) -> None:
    found = content(scan)
    del found["calibration"]
    assert refusal(found).message == "scan.json: calibration: Field required"


def test_a_record_that_stands_twice_is_refused(scan: Scan) -> None:
    found = content(scan)
    found["records"].append(found["records"][1])
    assert refusal(found).message == "scan.json: the document: layer 1 occurs twice in output"


def test_the_same_layer_in_another_rule_or_tensor_stands_once(scan: Scan) -> None:
    found = content(scan)
    found["settings"]["formats"].append("mxfp4:even")
    found["records"].append({**found["records"][1], "scale_rule": "even"})
    found["records"].append({**found["records"][1], "tensor": "elsewhere"})
    assert len(Scan.from_object(found, "scan.json").records) == 5


def test_more_than_64_replicates_are_refused(scan: Scan) -> None:
    found = content(scan)
    found["records"][0]["replicates"] = {name: [0] * 65 for name in FIELDS}
    assert "records.0.replicates.tokens" in refusal(found).message


def test_undefined_figures_may_be_null(scan: Scan) -> None:
    found = content(scan)
    found["records"][0]["metrics"] = dict.fromkeys(METRICS)
    for name in ("vs_floor_db", "intervals", "token_sqnr_db", "sums", "replicates"):
        found["records"][0][name] = None
    read = Scan.from_object(found, "scan.json")
    assert read.rows()[0]["sqnr_db"] is None
    assert read.rows()[0]["tokens"] is None


leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5)
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


@given(
    path=st.sampled_from([path for path, _ in BROKEN.values()]),
    value=values | st.dictionaries(st.text(max_size=5), leaves, max_size=2),
)
def test_whatever_stands_in_a_file_reading_it_gives_a_scan_or_our_error(
    path: Path_, value: object
) -> None:
    try:
        read = Scan.from_object(put(content(SMALL), path, value), "scan.json")
    except InputError:
        return
    assert Scan.from_object(orjson.loads(read.to_json()), "again") == read


SMALL = made([0.2, 0.3, 0.4])


# Reading figures


def test_rows_are_flat_and_in_order_of_layers(scan: Scan) -> None:
    shuffled = scan.model_copy(update={"records": list(reversed(scan.records))})
    rows = shuffled.rows()
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert set(rows[0]) == {
        *("layer", "site", "tensor", "format", "scale_rule", "operands"),
        *("tokens", "elements", "nonfinite"),
        *METRICS,
        *(f"{name}_interval" for name in METRICS),
        *("vs_floor_db", "token_sqnr_db_p5", "token_sqnr_db_p50", "token_sqnr_db_p95"),
    } | (set(rows[0]) & {"shared_with"})
    assert rows[1]["sqnr_db"] == scan.records[1].metrics.sqnr_db
    assert rows[1]["sqnr_db_interval"] == scan.records[1].intervals.sqnr_db  # type: ignore[union-attr]
    assert rows[1]["tokens"] == 640


def test_a_format_can_be_named_with_or_without_its_rule(scan: Scan) -> None:
    assert scan.select() == scan.select("output", "mxfp4") == scan.select("output", "mxfp4:floor")


def test_of_several_rules_one_has_to_be_named(scan: Scan) -> None:
    settings = scan.settings.model_copy(update={"formats": ["mxfp4:floor", "mxfp4:even"]})
    both = scan.model_copy(update={"settings": settings})
    for name in (None, "mxfp4"):
        with pytest.raises(UsageError, match="the scan holds several formats") as caught:
            both.select("output", name)
        assert caught.value.hint == "choose `format` from: mxfp4:floor, mxfp4:even"
    assert len(both.select("output", "mxfp4:floor")) == 3
    assert both.select("output", "mxfp4:even") == []


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4:even", "mxfp", ":floor", "floor"])
def test_a_format_that_the_scan_lacks_is_told(name: str, scan: Scan) -> None:
    with pytest.raises(UsageError) as caught:
        scan.select("output", name)
    assert caught.value.message == f"the scan holds no format for {name!r}"
    assert caught.value.hint == "choose `format` from: mxfp4:floor"


def test_a_site_that_the_scan_lacks_is_told(scan: Scan) -> None:
    with pytest.raises(UsageError) as caught:
        scan.rows("input")
    assert caught.value.message == "the scan holds no site 'input'"
    assert caught.value.hint == "it holds: output"


def test_counts_are_whole_numbers_in_the_file(scan: Scan) -> None:
    sums = content(scan)["records"][0]["sums"]
    assert {name for name, value in sums.items() if isinstance(value, int)} == set(COUNTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_json_cannot_hold_is_refused_when_it_is_made(value: float) -> None:
    record = SMALL.records[0].model_dump()
    record["metrics"]["sqnr_db"] = value
    with pytest.raises(ValidationError):
        type(SMALL.records[0]).model_validate(record)
