"""The blocks of a check: what a file makes of a model's modules, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from srdd.errors import counted
from srdd.recipes.checking.findings import Finding, tally
from srdd.recipes.checking.resolving import Resolution
from srdd.recipes.exports import CONSUMERS
from srdd.reports.text import safe
from srdd.reports.view import Block, Column, Table, Text


def check_blocks(
    model: str,
    results: Sequence[tuple[Resolution, Sequence[Finding]]],
    differing: Sequence[Finding] = (),
    *,
    everything: bool = False,
) -> list[Block]:
    """What one file, or each of two, makes of a model.

    Arguments:
        model: what the user called it.
        results: of each file, what it makes of the model and what is wrong with that.
        differing: where two of them differ.
        everything: also list every module.
    """
    every = [*(finding for _, own in results for finding in own), *differing]
    wrong = sum(each.severity == "wrong" for each in every)
    verdict = f"{counted(wrong, 'thing')} wrong" if wrong else "nothing wrong"
    files = " and ".join(_reader(each) for each, _ in results)
    blocks: list[Block] = [Text(f"{safe(model)} with {files}: {verdict}.", "answer")]
    blocks += map(_text, differing)
    for resolution, own in results:
        blocks.append(_modules(resolution))
        blocks += map(_text, own)
        if everything:
            blocks.append(_every(resolution))
    return blocks


def _reader(resolution: Resolution) -> str:
    return f"{safe(resolution.rules.source)} as {CONSUMERS[resolution.consumer].title} reads it"


def _text(finding: Finding) -> Text:
    # Names and patterns of a file may stand in it, each as long as it likes.
    text = f"{finding.severity}: {safe(finding.text, longest=1000)}"
    return Text(text, "alarm" if finding.severity == "wrong" else "plain")


def _modules(resolution: Resolution) -> Table:
    return Table(
        f"Modules by format: {_reader(resolution)}",
        (
            Column("format", align="left", code=True),
            Column("what they are", align="left"),
            Column("modules"),
        ),
        tuple(tally(resolution)),
    )


def _every(resolution: Resolution) -> Table:
    entries = resolution.rules.entries
    return Table(
        f"Every module: {_reader(resolution)}",
        (
            Column("module", align="left", code=True),
            Column("format", align="left", code=True),
            Column("decided by", align="left", code=True, priority=1),
        ),
        tuple(
            (
                each.module.name,
                str(each.operands),
                "" if each.decided is None else entries[each.decided].text,
            )
            for each in resolution.modules
            if each.module.role != "norm" or each.operands.quantized
        ),
        details=True,
    )
