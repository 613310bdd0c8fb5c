"""What a scan would take: the blocks of `srdd scan --dry-run`."""

from __future__ import annotations

from srdd.measurement.forecast import Forecast
from srdd.reports.view import Block, Column, Field, Text, tabulate

Row = tuple[str, str]


def forecast_blocks(forecast: Forecast, seconds: float) -> list[Block]:
    """The answer, what would be measured, and what it would take.

    Arguments:
        seconds: how long it would take here.
    """
    rows: list[Row] = [
        ("decoder layers", f"{forecast.layers:,}"),
        ("linears measured", f"{forecast.linears:,}"),
        ("weights in them", _short(forecast.parameters, "")),
        ("prompts", f"{forecast.prompts:,}"),
        ("tokens", ("" if forecast.counted else "about ") + f"{forecast.tokens:,}"),
        ("records in the document", f"{forecast.records:,}"),
        ("size of the document", "about " + _short(forecast.document_bytes, "B")),
    ]
    rows += [
        (f"operations: {what}", _short(count, "")) for what, count in forecast.operations.items()
    ]
    rows += [(f"memory: {what}", _short(size, "B")) for what, size in forecast.memory_bytes.items()]
    return [
        Text(_answer(forecast, seconds), "answer"),
        tabulate(
            "What the scan would measure and take",
            [
                Field(Column("what", align="left"), lambda row: row[0]),
                Field(Column("how much"), lambda row: row[1]),
            ],
            rows,
        ),
        Text(
            "Counts are from config.json and the headers of the weights' files. Time and memory "
            "are estimates: time from two seconds of products and of the kernel on this machine, "
            "without loading the model; memory without what the libraries take for themselves.",
            "note",
        ),
    ]


def _answer(forecast: Forecast, seconds: float) -> str:
    needed = sum(forecast.memory_bytes.values())
    text = (
        f"The scan would take about {_duration(seconds)} here and {_short(needed, 'B')} of memory"
    )
    if forecast.free_bytes is None:
        return f"{text}."
    free = _short(forecast.free_bytes, "B")
    if forecast.fits:
        return f"{text}, of which {free} is free."
    return f"{text}, but only {free} is free. {_remedy(forecast)}"


def _remedy(forecast: Forecast) -> str:
    """What makes it fit, as far as flags can."""
    memory, free = dict(forecast.memory_bytes), forecast.free_bytes or 0
    if memory["weights"] > free:
        return (
            "The weights alone do not fit: use a machine with more memory, or --device-map auto, "
            "which leaves layers on the disk and is slow."
        )
    flags = []
    for part, flag in (
        ("copy in float32 for checks", "--kl-check 0"),
        ("a batch", "--batch-size 1"),
        ("logits", "a smaller --max-length"),
    ):
        if sum(memory.values()) > free and part in memory:
            del memory[part]
            flags.append(flag)
    return f"It may fit with {' and '.join(flags)}."


def _short(value: float, unit: str) -> str:
    """With three digits, in thousands: 1.23 G."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 1000 or prefix == "P":
            break
        value /= 1000
    digits = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{digits} {prefix}{unit}".rstrip()


def _duration(seconds: float) -> str:
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "minutes"), (129600, 3600, "hours")):
        if seconds < limit:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 86400:,.0f} days"
