"""`srdd compare` from the outside: streams, exit codes, forms, messages, and hostile scans."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from made_scans import PROTOTYPE, made, rising, thorough

from srdd.cli.app import run
from srdd.documents.scan import Scan

PROMPTS = [f"{number:016x}" for number in range(64)]
HOSTILE = "\x1b[31m[bold]red[/bold]\n| <img src=x onerror=alert(1)> | `code` @user ![x](http://e)"


def with_identity(scan: Scan, fingerprint: str, prompts: list[str] = PROMPTS) -> Scan:
    return scan.model_copy(
        update={
            "model": scan.model.model_copy(update={"fingerprint": fingerprint}),
            "calibration": scan.calibration.model_copy(update={"prompt_fingerprints": prompts}),
        }
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with old.json and new.json, in which layer 5 has 1.55 times the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    errors = rising(28)
    with_identity(thorough(errors), "a" * 64).save("old.json")
    errors[5] *= 1.55
    with_identity(thorough(errors), "b" * 64).save("new.json")
    return tmp_path


class TestStreams:
    def test_the_terminal_shows_both_figures_difference_interval_and_verdict(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json"]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        row = next(line for line in out.splitlines() if line.startswith("    5 ")).split()
        # The error is 1.55 times as large: 20 log10(1.55) = 3.81 dB; see made_scans.
        old, new, by, low, _, high, word = row[1:]
        assert float(by) == pytest.approx(-3.81, abs=0.02)
        assert float(new) - float(old) == pytest.approx(float(by), abs=0.011)
        assert float(low) <= float(by) <= float(high) < 0
        assert word == "worse"
        assert "28 layers: 1 worse, 27 no difference seen; median" in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= 80

    def test_layers_that_moved_in_rank_stand_with_their_ranks(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json", "--metric", "relative_error"]) == 0
        out = capfd.readouterr().out
        table = out.partition("Moved in rank by relative error, 1 is the worst")[2]
        rows = [line.split() for line in table.splitlines()]
        # 1.55 * 0.237 = 0.367 lies between layers 22 and 23: five are worse.
        assert ["5", "23", "6", "worse"] in rows

    def test_narrow_terminals_lose_columns_and_no_figures(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        assert run(["compare", "old.json", "new.json"]) == 0
        out = capfd.readouterr().out
        assert "(hidden at this width: " in out
        assert any(line.split()[:1] == ["5"] and "worse" in line for line in out.splitlines())
        # A verdict of several words may wrap; nothing is cut.
        assert max(map(len, out.splitlines())) <= 56
        assert "no difference seen" in out

    def test_a_file_is_written_in_the_form_of_its_name(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for name, start in (
            ("c.md", "### srdd compare"),
            ("c.json", "{"),
            ("c.csv", "site,operands"),
            ("c.txt", "site output, mxfp4:floor: SQNR"),
        ):
            assert run(["compare", "old.json", "new.json", "-o", name]) == 0
            out, err = capfd.readouterr()
            assert (out, err) == ("", f"wrote {name}\n")
            assert Path(name).read_text().startswith(start)
        assert "\x1b" not in Path("c.txt").read_text()

    def test_output_that_exists_is_kept(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        Path("c.md").write_text("mine")
        assert run(["compare", "old.json", "new.json", "-o", "c.md"]) == 2
        assert "error: c.md exists already" in capfd.readouterr().err
        assert Path("c.md").read_text() == "mine"
        assert run(["compare", "old.json", "new.json", "-o", "c.md", "--force"]) == 0
        assert Path("c.md").read_text() != "mine"

    def test_old_from_standard_input(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with Path("old.json").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert run(["compare", "-", "new.json", "--as", "json"]) == 0
        assert json.loads(capfd.readouterr().out)["old"]["source"] == "standard input"


class TestForms:
    def test_json_holds_every_metric_and_all_digits(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json", "--as", "json"]) == 0
        found = json.loads(capfd.readouterr().out)
        (group,) = found["groups"]
        scans = [Scan.model_validate_json(Path(f"{n}.json").read_text()) for n in ("old", "new")]
        for layer, *records in zip(group["rows"], *(s.records for s in scans), strict=True):
            for metric, one in layer["metrics"].items():
                values = [getattr(record.metrics, metric) for record in records]
                # A made-up scan rounds its counts only when it is saved.
                near = 1e-3 if metric == "deadzone" else 1e-12
                assert [one["old"], one["new"]] == pytest.approx(values, rel=1e-12, abs=near)
                assert one["difference"] == one["new"] - one["old"]
        assert (group["intervals"], found["ranked_by"]) == ("paired", "sqnr_db")
        assert found["old"]["fingerprint"] == "a" * 64

    def test_csv_has_a_row_for_each_metric_of_each_layer_and_of_all(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json", "--as", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
        assert len(rows) == (28 + 1) * 6
        (row,) = [r for r in rows if (r["layer"], r["metric"]) == ("5", "sqnr_db")]
        assert float(row["new"]) - float(row["old"]) == float(row["difference"])
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
        assert row["verdict"] == "worse"

    def test_an_unknown_form_and_an_unknown_metric_list_the_right_ones(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json", "--as", "html"]) == 2
        assert "choose from: terminal, markdown" in capfd.readouterr().err.replace("m, t", "m, t")
        assert run(["compare", "old.json", "new.json", "--metric", "relative"]) == 2
        assert "choose from: relative_l1, relative_error" in capfd.readouterr().err


class TestGates:
    def test_a_breach_exits_with_one_and_names_the_layer(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json", "--fail-on", "sqnr_db < -0.5"]) == 1
        out = capfd.readouterr().out
        first = out.splitlines()[0]
        assert first.startswith("gate sqnr_db < -0.5: breached: layer 5 (-3.81 dB) at site output")

    def test_a_gate_that_holds_exits_with_zero(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        gates = ["--fail-on", "sqnr_db < -4", "--fail-on", "overall relative_error > 2%"]
        assert run(["compare", "old.json", "new.json", *gates, "--as", "json"]) == 0
        out, err = capfd.readouterr()
        assert [gate["passed"] for gate in json.loads(out)["gates"]] == [True, True]
        assert "gate 'sqnr_db < -4' passed" in err

    def test_every_gate_is_judged_and_one_suffices(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        gates = ["--fail-on", "sqnr_db < -4", "--fail-on", "new.sqnr_db < 17"]
        assert run(["compare", "old.json", "new.json", *gates, "--as", "markdown"]) == 1
        out, err = capfd.readouterr()
        assert "### srdd compare: a gate is breached" in out
        assert "- gate sqnr\\_db \\< -4: passed: " in out
        assert "- **gate new.sqnr\\_db \\< 17: breached: layers " in out
        assert "warning: gate 'new.sqnr_db < 17' breached: layers " in err

    def test_the_file_is_there_when_the_gate_is_breached(self, here: Path) -> None:
        line = ["compare", "old.json", "new.json", "--fail-on", "sqnr_db < -0.5", "-o", "c.md"]
        assert run(line) == 1
        assert ": breached: layer 5 " in Path("c.md").read_text()

    @pytest.mark.parametrize("gate", ["sqnr_db <<= 3", "\x1b[31m" + "x" * 5000])
    def test_a_gate_that_does_not_parse_is_refused_before_any_file_is_read(
        self, gate: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "no", "where", "--fail-on", gate]) == 2
        error, hint = capfd.readouterr().err.splitlines()
        assert "not a gate" in error
        assert hint.startswith("hint: write a gate as 'sqnr_db < -0.5'")
        assert "\x1b" not in error

    def test_a_gate_in_the_wrong_direction_is_told(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", "old.json", "new.json", "--fail-on", "sqnr_db > 0.5"]) == 0
        assert "breached where NEW is good" in capfd.readouterr().err

    def test_a_gate_with_nothing_to_judge_is_an_error(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        line = ["compare", str(PROTOTYPE), "new.json", "--fail-on", "sqnr_db < -0.1"]
        assert run(line) == 2
        assert "has nothing to judge: 28 figures" in capfd.readouterr().err
        assert run([*line, "--count-unsure"]) == 1


class TestWhatIsCompared:
    def test_a_scan_against_itself_is_refused(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        Path("link.json").symlink_to("old.json")
        for other in ("old.json", "./old.json", "link.json"):
            assert run(["compare", "old.json", other]) == 2
            err = capfd.readouterr().err
            assert "OLD and NEW are the same file" in err
            assert "--old-format" in err
        assert run(["compare", "old.json", "old.json", "--old-format", "mxfp4"]) == 2

    def test_beside_a_model_folder_a_missing_path_is_the_mistake(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        Path("model").mkdir()
        Path("model/config.json").write_text("{}")
        for line in (["model", "mdoel"], ["mdoel", "model"]):
            assert run(["compare", *line]) == 2
            assert "there is no file or folder mdoel" in capfd.readouterr().err
        assert run(["compare", "model", "old.json"]) == 2
        assert "model is a model, not a scan" in capfd.readouterr().err

    def test_two_formats_of_one_file(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        scan = thorough(rising(4))
        worse = [
            record.model_copy(update={"format": "mxfp4", "scale_rule": "ceil"})
            for record in thorough(rising(4, 0.3, 0.5)).records
        ]
        both = scan.model_copy(
            update={
                "records": [*scan.records, *worse],
                "settings": scan.settings.model_copy(
                    update={"formats": ["mxfp4:floor", "mxfp4:ceil"]}
                ),
            }
        )
        with_identity(both, "a" * 64).save("both.json")
        line = ["compare", "both.json", "both.json"]
        assert run([*line, "--old-format", "mxfp4:floor", "--new-format", "mxfp4:ceil"]) == 0
        out = capfd.readouterr().out
        assert "site output, mxfp4:floor compared with mxfp4:ceil (the same prompts" in " ".join(
            out.split()
        )
        assert "4 layers: 4 worse" in out

    def test_the_same_weights_are_a_warning(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with_identity(thorough(rising(28)), "a" * 64).save("again.json")
        assert run(["compare", "old.json", "again.json"]) == 0
        assert "warning: OLD and NEW have the same weights" in capfd.readouterr().out

    def test_a_scan_of_a_newer_version_is_named(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        found = json.loads(Path("new.json").read_text())
        Path("newer.json").write_text(json.dumps(found | {"schema_version": 99}))
        assert run(["compare", "old.json", "newer.json"]) == 2
        assert "newer.json has schema version 99" in capfd.readouterr().err

    def test_files_that_are_no_scans_are_named(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        Path("other.json").write_text("{}")
        assert run(["compare", "old.json", "other.json"]) == 2
        assert "other.json" in capfd.readouterr().err
        assert run(["compare", "gone.json", "new.json"]) == 2
        assert "there is no file gone.json" in capfd.readouterr().err
        assert run(["compare", "-", "-"]) == 2
        assert "standard input is named twice" in capfd.readouterr().err

    def test_one_layer(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        for name, error in (("one.json", 0.2), ("other.json", 0.3)):
            with_identity(thorough([error]), name[0] * 64).save(name)
        assert run(["compare", "one.json", "other.json"]) == 0
        out = capfd.readouterr().out
        assert "1 layer: 1 worse" in out
        assert "Kendall" not in out

    def test_metrics_that_are_null(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        found = json.loads(PROTOTYPE.read_text())
        found["report"]["per_layer"][3]["sqnr_db"] = None
        Path("nulls.json").write_text(json.dumps(found))
        assert run(["compare", str(PROTOTYPE), "nulls.json"]) == 0
        out = capfd.readouterr().out
        row = next(line for line in out.splitlines() if line.startswith("    3 "))
        assert row.split()[2:] == ["-", "-", "undefined"]

    def test_an_ending_that_no_form_has(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for name, error in (("one.json", 0.2), ("other.json", 0.3)):
            with_identity(thorough([error]), name[0] * 64).save(name)
        assert run(["compare", "one.json", "other.json", "-o", "c.html"]) == 2
        assert ".html" in capfd.readouterr().err
        assert not Path("c.html").exists()

    @pytest.mark.parametrize("form", ["terminal", "markdown", "json", "csv"])
    def test_a_metric_that_is_null_everywhere(
        self, form: str, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        found = json.loads(PROTOTYPE.read_text())
        for layer in found["report"]["per_layer"]:
            layer["sqnr_db"] = None
        Path("nulls.json").write_text(json.dumps(found))
        assert run(["compare", str(PROTOTYPE), "nulls.json", "--as", form]) == 0
        out = capfd.readouterr().out.lower()
        assert "nan" not in out
        assert "inf" not in out.replace("info", "")


class TestHostile:
    @pytest.fixture
    def hostile(self, here: Path) -> Path:
        scan: dict[str, Any] = with_identity(
            thorough(rising(3), name=HOSTILE + "x" * 5000, tensors=("a", "b"), site="input"),
            "c" * 64,
        ).model_dump(mode="json")
        for record in scan["records"]:
            record["tensor"] = f"{HOSTILE} {record['tensor']}"
        scan["settings"]["exclude"] = [HOSTILE]
        scan["calibration"]["source"] = HOSTILE
        Path("hostile.json").write_bytes(orjson.dumps(scan))
        scan["settings"]["exclude"] = []
        scan["model"]["fingerprint"] = "d" * 64
        scan["model"]["dtype"] = HOSTILE
        Path("hostile2.json").write_bytes(orjson.dumps(scan))
        return here

    @pytest.mark.parametrize("by", ["layer", "kind", "tensor"])
    @pytest.mark.parametrize("form", ["terminal", "markdown", "json", "csv"])
    def test_names_stay_text(
        self, form: str, by: str, hostile: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        line = ["compare", "hostile.json", "hostile2.json", "--as", form, "--by", by]
        assert run([*line, "--fail-on", "sqnr_db < -0.1"]) == 0
        out, err = capfd.readouterr()
        assert "\x1b" not in out + err
        if form == "markdown":
            from markdown_it import MarkdownIt

            shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(out)
            allowed = {"h3", "h4", "ul", "li", "p", "strong", "code", "blockquote"}
            allowed |= {"table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
            assert set(re.findall(r"<(\w+)", shown)) <= allowed
            assert "onerror=alert(1)&gt;" in shown
        if form == "csv":
            rows = list(csv.reader(io.StringIO(out)))
            assert {len(row) for row in rows} == {13}


class TestSize:
    def test_over_a_thousand_layers(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        for name, factor in (("big.json", 1.0), ("big2.json", 1.1)):
            scan = made([factor * e for e in rising(1300)])
            with_identity(scan, name.ljust(64, "0"), PROMPTS[:1]).save(name)
        assert run(["compare", "big.json", "big2.json"]) == 0
        out = capfd.readouterr().out
        assert "1,300 layers: 1,300 no interval" in out
        assert "30 of 1,300 layers, those that changed most" in out
        assert run(["compare", "big.json", "big2.json", "--as", "markdown"]) == 0
        out = capfd.readouterr().out
        assert len(out) <= 65_536
        assert "\n| 1299 | " in out
