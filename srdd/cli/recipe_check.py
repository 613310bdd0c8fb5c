"""`srdd recipe FILE --check MODEL`: what a file makes of a model, as its consumer reads it."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from srdd.cli.output import Destination
from srdd.errors import UsageError


@dataclass(frozen=True)
class Check:
    """The options of a check.

    Attributes:
        check: the model; None where nothing is to be checked.
        against: a second file, to be compared with the first.
        against_for: who reads the second file, if not who reads the first.
        everything: whether every module is listed.
    """

    check: str | None = None
    against: str | None = None
    against_for: str | None = None
    everything: bool = False


def refuse_without_model(options: Check) -> None:
    """Make sure that nothing is asked for that only a check does.

    Raises:
        UsageError: something is.
    """
    given = {
        "--against": options.against,
        "--against-for": options.against_for,
        "--all": options.everything,
    }
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} needs --check", "add --check MODEL")


def run_check(file: str, consumer: str | None, options: Check, destination: Destination) -> None:
    """Print what is wrong with a file, or with two; leave with exit code 1 where something is.

    Raises:
        InputError: a file or the model cannot be read.
        UsageError: no such consumer, or options that do not go together.
    """
    from srdd.model.inventory import read_inventory
    from srdd.recipes.checking.files import read_rules
    from srdd.recipes.checking.findings import differences, findings
    from srdd.recipes.checking.resolving import resolve
    from srdd.recipes.exports import CONSUMERS, consumer_of
    from srdd.reports.recipe_check_view import check_blocks

    if consumer is None:
        raise UsageError(
            "--check needs --for, because consumers match names differently",
            f"choose from: {', '.join(CONSUMERS)}",
        )
    if options.against_for is not None and options.against is None:
        raise UsageError("--against-for needs --against", "name the second file")
    assert options.check is not None
    files = [(file, consumer_of(consumer))]
    if options.against is not None:
        files.append((options.against, consumer_of(options.against_for or consumer)))
    destination.path()
    rules = [(read_rules(path, reader), reader) for path, reader in files]
    inventory = read_inventory(options.check)
    resolutions = [resolve(own, inventory, reader) for own, reader in rules]
    differing = differences(*resolutions) if len(resolutions) > 1 else []
    results = [(each, findings(each)) for each in resolutions]
    blocks = check_blocks(options.check, results, differing, everything=options.everything)
    destination.write(blocks)
    every = [*differing, *(finding for _, own in results for finding in own)]
    if any(each.severity == "wrong" for each in every):
        raise typer.Exit(1)
