"""The example for GitHub Actions: its YAML parses, and its commands and options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_scans import rising, thorough

from srdd.cli.app import run
from srdd.comparison import gate_warning, parse_gate

FILE = Path(__file__).parent.parent / "examples" / "compare-in-github-actions.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    (job,) = workflow["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def commands(workflow: dict[Any, Any]) -> list[list[str]]:
    lines = [step["run"] for step in steps(workflow) if step.get("run", "").startswith("srdd ")]
    return [shlex.split(line) for line in lines]


def test_it_is_a_workflow_that_runs_on_pull_requests(workflow: dict[Any, Any]) -> None:
    assert True in workflow or "on" in workflow  # YAML 1.1 reads `on` as true
    assert "pull_request" in (workflow.get("on") or workflow[True])
    assert all(("run" in step) != ("uses" in step) for step in steps(workflow))


def test_its_commands_and_options_exist(workflow: dict[Any, Any]) -> None:
    assert [words[1] for words in commands(workflow)] == ["scan", "compare"]
    for words in commands(workflow):
        page = subprocess.run(
            [sys.executable, "-m", "srdd", words[1], "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        options = [word for word in words if word.startswith("-") and word != "-"]
        assert options
        for option in options:
            assert re.search(rf"(^|[ ,]){option}\b", page, re.MULTILINE), option


def test_its_gates_are_gates_in_the_right_direction(workflow: dict[Any, Any]) -> None:
    words = commands(workflow)[1]
    gates = [parse_gate(words[at + 1]) for at, word in enumerate(words) if word == "--fail-on"]
    assert len(gates) == 3
    assert [gate_warning(gate) for gate in gates] == [None] * 3


def test_its_comparison_runs_and_writes_the_comment(
    workflow: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    thorough(rising(8)).save("quantization-baseline.json")
    thorough(rising(8, 0.3, 0.6)).save("new.json")
    assert run(commands(workflow)[1][1:]) == 1
    assert "a gate is breached" in Path("comparison.md").read_text()
    # Later steps look for the files that these commands write.
    text = FILE.read_text(encoding="utf-8")
    for name in ("comparison.md", "new.json"):
        assert f"hashFiles('{name}')" in text
