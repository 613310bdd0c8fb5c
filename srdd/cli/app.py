"""The command `srdd`: its commands, and what becomes of everything that goes wrong."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer

from srdd import __version__
from srdd.cli import console, interrupts
from srdd.cli.compare import compare
from srdd.cli.eval import evaluate
from srdd.cli.explain import explain
from srdd.cli.formats import formats
from srdd.cli.merge import merge
from srdd.cli.report import report
from srdd.cli.scan import scan
from srdd.cli.schema import schema
from srdd.cli.suggest import suggest
from srdd.errors import OutputError, SrddError, UsageError

EXIT_CODES = (
    "Exit codes: 0 done; 1 a gate was breached; 2 usage, input or internal error; 130 interrupted."
)

# The exception classes of the parser that typer brings along; only these names are public.
_USAGE: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="srdd",
    help="Find where 4-bit quantization hurts a language model.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
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


app.command(epilog=f"Example: srdd scan demo --limit 8\n\n{EXIT_CODES}")(scan)
app.command(epilog=f"Example: srdd suggest --strategy variable > rin.yaml\n\n{EXIT_CODES}")(suggest)
app.command(epilog=f"Example: srdd report --as markdown > guide.md\n\n{EXIT_CODES}")(report)
app.command(epilog=f"Example: srdd compare old.json new.json\n\n{EXIT_CODES}")(compare)
app.command(epilog=f"Example: srdd merge part-1.json part-2.json -o whole.json\n\n{EXIT_CODES}")(
    merge
)
app.command(
    "eval",
    epilog=f"Example: srdd eval demo --format mxfp4 --format nvfp4 --limit 8\n\n{EXIT_CODES}",
)(evaluate)
app.command(epilog=f"Example: srdd formats --as json\n\n{EXIT_CODES}")(formats)
app.command(epilog=f"Example: srdd explain relative_error\n\n{EXIT_CODES}")(explain)
app.command(epilog=f"Example: srdd schema scan > scan.schema.json\n\n{EXIT_CODES}")(schema)


def _usage_error(error: Any) -> UsageError:
    """The parser's complaint in the form of ours."""
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
        console.complain(error)
        return 2
    except _USAGE as error:
        # Asking for help by giving nothing is told with an exception, too.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())  # type: ignore[attr-defined]
            return 2
        console.complain(_usage_error(error))
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
        console.complain(
            OutputError("cannot write: the disk is full", "free some space, or write elsewhere")
        )
        return 2
    except Exception as error:
        return _internal(error, debug)


def _internal(error: Exception, debug: bool) -> int:
    """What nobody foresaw, told in a sentence."""
    if debug:
        console.show_traceback()
    sentence = f"{type(error).__name__}: {error}"
    hint = "the traceback above belongs into a report" if debug else "run again with --debug"
    console.complain(SrddError(f"internal error: {sentence}", hint))
    return 2


def main() -> None:
    """Entry point of the installed command."""
    code = run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            console.close_quietly()
        except OSError:  # the disk is full
            console.close_quietly()
            code = code or 2
    # Threads of optional packages must not hold up a command that was interrupted.
    if code == 130:
        os._exit(code)
    sys.exit(code)
