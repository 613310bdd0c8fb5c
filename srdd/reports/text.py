"""Names from outside, fit to be shown: what every renderer starts from."""

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
