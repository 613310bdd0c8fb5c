"""What the words of srdd mean, out of the docstrings and data that define them.

There is one text: a metric is explained by the docstring of its function, a format by its entry in
`formats.FORMATS`, a verdict by the module that gives it. A docstring's first paragraph is the
summary; a paragraph that begins with `Formula:`, `Unit:`, `Range:`, `Reading:`, `Pitfalls:` or
`Source:` is a section, and what stands between is text.
"""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from srdd.comparison import differences, gates
from srdd.documents import sensitivity
from srdd.errors import InputError, UsageError, unknown_name
from srdd.noise import CONTROLS, STRATEGIES, zones
from srdd.noise.exports import TRAINERS
from srdd.numerics import confidence, formats, metrics, sites
from srdd.numerics.floors import Floor, floor_of
from srdd.numerics.formats import FORMATS, GROUPS, ROTATIONS, USED_BY, Element, FormatSpec
from srdd.reports.verdicts import MEANINGS

SECTIONS = ("Formula", "Unit", "Range", "Reading", "Pitfalls", "Source")
TECHNICAL = ("Arguments", "Returns", "Raises", "Attributes")
"""Sections for programmers, left out here."""

KINDS = ("metric", "format", "scale rule", "strategy", "trainer", "site", "verdict", "word")
"""Kinds of topics in the order in which they are listed."""

CLOSEST = 8
"""Names that an unknown one is answered with."""


@dataclass(frozen=True)
class Topic:
    """A word with its explanation.

    Attributes:
        name: the word, as flags and documents write it.
        kind: of KINDS.
        summary: a sentence.
        text: paragraphs, in order; a paragraph of several lines is to be shown as it is.
        sections: titles of SECTIONS or others, each with its paragraph.
    """

    name: str
    kind: str
    summary: str
    text: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()


def _paragraphs(doc: str | None) -> list[str]:
    if doc is None:
        raise InputError(
            "the explanations are missing: python -OO leaves docstrings out", "run without -OO"
        )
    return re.split(r"\n\s*\n", inspect.cleandoc(doc))


def _flowing(paragraph: str) -> str:
    """A paragraph on one line; an indented one as it is."""
    if all(line.startswith("    ") for line in paragraph.splitlines()):
        return textwrap.dedent(paragraph)
    return re.sub(r"\s*\n\s*", " ", paragraph.strip())


def _plain(text: str) -> str:
    """Without what marks code in a docstring."""
    return re.sub(r"`srdd\.[a-z_.]+`", lambda found: found[0].strip("`"), text)


def _from_docstring(name: str, kind: str, doc: str | None) -> Topic:
    first, *rest = _paragraphs(doc)
    text: list[str] = []
    sections: list[tuple[str, str]] = []
    for paragraph in rest:
        entries = re.split(r"^(?=[A-Z][a-z]+:)", paragraph, flags=re.MULTILINE)
        for entry in filter(str.strip, entries):
            title, colon, body = entry.partition(":")
            if colon and title in SECTIONS:
                sections.append((title, _flowing(body)))
            elif title not in TECHNICAL:
                text.append(_plain(_flowing(entry.rstrip())))
    return Topic(name, kind, _plain(_flowing(first)), tuple(text), tuple(sections))


def _entries(module: ModuleType) -> dict[str, str]:
    """The list `name   meaning` that a module's docstring holds, continued lines joined."""
    found: dict[str, str] = {}
    name = ""
    for line in (module.__doc__ or "").splitlines():
        entry = re.match(r"    (\S(?:\S| (?! ))*) {2,}(\S.*)", line)
        if entry:
            for name in entry[1].split(", "):
                found[name] = entry[2].strip()
        elif re.match(r" {12,}\S", line) and name:
            found[name] += " " + line.strip()
        else:
            name = ""
    return found


def _paragraph_on(module: ModuleType, word: str) -> str:
    """The paragraph of a module's docstring that begins with a word in backticks."""
    for paragraph in _paragraphs(module.__doc__):
        if paragraph.startswith(f"`{word}`"):
            return _flowing(paragraph.partition(":")[2])
    raise LookupError(word)


def _scale(stored: str, rules: Iterable[str]) -> str:
    """How scales are stored, and how each of some rules finds one."""
    told = _entries(formats)
    found = "; ".join(f"{rule}: {told[rule]}" for rule in rules if rule in told)
    text = _paragraph_on(formats, stored).removesuffix(":")
    return f"{text}: {found}" if found else text


