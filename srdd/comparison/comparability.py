"""What differs between two scans besides what is compared, and whether the prompts are the same.

A difference means what one takes it for only where all else is the same. Some things forbid a
comparison (another site, a tensor that only one scan has: `srdd.comparison.pairing` leaves them
out); others change what the figures mean, and those are listed here: most in a table of what has to
match, the others each in a function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from srdd.comparison.pairing import Matched
from srdd.documents.scan import Scan
from srdd.errors import counted
from srdd.numerics.confidence import FEW_PROMPTS
from srdd.numerics.sites import needs_prompts


@dataclass(frozen=True)
class Remark:
    """A sentence about what a comparison means.

    Attributes:
        text: the sentence; it holds names from the scans and is untrusted.
        warning: whether it changes what the figures mean, and not only where they come from.
    """

    text: str
    warning: bool


@dataclass(frozen=True)
class _Check:
    """Something that has to be the same in both scans.

    Attributes:
        name: what it is called.
        read: it in a scan; None where the scan does not record it.
        warning: whether a difference changes what the figures mean.
        why: what a difference does, where its name does not say it.
        prompts: whether it matters only to what is measured on prompts.
        applies: whether it matters to this scan and these formats.
    """

    name: str
    read: Callable[[Scan], object]
    warning: bool = True
    why: str = ""
    prompts: bool = False
    applies: Callable[[Scan, Sequence[str]], bool] = lambda scan, formats: True


_SAME = (
    _Check("architecture", lambda scan: scan.model.architecture),
    _Check("dtype", lambda scan: scan.model.dtype),
    _Check("hidden size", lambda scan: scan.model.hidden_size),
    _Check(
        "number of layers",
        lambda scan: len(scan.model.layers),
        why="layers are paired by their number",
    ),
    _Check("rounding", lambda scan: scan.settings.rounding),
    _Check("--include", lambda scan: scan.settings.include),
    _Check("--exclude", lambda scan: scan.settings.exclude),
    _Check("tokenizer", lambda scan: scan.model.tokenizer, prompts=True),
    _Check("--max-length", lambda scan: _max_length(scan), prompts=True),
    _Check("--apply-chat-template", lambda scan: scan.calibration.chat_template, prompts=True),
    _Check("--skip-first-token", lambda scan: scan.calibration.skip_first_token, prompts=True),
    _Check(
        "seed of stochastic rounding",
        lambda scan: scan.settings.seed,
        applies=lambda scan, formats: scan.settings.rounding == "stochastic",
    ),
    _Check(
        "--batch-size",
        lambda scan: scan.run.batch_size,
        why="a scale over the whole tensor depends on the batch",
        prompts=True,
        applies=lambda scan, formats: any(name.endswith(":tensor") for name in formats),
    ),
    _Check(
        "device or kernel",
        lambda scan: f"{scan.run.device} with {scan.run.kernel}" if scan.run.device else None,
        warning=False,
        why="last digits may differ",
    ),
)


def _max_length(scan: Scan) -> object:
    """None in a scan by srdd means that nothing was cut; in another, that it is unknown."""
    length = scan.calibration.max_length
    return "off" if length is None and scan.model.source != "prototype" else length


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
    on_prompts = any(needs_prompts([each.site]) for each in matched)
    found = [*_weights(old, new, matched), *_settings(old, new, matched, on_prompts)]
    if on_prompts:
        found += _prompts(old, new)
    found += [*_prototype(old, new), *_nonfinite(matched)]
    return sorted(found, key=lambda remark: not remark.warning)


def _weights(old: Scan, new: Scan, matched: Sequence[Matched]) -> Iterable[Remark]:
    first, second = old.model.fingerprint, new.model.fingerprint
    for which, fingerprint in (("OLD", first), ("NEW", second)):
        if fingerprint is None:
            yield Remark(f"{which} has no fingerprint of the weights", warning=False)
    if first is None or second is None:
        return
    if first != second:
        yield Remark(
            f"the weights differ: {first[:12]} in OLD, {second[:12]} in NEW", warning=False
        )
    elif all(each.old_format == each.new_format for each in matched):
        names = {old.model.name, new.model.name}
        called = f" under two names, {' and '.join(sorted(names))}" if len(names) > 1 else ""
        yield Remark(
            f"OLD and NEW have the same weights ({first[:12]}){called}: this is one checkpoint "
            "measured twice, and no difference is one between checkpoints",
            warning=True,
        )
    else:
        yield Remark(f"both have the same weights ({first[:12]})", warning=False)


def _settings(
    old: Scan, new: Scan, matched: Sequence[Matched], on_prompts: bool
) -> Iterable[Remark]:
    formats = [name for each in matched for name in (each.old_format, each.new_format)]
    unknown: dict[str, list[str]] = {"OLD": [], "NEW": []}
    for check in _SAME:
        if check.prompts and not on_prompts:
            continue
        if not any(check.applies(scan, formats) for scan in (old, new)):
            continue
        first, second = check.read(old), check.read(new)
        if first == second:
            continue
        if first is None or second is None:
            unknown["OLD" if first is None else "NEW"].append(check.name)
            continue
        why = f"; {check.why}" if check.why else ""
        yield Remark(
            f"{check.name} differs: {_shown(first)} in OLD, {_shown(second)} in NEW{why}",
            check.warning,
        )
    for which, names in unknown.items():
        if names:
            yield Remark(f"{which} does not record: {', '.join(names)}", warning=False)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _amount(scan: Scan) -> str:
    text = scan.calibration
    if text.prompts is None or text.tokens is None:
        return "an unknown number of prompts"
    return f"{counted(text.prompts, 'prompt')} ({counted(text.tokens, 'token')})"


def _prompts(old: Scan, new: Scan) -> Iterable[Remark]:
    for which, scan in (("OLD", old), ("NEW", new)):
        count = scan.calibration.prompts
        if count is not None and 0 < count < FEW_PROMPTS:
            yield Remark(
                f"{which} has only {counted(count, 'prompt')}: intervals may be too narrow",
                warning=True,
            )
    first = Counter(old.calibration.prompt_fingerprints)
    second = Counter(new.calibration.prompt_fingerprints)
    if not first or not second:
        silent = [which for which, known in (("OLD", first), ("NEW", second)) if not known]
        yield Remark(
            f"the prompts of {' and '.join(silent)} are unknown: differences may come from other "
            "prompts, and intervals treat the two scans as independent",
            warning=True,
        )
    elif same_prompts(old, new):
        yield Remark(
            f"the same prompts in both, intervals are paired: {_amount(new)}", warning=False
        )
    elif first == second:
        yield Remark(
            "the same prompts, but without their first tokens in one or in other replicates: "
            "intervals treat the two scans as independent and are wider than they need be",
            warning=True,
        )
    else:
        yield Remark(
            f"the prompts differ: {_amount(old)} in OLD, {_amount(new)} in NEW, "
            f"{sum((first & second).values()):,} in both; differences include the effect of the "
            "prompts, and intervals treat the two scans as independent",
            warning=True,
        )


def _prototype(old: Scan, new: Scan) -> Iterable[Remark]:
    made = [w for w, s in (("OLD", old), ("NEW", new)) if s.model.source == "prototype"]
    if made:
        mixed = "" if len(made) == 2 else ", and its figures are means over prompts, not pooled"
        yield Remark(
            f"{' and '.join(made)} made by the prototype: no sums, so no intervals and no figure "
            f"of all layers together{mixed}",
            warning=True,
        )


def _nonfinite(matched: Sequence[Matched]) -> Iterable[Remark]:
    for which in ("OLD", "NEW"):
        layers = {
            pair.layer
            for each in matched
            for pair in each.pairs
            for record in [pair.old if which == "OLD" else pair.new]
            if record.sums and record.sums.nonfinite
        }
        if layers:
            names = ", ".join(map(str, sorted(layers)[:8]))
            yield Remark(
                f"{which} has NaN or infinite values, which no figure counts, in "
                f"{counted(len(layers), 'layer')}: {names}",
                warning=True,
            )
