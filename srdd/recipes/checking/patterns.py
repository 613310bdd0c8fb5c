"""How consumers match a pattern against a name, and whether a match stops inside a word.

`mlp.gate` is meant for a router. It is a substring of `model.layers.0.mlp.gate_up_proj`, and
`re:.*mlp.gate` matches its beginning; it neither equals it nor matches it in full. A match that
ends inside a word of a name, and not at a dot or the end, is `partial`: hardly anybody means it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from srdd.errors import InputError

How = Literal["exact", "match", "fullmatch", "substring", "glob"]

REGEX = "re:"
"""How a pattern begins that is a regular expression, where a consumer knows them."""


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{pattern!r} is no regular expression ({error})", "correct the file; see Python's re"
        ) from None


def matcher(text: str, how: How) -> Callable[[str], bool]:
    """A function that says whether a name is matched.

    Raises:
        InputError: the pattern is not valid.
    """
    if how == "exact":
        return text.__eq__
    if how == "substring":
        return lambda name: text in name
    if how == "glob":
        found = re.compile(fnmatch.translate(text)).match
        return lambda name: found(name) is not None
    pattern = _compiled(text)
    apply = pattern.match if how == "match" else pattern.fullmatch
    return lambda name: apply(name) is not None


def is_partial(text: str, how: How, name: str) -> bool:
    """Whether a pattern that matches `name` stops, or begins, inside one of its parts."""
    if how == "substring":
        places = [found.span() for found in re.finditer(re.escape(text), name)]
        return all(_cuts(name, *place) for place in places)
    if how == "match":
        found = _compiled(text).match(name)
        return found is not None and _cuts(name, 0, found.end())
    if how == "glob" and text.endswith("*"):
        literal = re.split(r"[*?\]]", text.rstrip("*"))[-1]
        places = (
            [found.span() for found in re.finditer(re.escape(literal), name)] if literal else []
        )
        if literal.startswith("_"):
            places = [(0, end) for _, end in places]
        return bool(places) and all(_cuts(name, *place) for place in places)
    return False


def _cuts(name: str, start: int, end: int) -> bool:
    """Whether name[start:end] begins or ends inside a word of letters, digits and underscores."""
    before = start > 0 and _joined(name[start - 1], name[start])
    after = end < len(name) and end > 0 and _joined(name[end - 1], name[end])
    return before or after


def _joined(left: str, right: str) -> bool:
    return (left + right).replace("_", "a").isalnum()