def _metrics() -> Iterable[Topic]:
    for name, metric in metrics.METRICS.items():
        unit = "dB" if metric.unit == "dB" else "a fraction in documents, per cent on screens"
        sections = (
            ("Formula", metric.formula),
            ("Unit", unit),
            ("Range", metric.range),
            ("Reading", metric.reading),
            ("Pitfalls", metric.pitfalls),
            ("Source", metric.source),
        )
        yield Topic(name, "metric", metric.summary, (), sections)


def _strategies() -> Iterable[Topic]:
    for name, each in (STRATEGIES | CONTROLS).items():
        sections = (
            ("Formula", each.formula),
            ("Reading", each.reading),
            ("Pitfalls", each.pitfalls),
            ("Source", each.source),
        )
        yield Topic(name, "strategy", each.summary, (), sections)


def _trainers() -> Iterable[Topic]:
    for name, each in TRAINERS.items():
        layers = "layers can differ" if each.per_layer else "the same noise in every layer only"
        sections = [
            ("Reads", each.reads),
            ("Layers", layers),
            ("Forms", ", ".join(each.forms)),
            ("Source", each.link),
        ]
        summary = f"Settings for {each.title}: `srdd suggest --for {name}`."
        text = (f"Read by: {each.reader}.",)
        yield Topic(name, "trainer", summary, text, tuple(pair for pair in sections if pair[1]))


def _magnitudes(element: Element) -> str:
    """All magnitudes of a small grid, or the ends of a large one."""
    step = 2.0 ** (element.min_exponent - element.mantissa_bits)
    found, value = [0.0], step
    while value <= element.largest and len(found) <= 9:
        found.append(value)
        exponent = max(element.min_exponent, math.frexp(value)[1] - 1)
        value += 2.0 ** (exponent - element.mantissa_bits)
    if value > element.largest:
        return ", ".join(f"{each:g}" for each in found)
    return f"0, {found[1]:g}, {found[2]:g} ... {element.largest:g}"


def _format(spec: FormatSpec, name: str) -> Topic:
    each = spec.format
    block = f"blocks of {each.block} values" if each.block else "whole rows"
    first = spec.scale_rule
    floor = floor_of(spec)
    rules = ", ".join(
        f"{rule} {floor_of(FormatSpec(each, rule)).sqnr_db:.1f}" for rule in each.scale_rules
    )
    text = []
    if each.rotation:
        text.append(
            f"Before quantizing, groups of {each.rotation} channels are rotated by a randomised "
            "Hadamard matrix, which spreads single large values over their group."
        )
    return Topic(
        name,
        "format",
        f"{each.element.name} elements ({each.element.bits} bits) in {block} that share a scale.",
        tuple(text),
        (
            ("Formula", "y = scale x element, the element rounded to its grid, ties to even"),
            ("Elements", f"0 and +- {_magnitudes(each.element).removeprefix('0, ')}"),
            ("Scale", _scale(each.scale, each.scale_rules)),
            ("Unit", f"{each.bits_per_value:g} bits a value with its share of the scale"),
            ("Range", f"magnitudes up to {each.element.largest:g} times the scale"),
            ("Rules", f"SQNR in dB that ideal Gaussian data gets: {rules}"),
            (
                "Reading",
                f"with {first}, ideal Gaussian data gets SQNR {floor.sqnr_db:.1f} dB, deadzone "
                f"{100 * floor.deadzone:.1f} %, saturation {100 * floor.saturation:.2f} %, "
                f"relative error {100 * floor.relative_error:.1f} %: a layer there is at the "
                "format's limit, and one below it suffers from its data",
            ),
            (
                "Pitfalls",
                "scales over other groups of values, or a zero point, make another format"
                if len(each.scale_rules) == 1
                else "measure with the scale rule that your deployment uses; used by default are "
                + "; ".join(
                    f"{rule}: {', '.join(USED_BY[rule])}"
                    for rule in each.scale_rules
                    if USED_BY[rule]
                ),
            ),
            ("Source", each.source),
        ),
    )


