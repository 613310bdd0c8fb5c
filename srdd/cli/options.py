"""Options that several commands have: which model, how it is loaded, what it reads."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Folder or Hub id of a causal language model, or `demo`."),
]
Include = Annotated[
    list[str],
    typer.Option(
        metavar="PATTERN",
        help="Only linears whose name contains this or fits it as in a shell; repeat.",
        show_default="all in decoder layers",
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        metavar="PATTERN",
        help="Leave out linears whose name contains or fits this; repeat.",
        show_default="none",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite an existing file.", show_default="off")
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Use only so many prompts; 8 is a quick look.", show_default="all"
    ),
]
Skip = Annotated[int, typer.Option(metavar="N", help="Leave out so many prompts first.")]
BatchSize = Annotated[str, typer.Option(metavar="N|auto", help="Prompts in a batch.")]
ChatTemplate = Annotated[
    bool | None,
    typer.Option(
        "--apply-chat-template/--no-chat-template",
        help="Apply the tokenizer's chat template to prompts.",
        show_default="to chat messages, not to plain text",
    ),
]
Dtype = Annotated[
    str, typer.Option(metavar="NAME", help="Load weights as auto, bfloat16, float16 or float32.")
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu, cuda, cuda:1, ...", show_default="cuda if there is one, else cpu"
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Spread a large model, as accelerate does: auto.", show_default="off"
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Branch, tag or commit on the Hub.", show_default="its main branch"
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Folder or Hub id of the tokenizer.", show_default="the model's"
    ),
]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that comes with the model.", show_default="off"
    ),
]
Pickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Take weights that are stored as pickles.", show_default="off"
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", show_default="off")
]
