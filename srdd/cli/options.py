"""Options of commands: `options.json` declares them, and the signature of a command uses them.

There, a command has an object with its options by parameter, and `shared` has those that several
commands have; a command can replace some of what is shared. Of an option is declared:

    argument   true for what is given by position
    names      where they do not follow from the parameter's
    metavar    what its value is called on the help page
    help       a sentence
    default    what the help page says of the default, where the value itself says too little
    min        the least value
    bare       the value where the option is given without one
    choices    what the names are, then the names, or where they are declared, as `module:NAMES`
    panel      the group of options on the help page: the data, the model, the output, and the rest
    listed     a JSON file of the package and a key in it: the names there replace {} in the help
    required   true where there is no default, although the signature has one

Type and default stand in the signature.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from srdd.errors import unknown_name

ALIASES = {"md": "markdown", "table": "terminal", "text": "terminal", "txt": "terminal"}
"""Other words for output forms, where they are not names of forms themselves."""


@cache
def _declarations() -> dict[str, dict[str, Any]]:
    path = Path(__file__).with_name("options.json")
    declarations: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return declarations


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as a command, whose parameters are options.

    A parameter whose type is a dataclass stands for its fields: each of them is an option, and the
    function gets the object. Every command also has the option `--debug`, which `srdd.cli.app`
    reads.
    """
    types = get_type_hints(function)
    groups: dict[str, Any] = {name: kind for name, kind in types.items() if is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in groups:
            parameters.append(_parameter(function, name, types[name], parameter.default))
            continue
        kinds = get_type_hints(groups[name])
        for field in fields(groups[name]):
            parameters.append(_parameter(function, field.name, kinds[field.name], _default(field)))
    parameters.append(_parameter(function, "debug", bool, False))

    def run(debug: bool = False, **values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        function(**values)

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _parameter(
    function: Callable[..., None], name: str, kind: Any, default: Any
) -> inspect.Parameter:
    """A parameter as Typer reads it."""
    declarations = _declarations()
    declared = {
        **declarations["shared"].get(name, {}),
        **declarations.get(function.__name__, {}).get(name, {}),
    }
    names = declared.get("names", [f"--{name}".replace("_", "-")] if kind is bool else [])
    text = declared["help"]
    if "listed" in declared:
        text = text.format(_listed(declared["listed"]))
    details: dict[str, Any] = {"help": text, "metavar": declared.get("metavar")}
    details["show_default"] = declared.get("default") or ("off" if default is False else True)
    if "min" in declared:
        details["min"] = declared["min"]
    if "choices" in declared:
        what, *sources = declared["choices"]
        details |= one_of(what, sources)
    if declared.get("argument"):
        info = typer.Argument(**details)
    else:
        info = typer.Option(*names, rich_help_panel=declared.get("panel"), **details)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if declared.get("required") else default,
        annotation=Annotated[kind, info],
    )


def completed(function: str, arguments: list[str]) -> list[str]:
    """Arguments of a command in which options that may stand without their value have it.

    What follows such an option is its value where it is a number, or a percentage, for which the
    option's own message is clearer than one about a file of that name.
    """
    bare = {
        f"--{name}".replace("_", "-"): declared["bare"]
        for name, declared in _declarations().get(function, {}).items()
        if "bare" in declared
    }
    whole = []
    for place, argument in enumerate(arguments):
        whole.append(argument)
        if argument in bare and not _is_number("".join(arguments[place + 1 : place + 2])):
            whole.append(bare[argument])
    return whole


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True


def _listed(source: str) -> str:
    """The keys of an object in a JSON file as a list in words; `FILE:KEY`, from srdd's folder."""
    file, _, key = source.partition(":")
    path = Path(__file__).parent.parent / file
    *names, last = json.loads(path.read_text(encoding="utf-8"))[key]
    return f"{', '.join(names)} or {last}"


@cache
def _flags() -> dict[str, str]:
    """The option for each parameter that messages of the library name."""
    flags = {"trainer": "--for", "formats": "--format", "sites": "--site", "tiers": "--tier"}
    flags |= {"thresholds": "--threshold"}
    for parameters in _declarations().values():
        for name, declared in parameters.items():
            if not declared.get("argument"):
                flag: str = declared.get("names", [f"--{name}".replace("_", "-")])[0]
                flags.setdefault(name, flag.partition("/")[0])
    return flags


def as_options(text: str) -> str:
    """A message of the library with the parameters in it written as options.

    "`limit=8`" becomes `--limit 8`, and "`kl=True`" becomes `--kl`. Other code stays as it is.
    """

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in _flags():
            return match[0]
        if (name, value) == ("apply_chat_template", "False"):
            return "--no-chat-template"
        if (name, value) == ("kl", "direct"):
            return "--kl-direct"
        return _flags()[name] if value in (None, "True") else f"{_flags()[name]} {value}"

    return re.sub(r"`([a-z_]+)(?:=([^`]+))?`", option, text)


def one_of(what: str, sources: list[str]) -> dict[str, Any]:
    """What makes an option take one of several names; the error for another lists them.

    A metric also goes by its title or the beginning of its name: `sqnr` is `sqnr_db`.

    Arguments:
        what: what the names are, for the error.
        sources: names, or `module:NAMES`, which is imported when the names are needed.
    """

    def known() -> list[str]:
        names: list[str] = []
        for source in sources:
            module, colon, declared = source.partition(":")
            names += getattr(import_module(module), declared) if colon else [source]
        return names

    def parse(text: str) -> str:
        if what == "metric":
            from srdd.numerics.metrics import metric_name

            return metric_name(text, known())
        chosen = text if text in known() else ALIASES.get(text, text)
        if chosen not in known():
            raise unknown_name(what, text, known())
        return chosen

    return {"parser": parse, "autocompletion": known}