def _formats() -> Iterable[Topic]:
    for name, each in FORMATS.items():
        yield _format(FormatSpec(each, each.scale_rules[0]), name)
    for name, members in GROUPS.items():
        yield Topic(name, "format", f"Stands for several formats: {', '.join(members)}.")
    yield Topic(
        "hadamard",
        "format",
        "As in mxfp4+hadamard32: rotates groups of channels before quantizing.",
        (
            f"Groups have {ROTATIONS[0]}, {ROTATIONS[1]}, {ROTATIONS[2]} ... {ROTATIONS[-1]} "
            "channels. It shows what a rotation would change, and changes no model.",
        ),
    )


def _scale_rules() -> Iterable[Topic]:
    told = _entries(formats)
    stored = {rule: each.scale for each in FORMATS.values() for rule in each.scale_rules}
    for rule, users in USED_BY.items():
        used = ", ".join(users) or "nobody by default"
        held = [name for name, each in FORMATS.items() if rule in each.scale_rules]
        sections = [("Formula", told[rule])] if rule in told else []
        sections += [
            ("Scale", _scale(stored[rule], ())),
            ("Formats", ", ".join(held)),
            ("Used by", used),
        ]
        yield Topic(
            rule,
            "scale rule",
            "How a block's shared scale follows from its largest magnitude amax, where L is the "
            "largest magnitude of an element.",
            (),
            tuple(sections),
        )


def _sites() -> Iterable[Topic]:
    for name, meaning in sites.SITES.items():
        undefined = sites.UNDEFINED.get(name, {})
        by_reason: dict[str, list[str]] = {}
        for metric, reason in undefined.items():
            by_reason.setdefault(reason, []).append(metric)
        text = tuple(f"No {', '.join(held)}: {why}." for why, held in by_reason.items())
        yield Topic(name, "site", f"{meaning[0].upper()}{meaning[1:]}.", text)


def _verdicts() -> Iterable[Topic]:
    for word, meaning in MEANINGS.items():
        yield Topic(word.text, "verdict", f"Of a layer or tensor: {meaning}.")
    for name, meaning in _entries(differences).items():
        yield Topic(name, "verdict", f"Of a difference in `srdd compare`: {meaning}.")


_WORDS: dict[str, Callable[[], str | None]] = {
    "floor of a format": lambda: inspect.getdoc(Floor),
    "zones": lambda: inspect.getdoc(zones.by_depth),
    "natural breaks": lambda: inspect.getdoc(zones.natural_breaks),
    "interval": lambda: confidence.__doc__,
    "stability": lambda: inspect.getdoc(confidence.Stability),
    "kendall's tau": lambda: inspect.getdoc(confidence.kendall_tau),
    "gate": lambda: gates.__doc__,
    "kl": lambda: inspect.getdoc(sensitivity.Sensitivity),
    "kl_per_sigma2": lambda: inspect.getdoc(sensitivity.NoiseCost),
}
"""Other words, with the docstring that explains each."""


ALIASES = {
    "vs_floor_db": "floor of a format",
    "vs floor": "floor of a format",
    "sqnr": "sqnr_db",
    "sensitivity": "kl",
    "tau": "kendall's tau",
    "hadamardN": "hadamard",
}
"""Other names of topics."""


def _words() -> Iterable[Topic]:
    for name, doc in _WORDS.items():
        yield _from_docstring(name, "word", doc())


@cache
def topics() -> dict[str, Topic]:
    """All topics by name, in the order of KINDS."""
    found = [
        *_metrics(),
        *_formats(),
        *_scale_rules(),
        *_strategies(),
        *_trainers(),
        *_sites(),
        *_verdicts(),
        *_words(),
    ]
    return {topic.name: topic for topic in found}


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def explain(name: str) -> Topic:
    """The topic of a name; a format may come with its scale rule or a rotation.

    Raises:
        UsageError: there is none; the hint lists the closest names.
    """
    known = topics()
    by_key = {_key(each): topic for each, topic in known.items()}
    by_key |= {_key(alias): known[meant] for alias, meant in ALIASES.items()}
    if _key(name) in by_key:
        return by_key[_key(name)]
    if re.split(r"[:+]", name)[0] in FORMATS:
        return _format(formats.parse_spec(name), name)
    unknown = unknown_name("word", name, known)
    closest = unknown.hint.removeprefix("choose from: ").split(", ")[:CLOSEST]
    raise UsageError(
        unknown.message, f"the closest are {', '.join(closest)}; `srdd explain` lists all"
    )


__all__ = ["KINDS", "Topic", "explain", "topics"]
