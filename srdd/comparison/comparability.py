"""What differs between two scans besides what is compared, told so that nobody misreads a figure.

A difference means what one takes it for only where all else is the same. Some things forbid a
comparison (another site, a tensor that only one holds: `srdd.comparison.pairing` leaves them out);
others let the figures stand and change what they mean, and those are told here.
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
        loud: whether it changes what the figures mean, and not only where they come from.
    """

    text: str
    loud: bool


_SETTINGS: tuple[tuple[str, Callable[[Scan], object]], ...] = (
    ("architecture", lambda scan: scan.model.architecture),
    ("dtype", lambda scan: scan.model.dtype),
    ("hidden size", lambda scan: scan.model.hidden_size),
    ("rounding", lambda scan: scan.settings.rounding),
    ("--include", lambda scan: scan.settings.include),
    ("--exclude", lambda scan: scan.settings.exclude),
)
_OF_PROMPTS: tuple[tuple[str, Callable[[Scan], object]], ...] = (
    ("tokenizer", lambda scan: scan.model.tokenizer),
    ("--max-length", lambda scan: _max_length(scan)),
    ("--apply-chat-template", lambda scan: scan.calibration.chat_template),
    ("--skip-first-token", lambda scan: scan.calibration.skip_first_token),
)


def _max_length(scan: Scan) -> object:
    """Of a scan by srdd, none means that nothing was cut; of another, that nobody knows."""
    found = scan.calibration.max_length
    return "off" if found is None and scan.model.source != "prototype" else found


def same_prompts(old: Scan, new: Scan) -> bool:
    """Whether both measured the same tokens of the same prompts in the same order.

    Then replicate i of both holds the same prompts, and they can be drawn together.
    """
    first, second = old.calibration, new.calibration
    return (
        bool(first.prompt_fingerprints)
        and first.prompt_fingerprints == second.prompt_fingerprints
        and first.skip_first_token == second.skip_first_token
    )


def remarks(old: Scan, new: Scan, matched: Sequence[Matched]) -> list[Remark]:
    """All that a reader of the comparison has to know first, the loud ones in front."""
    found = [*_weights(old, new, matched), *_settings(old, new, matched)]
    if any(needs_prompts([one.site]) for one in matched):
        found += _prompts(old, new)
    found += _figures(old, new, matched)
    return sorted(found, key=lambda remark: not remark.loud)


def _weights(old: Scan, new: Scan, matched: Sequence[Matched]) -> Iterable[Remark]:
    first, second = old.model.fingerprint, new.model.fingerprint
    for which, scan in (("OLD", old), ("NEW", new)):
        if scan.model.fingerprint is None:
            yield Remark(
                f"{which} has no fingerprint of the weights, so nothing tells whether these are "
                "two checkpoints",
                loud=False,
            )
    if first is None or second is None:
        return
    if first != second:
        yield Remark(
            f"the weights differ: fingerprint {first[:12]} in OLD, {second[:12]} in NEW", loud=False
        )
    elif all(one.old_format == one.new_format for one in matched):
        names = old.model.name, new.model.name
        called = "" if names[0] == names[1] else f", though they are called {' and '.join(names)}"
        yield Remark(
            f"OLD AND NEW HAVE THE SAME WEIGHTS (fingerprint {first[:12]}){called}: this is one "
            "checkpoint measured twice, and no difference is one between checkpoints",
            loud=True,
        )
    else:
        yield Remark(f"both have the same weights (fingerprint {first[:12]})", loud=False)


def _settings(old: Scan, new: Scan, matched: Sequence[Matched]) -> Iterable[Remark]:
    entries = _SETTINGS
    if any(needs_prompts([one.site]) for one in matched):
        entries += _OF_PROMPTS
    if "stochastic" in (old.settings.rounding, new.settings.rounding):
        entries += (("seed of stochastic rounding", lambda scan: scan.settings.seed),)
    unknown: dict[str, list[str]] = {"OLD": [], "NEW": []}
    for name, read in entries:
        first, second = read(old), read(new)
        if first != second and None not in (first, second):
            yield Remark(
                f"not the same {name}: {_told(first)} in OLD, {_told(second)} in NEW", loud=True
            )
        elif first != second:
            unknown["OLD" if first is None else "NEW"].append(name)
    for which, names in unknown.items():
        if names:
            yield Remark(f"{which} does not tell its {', '.join(names)}", loud=False)
    counts = len(old.model.layers), len(new.model.layers)
    if counts[0] != counts[1]:
        yield Remark(
            f"OLD has {counted(counts[0], 'layer')} and NEW {counts[1]}: layers are held against "
            "each other by their number, and what stands at the same number may not be the same",
            loud=True,
        )


