"""`srdd merge` from the outside, on real parts of one prompt file."""

from __future__ import annotations

from pathlib import Path

import pytest

from srdd import load_scan
from srdd.cli.app import run


@pytest.fixture(scope="module")
def parts(saved_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two parts, the whole, a part that overlaps and one made differently."""
    folder = tmp_path_factory.mktemp("parts")
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"prompt number {n}\n" for n in range(9)))
    line = ["scan", str(saved_once), "--prompts", str(prompts), "--batch-size", "1"]
    for name, options in (
        ("a", ["--limit", "4"]),
        ("b", ["--skip", "4"]),
        ("whole", []),
        ("overlap", ["--skip", "3"]),
        ("other", ["--skip", "4", "--max-length", "5"]),
    ):
        assert run([*line, *options, "-o", str(folder / f"{name}.json")]) == 0
    return folder


@pytest.fixture
def here(parts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    for part in parts.glob("*.json"):
        (tmp_path / part.name).write_bytes(part.read_bytes())
    return tmp_path


def test_skip_and_limit_parts_make_exactly_the_whole(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["merge", "a.json", "b.json", "-o", "merged.json"]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "merged 2 parts: 9 prompts, " in err
    assert "wrote merged.json" in err
    merged, whole = load_scan("merged.json"), load_scan("whole.json")
    assert merged.records == whole.records
    assert merged.rankings == whole.rankings
    assert merged.calibration.prompt_fingerprints == whole.calibration.prompt_fingerprints
    assert merged.calibration.fingerprint == whole.calibration.fingerprint
    assert merged.calibration.tokens == whole.calibration.tokens
    assert merged.warnings == whole.warnings


def test_standard_output_gets_the_document_alone(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["merge", "a.json", "b.json", "-o", "-"]) == 0
    out, err = capfd.readouterr()
    (here / "piped.json").write_text(out)
    assert load_scan(here / "piped.json").calibration.prompts == 9
    assert "wrote" not in err


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        (
            "a.json overlap.json -o m.json",
            "a.json and overlap.json have 1 prompt in common, which would count twice; they",
            "--skip and --limit",
        ),
        (
            "a.json other.json -o m.json",
            "a.json and other.json differ in calibration.max_length: None and 5",
            "same",
        ),
        ("a.json -o m.json", "there is only one part to merge", "two scans or more"),
        ("a.json a.json -o m.json", "a.json is named twice", "every part once"),
        ("a.json ./a.json -o m.json", "a.json and ./a.json are one file", "every part once"),
        ("a.json b.json", "Missing option '--output' / '-o'", "merge --help"),
        ("a.json b.json -o whole.json", "whole.json exists already", "--force"),
        ("a.json gone.json -o m.json", "there is no file gone.json", "srdd scan"),
    ],
)
def test_refusals_name_the_files_and_write_nothing(
    line: str, error: str, hint: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (here / "whole.json").read_bytes()
    assert run(["merge", *line.split()]) == 2
    err = capfd.readouterr().err
    assert f"error: {error}" in err
    assert hint in err
    assert not (here / "m.json").exists()
    assert (here / "whole.json").read_bytes() == before


def test_repeated_counts_shared_prompts_as_often_as_they_stand_there(here: Path) -> None:
    assert run(["merge", "a.json", "overlap.json", "--repeated", "-o", "m.json"]) == 0
    assert load_scan("m.json").calibration.prompts == 4 + 6


def test_the_whole_can_be_written_over_with_force(here: Path) -> None:
    assert run(["merge", "a.json", "b.json", "-o", "whole.json", "--force"]) == 0
