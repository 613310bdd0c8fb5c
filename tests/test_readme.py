"""README.md and docs/ against the program: what they show is what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme_blocks import CLI, PAGES, ROOT, blocks, blocks_of, cli_page, commands, rewritten

import srdd


def test_the_page_of_the_command_line_is_current() -> None:
    assert CLI.read_text(encoding="utf-8") == cli_page()


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = CLI.read_text(encoding="utf-8")
    assert [name for name in commands() if f"## srdd {name}\n" not in page] == []
    assert len(commands()) >= 9


def words(text: str) -> list[str]:
    """The words of a block, in an order that rows of nearly equal figures cannot change."""
    return sorted(re.findall(r"[^\W\d]+", text))


def figures(text: str) -> list[float]:
    """The figures of a block from small to large; layers and counts among them."""
    return sorted(float(figure) for figure in re.findall(r"-?\d+(?:\.\d+)?", text))


WITH_OUTPUT = [page for page in PAGES if any(kind == "output" for kind, _, _ in blocks(page))]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name == "scan-file.md" else [])
        for page in WITH_OUTPUT
    ],
    ids=lambda page: str(page.name),
)
def test_the_output_on_a_page_is_that_of_the_program(page: Path) -> None:
    shown, now = list(blocks(page)), list(blocks_of(rewritten(page, {"output"})))
    assert [command for _, command, _ in shown] == [command for _, command, _ in now]
    for (_, command, before), (_, _, after) in zip(shown, now, strict=True):
        assert words(before) == words(after), f"{command}: run `make docs`"
        # Processors differ a little in their last digits.
        assert figures(before) == pytest.approx(figures(after), rel=0.05, abs=0.2), command


def test_python_names_in_the_pages_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"\bsrdd\.([a-z_]+)\(", page.read_text(encoding="utf-8")):
            assert hasattr(srdd, name), (page.name, name)


def test_files_that_the_pages_name_exist() -> None:
    named = 0
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for path in re.findall(
            r"`((?:srdd|tests|examples|docs)/[\w./]+)`", page.read_text("utf-8")
        ):
            named += 1
            assert (ROOT / path).exists(), (page.name, path)
    assert named > 20
