r"""Hydra overrides and flags, beside the YAML and JSON of `srdd.documents.settings_text`.

Every number is written with as many digits as it takes to read the same number back. Overrides come
before their comments, and each line but the last ends in a backslash, so that they can be pasted
behind `python -m trainer \`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srdd.documents.settings_text import Settings, commented, one_line
from srdd.errors import InputError


def to_overrides(settings: Settings, comments: Sequence[str]) -> str:
    """Hydra overrides, quoted for a POSIX shell, with the comments below.

    Each begins with `++`, which sets a key whether or not the file has it.

    Raises:
        InputError: a text cannot be written, see `quoted`.
    """
    pairs = [f"++{path}={_hydra(value)}" for path, value in _leaves(settings)]
    return " \\\n".join(map(shlex.quote, pairs)) + "\n" + commented(comments)


def to_flags(settings: Settings, comments: Sequence[str]) -> str:
    """`--name value` pairs of numbers on one line, with the comments below."""
    flags = (f"--{name.replace('_', '-')} {value!r}" for name, value in settings.items())
    return " ".join(flags) + "\n" + commented(comments)


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
            f"{one_line(text)!r} cannot be written as a Hydra override", "use `form=yaml`"
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
