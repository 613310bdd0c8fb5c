"""The command `srdd`: its commands, their help, and what becomes of everything that goes wrong."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from srdd import __version__
from srdd.cli import console, interrupts, ranks, reference
from srdd.cli.compare import compare
from srdd.cli.eval import evaluate
from srdd.cli.merge import merge
from srdd.cli.options import completed
from srdd.cli.recipe import recipe
from srdd.cli.report import report
from srdd.cli.scan import scan
from srdd.cli.suggest import suggest
from srdd.errors import OutputError, SrddError, UsageError

EXIT_CODES = (
    "Exit codes: 0 done; 1 a gate or check failed; 2 usage, input or internal error; "
    "130 interrupted."
)

PANELS = (
    "Arguments",
    "Options",
    "Data",
    "Rollouts",
    "Model",
    "Strategy",
    "Choice",
    "Plan of experiments",
    "Output",
    "Advanced",
)
"""Groups of options on a help page, in their order."""

# The exception classes of the parser that typer brings along; only these names are public.
_USAGE: type[Exception] = typer.BadParameter.__mro__[2]


class Command(TyperCommand):
    """A command whose help page groups the options by panel, as plain text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, completed(str(self.name), args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {name: [] for name in PANELS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                positional = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None)
                name = "Arguments" if positional else panel or "Options"
                panels[name].append(record)
        for name in filter(panels.get, PANELS):
            with formatter.section(name):
                formatter.write_dl(panels[name])


app = typer.Typer(
    name="srdd",
    help="Find where 4-bit quantization hurts a language model.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"srdd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _add(function: Callable[..., None], example: str) -> None:
    """Make a command of a function; it has the name that stands in the example."""
    name = example.split()[1]
    app.command(name, cls=Command, epilog=f"Example: {example}\n\n{EXIT_CODES}")(function)


_add(scan, "srdd scan demo --limit 8")
_add(suggest, "srdd suggest --strategy variable > rin.yaml")
_add(recipe, "srdd recipe scan.json --bits 5")
_add(report, "srdd report --as markdown > report.md")
_add(compare, "srdd compare old.json new.json")
_add(merge, "srdd merge part-1.json part-2.json -o whole.json")
_add(evaluate, "srdd eval demo --format mxfp4 --format nvfp4 --limit 8")
_add(reference.formats, "srdd formats --as json")
_add(reference.explain, "srdd explain relative_error")
_add(reference.schema, "srdd schema scan > scan.schema.json")


def _usage_error(error: Any) -> UsageError:
    """The parser's error in the form of ours."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "srdd"
    close = getattr(error, "possibilities", None)
    # The parser repeats the possibilities in its message.
    message = error.message if close else error.format_message()
    hint = f"did you mean {', '.join(close)}? " if close else ""
    if "No such command" in message and context is not None:
        hint = f"choose from: {', '.join(context.command.commands)}; "
    return UsageError(message.rstrip("."), f"{hint}see {command} --help")


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and give back its exit code; nothing is raised."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    console.be_quiet("--quiet" in given or "-q" in given)
    if ranks.RANK:
        if given[:1] and given[0] not in ranks.SHARING:
            return 0
        console.mute()
    interrupts.listen()
    try:
        # Not app(): it would turn an interrupt and a closed pipe into exit codes of its own.
        command = typer.main.get_command(app)
        with command.make_context("srdd", list(given)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as done:
        return done.exit_code
    except SrddError as error:
        if debug:
            console.show_traceback()
        _complain(error)
        return 2
    except _USAGE as error:
        # The help for a line without a command is an exception, too.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())  # type: ignore[attr-defined]
            return 2
        _complain(_usage_error(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        console.say("interrupted; nothing was written")
        return 130
    except BrokenPipeError:
        console.close_quietly()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _internal(error, debug)
        _complain(
            OutputError("cannot write: the disk is full", "free some space, or write elsewhere")
        )
        return 2
    except Exception as error:
        return _internal(error, debug)


def _complain(error: SrddError) -> None:
    """Print an error; of several processes that fail, the first prints its own."""
    if not ranks.SHARED:
        console.complain(error)
        return
    from srdd.measurement.processes import is_first_to_fail

    if is_first_to_fail():
        console.mute(False)
        console.complain(SrddError(f"rank {ranks.RANK}: {error.message}", error.hint))


def _internal(error: Exception, debug: bool) -> int:
    """An unforeseen error, as one sentence."""
    if debug:
        console.show_traceback()
    sentence = f"{type(error).__name__}: {error}"
    hint = "report it with the traceback above" if debug else "run again with --debug"
    _complain(SrddError(f"internal error: {sentence}", hint))
    return 2


def main() -> None:
    """Entry point of the installed command."""
    if "_SRDD_COMPLETE" in os.environ:  # a shell asks how a line could go on
        app()
    try:
        code = run()
        interrupts.ignore()
    except KeyboardInterrupt:  # it came while the result was being reported
        interrupts.ignore()
        console.say("interrupted")
        code = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            console.close_quietly()
        except OSError:  # the disk is full
            console.close_quietly()
            code = code or 2
    # Threads of optional packages must not delay the end of a command that was interrupted.
    if code == 130:
        os._exit(code)
    sys.exit(code)
