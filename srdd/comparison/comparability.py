"""What differs between two scans besides what is compared, and whether the prompts are the same.

A difference means what one takes it for only where all else is the same. Some things forbid a
comparison (another site, a tensor that only one scan has: `srdd.comparison.pairing` leaves them
out); others change what the figures mean, and those are listed here: most in a table of what has to
match, the others each in a function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

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
    _Check("rounding", "settings.rounding"),
    _Check("--include", "settings.include"),
    _Check("--exclude", "settings.exclude"),
    _Check("tokenizer", "model.tokenizer", "prompts"),
    _Check("--max-length", "calibration.max_length", "prompts"),
    _Check("--apply-chat-template", "calibration.chat_template", "prompts"),
    _Check("--skip-first-token", "calibration.skip_first_token", "prompts"),
    _Check("seed of stochastic rounding", "settings.seed", "stochastic"),
    _Check("--batch-size", "run.batch_size", "tensor", "the scale of a whole tensor is a batch's"),
    _Check("device", "run.device", why="last digits may differ", warning=False),
    _Check("kernel", "run.kernel", why="last digits may differ", warning=False),
)


def _read(scan: Scan, path: str) -> str | None:
    """A setting in words; None where a scan by another program does not record it."""
    value = attrgetter(path)(scan)
    if value is None:
        return None if scan.model.source == "prototype" else "none"
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
    on_prompts = any(needs_prompts([each.site]) for each in matched)
    formats = [name for each in matched for name in (each.old_format, each.new_format)]
    when = {
        "always": True,
        "prompts": on_prompts,
        "stochastic": "stochastic" in (old.settings.rounding, new.settings.rounding),
        "tensor": on_prompts and any(name.endswith(":tensor") for name in formats),
    }
    found = [*_weights(old, new, matched), *_settings(old, new, when)]
    if on_prompts:
        found += _prompts(old, new)
    found += [*_prototype(old, new), *_nonfinite(matched)]
    return sorted(found, key=lambda remark: not remark.warning)


def _note(text: str) -> Remark:
    return Remark(text, warning=False)


def _warning(text: str) -> Remark:
    return Remark(text, warning=True)


def _weights(old: Scan, new: Scan, matched: Sequence[Matched]) -> Iterable[Remark]:
    first, second = old.model.fingerprint, new.model.fingerprint
    for which, fingerprint in (("OLD", first), ("NEW", second)):
        if fingerprint is None:
            yield _note(f"{which} has no fingerprint of the weights")
    if first is None or second is None:
        return
    if first != second:
        yield _note(f"the weights differ: {first[:12]} in OLD, {second[:12]} in NEW")
    elif any(each.old_format != each.new_format for each in matched):
        yield _note(f"both have the same weights ({first[:12]})")
    else:
        names = sorted({old.model.name, new.model.name})
        called = f" under two names, {' and '.join(names)}" if len(names) > 1 else ""
        yield _warning(
            f"OLD and NEW have the same weights ({first[:12]}){called}: this is one checkpoint "
            "measured twice, and no difference is one between checkpoints"
        )


def _settings(old: Scan, new: Scan, when: Mapping[str, bool]) -> Iterable[Remark]:
    unknown: dict[str, list[str]] = {"OLD": [], "NEW": []}
    for check in _SAME:
        first, second = _read(old, check.path), _read(new, check.path)
        if not when[check.when] or first == second:
            continue
        if first is None or second is None:
            unknown["OLD" if first is None else "NEW"].append(check.name)
            continue
        why = f"; {check.why}" if check.why else ""
        yield Remark(f"{check.name} differs: {first} in OLD, {second} in NEW{why}", check.warning)
    layers = len(old.model.layers), len(new.model.layers)
    if layers[0] != layers[1]:
        yield _warning(
            f"number of layers differs: {layers[0]} in OLD, {layers[1]} in NEW; layers are paired "
            "by their number"
        )
    for which, names in unknown.items():
        if names:
            yield _note(f"{which} does not record: {', '.join(names)}")


def _amount(scan: Scan) -> str:
    text = scan.calibration
    if text.prompts is None or text.tokens is None:
        return "an unknown number of prompts"
    return f"{counted(text.prompts, 'prompt')} ({counted(text.tokens, 'token')})"


def _prompts(old: Scan, new: Scan) -> Iterable[Remark]:
    independent = "intervals treat the two scans as independent"
    for which, scan in (("OLD", old), ("NEW", new)):
        count = scan.calibration.prompts
        if count is not None and 0 < count < FEW_PROMPTS:
            yield _warning(
                f"{which} has only {counted(count, 'prompt')}: intervals may be too narrow"
            )
    first = Counter(old.calibration.prompt_fingerprints)
    second = Counter(new.calibration.prompt_fingerprints)
    if not first or not second:
        unknown = [which for which, known in (("OLD", first), ("NEW", second)) if not known]
        yield _warning(
            f"the prompts of {' and '.join(unknown)} are unknown: differences may come from other "
            f"prompts, and {independent}"
        )
    elif same_prompts(old, new):
        yield _note(f"the same prompts in both, intervals are paired: {_amount(new)}")
    elif first == second:
        yield _warning(
            "the same prompts, but without their first tokens in one or in other replicates: "
            f"{independent} and are wider than they need be"
        )
    else:
        yield _warning(
            f"the prompts differ: {_amount(old)} in OLD, {_amount(new)} in NEW, "
            f"{sum((first & second).values()):,} in both; differences include the effect of the "
            f"prompts, and {independent}"
        )


def _prototype(old: Scan, new: Scan) -> Iterable[Remark]:
    made = [w for w, s in (("OLD", old), ("NEW", new)) if s.model.source == "prototype"]
    if made:
        mixed = "" if len(made) == 2 else ", and its figures are means over prompts, not pooled"
        yield _warning(
            f"{' and '.join(made)} made by the prototype: no sums, so no intervals and no figure "
            f"of all layers together{mixed}"
        )


def _nonfinite(matched: Sequence[Matched]) -> Iterable[Remark]:
    pairs = [pair for each in matched for pair in each.pairs]
    for which, records in (
        ("OLD", [pair.old for pair in pairs]),
        ("NEW", [pair.new for pair in pairs]),
    ):
        layers = sorted({r.layer for r in records if r.sums and r.sums.nonfinite})
        if layers:
            yield _warning(
                f"{which} has NaN or infinite values, which no figure counts, in "
                f"{counted(len(layers), 'layer')}: {', '.join(map(str, layers[:8]))}"
            )
