"""The plan of a scan: every argument checked once, then trusted.

`srdd.scan_model` and the command `srdd scan` build a `Plan` before a model is loaded or touched.
Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from srdd.errors import UsageError, unknown_name
from srdd.model.selection import Selection
from srdd.numerics.formats import FormatSpec, check_rounding, check_seed, parse_specs
from srdd.numerics.metrics import Thresholds
from srdd.numerics.sites import check_sites, needs_prompts

DEFAULT_FORMATS = ("mxfp4",)
DEFAULT_SITES = ("output", "input")

Kl = Literal["estimate", "direct"]
KL: tuple[Kl, ...] = ("estimate", "direct")
"""How the sensitivity is measured: in one pass for all, or each change on its own."""

KL_SAMPLES = 4
"""Samples of labels for each prompt. With 79 prompts, one linear's figure has a relative standard
error of sqrt(2 / (79 * 4)) = 8 %."""

KL_CHECK = 8

BatchSize = int | Literal["auto"]


@dataclass(frozen=True)
class Plan:
    """What a scan measures, and how; `Plan.of` makes one of names and checks them.

    Attributes:
        specs: formats with their scale rules, each once.
        sites: of srdd.numerics.sites.SITES, each once.
        selection: which linears are measured at the sites `input`, `weight` and `linear`. Its
            patterns are matched with the model's names once there is a model.
        rounding: of srdd.numerics.formats.ROUNDINGS.
        seed: of the bootstrap and of stochastic rounding.
        batch_size: prompts in a batch, or `auto`.
        max_length: tokens kept of each prompt; None keeps all.
        chat_template: whether prompts go through the tokenizer's chat template; None means that
            chat messages do and plain text does not.
        skip_first_token: leave out each prompt's first token.
        thresholds: where a layer is flagged.
        kl: how the sensitivity is measured, of KL; None leaves it out.
        kl_samples: of labels for each prompt.
        kl_check: how many estimates in each format are checked directly, besides the whole.
    """

    specs: tuple[FormatSpec, ...]
    sites: tuple[str, ...]
    selection: Selection
    rounding: str
    seed: int
    batch_size: BatchSize
    max_length: int | None
    chat_template: bool | None
    skip_first_token: bool
    thresholds: Thresholds
    kl: Kl | None = None
    kl_samples: int = KL_SAMPLES
    kl_check: int = KL_CHECK

    @classmethod
    def of(
        cls,
        *,
        formats: str | Sequence[str] = DEFAULT_FORMATS,
        sites: str | Sequence[str] = DEFAULT_SITES,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rounding: str = "even",
        seed: int = 0,
        batch_size: BatchSize = "auto",
        max_length: int | None = None,
        apply_chat_template: bool | None = None,
        skip_first_token: bool = False,
        thresholds: Thresholds | Mapping[str, float] | None = None,
        kl: bool | str = False,
        kl_samples: int = KL_SAMPLES,
        kl_check: int = KL_CHECK,
    ) -> Plan:
        """A plan from the arguments of `srdd.scan_model`, checked.

        Arguments:
            formats: `mxfp4`, with a scale rule `mxfp4:even`, or a group such as `4bit`.
            thresholds: by name; the defaults of srdd.numerics.metrics.Thresholds for the rest.

        Raises:
            UsageError: an unknown format, site, rounding or threshold; a number out of range.
        """
        return cls(
            specs=tuple(parse_specs([formats] if isinstance(formats, str) else formats)),
            sites=check_sites([sites] if isinstance(sites, str) else sites),
            selection=Selection(tuple(include), tuple(exclude)),
            rounding=check_rounding(rounding),
            seed=check_seed(seed),
            batch_size=check_batch_size(batch_size),
            max_length=check_max_length(max_length),
            chat_template=apply_chat_template,
            skip_first_token=skip_first_token,
            thresholds=check_thresholds(thresholds),
            kl=_check_kl(kl, rounding),
            kl_samples=_check_least("--kl-samples", kl_samples, 1),
            kl_check=_check_least("--kl-check", kl_check, 0),
        )

    @property
    def formats(self) -> list[str]:
        """The formats as documents write them, such as `mxfp4:floor`."""
        return [str(spec) for spec in self.specs]

    @property
    def needs_prompts(self) -> bool:
        """Whether it takes forward passes, and so prompts and a tokenizer."""
        return needs_prompts(self.sites) or self.kl is not None


def _check_kl(kl: bool | str, rounding: str) -> Kl | None:
    if kl is False:
        return None
    if kl is True:
        return "estimate"
    if kl == "direct" and rounding != "even":
        raise UsageError(
            f"a direct measurement rounds to even, not {rounding}",
            "leave out --rounding, or estimate with --kl",
        )
    for name in KL:
        if kl == name:
            return name
    raise unknown_name("way to measure sensitivity", str(kl), KL)


def _check_least(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}", f"use a whole number from {least}")
    return value


def check_batch_size(size: BatchSize | str) -> BatchSize:
    """`auto`, or a whole number from 1, also as text.

    Raises:
        UsageError: neither.
    """
    if size == "auto":
        return "auto"
    if isinstance(size, str) and size.isdecimal():
        size = int(size)
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    raise UsageError(f"--batch-size is {size!r}", "use auto, or a whole number from 1")


def check_max_length(length: int | None, least: int = 1) -> int | None:
    """Give `length` back if so many tokens can be kept of a prompt.

    Raises:
        UsageError: it is below `least`.
    """
    if length is not None and length < least:
        raise UsageError(f"--max-length is {length}", f"use --max-length {least} or more")
    return length


def check_thresholds(given: Thresholds | Mapping[str, float] | None) -> Thresholds:
    """Thresholds with the defaults where none is given.

    Raises:
        UsageError: an unknown metric; a fraction outside 0 ... 1; a value that is not finite.
    """
    defaults = Thresholds()
    values = asdict(given) if isinstance(given, Thresholds) else dict(given or {})
    for name, value in values.items():
        if name not in asdict(defaults):
            raise unknown_name("threshold", name, asdict(defaults))
        if not math.isfinite(value):
            raise UsageError(f"--threshold {name}={value} has no number", f"write {name}=0.1")
        fraction = name in ("deadzone", "saturation")
        if (fraction and not 0 <= value <= 1) or (name == "relative_error" and value < 0):
            raise UsageError(
                f"--threshold {name}={value:g} is not a fraction", f"5 % is written {name}=0.05"
            )
    return replace(defaults, **values)
