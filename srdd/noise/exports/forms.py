r"""The forms in which a trainer's settings are written: YAML, JSON, Hydra overrides, flags.

Every number is written with as many digits as it takes to read the same number back. Comments carry
what a reader must know; JSON has none. Overrides come before their comments, and each line but the
last ends in a backslash, so that they can be pasted behind `python -m trainer \`.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from srdd.errors import InputError

Settings = Mapping[str, Any]
"""Nested mappings with text keys down to the values, which may be mappings with number keys."""


def one_line(text: str) -> str:
    """`text` as it can stand in a comment: what ends a line or moves a cursor is shown escaped.

    It is cut after 1,000 characters.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= 1000 else f"{shown[:999]}…"


def _commented(comments: Sequence[str]) -> str:
    return "".join(
        textwrap.fill(
            one_line(comment),
            width=100,
            initial_indent="# ",
            subsequent_indent="#   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
        for comment in comments
    )


def to_yaml(documents: Sequence[Settings], comments: Sequence[str]) -> str:
    """Documents below the comments; several are numbered as experiments and parted by `---`.

    Lists, and mappings with number keys, stand on one line as far as it reaches.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    def mapping(dumper: Dumper, data: Mapping[Any, Any]) -> yaml.Node:
        flow = bool(data) and not any(isinstance(key, str) for key in data)
        return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flow)

    def text(dumper: Dumper, data: str) -> yaml.Node:
        # Other styles write some line separators as they are, which a parser folds into a space.
        style = None if data.isprintable() else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def sequence(dumper: Dumper, data: Sequence[Any]) -> yaml.Node:
        return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    Dumper.add_representer(str, text)
    Dumper.add_representer(dict, mapping)
    Dumper.add_representer(list, sequence)
    written = [
        yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=96)
        for settings in documents
    ]
    if len(written) > 1:
        titles = (f"experiment {n} of {len(written)}" for n in range(1, len(written) + 1))
        written = [_commented([title]) + text for title, text in zip(titles, written, strict=True)]
    return _commented(comments) + "---\n".join(written)


def to_json(settings: Settings) -> str:
    """Indented JSON; number keys become text, as JSON knows no others."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(settings, option=options).decode()


def to_overrides(settings: Settings, comments: Sequence[str]) -> str:
    """Hydra overrides, quoted for a POSIX shell, with the comments below.

    Each begins with `++`, which sets a key whether or not the file has it.

    Raises:
        InputError: a text cannot be written, see `quoted`.
    """
    pairs = [f"++{path}={_hydra(value)}" for path, value in _leaves(settings)]
    return " \\\n".join(map(shlex.quote, pairs)) + "\n" + _commented(comments)


def to_flags(settings: Settings, comments: Sequence[str]) -> str:
    """`--name value` pairs of numbers on one line, with the comments below."""
    flags = (f"--{name.replace('_', '-')} {value!r}" for name, value in settings.items())
    return " ".join(flags) + "\n" + _commented(comments)


def _leaves(settings: Settings, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and all(isinstance(inner, str) for inner in value):
            yield from _leaves(value, name)
        else:
            yield name, value


def _hydra(value: Any) -> str:
    """A value in Hydra's override grammar; keys of a mapping must not be quoted there."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_hydra, value)) + "]"
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    """A text in double quotes, as Hydra's grammar reads it back unchanged.

    Raises:
        InputError: it holds a quote, a backslash or a character that does not print. No module of a
            model that anybody trains is called so.
    """
    if not text.isprintable() or '"' in text or "\\" in text:
        raise InputError(
            f"{one_line(text)!r} cannot be written as a Hydra override", "use --as yaml"
        )
    return f'"{text}"'


def check_literal(texts: Sequence[str]) -> None:
    """Make sure that OmegaConf reads `texts` as they stand.

    Raises:
        InputError: one of them would be taken for a reference to another setting.
    """
    for text in texts:
        if "${" in text:
            raise InputError(
                f"{one_line(text)!r} would be taken for a reference to another setting",
                "exclude or rename the module",
            )
