"""Settings as YAML or JSON that another program reads, with comments for a person.

Every number is written with as many digits as it takes to read the same number back.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

Settings = Mapping[str, Any]
"""Nested mappings with text keys down to the values, which may be mappings with number keys."""


def one_line(text: str) -> str:
    """`text` as it can stand in a comment: what ends a line or moves a cursor is shown escaped.

    It is cut after 1,000 characters.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= 1000 else f"{shown[:999]}…"


def commented(comments: Sequence[str]) -> str:
    """Comments as lines of YAML, each wrapped at 100 characters."""
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

    Lists, mappings with number keys, and mappings in lists stand on one line as far as it reaches.
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
        flow = not any(isinstance(each, Mapping) for each in data)
        node = dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)
        for each in node.value if not flow else ():
            each.flow_style = True
        return node

    Dumper.add_representer(str, text)
    Dumper.add_representer(dict, mapping)
    Dumper.add_representer(list, sequence)
    written = [
        yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=96)
        for settings in documents
    ]
    if len(written) > 1:
        titles = (f"experiment {n} of {len(written)}" for n in range(1, len(written) + 1))
        written = [commented([title]) + text for title, text in zip(titles, written, strict=True)]
    return commented(comments) + "---\n".join(written)


def to_json(settings: Settings) -> str:
    """Indented JSON; number keys become text, as JSON knows no others."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(settings, option=options).decode()
