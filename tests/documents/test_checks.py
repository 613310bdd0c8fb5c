"""A scan that contradicts itself is refused, with the record named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from made_scans import rising, scan_of, thorough

from srdd.documents.document import LARGEST, LARGEST_COUNT
from srdd.documents.scan import Scan
from srdd.errors import InputError
from srdd.numerics.histogram import BINS

Change = Callable[[dict[str, Any]], None]
RECORD = "records.1 (layer 1, output, output)"


@pytest.fixture
def content() -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(thorough(rising(3)).to_json())
    return found


def in_record(path: str, value: object) -> Change:
    """Sets a value of the second record by its path."""

    def change(content: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place = content["records"][1]
        for key in way:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def added(field: str, amount: float) -> Change:
    """Adds to a sum and to one of its replicates, which still agree with each other."""

    def change(content: dict[str, Any]) -> None:
        record = content["records"][1]
        record["sums"][field] += amount
        record["replicates"][field][5] += amount

    return change


def setting(name: str, value: object) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["settings"][name] = value

    return change


def in_ranking(content: dict[str, Any]) -> None:
    content["rankings"][0]["metric"] = "psnr_db"


FAULTS: dict[str, tuple[Change, str]] = {
    "metric": (in_record("metrics.sqnr_db", 30.0), f"{RECORD}: metrics.sqnr_db does not follow"),
    "no metric": (in_record("metrics.deadzone", None), f"{RECORD}: metrics.deadzone does not"),
    "sum": (in_record("sums.e2", 7.0), f"{RECORD}: metrics.sqnr_db does not follow"),
    "count": (in_record("sums.tokens", 641), f"{RECORD}: sums.tokens is not the sum"),
    "replicate": (in_record("replicates.x2.3", 7.0), f"{RECORD}: sums.x2 is not the sum"),
    "flushed": (added("flushed", 10**6), f"{RECORD}: sums.flushed is above sums.nonzero"),
    "nonzero": (added("nonzero", 1), f"{RECORD}: sums.nonzero is above sums.elements"),
    "saturated": (added("saturated", 10**6), f"{RECORD}: sums.saturated is above sums.elements"),
    "clipped": (added("clipped_e2", 1e9), f"{RECORD}: sums.clipped_e2 is above sums.e2"),
    "clipped in a replicate": (
        added("clipped_e2", 65.0),
        f"{RECORD}: metrics.clipping_share does not follow",
    ),
    "shorter": (in_record("replicates.x2", [1.0]), "its replicates are of different lengths"),
    "only sums": (in_record("replicates", None), "only one of `sums` and `replicates`"),
    "spread": (added("relative", 4.5e102), f"{RECORD}: sums.relative is beyond any measurement"),
    "large count": (added("elements", LARGEST_COUNT), "sums.elements is beyond any measurement"),
    "huge": (in_record("replicates.relative.0", 4.5e302), "records.1.replicates.relative.0"),
    "scale rule": (in_record("scale_rule", "up"), "the settings have no format 'mxfp4:up'"),
    "format": (in_record("format", "mxfp5"), "the settings have no format 'mxfp5:floor'"),
    "site": (in_record("site", "weight"), "the settings have no site 'weight'"),
    "operands": (in_record("operands", "both"), "`operands` is for site linear"),
    "interval": (
        in_record("intervals.sqnr_db", [2.0, 1.0]),
        "records.1.intervals.sqnr_db: it ends before",
    ),
    "histogram": (in_record("token_sqnr_db.counts", [10**9]), "token_sqnr_db counts more tokens"),
    "huge bin": (in_record("token_sqnr_db.counts", [2**63]), "records.1.token_sqnr_db.counts.0"),
    "far bin": (in_record("token_sqnr_db.first_bin", BINS + 1), "records.1.token_sqnr_db"),
    "unknown format": (setting("formats", ["mxfp5:floor"]), "settings.formats.0: unknown format"),
    "no scale rule": (setting("formats", ["mxfp4"]), "'mxfp4' is not a format with its scale rule"),
    "format twice": (setting("formats", ["mxfp4:floor"] * 2), "settings.formats: a name occurs"),
    "site twice": (setting("sites", ["output"] * 2), "settings.sites: a name occurs twice"),
    "unknown site": (setting("sites", ["outputs"]), "settings.sites.0: "),
    "rounding": (setting("rounding", "up"), "settings.rounding: "),
    "ranking": (in_ranking, "rankings.0.metric: "),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_a_contradiction_is_refused(change: Change, message: str, content: dict[str, Any]) -> None:
    change(content)
    with pytest.raises(InputError) as caught:
        Scan.from_object(content, "scan.json")
    assert message in caught.value.message
    assert caught.value.message.startswith("scan.json: ")


def test_a_part_above_its_whole_in_a_replicate_alone_is_refused(content: dict[str, Any]) -> None:
    values = content["records"][1]["replicates"]["flushed"]
    moved = values[1] + content["records"][1]["replicates"]["nonzero"][0]
    values[0], values[1] = values[0] + moved, values[1] - moved
    with pytest.raises(InputError):  # a negative count
        Scan.from_object(content, "scan.json")
    values[:] = [sum(values), *[0] * 63]
    with pytest.raises(InputError, match=r"replicates\.flushed is above replicates\.nonzero"):
        Scan.from_object(content, "scan.json")


def test_every_site_and_format_agrees_with_itself() -> None:
    linears = {"mlp.up_proj": [18.0, 12.0]}
    scan = scan_of(
        {"output": {"output": [19.0, 18.0]}, "input": linears, "linear": linears},
        formats={"mxfp4:floor": 0.0, "nvfp4:token": 1.5},
    )
    assert Scan.parse(scan.to_json(), "scan.json") == scan


def test_sums_in_another_order_of_addition_are_accepted(content: dict[str, Any]) -> None:
    content["records"][1]["sums"]["x2"] *= 1 + 1e-12
    Scan.from_object(content, "scan.json")


def test_the_limits_leave_room_for_any_model() -> None:
    assert LARGEST_COUNT > 10**9 * 10**5  # tokens and channels
    assert LARGEST > 1e12 * (3.4e38) ** 2  # the largest float32, squared
