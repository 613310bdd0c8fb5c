"""The plan of a scan: every argument checked once, then trusted.

`srdd.scan_model` and the command `srdd scan` build a `Plan` before a model is loaded or touched.
Nothing here imports torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, ParamSpec, TypedDict, TypeVar

from srdd.errors import UsageError, unknown_name
from srdd.model.selection import Selection
from srdd.numerics.formats import FormatSpec, check_rounding, check_seed, parse_specs
from srdd.numerics.metrics import Thresholds
from srdd.numerics.sites import check_sites, needs_prompts

if TYPE_CHECKING:
    from typing import Unpack

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_FORMATS = ("mxfp4",)
DEFAULT_SITES = ("output", "input")

KL = ("estimate", "direct")
"""How the sensitivity is measured: in one pass for all, or each change on its own."""

KL_SAMPLES = 4
"""Samples of labels for each prompt. With 79 prompts, one linear's figure has a relative standard
error of sqrt(2 / (79 * 4)) = 8 %."""

KL_CHECK = 8

BatchSize = int | Literal["auto"]


class Options(TypedDict, total=False):
    """The options of a scan as `srdd.scan_model` takes them; `Plan` says what they mean."""

    formats: str | Sequence[str]
    sites: str | Sequence[str]
    include: Sequence[str]
    exclude: Sequence[str]
    rounding: str
    seed: int
    batch_size: BatchSize | str
    max_length: int | None
    apply_chat_template: bool | None
    skip_first_token: bool
    thresholds: Thresholds | Mapping[str, float] | None
    kl: bool | str
    kl_samples: int | None
    kl_check: int | None


DEFAULTS: Options = {
    "formats": DEFAULT_FORMATS,
    "sites": DEFAULT_SITES,
    "include": (),
    "exclude": (),
    "rounding": "even",
    "seed": 0,
    "batch_size": "auto",
    "max_length": None,
    "apply_chat_template": None,
    "skip_first_token": False,
    "thresholds": None,
    "kl": False,
    "kl_samples": KL_SAMPLES,
    "kl_check": KL_CHECK,
}
"""What holds for an option that is left out."""


def with_defaults(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, whose `**options` are Options, with each of them and its default in `help`."""
    signature = inspect.signature(function)
    *named, _ = signature.parameters.values()
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Options.__annotations__[name].__forward_arg__,
        )
        for name, default in DEFAULTS.items()
    ]
    function.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return function


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
    kl: str | None
    kl_samples: int
    kl_check: int

    @classmethod
    def of(cls, **options: Unpack[Options]) -> Plan:
        """A plan from the options of `srdd.scan_model`, checked, with defaults for the rest.

        `formats` are names such as `mxfp4`, with a scale rule `mxfp4:even`, or a group such as
        `4bit`; `thresholds` may name some metrics only; `batch_size` may be a number as text.

        Raises:
            UsageError: an unknown option, format, site, rounding or threshold; a number out of
                range.
        """
        for name in options:
            if name not in Options.__annotations__:
                raise unknown_name("option", name, Options.__annotations__)
        given, options = options, {**DEFAULTS, **options}
        kl = options["kl"]
        for name, unused in (("kl_samples", not kl), ("kl_check", kl is not True)):
            if unused and given.get(name) is not None:
                raise UsageError(f"`{name}` has no effect without `kl=True`", "leave it out")
        formats = options["formats"]
        sites = options["sites"]
        rounding = check_rounding(options["rounding"])
        return cls(
            specs=tuple(parse_specs([formats] if isinstance(formats, str) else formats)),
            sites=check_sites([sites] if isinstance(sites, str) else sites),
            selection=Selection(tuple(options["include"]), tuple(options["exclude"])),
            rounding=rounding,
            seed=check_seed(options["seed"]),
            batch_size=check_batch_size(options["batch_size"]),
            max_length=check_max_length(options["max_length"]),
            chat_template=options["apply_chat_template"],
            skip_first_token=options["skip_first_token"],
            thresholds=_check_thresholds(options["thresholds"]),
            kl=_check_kl(kl, rounding),
            kl_samples=_check_least("kl_samples", _or(options["kl_samples"], KL_SAMPLES), 1),
            kl_check=_check_least("kl_check", _or(options["kl_check"], KL_CHECK), 0),
        )

    @property
    def formats(self) -> list[str]:
        """The formats as documents write them, such as `mxfp4:floor`."""
        return [str(spec) for spec in self.specs]

    @property
    def needs_prompts(self) -> bool:
        """Whether it takes forward passes, and so prompts and a tokenizer."""
        return needs_prompts(self.sites) or self.kl is not None


def _check_kl(kl: bool | str, rounding: str) -> str | None:
    if isinstance(kl, bool):
        return "estimate" if kl else None
    if kl not in KL:
        raise unknown_name("way to measure sensitivity", str(kl), KL)
    if kl == "direct" and rounding != "even":
        raise UsageError(
            f"a direct measurement rounds to even, not {rounding}",
            "leave out `rounding`, or estimate with `kl=True`",
        )
    return kl


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_least(name: str, value: object, least: int, other: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"`{name}` is {value!r}", f"use {other}a whole number from {least}")
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
    return _check_least("batch_size", size, 1, "auto, or ")


def check_max_length(length: int | None, least: int = 1) -> int | None:
    """Give `length` back if so many tokens can be kept of a prompt; None keeps all.

    Raises:
        UsageError: it is below `least`.
    """
    return None if length is None else _check_least("max_length", length, least)


def _check_thresholds(given: Thresholds | Mapping[str, float] | None) -> Thresholds:
    """Thresholds with the defaults where none is given; fractions are checked to be fractions."""
    values = asdict(given) if isinstance(given, Thresholds) else dict(given or {})
    highest = {"sqnr_db": math.inf, "deadzone": 1, "saturation": 1, "relative_error": math.inf}
    for name, value in values.items():
        if name not in highest:
            raise unknown_name("threshold", name, highest)
        if not math.isfinite(value):
            raise UsageError(f"`thresholds` {name}={value} has no number", f"write {name}=0.1")
        if value > highest[name] or (name != "sqnr_db" and value < 0):
            raise UsageError(
                f"`thresholds` {name}={value:g} is not a fraction", f"5 % is written {name}=0.05"
            )
    return replace(Thresholds(), **values)
