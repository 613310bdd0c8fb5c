"""Errors: what Python users read, and that errors survive pickling."""

from __future__ import annotations

import pickle

import pytest

from srdd import errors
from srdd.errors import SrddError, UsageError, counted, unknown_name

KINDS = [errors.UsageError, errors.InputError, errors.OutputError, errors.MergeError]


def test_the_text_of_an_error_holds_message_and_hint() -> None:
    assert str(SrddError("it broke", "fix it")) == "it broke\nhint: fix it"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[SrddError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", "fix it")))
    assert type(error) is kind
    assert (error.message, error.hint) == ("it broke", "fix it")


def test_the_closest_name_comes_first() -> None:
    error = unknown_name("format", "mxfp3", ["nvfp4", "int8", "mxfp4"])
    assert isinstance(error, UsageError)
    assert error.hint.startswith("choose from: mxfp4, ")


def test_a_count_has_its_noun_in_the_plural() -> None:
    assert [counted(n, "prompt") for n in (0, 1, 2000)] == [
        "0 prompts",
        "1 prompt",
        "2,000 prompts",
    ]
