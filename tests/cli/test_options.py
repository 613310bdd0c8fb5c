"""What all commands have in common: names of options, help pages, notes, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from made_scans import PROTOTYPE, rising, thorough

from srdd.cli.app import app, run
from srdd.errors import UsageError
from srdd.model.checkpoint import DTYPES
from srdd.numerics.metrics import METRICS, metric_name
from srdd.numerics.sites import SITES
from srdd.reports.rows import VIEWS

COMMANDS = [info.name for info in app.registered_commands if info.name]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sqnr_db", "sqnr_db"),
        ("sqnr", "sqnr_db"),
        ("SQNR dB", "sqnr_db"),
        ("dead", "deadzone"),
        ("relative error", "relative_error"),
        ("rel. L1", "relative_l1"),
        ("relative-e", "relative_error"),
    ],
)
def test_a_metric_goes_by_name_title_label_and_beginning(text: str, name: str) -> None:
    assert metric_name(text) == name


@pytest.mark.parametrize("text", ["relative", "error", "", "_"])
def test_what_stands_for_no_metric_or_several_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        metric_name(text)
    assert set(METRICS) == set(caught.value.hint.removeprefix("choose from: ").split(", "))


def test_commands_take_metrics_by_their_beginning(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, shift in (("old", 0.0), ("new", 0.1)):
        thorough([value + shift for value in rising(4)]).save(f"{name}.json")
    assert run(["compare", "old.json", "new.json", "--metric", "dead", "--as", "md"]) == 0
    assert "deadzone" in capfd.readouterr().out
    assert run(["suggest", "old.json", "--metric", "sqnr", "--for", "srdd"]) == 0
    assert json.loads(capfd.readouterr().out)["source"]["metric"] == "sqnr_db"
    assert run(["explain", "sqnr"]) == 0
    assert "sqnr_db (metric)" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "closest"),
    [
        ("scan demo --site outputs", "output"),
        ("scan demo --rounding evn", "even"),
        ("scan demo --by tensors", "tensor"),
        ("eval demo --dtype float61", "float16"),
        ("report scan.json --as markdwn", "markdown"),
        ("compare a.json b.json --by layers", "layer"),
        ("suggest --layer-type linears", "linear"),
        ("formats --as jsn", "json"),
        ("schema scn", "scan"),
    ],
)
def test_the_error_for_an_unknown_name_lists_the_closest_first(
    line: str, closest: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(rf"^error: unknown .*\nhint: choose from: {closest}\b", err, re.MULTILINE)


def test_several_terms_are_explained_one_after_the_other(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", "at", "floor", "sqnr", "mxfp4:even"]) == 0
    out = capfd.readouterr().out
    assert re.findall(r"^.* \((?:metric|verdict|format)\)$", out, re.MULTILINE) == [
        "at floor (verdict)",
        "sqnr_db (metric)",
        "mxfp4:even (format)",
    ]
    assert not re.search(r" $", out, re.MULTILINE)


@pytest.mark.parametrize("form", ["md", "markdown"])
def test_forms_have_short_names(form: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(PROTOTYPE), "--as", form]) == 0
    assert capfd.readouterr().out.startswith("# ")


def test_a_model_where_a_scan_belongs(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("{}")
    for model in ("demo", "Qwen/Qwen2.5-1.5B", "model"):
        assert run(["suggest", model]) == 2
        assert f"hint: scan it first: srdd scan {model}\n" in capfd.readouterr().err


# Notes


def test_quiet_leaves_out_notes_and_keeps_warnings(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["scan", "demo", "--limit", "2", "--site", "output", "-o", "scan.json", "--force"]
    assert run(line) == 0
    notes = capfd.readouterr().err.splitlines()
    assert run([*line, "--quiet"]) == 0
    quiet = capfd.readouterr().err.splitlines()
    assert quiet == [line for line in notes if line.startswith("warning: ")] != []
    assert run(["report", "-q", "-o", "report.txt"]) == 0
    assert capfd.readouterr().err == ""


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_fits_a_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capfd.readouterr().out
    (line,) = re.findall(rf"^  {name} .*$", out, re.MULTILINE)
    assert line.endswith(".")
    assert "..." not in line
    assert len(line) <= 80


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("formats", "explain", "schema")]
)
def test_options_are_grouped_and_the_rest_comes_last(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    out = capfd.readouterr().out
    panels = re.findall(r"^(\w[\w ]*):$", out, re.MULTILINE)
    assert panels[:2] == ["Arguments", "Options"]
    assert "Output" in panels
    assert panels[-1] == "Advanced"
    assert max(map(len, out.splitlines())) <= 80


def test_help_starts_in_time() -> None:
    code = "from srdd.cli.app import run; run(['scan', '--help'])"
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        times.append(user + after.children_system - before.children_system)
    assert min(times) <= 0.6  # of a processor; 0.2 s on one that is free


def test_every_choice_stands_in_the_help() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    assert command.name == "srdd"
    flat = " ".join(page.split())
    for names in (SITES, DTYPES, VIEWS):
        for name in names:
            assert re.search(rf"\b{name}\b", flat)


# Completion


def completions(line: str) -> set[str]:
    environment = os.environ | {
        "_SRDD_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split())),
    }
    code = "import sys; from srdd.cli.app import main; sys.argv = ['srdd']; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    return set(run.stdout.split())


def test_a_shell_completes_commands_options_and_names() -> None:
    assert {"scan", "suggest", "report"} <= completions("srdd ")
    assert {"output", "input", "weight", "linear"} <= completions("srdd scan demo --site ")
