"""`srdd schema`: the JSON Schema of the documents, against a validator that is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_scans import prototype, rising, thorough

from srdd.cli.app import run
from srdd.documents.prototype import read_prototype
from srdd.noise import suggest

jsonschema = pytest.importorskip("jsonschema", reason="the validator is not installed")


def schema_of(document: str, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["schema", document]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def errors(schema: dict[str, Any], document: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [error.message for error in validator.iter_errors(document)]


@pytest.mark.parametrize("document", ["scan", "rin", "recipe"])
def test_the_schema_is_a_schema(document: str, capfd: pytest.CaptureFixture[str]) -> None:
    schema = schema_of(document, capfd)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_scan_as_the_command_writes_it_is_valid(
    saved_once: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one prompt\nand another one\n")
    line = ["scan", str(saved_once), "--prompts", str(prompts), "--site", "input"]
    assert run([*line, "--site", "weight", "-o", str(tmp_path / "scan.json")]) == 0
    capfd.readouterr()
    document = json.loads((tmp_path / "scan.json").read_text())
    assert errors(schema_of("scan", capfd), document) == []


def test_made_and_converted_scans_are_valid(capfd: pytest.CaptureFixture[str]) -> None:
    schema = schema_of("scan", capfd)
    for scan in (thorough(rising(3)), read_prototype(prototype(), "it")):
        assert errors(schema, json.loads(scan.to_json())) == []


@pytest.mark.parametrize("strategy", ["uniform", "targeted", "variable", "zone"])
def test_configurations_are_valid(strategy: str, capfd: pytest.CaptureFixture[str]) -> None:
    config = suggest(thorough(rising(12)), strategy)
    assert errors(schema_of("rin", capfd), json.loads(config.model_dump_json())) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 1}, "2 was expected"),
        ({"more": 1}, "Additional properties are not allowed"),
        ({"records": None}, "None is not of type 'array'"),
    ],
)
def test_what_is_no_scan_is_told(
    change: dict[str, Any], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(thorough(rising(3)).to_json()) | change
    assert any(told in error for error in errors(schema_of("scan", capfd), document))


def test_another_document_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "plan"]) == 2
    err = capfd.readouterr().err
    assert "unknown document 'plan'" in err
    assert "scan" in err
