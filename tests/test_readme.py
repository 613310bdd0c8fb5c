"""README.md and docs/ against the program: what they show is what it prints."""

from __future__ import annotations

import re

from readme_blocks import CLI, PAGES, blocks, cli_page, commands

import srdd


def test_the_page_of_the_command_line_is_current() -> None:
    assert CLI.read_text(encoding="utf-8") == cli_page()


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = CLI.read_text(encoding="utf-8")
    assert [name for name in commands() if f"## srdd {name}\n" not in page] == []
    assert len(commands()) >= 9


def test_output_blocks_are_filled() -> None:
    assert all(text.strip() for page in PAGES for _, _, text in blocks(page))


def test_python_names_in_the_pages_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"\bsrdd\.([a-z_]+)\(", page.read_text(encoding="utf-8")):
            assert hasattr(srdd, name), (page.name, name)
