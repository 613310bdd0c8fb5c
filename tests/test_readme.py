"""The README against the program: what it prints is what the program prints."""

from __future__ import annotations

import re

import pytest
from readme_blocks import README, blocks, printed

import srdd

HELP = [(command, text) for kind, command, text in blocks() if kind == "help"]


@pytest.mark.parametrize(("command", "text"), HELP, ids=[command for command, _ in HELP])
def test_help_pages_are_those_of_the_program(command: str, text: str) -> None:
    assert printed("help", command) == text


def test_every_command_has_its_help_page_in_the_readme() -> None:
    commands = re.findall(
        r"^  ([a-z]+)  +", printed("help", "srdd").partition("Commands:")[2], re.M
    )
    assert commands
    assert {f"srdd {name}" for name in commands} == {command for command, _ in HELP}


def test_output_blocks_are_filled() -> None:
    assert all(text.strip() for _, _, text in blocks())


def test_python_names_in_the_readme_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for name in set(re.findall(r"\bsrdd\.([a-z_]+)\(", text)):
        assert hasattr(srdd, name), name
