"""`srdd report` from the outside: forms, files, streams, messages, and what it imports."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_scans import PROTOTYPE, made, prototype, rising, thorough

from srdd.cli.app import run
from srdd.documents.scan import Scan

FORMS = ("terminal", "markdown", "html", "csv", "tsv")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def scan(here: Path) -> Path:
    return Path(shutil.copy(PROTOTYPE, here / "scan.json"))


def saved(here: Path, scan: Scan, name: str = "made.json") -> str:
    scan.save(here / name)
    return name


def complaint(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `srdd report` says on standard error when it refuses; nothing goes to the other."""
    assert run(["report", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return " ".join(err.split())


class TestForms:
    def test_the_terminal_is_the_default_and_shows_what_scan_shows(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        from rich.console import Console

        from srdd.documents.scan import load_scan
        from srdd.reports.groups import groups_of
        from srdd.reports.scan_view import scan_blocks
        from srdd.reports.terminal import render

        assert run(["report", "scan.json"]) == 0
        found = capfd.readouterr().out
        expected = io.StringIO()
        console = Console(file=expected, width=80, highlight=False, markup=False)
        for part in render(scan_blocks(groups_of(load_scan(scan)))):
            console.print(part)
        assert found == expected.getvalue()
        assert "of 28 layers, mxfp4:floor, site output" in found

    @pytest.mark.parametrize(
        ("form", "start"),
        [
            ("markdown", "# Quantization and noise guide: `Qwen/Qwen2.5-1.5B-Instruct`"),
            ("html", "<!doctype html>"),
            ("csv", "scan,model,site,operands,format,scale_rule,layer,"),
            ("tsv", "scan\tmodel\tsite\t"),
        ],
    )
    def test_documents_go_to_standard_output_alone(
        self, scan: Path, form: str, start: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for extra in ([], ["-o", "-"]):
            assert run(["report", "scan.json", "--as", form, *extra]) == 0
            out, err = capfd.readouterr()
            assert out.startswith(start)
            assert err == ""

    @pytest.mark.parametrize(
        ("name", "start"),
        [
            ("a.md", "# Quantization"),
            ("a.MARKDOWN", "# Quantization"),
            ("a.html", "<!doctype html>"),
            ("a.csv", "scan,"),
            ("a.tsv", "scan\t"),
            ("a.txt", "Qwen/Qwen2.5"),
            ("a", "Qwen/Qwen2.5"),
        ],
    )
    def test_the_form_follows_from_the_name_of_the_file(
        self, scan: Path, name: str, start: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["report", "scan.json", "-o", name]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert err == f"wrote {name}\n"
        assert Path(name).read_text().startswith(start)

    def test_a_form_that_is_named_wins_over_the_file_s_name(self, scan: Path) -> None:
        assert run(["report", "scan.json", "--as", "tsv", "-o", "a.csv"]) == 0
        assert Path("a.csv").read_text().startswith("scan\t")

    def test_a_file_holds_no_escape_codes(
        self, scan: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert run(["report", "scan.json", "-o", "a.txt"]) == 0
        assert "\x1b" not in Path("a.txt").read_text()

    def test_on_a_terminal_the_page_goes_to_a_file_named_after_the_scan(
        self, scan: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert run(["report", "scan.json", "--as", "html"]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert err == "wrote scan.html\n"
        assert "scan.html exists already" in complaint(capfd, "scan.json", "--as", "html")
        assert run(["report", "scan.json", "--as", "html", "--force"]) == 0
        shutil.copy("scan.json", "other.json")
        assert run(["report", "scan.json", "other.json", "--as", "html"]) == 0
        assert Path("scan-and-1.html").exists()


class TestScans:
    def test_the_newest_scan_is_read_and_named(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["report", "--as", "csv"]) == 0
        out, err = capfd.readouterr()
        assert err == "reading scan.json, the newest scan here\n"
        assert len(out.splitlines()) == 29

    def test_standard_input_is_read(
        self, scan: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with scan.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert run(["report", "-", "--as", "csv"]) == 0
        assert capfd.readouterr().out.splitlines()[1].startswith("standard input,Qwen/")

    def test_several_scans_stand_one_after_the_other(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        names = [saved(here, made([0.2], name=n), f"{n}.json") for n in ("one", "two")]
        assert run(["report", *names]) == 0
        out = capfd.readouterr().out
        assert out.index("scan one\n") < out.index("scan two\n")
        assert run(["report", *names, "--as", "markdown"]) == 0
        out = capfd.readouterr().out
        assert out.index("guide: `one`") < out.index("guide: `two`")
        assert run(["report", *names, "--as", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
        assert [row["scan"] for row in rows] == ["one", "two"]

    def test_scans_of_one_name_are_told_apart_by_their_folders(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for folder in ("a", "b"):
            (here / folder).mkdir()
            saved(here, made([0.2]), f"{folder}/x.json")
        assert run(["report", "a/x.json", "b/x.json", "--as", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
        assert [row["scan"] for row in rows] == ["a/x.json", "b/x.json"]

    def test_a_site_and_a_format_can_be_chosen(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        name = saved(here, made([0.2, 0.3], tensors=("x.q_proj", "x.o_proj"), site="input"))
        arguments = ["--site", "input", "--format", "mxfp4", "--as", "csv", "--by", "tensor"]
        assert run(["report", name, *arguments]) == 0
        assert len(capfd.readouterr().out.splitlines()) == 5
        assert run(["report", name, "--by", "kind"]) == 0
        assert "All kinds of tensors" in capfd.readouterr().out


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message", "hint"),
        [
            (["--as", "pdf"], "unknown form 'pdf'", "choose from: "),
            (["--by", "head"], "unknown view 'head'", "choose from: "),
            (["--as", "html", "--by", "kind"], "--by does nothing to html", "leave it out"),
            (["-o", "a.md", "--by", "layer"], "--by does nothing to markdown", "leave it out"),
            (["--site", "weight"], "the scan holds no site 'weight'", "it holds: output"),
            (["--format", "nvfp4"], "the scan holds no format 'nvfp4'", "it holds: mxfp4:floor"),
            (["missing.json"], "there is no file missing.json", "check the name"),
            (["-", "-"], "standard input is named twice", "it holds one scan"),
            (["-o", "no/such/a.md"], "there is no folder no/such", "mkdir -p"),
            (["-o", "."], ". is a folder", "name a file in it"),
        ],
    )
    def test_the_message_and_what_to_do(
        self,
        scan: Path,
        arguments: list[str],
        message: str,
        hint: str,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        said = complaint(capfd, "scan.json", *arguments)
        assert message in said
        assert f"hint: {hint}" in said or hint in said.split("hint:")[1]

    def test_there_is_no_scan_here(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert "there is no scan in" in complaint(capfd)

    def test_too_many_scans_for_a_page(self, scan: Path, capfd: pytest.CaptureFixture[str]) -> None:
        said = complaint(capfd, *["scan.json"] * 9, "--as", "html")
        assert "9 scans in one page" in said
        assert "at most 8" in said

    @pytest.mark.parametrize("form", FORMS)
    def test_a_file_is_kept_and_this_is_said_before_any_scan_is_read(
        self, here: Path, form: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        Path("mine").write_text("keep me")
        said = complaint(capfd, "missing.json", "--as", form, "-o", "mine")
        assert "error: mine exists already hint: name another file, or add --force" in said
        assert Path("mine").read_text() == "keep me"

    def test_an_ending_that_no_form_has(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        made([0.2]).save("x.json")
        said = complaint(capfd, "x.json", "-o", "guide.pdf")
        assert "error: no output form has the file ending .pdf" in said
        assert ".md" in said
        assert not Path("guide.pdf").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"schema_version": 3}, "has schema version 3, and this srdd reads up to 2"),
            ({"schema_version": "1"}, "has no usable schema_version"),
            ({"kind": "srdd.rin"}, "is not a document of kind 'srdd.scan'"),
            ({"records": []}, "the scan holds no figures"),
            ({"records": "x"}, "records: Input should be a valid list"),
        ],
    )
    @pytest.mark.parametrize("form", ["terminal", "markdown", "csv"])
    def test_scans_that_cannot_be_read(
        self,
        here: Path,
        change: dict[str, Any],
        message: str,
        form: str,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        document = json.loads(made([0.2]).to_json()) | change
        Path("x.json").write_text(json.dumps(document))
        assert message in complaint(capfd, "x.json", "--as", form)

    def test_a_format_that_this_srdd_does_not_know(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        found = prototype()
        found["config"]["quant_type"] = "mxfp3"
        Path("x.json").write_text(json.dumps(found))
        assert "x.json is a scan in 'mxfp3'" in complaint(capfd, "x.json")

    def test_a_site_in_which_one_scan_has_nothing_names_the_scan(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        one, two = (
            saved(here, made([0.2]), "one.json"),
            saved(here, made([0.2], site="input"), "two.json"),
        )
        said = complaint(capfd, one, two, "--site", "output", "--as", "csv")
        assert "scan two holds no site 'output'" in said


class TestManyScans:
    @pytest.mark.parametrize("form", ["terminal", "csv"])
    def test_a_thousand_layers(
        self, here: Path, form: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        name = saved(here, made(rising(1000)))
        assert run(["report", name, "--as", form]) == 0
        assert "999" in capfd.readouterr().out

    @pytest.mark.parametrize("form", FORMS)
    def test_one_layer(self, here: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(["report", saved(here, thorough([0.3])), "--as", form]) == 0
        assert "mxfp4" in capfd.readouterr().out

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("name", ["\x1b[31mred", "a\u202eb", "n" * 5000, "[red]x[/red]"])
    def test_hostile_names_are_shown_and_not_obeyed(
        self, here: Path, form: str, name: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        file = saved(here, made([0.2, 0.3], name=name, warnings=[name], tensors=(name,)))
        assert run(["report", file, "--as", form]) == 0
        out, err = capfd.readouterr()
        shown = out + err
        assert not set("\x1b\x9b\u202e") & set(shown)
        assert "n" * 4000 not in shown

    def test_the_name_of_a_file_is_not_obeyed_either(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        file = saved(here, made([0.2]), "\x1b[31mred.json")
        for form in ("terminal", "csv", "markdown"):
            assert run(["report", file, file, "--as", form]) == 0
        assert run(["report", file, "-o", "\x1b[31mred.md"]) == 0
        out, err = capfd.readouterr()
        assert "\x1b" not in out + err


HEAVY = ("torch", "transformers", "numba", "pandas")


@pytest.mark.parametrize("form", FORMS)
def test_nothing_heavy_is_imported(form: str, tmp_path: Path) -> None:
    code = (
        f"from srdd.cli.app import run; import sys; "
        f"assert run(['report', {str(PROTOTYPE)!r}, '--as', {form!r}, '-o', 'out']) == 0; "
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.split() == []


def test_a_pipe_gets_whole_lines_without_trailing_blanks(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "srdd", "report", str(PROTOTYPE)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert not any(line.startswith("(hidden") for line in lines)
    assert max(map(len, lines)) > 200  # sentences are not wrapped
