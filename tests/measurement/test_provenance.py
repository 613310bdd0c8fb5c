"""Provenance: what a scan says of the software that made it."""

from __future__ import annotations

from importlib import metadata

import pytest

import srdd
from srdd.measurement.provenance import versions


def test_versions_are_of_what_figures_depend_on() -> None:
    assert set(versions()) == {"python", "srdd", "torch", "transformers", "numpy", "numba"}
    assert versions()["numpy"] == metadata.version("numpy")


def test_a_checkout_that_is_not_installed_has_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert versions()["srdd"] == srdd.__version__
    assert versions()["torch"].startswith("2.")
    assert all(versions().values())
