"""The public names, locked: whoever changes them changes this test."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import srdd

NAMES = {
    "MismatchCallback",
    "Recipe",
    "RinConfig",
    "Scan",
    "SrddError",
    "__version__",
    "compare",
    "evaluate",
    "fake_quantize",
    "load_recipe",
    "load_rin",
    "load_scan",
    "measure",
    "merge_scans",
    "recipe",
    "report",
    "rin",
    "scan_model",
    "sensitivity",
    "simulate",
    "suggest",
}


def test_these_names_are_public_and_no_others() -> None:
    assert set(srdd.__all__) == NAMES
    assert set(dir(srdd)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_each_can_be_reached_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(srdd, name))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scna_model'"):
        srdd.scna_model  # noqa: B018


def test_modules_are_there_after_the_package_is_imported() -> None:
    code = "import srdd; print(srdd.rin.noisy.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "noisy\n"
