"""Figures and untrusted names as text for a terminal."""

from __future__ import annotations

import unicodedata

_REORDERING = {
    "\u200b",
    "\u200e",
    "\u200f",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}
"""Characters that hide or reorder what stands beside them."""


def safe(text: str, *, longest: int = 200) -> str:
    """`text` from outside, fit to be shown: control characters escaped, length bounded."""
    shown = "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cs") or c in _REORDERING
        else c
        for c in text
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def number(value: float | None, digits: int = 1) -> str:
    """A figure with so many decimals; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without its sign; a dash where it is undefined."""
    return number(None if value is None else 100 * value, digits)


def with_half_width(
    value: float | None,
    interval: tuple[float, float] | None,
    *,
    digits: int = 1,
    scale: float = 1.0,
) -> str:
    """A figure with half the width of its interval: `17.2 ±0.3`."""
    if value is None:
        return "-"
    shown = f"{scale * value:.{digits}f}"
    if interval is None:
        return shown
    half = scale * (interval[1] - interval[0]) / 2
    return f"{shown} ±{half:.{digits}f}"


def bar(share: float, cells: int, *, ascii_only: bool) -> str:
    """A bar of `share` of `cells`, to an eighth of a cell where the terminal has the characters."""
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    if ascii_only:
        return "#" * round(eighths / 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("" if rest == 0 else " ▏▎▍▌▋▊▉"[rest])
