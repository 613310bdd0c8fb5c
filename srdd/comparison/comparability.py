"""What differs between two scans besides what is compared, and whether the prompts are the same.

A difference means what one takes it for only where all else is the same. Some things forbid a
comparison (another site, a tensor that only one scan has: `srdd.comparison.pairing` leaves them
out); others change what the figures mean, and those are listed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from srdd.comparison.pairing import Matched
from srdd.documents.comparison import Remark
from srdd.documents.scan import Record, Scan
from srdd.errors import counted
from srdd.numerics.confidence import few_prompts
from srdd.numerics.sites import needs_prompts

_INDEPENDENT = "intervals treat the two scans as independent"


@dataclass(frozen=True)
class _Check:
    """Something that has to be the same in both scans.

    Attributes:
        name: what it is called.
        path: where it stands in a scan.
        when: for what it matters: `always`, `prompts` (what is measured on them), `stochastic`
            (rounding) or `tensor` (scales over a whole tensor).
        why: what a difference does, where its name does not say it.
        warning: whether a difference changes what the figures mean.
    """

    name: str
    path: str
    when: str = "always"
    why: str = ""
    warning: bool = True


_SAME = (
    _Check("architecture", "model.architecture"),
    _Check("dtype", "model.dtype"),
    _Check("hidden size", "model.hidden_size"),
    _Check("number of layers", "model.layers", why="layers are paired by their number"),
    _Check("rounding", "settings.rounding"),
    _Check("include patterns", "settings.include"),
    _Check("exclude patterns", "settings.exclude"),
    _Check("tokenizer", "model.tokenizer", "prompts"),
    _Check("max_length", "calibration.max_length", "prompts"),
    _Check("chat template", "calibration.chat_template", "prompts"),
    _Check("skip_first_token", "calibration.skip_first_token", "prompts"),
    _Check("seed of stochastic rounding", "settings.seed", "stochastic"),
    _Check("batch size", "run.batch_size", "tensor", "the scale of a whole tensor is a batch's"),
    _Check("device", "run.device", why="last digits may differ", warning=False),
    _Check("kernel", "run.kernel", why="last digits may differ", warning=False),
)


def _read(scan: Scan, path: str) -> str | None:
    """A setting in words; None where a scan by another program does not record it."""
    value = attrgetter(path)(scan)
    if value is None:
        return None if scan.model.source == "prototype" else "none"
    if path == "model.layers":
        return str(len(value))
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if not isinstance(value, bool) else "on" if value else "off"


def same_prompts(old: Scan, new: Scan) -> bool:
    """Whether both measured the same tokens of the same prompts, dealt alike into replicates.

    Then replicate i of both holds the same prompts, and they can be left out together.
    """
    first, second = old.calibration, new.calibration
    fingerprints = first.prompt_fingerprints, second.prompt_fingerprints
    if first.replicate_rule == "prompt":  # in any order
        fingerprints = sorted(fingerprints[0]), sorted(fingerprints[1])
    return (
        bool(fingerprints[0])
        and fingerprints[0] == fingerprints[1]
        and first.skip_first_token == second.skip_first_token
        and first.replicate_rule == second.replicate_rule
    )


def remarks(old: Scan, new: Scan, matched: Sequence[Matched]) -> list[Remark]:
    """All that a reader of the comparison has to know first, the warnings in front."""
    selections = [each.selection for each in matched]
    on_prompts = any(needs_prompts([each.site]) for each in selections)
    formats = [name for each in selections for name in (each.old_format, each.new_format)]
    when = {
        "always": True,
        "prompts": on_prompts,
        "stochastic": "stochastic" in (old.settings.rounding, new.settings.rounding),
        "tensor": on_prompts and any(name.endswith(":tensor") for name in formats),
    }
    two_formats = any(each.old_format != each.new_format for each in selections)
    result = [*_weights(old, new, two_formats), *_settings(old, new, when)]
    if on_prompts:
        result += _prompts(old, new)
    pairs = [pair for each in matched for pair in each.pairs.values()]
    for number, (which, scan) in enumerate((("OLD", old), ("NEW", new))):
        result += _figures(which, scan, [pair[number] for pair in pairs])
    return sorted(result, key=lambda remark: not remark.warning)


def _note(text: str) -> Remark:
    return Remark(text=text, warning=False)


def _warning(text: str) -> Remark:
    return Remark(text=text, warning=True)


def _weights(old: Scan, new: Scan, two_formats: bool) -> Iterator[Remark]:
    first, second = old.model.fingerprint, new.model.fingerprint
    for which, fingerprint in (("OLD", first), ("NEW", second)):
        if fingerprint is None:
            yield _note(f"{which} has no fingerprint of the weights")
    if first is None or second is None:
        return
    if first != second:
        yield _note(f"the weights differ: {first[:12]} in OLD, {second[:12]} in NEW")
    elif two_formats:
        yield _note(f"both have the same weights ({first[:12]})")
    else:
        names = sorted({old.model.name, new.model.name})
        under = f" under two names, {' and '.join(names)}" if len(names) > 1 else ""
        yield _warning(
            f"OLD and NEW have the same weights ({first[:12]}){under}: this is one checkpoint "
            "measured twice, and no difference is one between checkpoints"
        )


def _settings(old: Scan, new: Scan, when: Mapping[str, bool]) -> Iterator[Remark]:
    unknown: dict[str, list[str]] = {"OLD": [], "NEW": []}
    for check in (check for check in _SAME if when[check.when]):
        first, second = _read(old, check.path), _read(new, check.path)
        if first == second:
            continue
        if first is None or second is None:
            unknown["OLD" if first is None else "NEW"].append(check.name)
            continue
        why = f"; {check.why}" if check.why else ""
        text = f"{check.name} differs: {first} in OLD, {second} in NEW{why}"
        yield Remark(text=text, warning=check.warning)
    for which, names in unknown.items():
        if names:
            yield _note(f"{which} does not record: {', '.join(names)}")


def _prompts(old: Scan, new: Scan) -> Iterator[Remark]:
    few = [
        few_prompts(
            scan.calibration.prompts or 0,
            max((r.prompt_groups for r in scan.records if needs_prompts([r.site])), default=0),
        )
        for scan in (old, new)
    ]
    if few[0] == few[1]:
        yield from [_warning(f"OLD and NEW have {few[0]}")] if few[0] else []
    else:
        yield from (_warning(f"{w} has {t}") for w, t in zip(("OLD", "NEW"), few, strict=True) if t)
    first, second = (Counter(scan.calibration.prompt_fingerprints) for scan in (old, new))
    if not first or not second:
        unknown = " and ".join(which for which, of in (("OLD", first), ("NEW", second)) if not of)
        yield _warning(
            f"the prompts of {unknown} are unknown: differences may come from other prompts, and "
            f"{_INDEPENDENT}"
        )
    elif same_prompts(old, new):
        yield _note(f"the same prompts in both, intervals are paired: {_amount(new)}")
    elif first == second:
        yield _warning(
            "the same prompts, but without their first tokens in one or in other replicates: "
            f"{_INDEPENDENT} and are wider than they need be"
        )
    else:
        yield _warning(
            f"the prompts differ: {_amount(old)} in OLD, {_amount(new)} in NEW, "
            f"{(first & second).total():,} in both; differences include the effect of the prompts, "
            f"and {_INDEPENDENT}"
        )


def _amount(scan: Scan) -> str:
    text = scan.calibration
    prompts = counted(len(text.prompt_fingerprints), "prompt")
    return f"{prompts} ({counted(text.tokens or 0, 'token')})"


def _figures(which: str, scan: Scan, records: Sequence[Record]) -> Iterator[Remark]:
    """What is odd about the figures of one scan."""
    if scan.model.source == "prototype":
        yield _warning(
            f"{which} was made by the prototype: no sums, so no intervals and no figure of all "
            "layers together, and its figures are means over prompts, not pooled"
        )
    layers = sorted({r.layer for r in records if r.sums and r.sums.nonfinite})
    if layers:
        yield _warning(
            f"{which} has NaN or infinite values, which no figure counts, in "
            f"{counted(len(layers), 'layer')}: {', '.join(map(str, layers[:8]))}"
        )