def _told(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _amount(scan: Scan) -> str:
    text = scan.calibration
    if text.prompts is None or text.tokens is None:
        return "an unknown number"
    return f"{counted(text.prompts, 'prompt')} ({counted(text.tokens, 'token')})"


def _prompts(old: Scan, new: Scan) -> Iterable[Remark]:
    for which, scan in (("OLD", old), ("NEW", new)):
        count = scan.calibration.prompts
        if count is not None and 0 < count < FEW_PROMPTS:
            yield Remark(
                f"{which} has only {counted(count, 'prompt')}: intervals are too narrow", loud=True
            )
    first = Counter(old.calibration.prompt_fingerprints)
    second = Counter(new.calibration.prompt_fingerprints)
    if not first or not second:
        silent = [name for name, known in (("OLD", first), ("NEW", second)) if not known]
        which = f"{silent[0]} does not tell" if len(silent) == 1 else "neither tells"
        yield Remark(
            f"{which} its prompts: differences may come from other prompts, and intervals, if any, "
            "take the two as independent",
            loud=True,
        )
    elif same_prompts(old, new):
        yield Remark(
            f"the same prompts in both, so intervals are paired: {_amount(new)}", loud=False
        )
    elif first == second:
        yield Remark(
            "the same prompts, but in another order or without their first tokens: intervals take "
            "the two as independent and are wider than they need be",
            loud=True,
        )
    else:
        shared = sum((first & second).values())
        yield Remark(
            f"not the same prompts: {_amount(old)} in OLD, {_amount(new)} in NEW, {shared:,} in "
            "both; differences hold what the prompts do, too, and intervals take the two as "
            "independent",
            loud=True,
        )


def _figures(old: Scan, new: Scan, matched: Sequence[Matched]) -> Iterable[Remark]:
    made = [scan.model.source == "prototype" for scan in (old, new)]
    if any(made):
        whose = "both were" if all(made) else "OLD was" if made[0] else "NEW was"
        yield Remark(
            f"{whose} made by the prototype: no sums, so no intervals and no figure of all layers "
            "together"
            + ("" if all(made) else "; and its figures are means over prompts, the other's pooled"),
            loud=True,
        )
    for which, number in (("OLD", 0), ("NEW", 1)):
        layers = [
            pair.layer
            for one in matched
            for pair in one.layers
            if any(r.sums and r.sums.nonfinite for r in (pair.old, pair.new)[number])
        ]
        if layers:
            named = ", ".join(str(layer) for layer in sorted(set(layers))[:8])
            yield Remark(
                f"{which} HAS NaN OR INFINITE VALUES, which no figure counts, in "
                f"{counted(len(set(layers)), 'layer')}: {named}",
                loud=True,
            )
    sizes = old.run.batch_size, new.run.batch_size
    whole = any(f.endswith(":tensor") for one in matched for f in (one.old_format, one.new_format))
    if whole and sizes[0] != sizes[1] and any(needs_prompts([one.site]) for one in matched):
        yield Remark(
            f"a scale over the whole tensor depends on the batch: --batch-size {sizes[0]} in OLD, "
            f"{sizes[1]} in NEW",
            loud=True,
        )
    kernels = (old.run.device, old.run.kernel), (new.run.device, new.run.kernel)
    if kernels[0] != kernels[1] and None not in (*kernels[0], *kernels[1]):
        yield Remark(
            f"measured on {' with '.join(map(str, kernels[0]))} and on "
            f"{' with '.join(map(str, kernels[1]))}: last digits may differ",
            loud=False,
        )
