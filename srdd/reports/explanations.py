"""What the words of srdd mean: each has one text, from where the word is declared.

Metrics, formats, trainers, sites and verdicts are explained by their own declarations; strategies
and all other words that tables print are in `templates/glossary.md`:

    # KIND: NAME (other names)

    A summary, then paragraphs, and sections that begin with `Reading:` and the like.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from srdd.errors import UsageError, unknown_name
from srdd.noise.exports import TRAINERS
from srdd.numerics.floors import WIDTH, floor_of
from srdd.numerics.formats import FORMATS, GROUPS, USED_BY, Element, FormatSpec, parse_spec
from srdd.numerics.metrics import FIGURES, METRICS
from srdd.numerics.mismatch_metrics import MISMATCH, MismatchMetric
from srdd.numerics.sites import SITES, UNDEFINED
from srdd.reports import comparison_view, verdicts
from srdd.reports.view import Measure

KINDS = (
    "metric",
    "mismatch figure",
    "format",
    "scale rule",
    "strategy",
    "trainer",
    "site",
    "verdict",
    "word",
)
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
        sections: titles such as Formula or Reading, each with its paragraph.
        aliases: other names of it.
    """

    name: str
    kind: str
    summary: str
    text: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()


UNITS = {
    "dB": "dB",
    "%": "a fraction in documents, per cent on screens",
    "mnat": "nats a token in documents, thousandths of a nat (mnat) on screens",
}
"""How the figures of a metric are written, by the unit that a person reads."""


def _sections(source: object, *names: str) -> tuple[tuple[str, str], ...]:
    """Those of an object's texts that are not empty, by their titles."""
    return tuple((n.capitalize(), text) for n in names if (text := getattr(source, n)))


def _declared() -> Iterator[Topic]:
    for metric in FIGURES.values():
        unit = UNITS[metric.unit]
        first, *rest = _sections(metric, "formula", "range", "reading", "pitfalls", "source")
        names = (metric.label, metric.title)
        yield Topic(
            metric.name, "metric", metric.summary, (), (first, ("Unit", unit), *rest), names
        )
    for figure in MISMATCH.values():
        yield _mismatch(figure)
    for name, each in FORMATS.items():
        yield _format(FormatSpec(each, each.scale_rules[0]), name)
    for name, members in GROUPS.items():
        yield Topic(name, "format", f"Stands for several formats: {', '.join(members)}.")
    for name, trainer in TRAINERS.items():
        layers = "layers can differ" if trainer.per_layer else "the same noise in every layer only"
        sections = (("Layers", layers), ("Forms", ", ".join(trainer.forms)))
        summary = f"{trainer.title[0].upper()}{trainer.title[1:]}, as in `suggest --for {name}`."
        read_by = (f"Read by: {trainer.reader}.",)
        links = (("Source", trainer.link),) if trainer.link else ()
        reads = (*_sections(trainer, "reads"), ("Where", "; ".join(trainer.place.values())))
        yield Topic(name, "trainer", summary, read_by, (*reads, *sections, *links))
    for name, meaning in SITES.items():
        by_reason: dict[str, list[str]] = {}
        for undefined, why in UNDEFINED.get(name, {}).items():
            by_reason.setdefault(why, []).append(undefined)
        text = tuple(f"No {', '.join(names)}: {why}." for why, names in by_reason.items())
        yield Topic(name, "site", f"{meaning[0].upper()}{meaning[1:]}.", text)
    for word, meaning in verdicts.MEANINGS.items():
        yield Topic(word.text, "verdict", f"Of a layer or tensor: {meaning}.")
    for word, meaning in comparison_view.MEANINGS.items():
        yield Topic(word.text, "verdict", f"Of a difference in `srdd compare`: {meaning}.")


def _mismatch(figure: MismatchMetric) -> Topic:
    sections = _sections(figure, "formula", "range", "reading", "pitfalls", "source")
    if figure.level is not None:
        level, whose = figure.level
        side = "below" if figure.higher_is_better else "above"
        sections = (*sections, ("Level", f"{side} {level:g}: {whose}"))
    text = (f"Logged by trainers as {', '.join(figure.theirs)}.",) if figure.theirs else ()
    names = (figure.label, *(each for each in figure.theirs if each != figure.name))
    return Topic(figure.name, "mismatch figure", figure.summary, text, sections, names)


def _magnitudes(element: Element) -> str:
    """All magnitudes of a small grid, or the ends of a large one."""
    step = 2.0 ** (element.min_exponent - element.mantissa_bits)
    values, value = [0.0], step
    while value <= element.largest and len(values) <= 9:
        values.append(value)
        exponent = max(element.min_exponent, math.frexp(value)[1] - 1)
        value += 2.0 ** (exponent - element.mantissa_bits)
    if value > element.largest:
        return ", ".join(f"{each:g}" for each in values[1:])
    return f"{values[1]:g}, {values[2]:g} ... {element.largest:g}"


