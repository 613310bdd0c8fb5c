"""Work that several processes share, and that goes on where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from srdd.errors import InputError
from srdd.measurement.work import Part, Work, current, working


@dataclass
class Counter:
    """A state that lists and adds what it is given."""

    total: float = 0.0
    seen: list[int] = field(default_factory=list)

    def add(self, unit: int) -> None:
        self.total += 0.1 * unit
        self.seen.append(unit)

    def part(self) -> Part:
        return Part({"total": np.array([self.total])}, {"seen": list(self.seen)})

    def restore(self, part: Part) -> None:
        self.total, self.seen = float(part.sums["total"][0]), list(part.facts["seen"])


@dataclass
class Several:
    """Processes that run one after the other; the last one gathers what the others left."""

    rank: int
    count: int
    parts: list[Part]

    def gather(self, part: Part) -> list[Part]:
        self.parts.append(part)
        return self.parts


def begun(path: Path, settings: dict[str, object], model: str = "m", prompts: str = "p") -> Work:
    work = Work(path=path, settings=settings, interval_s=0.0)
    work.bind(model, prompts)
    return work


def run(work: Work, units: list[int], stop_before: int | None = None) -> Counter:
    counter = Counter()
    for unit in work.through("count", units, counter):
        if unit == stop_before:
            raise KeyboardInterrupt
        counter.add(unit)
    return counter


def test_it_goes_on_where_it_was_interrupted_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    units = list(range(1, 40))
    with pytest.raises(KeyboardInterrupt):
        run(begun(path, {"a": 1}), units, stop_before=25)
    skipped: list[int] = []
    work, counter, ran = begun(path, {"a": 1}), Counter(), []
    for unit in work.through("count", units, counter, skipped.append):
        ran.append(unit)
        counter.add(unit)
    assert skipped == list(range(1, 25))
    assert ran == list(range(25, 40))
    assert counter.total == run(Work(), units).total
    work.finish()
    assert not path.exists()


def test_a_finished_pass_is_not_run_again_after_a_later_one_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    first = begun(path, {})
    run(first, [1, 2, 3])
    later = Counter()
    passing = first.through("later", [1, 2, 3], later)
    later.add(next(passing))
    next(passing)  # it is interrupted here
    again, counter = begun(path, {}), Counter()
    assert list(again.through("count", [1, 2, 3], counter)) == []
    assert counter.seen == [1, 2, 3]
    assert list(again.through("later", [1, 2, 3], counter)) == [2, 3]


@pytest.mark.parametrize(
    ("settings", "model", "prompts", "named"),
    [
        ({"a": 2}, "m", "p", "settings"),
        ({"a": 1}, "other", "p", "weights"),
        ({"a": 1}, "m", "other", "prompts"),
    ],
)
def test_a_file_of_another_run_is_named_and_refused(
    tmp_path: Path, settings: dict[str, object], model: str, prompts: str, named: str
) -> None:
    path = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        run(begun(path, {"a": 1}), [1, 2, 3], stop_before=3)
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"kept was left by .* other {named}") as caught:
        begun(path, settings, model, prompts)
    assert "remove the file" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b"x" * 1000])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kept").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        Work(path=tmp_path / "kept")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_processes_have_each_unit_once_and_about_as_much(count: int) -> None:
    units, sizes = list(range(23)), [100 - 3 * unit for unit in range(23)]
    shares = [Work(Several(rank, count, [])).share(units, sizes) for rank in range(count)]
    assert sorted(unit for share in shares for unit in share) == units
    assert all(share == sorted(share) for share in shares)
    loads = [sum(sizes[unit] for unit in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


def test_more_processes_than_units_leaves_some_without() -> None:
    shares = [Work(Several(rank, 3, [])).share(["a"], [5]) for rank in range(3)]
    assert sorted(map(len, shares)) == [0, 0, 1]


def test_sums_of_all_processes_add_and_facts_unite() -> None:
    parts: list[Part] = []
    for rank in range(3):
        work, counter = Work(Several(rank, 3, parts)), Counter()
        for unit in work.through("count", work.share([1, 2, 3, 4, 4], [1] * 5), counter):
            counter.add(unit)
        work.unite(counter)
    assert counter.total == pytest.approx(1.4)
    assert sorted(counter.seen) == [1, 2, 3, 4]


def test_the_file_is_not_written_before_the_interval_is_over(tmp_path: Path) -> None:
    work = Work(path=tmp_path / "kept", interval_s=1000.0)
    work.bind("m", "p")
    run(work, [1, 2, 3])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_warned_of_once_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    warnings: list[str] = []
    work = Work(path=folder / "kept", warn=warnings.append, interval_s=0.0)
    work.bind("m", "p")
    folder.rmdir()
    assert run(work, [1, 2, 3]).seen == [1, 2, 3]
    assert len(warnings) == 1
    assert warnings[0].startswith("what is finished is no longer kept: ")
    work.finish()


def test_without_a_word_there_is_one_process_and_no_file() -> None:
    assert current().path is None
    assert current().share([1, 2], [1, 1]) == [1, 2]
    with working(Work()) as work:
        assert current() is work
    assert current() is not work
