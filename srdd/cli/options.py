"""Options that several commands have, each declared once, and how options take names.

A help page groups options in panels: what the command does, its data, the model, the output, and
the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any

import typer

from srdd.errors import unknown_name

DATA, MODEL, OUTPUT, ADVANCED = "Data", "Model", "Output", "Advanced"

SPEC = "NAME[:RULE]"

ALIASES = {"md": "markdown", "table": "terminal", "text": "terminal", "txt": "terminal"}
"""Other words for output forms, where they are not names of forms themselves."""


def option(
    help: str,
    metavar: str | None = None,
    *names: str,
    default: str | None = None,
    panel: str | None = None,
    **more: Any,
) -> Any:
    """An option.

    Arguments:
        help: a sentence for the help page.
        metavar: what its value is called there.
        names: `--as` and such, where it is not the name of the parameter.
        default: what the help page says of the default, where the value itself says too little.
        panel: the group of options on the help page.
        more: for typer.Option.
    """
    return typer.Option(
        *names,
        help=help,
        metavar=metavar,
        show_default=default or True,
        rich_help_panel=panel,
        **more,
    )


def flag(help: str, *names: str, panel: str | None = None) -> Any:
    """An option without a value, which is off by default."""
    return option(help, None, *names, default="off", panel=panel)


def one_of(kind: str, names: Iterable[str] | str) -> dict[str, Any]:
    """What makes an option take one of `names`; the error for another lists them, closest first.

    Arguments:
        kind: what the names are, for the error.
        names: names, or where they are declared, as `module:NAMES`: imported when they are needed.
    """

    def known() -> list[str]:
        if not isinstance(names, str):
            return list(names)
        module, _, declared = names.partition(":")
        return list(getattr(import_module(module), declared))

    def parse(text: str) -> str:
        chosen = text if text in known() else ALIASES.get(text, text)
        if chosen not in known():
            raise unknown_name(kind, text, known())
        return chosen

    return {"parser": parse, "autocompletion": known}


def form(help: str, names: Iterable[str]) -> Any:
    """The option `--as`, which takes one of the forms `names`."""
    default = "by the file's ending, else terminal"
    return option(help, "NAME", "--as", default=default, panel=OUTPUT, **one_of("form", names))


def metric(text: str) -> str:
    """A metric by its name, its title or the beginning of its name: `sqnr` is `sqnr_db`.

    Raises:
        UsageError: it is none, or the beginning of several.
    """
    from srdd.numerics.metrics import FIGURES, metric_name

    return metric_name(text, FIGURES)


SITE = one_of("site", "srdd.numerics.sites:SITES")
VIEW = one_of("view", "srdd.reports.rows:VIEWS")
DTYPE = one_of("dtype", "srdd.model.checkpoint:DTYPES")

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Folder or Hub id of a causal language model, or `demo`."),
]

PROMPTS = "Prompts: .txt (one a line), .jsonl, .parquet, or - for standard input."
Prompts = Annotated[str | None, option(PROMPTS, "FILE", default="built-in prompts", panel=DATA)]
COLUMN = "Key or column of the prompts in a .jsonl or .parquet file."
PromptColumn = Annotated[
    str | None, option(COLUMN, "NAME", default="prompt, text or messages", panel=DATA)
]
LIMIT = "Use only the first N prompts; 8 is a quick look."
Limit = Annotated[int | None, option(LIMIT, "N", default="all", panel=DATA, min=1)]
Skip = Annotated[int, option("Skip the first N prompts.", "N", panel=DATA, min=0)]
TRUNCATE = "Truncate prompts to N tokens."
MaxLength = Annotated[int | None, option(TRUNCATE, "N", default="off", panel=DATA, min=1)]
TEMPLATE = "Apply the tokenizer's chat template, or do not."
ChatTemplate = Annotated[
    bool | None,
    option(
        TEMPLATE,
        None,
        "--apply-chat-template/--no-chat-template",
        default="for chat messages only",
        panel=DATA,
    ),
]
INCLUDE = "Only linears whose name contains or matches this shell pattern; repeatable."
Include = Annotated[
    list[str], option(INCLUDE, "PATTERN", default="all in decoder layers", panel=DATA)
]
EXCLUDE = "Leave out linears whose name contains or matches this; repeatable."
Exclude = Annotated[list[str], option(EXCLUDE, "PATTERN", default="none", panel=DATA)]

LOAD_AS = "Load the weights as auto, bfloat16, float16 or float32."
Dtype = Annotated[str, option(LOAD_AS, "NAME", panel=MODEL, **DTYPE)]
Device = Annotated[
    str | None,
    option("cpu, cuda, cuda:1, ...", "NAME", default="cuda if there is one, else cpu", panel=MODEL),
]
SPREAD = "Spread a large model over devices with accelerate: auto."
DeviceMap = Annotated[str | None, option(SPREAD, "NAME", default="off", panel=MODEL)]
REVISION = "Branch, tag or commit on the Hub."
Revision = Annotated[str | None, option(REVISION, "NAME", default="the main branch", panel=MODEL)]
TOKENIZER = "Folder or Hub id of the tokenizer."
Tokenizer = Annotated[str | None, option(TOKENIZER, "NAME", default="the model's", panel=MODEL)]
REMOTE_CODE = "Run Python code that comes with the model."
RemoteCode = Annotated[bool, flag(REMOTE_CODE, "--trust-remote-code", panel=MODEL)]
PICKLE = "Load weights stored as pickles, which can run code."
Pickle = Annotated[bool, flag(PICKLE, "--allow-pickle", panel=MODEL)]

Output = Annotated[
    str | None,
    option(
        "Where the result goes; - for standard output.",
        "FILE",
        "--output",
        "-o",
        default="standard output",
        panel=OUTPUT,
    ),
]
Force = Annotated[bool, flag("Overwrite existing files.", "--force", panel=OUTPUT)]
ALL = "Show every row instead of the 20 worst."
All = Annotated[bool, flag(ALL, "--all", panel=OUTPUT)]
QUIET = "Print no progress and no notes; warnings and errors stay."
Quiet = Annotated[bool, flag(QUIET, "--quiet", "-q", panel=OUTPUT)]

BatchSize = Annotated[str, option("Prompts in a batch.", "N|auto", panel=ADVANCED)]
Seed = Annotated[int, option("Seed of everything random.", "N", panel=ADVANCED, min=0)]
Debug = Annotated[bool, flag("Show the traceback of an error.", "--debug", panel=ADVANCED)]
