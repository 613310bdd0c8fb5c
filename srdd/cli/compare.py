"""`srdd compare`: the difference between two scans, and gates for CI."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from srdd.cli import console
from srdd.cli.options import command
from srdd.cli.output import Destination
from srdd.errors import UsageError
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.documents.comparison import Comparison, Gate, Outcome
    from srdd.reports.view import Block

FORMS = ("terminal", "markdown", "json", "csv")


@command
def compare(
    old: str,
    new: str,
    destination: Destination,
    old_format: str | None = None,
    new_format: str | None = None,
    site: list[str] = [],
    metric: str = "sqnr_db",
    fail_on: list[str] = [],
    count_unsure: bool = False,
    by: str = "layer",
    format: str | None = None,
    form: str | None = None,
    as_json: bool = False,
) -> None:
    """Compare two scans, or the weights of two model folders.

    Scans layer by layer, with gates for CI: checkpoints, formats or scale rules. Intervals come
    from the prompts, paired where both scans have the same. Needs no model. Of two model folders:
    how many weights have another code in a format, and how far they moved.
    """
    from srdd.cli.scans import load
    from srdd.comparison import compare_scans, judge
    from srdd.reports.report import form_of

    if as_json and form not in (None, "terminal"):
        raise UsageError("--json and --as exclude each other", "leave one of them out")
    form = "terminal" if as_json else form_of(form, destination.output, FORMS)
    target = destination.path()
    if _is_model(old) and _is_model(new):
        unused = site or fail_on or old_format or new_format or count_unsure
        if unused or metric != "sqnr_db":
            raise UsageError(
                "of two model folders only codes of weights are compared",
                "leave out --site, --metric, --old-format, --new-format and --fail-on",
            )
        destination.write(_oscillation(old, new, format or "mxfp4", by, form), as_json=as_json)
        return
    if format is not None:
        raise UsageError(
            "--format is for two model folders", "name --old-format and --new-format of scans"
        )
    _refuse_missing(old, new)
    gates = [_gate(text) for text in fail_on]
    _check_two(old, new, old_format, new_format)
    names = tuple("standard input" if source == "-" else safe(source) for source in (old, new))
    comparison = compare_scans(
        load(old),
        load(new),
        metric=metric,
        by=by,
        sites=site,
        old_format=old_format,
        new_format=new_format,
        names=(names[0], names[1]),
    )
    outcomes = tuple(judge(comparison, gate, count_unsure=count_unsure) for gate in gates)
    comparison = comparison.model_copy(update={"gates": outcomes})
    destination.write(_content(comparison, form), as_json=as_json)
    if form != "terminal" or target is not None:
        _say_outcomes(outcomes)
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)


def _is_model(source: str) -> bool:
    return (Path(source) / "config.json").is_file()


def _refuse_missing(old: str, new: str) -> None:
    """Beside a model folder, a path that is not there is the mistake, not the folder."""
    for one, other in ((old, new), (new, old)):
        if _is_model(one) and other not in ("-", "demo") and not Path(other).exists():
            raise UsageError(
                f"there is no file or folder {other}", f"name another model folder, as {one} is one"
            )


def _oscillation(old: str, new: str, format: str, by: str, form: str) -> bytes | list[Block]:
    """Two model folders: bytes, or what to print on a terminal."""
    from srdd.cli import loading
    from srdd.reports import markdown
    from srdd.reports.oscillation_view import oscillation_blocks, oscillation_csv

    if Path(old).samefile(new):
        raise UsageError(f"OLD and NEW are the same folder, {old}", "name another checkpoint")
    with loading.progress() as listener:
        from srdd.measurement.oscillation import measure_oscillation

        found = measure_oscillation(old, new, format, listener=listener)
    if form == "json":
        return found.to_json()
    if form == "csv":
        return oscillation_csv(found, by).encode()
    blocks = oscillation_blocks(found, by)
    return blocks if form == "terminal" else markdown.render(blocks).encode()


def _check_two(old: str, new: str, old_format: str | None, new_format: str | None) -> None:
    """A scan cannot be compared with itself, but two of its formats can."""
    if old == new == "-":
        raise UsageError("standard input is named twice", "name the file of one of the scans")
    two_formats = None not in (old_format, new_format) and old_format != new_format
    if two_formats or "-" in (old, new):
        return
    if Path(old).exists() and Path(new).exists() and Path(old).samefile(new):
        raise UsageError(
            f"OLD and NEW are the same file, {old}",
            "name another scan, or two of its formats with --old-format and --new-format",
        )


def _gate(text: str) -> Gate:
    from srdd.comparison import gate_warning, parse_gate

    gate = parse_gate(text)
    if warning := gate_warning(gate):
        console.warn(warning)
    return gate


def _content(comparison: Comparison, form: str) -> bytes | list[Block]:
    """The comparison: its bytes, or what to print on a terminal."""
    from srdd.reports import comparison_view as view

    if form == "terminal":
        return view.comparison_blocks(comparison)
    if form == "json":
        return comparison.to_json()
    write = view.comparison_csv if form == "csv" else view.comparison_comment
    return write(comparison).encode()


def _say_outcomes(outcomes: Iterable[Outcome]) -> None:
    """What became of the gates, for whoever reads the log of a CI."""
    from srdd.reports.comparison_view import outcome_text

    for each in outcomes:
        say = console.say if each.passed else console.warn
        say(f"gate {each.gate.text!r} {outcome_text(each)}")
