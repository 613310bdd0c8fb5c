"""The table model: how values read, and which columns a table keeps."""

from __future__ import annotations

import pytest

from srdd.reports.view import (
    Cell,
    Column,
    Estimate,
    Field,
    Measure,
    Span,
    Table,
    Tally,
    Word,
    tabulate,
)

PERCENT = Measure("%", scale=100.0, digits=1)
DISTANCE = Measure("dB", digits=1, signed=True)


@pytest.mark.parametrize(
    ("measure", "cell", "text"),
    [
        (PERCENT, 0.1234, "12.3"),
        (PERCENT, None, "-"),
        (PERCENT, 0.0, "0.0"),
        (DISTANCE, 3.0, "+3.0"),
        (DISTANCE, -3.04, "-3.0"),
        (DISTANCE, -0.04, "0.0"),
        (DISTANCE, 0.04, "0.0"),
        (Measure(), 12345, "12,345"),
        (Measure(), 4.25, "4.25"),
        (PERCENT, Estimate(0.5, (0.45, 0.57)), "50.0 ±6.0"),
        (PERCENT, Estimate(0.5), "50.0"),
        (PERCENT, Estimate(None, (0.1, 0.2)), "-"),
        (DISTANCE, Estimate(1.0, (0.5, 1.5)), "+1.0 ±0.5"),
        (DISTANCE, Estimate(0.5, (0.45, 0.57), PERCENT), "50.0 ±6.0"),
        (DISTANCE, Span(-1.0, 2.0), "-1.0 to +2.0"),
        (Measure(), Word("bad", "bad"), "bad"),
        (Measure(), Tally(((Word("bad"), 2), (Word("ok"), 1))), "2 bad, 1 ok"),
        (Measure(), "q,k,v", "q,k,v"),
    ],
)
def test_a_cell_as_text(measure: Measure, cell: Cell, text: str) -> None:
    assert Column("c", measure).text(cell) == text


def test_columns_without_any_value_are_left_out() -> None:
    fields = [
        Field[int](Column("a"), lambda row: row),
        Field[int](Column("b"), lambda row: None),
        Field[int](Column("c"), lambda row: Estimate(None)),
        Field[int](Column("d"), lambda row: row if row == 2 else None),
    ]
    table = tabulate("t", fields, [1, 2])
    assert [column.title for column in table.columns] == ["a", "d"]
    assert table.rows == ((1, None), (2, 2))


def test_a_row_needs_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="another length"):
        Table("t", (Column("a"),), ((1, 2),))
