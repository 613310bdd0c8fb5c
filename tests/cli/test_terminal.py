"""`srdd` in a process of its own: signals, pipes and terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, NamedTuple

import pyte
import pytest

from srdd import load_scan
from srdd.documents.scan import Scan
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import groups_of
from srdd.reports.rows import rows_of
from srdd.reports.view import Column, Measure

SRDD = [sys.executable, "-m", "srdd"]
ESCAPE = b"\x1b"
LIMIT_S = 600
"""Beyond this, a process hangs."""


def environment(**changes: str) -> dict[str, str]:
    """Ours without what changes how text is shown."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color"} | changes


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Enough prompts for a scan that can be watched."""
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt number {n}\n" for n in range(40)))
    return file


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


class Seen(NamedTuple):
    """What came over a terminal: all bytes, and every different screen that they made."""

    code: int
    raw: bytes
    screens: list[str]

    @property
    def lines(self) -> list[str]:
        """All lines that were printed, scrolled away or not, without escape codes."""
        text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self.raw).decode()
        return [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]


def on_terminal(arguments: list[str], folder: Path, columns: int, **changes: str) -> Seen:
    """Run the command on a terminal of its own and watch it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*SRDD, *arguments],
        cwd=folder,
        env=environment(**changes),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = pyte.Screen(columns, 50)
    stream = pyte.ByteStream(screen)
    raw, screens = b"", [""]
    while True:
        try:
            piece = os.read(ours, 256)
        except OSError:  # the other side was closed
            break
        if not piece:
            break
        raw += piece
        stream.feed(piece)
        now = "\n".join(line.rstrip() for line in screen.display).rstrip()
        if now != screens[-1]:
            screens.append(now)
    os.close(ours)
    return Seen(process.wait(LIMIT_S), raw, screens)


DISTANCE = Measure("dB", 1.0, 1, signed=True)
"""How the distance from the floor is written."""

FIGURE = re.compile(r"(?<![\w.])[-+<>]?\d+\.\d+(?![\w.])")


def figures(scan: Scan) -> set[str]:
    """Every figure of a scan as the tables write it, whether they show it or not."""
    found = set()
    for row in rows_of(groups_of(scan), "tensor"):
        record = row.record
        tokens = record.token_sqnr_db
        assert tokens is not None
        found |= {f"{value:.1f}" for value in (tokens.p5, tokens.p50, tokens.p95) if value}
        found.add(DISTANCE.text(record.vs_floor_db))
        for metric in METRICS:
            shown = Column("", Measure.of(metric)).text(row.estimate(metric))
            found |= set(shown.split(" ±"))
    return found


def layer_rows(lines: list[str]) -> list[list[str]]:
    """The rows of the first table of layers, as words."""
    start = next(n for n, line in enumerate(lines) if TABLE in line)
    rule = next(n for n, line in enumerate(lines) if n > start and line.startswith("──"))
    rows = []
    for line in lines[rule + 1 :]:
        if not line.strip() or line.startswith("("):
            break
        rows.append(line.split())
    return rows


TABLE = "mxfp4:floor, site output"
"""In the title of the table."""

ARGUMENTS = ["--site", "output", "--batch-size", "1", "-o", "scan.json"]


@pytest.mark.parametrize(
    "columns",
    [80, pytest.param(40, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.slow)],
)
def test_on_a_terminal_there_is_a_progress_bar_and_no_figure_is_cut(
    columns: int, saved_once: Path, prompts: Path, here: Path
) -> None:
    seen = on_terminal(
        ["scan", str(saved_once), "--prompts", str(prompts), *ARGUMENTS], here, columns
    )
    assert seen.code == 0, seen.raw.decode()
    assert any("loading" in screen for screen in seen.screens)
    bars = [screen for screen in seen.screens if re.search(r"measuring 40 prompts.*\d+%", screen)]
    assert bars
    assert any("tokens/s" in screen for screen in bars) == (columns >= 80)
    assert not any("…" in screen for screen in bars)
    assert "measuring" not in seen.screens[-1]  # the bar goes when it is done
    assert ESCAPE in seen.raw
    assert TABLE in "\n".join(seen.lines)

    scan = load_scan(here / "scan.json")
    rows = layer_rows(seen.lines)
    ranked = sorted(scan.select("output"), key=lambda record: record.vs_floor_db or 0)
    assert [row[0] for row in rows] == [str(record.layer) for record in ranked]
    possible = figures(scan)
    for record, row in zip(ranked, rows, strict=True):
        shown = FIGURE.findall(" ".join(row).replace("±", " "))
        assert set(shown) <= possible
        assert f"{record.metrics.sqnr_db:.1f}" in shown
        assert DISTANCE.text(record.vs_floor_db) in shown
    assert max(len(line) for line in seen.lines) <= columns or columns < 80