def _format(spec: FormatSpec, name: str) -> Topic:
    each, first = spec.format, spec.scale_rule
    block = f"blocks of {each.block} values" if each.block else "whole rows"
    floors = {rule: floor_of(FormatSpec(each, rule)) for rule in each.scale_rules}
    rules = ", ".join(f"{rule} {floor.sqnr_db:.1f}" for rule, floor in floors.items())
    swing = max(floor.swing_db for floor in floors.values())
    if swing:
        rules += f"; it moves by up to {swing:.1f} dB with the data's scale between powers of two"
    elif not each.block:
        rules += f", for rows of {WIDTH:,} values; in longer rows it is lower"
    floor = vars(floors[first])
    figures = ", ".join(
        f"{metric.title} {Measure.of(metric).with_unit(floor[metric.name])}"
        for metric in METRICS.values()
        if metric.name in floor
    )
    users = "; ".join(f"{r}: {', '.join(USED_BY[r])}" for r in each.scale_rules if USED_BY[r])
    scale = f"{each.scale}, by the rules {', '.join(each.scale_rules)}"
    if each.lowered:
        scale += (
            f"; a block's largest value becomes {each.element.largest:g} or, where the block's "
            f"squared error is smaller, {each.lowered:g}"
        )
    pitfalls = (
        "the choice of scales is the encoder's: what you deploy gains from it only if its "
        "quantizer makes this choice, weights and inputs alike"
        if each.lowered
        else "scales over other groups of values, or a zero point, make another format"
        if len(each.scale_rules) == 1
        else f"measure with the scale rule that your deployment uses; defaults: {users}"
    )
    rotated = (
        (f"Groups of {each.rotation} channels are rotated first, see `srdd explain hadamard`.",)
        if each.rotation
        else ()
    )
    return Topic(
        name,
        "format",
        f"{each.element.name} elements ({each.element.bits} bits) in {block} that share a scale.",
        rotated,
        (
            ("Formula", "y = scale x element, the element rounded to its grid, ties to even"),
            ("Elements", f"0 and +- {_magnitudes(each.element)}"),
            ("Scale", scale),
            ("Unit", f"{each.bits_per_value:g} bits a value with its share of the scale"),
            ("Range", f"magnitudes up to {each.element.largest:g} times the scale"),
            ("Rules", f"SQNR in dB that ideal Gaussian data gets: {rules}"),
            ("Reading", f"with {first}, ideal Gaussian data gets {figures}"),
            ("Pitfalls", pitfalls),
            ("Source", each.source),
        ),
    )


def _glossary() -> Iterator[Topic]:
    file = resources.files("srdd.reports").joinpath("templates", "glossary.md")
    for entry in re.split(r"^# ", file.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        head, _, body = entry.partition("\n")
        kind, name, aliases = re.fullmatch(r"([\w ]+): (.+?)(?: \((.+)\))?", head).groups()  # type: ignore[union-attr]
        text: list[str] = []
        sections: list[tuple[str, str]] = []
        for paragraph in re.split(r"\n\s*\n|\n(?=[A-Z][a-z]+: )", body.strip()):
            title, colon, rest = paragraph.partition(": ")
            if colon and re.fullmatch(r"[A-Z][a-z]+", title):
                sections.append((title, " ".join(rest.split())))
            else:
                lines = paragraph.splitlines()
                kept = all(line.startswith("    ") for line in lines)
                text.append("\n".join(x[4:] for x in lines) if kept else " ".join(lines))
        if kind == "scale rule":
            formats = [f for f, each in FORMATS.items() if name in each.scale_rules]
            sections.append(("Formats", ", ".join(formats)))
            sections.append(("Used", ", ".join(USED_BY[name]) or "by nobody as a default"))
        names = tuple(aliases.split(", ")) if aliases else ()
        yield Topic(name, kind, text[0], tuple(text[1:]), tuple(sections), names)


@cache
def topics() -> tuple[Topic, ...]:
    """All topics in the order of KINDS; a name can stand for several, of different kinds."""
    unordered = (*_declared(), *_glossary())
    return tuple(sorted(unordered, key=lambda topic: KINDS.index(topic.kind)))


def _key(name: str) -> str:
    """A name without what does not tell it apart: case, a unit and punctuation."""
    return _spaced(name.removesuffix(" dB")) or name


def _spaced(name: str) -> str:
    return re.sub(r"[\s_%.()-]+", " ", name.lower()).strip()


@cache
def _by_key() -> dict[str, tuple[Topic, ...]]:
    by_key: dict[str, dict[Topic, None]] = {}
    for topic in topics():
        for name in (topic.name, *topic.aliases):
            by_key.setdefault(_key(name), {})[topic] = None
    return {key: tuple(named) for key, named in by_key.items()}


def explain(name: str) -> tuple[Topic, ...]:
    """The topics of a name, alias or column title, or of what only one of them begins with.

    A format may come with its scale rule or a rotation. Most names have one topic; `zone` is a
    strategy and a range of layers.

    Raises:
        UsageError: there is none; the hint lists the closest names.
    """
    by_key = _by_key()
    if _key(name) in by_key:
        return by_key[_key(name)]
    if re.split(r"[:+]", name)[0] in FORMATS:
        return (_format(parse_spec(name), name),)
    start = _spaced(name)
    begun = {topic for key, named in by_key.items() if key.startswith(start) for topic in named}
    if len(begun) == 1:
        return tuple(begun)
    names = dict.fromkeys(topic.name for topic in topics())
    raise UsageError(f"unknown word {name!r}", _closest(name, names))


def _closest(name: str, known: Iterable[str]) -> str:
    hint = unknown_name("word", name, known).hint.removeprefix("choose from: ")
    closest = ", ".join(hint.split(", ")[:CLOSEST])
    return f"the closest are {closest}; `srdd explain` lists all"
