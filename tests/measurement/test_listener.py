"""Progress from Python: bars on a terminal, silence elsewhere, and whatever a caller asks for."""

from __future__ import annotations

from typing import Any

import families
import pytest

from srdd.measurement.listener import Listener, listening
from srdd.measurement.scanner import scan_model


def test_progress_is_shown_on_a_terminal_without_being_asked_for(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    scan_model(families.shared("llama"), tokenizer, ["abc"], sites=["output", "weight"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "measuring weights" in captured.err
    assert "values" in captured.err


def test_elsewhere_nothing_is_printed(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    scan_model(families.shared("llama"), tokenizer, ["abc"])
    assert capsys.readouterr() == ("", "")


def test_a_callers_own_listener_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    own = Listener()
    with listening(own) as listener:
        assert listener is own
    assert capsys.readouterr().err == ""


def test_a_warning_is_kept_once_and_a_remark_is_not() -> None:
    heard: list[str] = []
    listener = Listener(informed=heard.append, warned=heard.append)
    for _ in range(2):
        listener.warn("few prompts")
        listener.inform("this takes long")
    assert listener.warnings == ["few prompts"]
    assert heard == ["few prompts", "this takes long", "this takes long"]