@pytest.mark.parametrize(
    "changes", [{"NO_COLOR": "1"}, pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow)]
)
def test_whoever_wants_no_escape_codes_gets_none(
    changes: dict[str, str], saved_once: Path, prompts: Path, here: Path
) -> None:
    seen = on_terminal(
        ["scan", str(saved_once), "--prompts", str(prompts), *ARGUMENTS], here, 80, **changes
    )
    assert seen.code == 0
    assert ESCAPE not in seen.raw
    for line in ("loading torch and transformers", f"loading {saved_once}"):
        assert line in "\n".join(seen.lines)
    assert layer_rows(seen.lines)


def run(arguments: list[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command with pipes."""
    return subprocess.run(
        [*SRDD, *arguments],
        cwd=folder,
        env=environment(**options.pop("changes", {})),
        capture_output=True,
        timeout=LIMIT_S,
        **options,
    )


def test_a_pipe_gets_only_the_document_and_no_escape_codes(
    saved_once: Path, prompts: Path, here: Path
) -> None:
    done = run(
        ["scan", str(saved_once), "--prompts", "-", "-o", "-"], here, input=prompts.read_bytes()
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["calibration"]["prompts"] == 40
    assert ESCAPE not in done.stdout + done.stderr
    assert b"measuring 40 prompts: " in done.stderr
    assert list(here.iterdir()) == []


def test_a_terminal_of_little_gets_ascii(saved_once: Path, prompts: Path, here: Path) -> None:
    changes = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = run(
        ["scan", str(saved_once), "--prompts", str(prompts), *ARGUMENTS], here, changes=changes
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("ascii")
    assert "+-" in text
    assert "\\" not in text


@pytest.mark.parametrize("arguments", [["-o", "scan.json"], ["-o", "-"]])
def test_a_reader_that_leaves_early_is_no_error(
    arguments: list[str], saved_once: Path, prompts: Path, here: Path
) -> None:
    scan = ["scan", str(saved_once), "--prompts", str(prompts), "--site", "output", *arguments]
    process = subprocess.Popen(
        [*SRDD, *scan], cwd=here, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, talk = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert b"Traceback" not in talk
    assert b"rror" not in talk
    if "scan.json" in arguments:
        assert load_scan(here / "scan.json").calibration.prompts == 40


def test_when_nobody_listens_to_the_talk_the_scan_goes_on(
    saved_once: Path, prompts: Path, here: Path
) -> None:
    process = subprocess.Popen(
        [*SRDD, "scan", str(saved_once), "--prompts", str(prompts), *ARGUMENTS],
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    process.stderr.close()
    assert TABLE.encode() in process.stdout.read()
    assert process.wait(LIMIT_S) == 0
    assert load_scan(here / "scan.json").calibration.prompts == 40


def interrupted_at(
    word: bytes, saved_once: Path, here: Path, file: Path
) -> tuple[int, bytes, list[str]]:
    """Exit code, talk and files left of a scan that gets Ctrl-C once it has said `word`."""
    process = subprocess.Popen(
        [*SRDD, "scan", str(saved_once), "--prompts", str(file), *ARGUMENTS],
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    talk = b""
    for line in process.stderr:
        talk += line
        if word in line:
            break
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=LIMIT_S)
    assert out == b""
    return process.returncode, talk + rest, [entry.name for entry in here.iterdir()]


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """More prompts than anybody waits for."""
    file = tmp_path / "endless.txt"
    file.write_text("a few words to read\n" * 100_000)
    return file


def test_ctrl_c_in_the_middle_of_a_scan_leaves_nothing(
    saved_once: Path, here: Path, endless: Path
) -> None:
    code, talk, files = interrupted_at(b"measuring ", saved_once, here, endless)
    assert code == 130
    assert talk.endswith(b"interrupted; nothing was written\n")
    assert b"Traceback" not in talk
    assert files == []


@pytest.mark.slow
@pytest.mark.parametrize("word", [b"starting ", b"loading "])
def test_ctrl_c_while_starting_leaves_nothing(
    word: bytes, saved_once: Path, here: Path, endless: Path
) -> None:
    code, talk, files = interrupted_at(word, saved_once, here, endless)
    assert code == 130
    assert b"Traceback" not in talk
    assert files == []


def test_help_needs_no_terminal_and_has_no_escape_codes(here: Path) -> None:
    for arguments in ([], ["--help"], ["scan", "--help"]):
        done = run(arguments, here, changes={"FORCE_COLOR": "1"})
        assert done.returncode == (0 if arguments else 2)
        assert ESCAPE not in done.stdout
        assert done.stderr == b""
        assert done.stdout.startswith(b"Usage: srdd ")
