"""`srdd.report`: every form as text and as a file, as the command writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_scans import rising, thorough

import srdd
from srdd.cli.app import run
from srdd.errors import OutputError, UsageError
from srdd.reports.report import FORMS

SCAN = thorough(rising(6))


@pytest.mark.parametrize("form", FORMS)
def test_text_and_file_are_what_the_command_writes(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    SCAN.save("scan.json")
    text = srdd.report(SCAN, "ours", form=form)
    assert Path("ours").read_text() == text
    assert run(["report", "scan.json", "--as", form, "-o", "theirs"]) == 0
    theirs = Path("theirs").read_text()
    if form in ("terminal", "markdown"):  # the others name the file
        assert theirs == text
    assert len(theirs.splitlines()) == len(text.splitlines())


def test_the_form_follows_from_the_file(tmp_path: Path) -> None:
    rows = json.loads(srdd.report(SCAN, tmp_path / "rows.json"))
    assert len(rows) == 6
    assert srdd.report(SCAN, tmp_path / "page.html").lower().startswith("<!doctype html")
    assert srdd.report(SCAN, by="kind").splitlines()[0].startswith(SCAN.model.name)


def test_several_scans_by_name() -> None:
    text = srdd.report({"before": SCAN, "after": SCAN})
    assert "scan before" in text
    assert "scan after" in text


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown form"):
        srdd.report(SCAN, form="pdf")
    with pytest.raises(UsageError, match="`by`"):
        srdd.report(SCAN, form="markdown", by="kind")
    with pytest.raises(UsageError, match="site"):
        srdd.report(SCAN, sites=["weight"])
    srdd.report(SCAN, tmp_path / "a.md")
    with pytest.raises(OutputError):
        srdd.report(SCAN, tmp_path / "a.md")
    srdd.report(SCAN, tmp_path / "a.md", force=True)
