"""What a long measurement has finished survives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from srdd.errors import OutputError
from srdd.simulation.direct import Change
from srdd.simulation.journal import Journal

ABOUT = {"model": "a", "prompts": "b"}
FIRST = Change("layers.0.q_proj", 0, "mxfp4:floor", "both")
SECOND = Change(None, 0, "mxfp4:floor", "both")


def filled(path: Path) -> Journal:
    journal = Journal(path, ABOUT)
    journal.add(FIRST, np.array([0.1, 1e-9]))
    journal.add(SECOND, np.array([2.0, 3.0]))
    return journal


def test_what_was_added_is_known_to_the_next(tmp_path: Path) -> None:
    filled(tmp_path / "kept")
    known = Journal(tmp_path / "kept", ABOUT).known
    assert list(known) == [FIRST, SECOND]
    assert known[FIRST].tolist() == [0.1, 1e-9]


def test_a_line_that_was_cut_short_is_left_out_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    filled(path)
    path.write_text(path.read_text()[:-20])
    again = Journal(path, ABOUT)
    assert list(again.known) == [FIRST]
    again.add(SECOND, np.array([2.0, 3.0]))
    assert list(Journal(path, ABOUT).known) == [FIRST, SECOND]


def test_a_file_of_other_prompts_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    filled(path)
    other = Journal(path, {**ABOUT, "prompts": "c"})
    assert other.known == {}
    other.add(SECOND, np.array([5.0]))
    assert Journal(path, ABOUT).known == {}
    assert list(Journal(path, {**ABOUT, "prompts": "c"}).known) == [SECOND]


def test_a_folder_that_is_not_there_is_an_error_to_act_on(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        filled(tmp_path / "no" / "kept")
