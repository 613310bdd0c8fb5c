"""Fingerprints of prompts, from their token ids, and of sets of prompts."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence


def prompt_fingerprint(ids: Sequence[int], scored: Sequence[bool] = ()) -> str:
    """First 16 hex digits of the SHA-256 of the ids, written as little-endian int64.

    Where figures are taken over some of the tokens only, a byte of 0 or 1 for each follows.
    """
    return hashlib.sha256(struct.pack(f"<{len(ids)}q", *ids) + bytes(scored)).hexdigest()[:16]


def set_fingerprint(fingerprints: Iterable[str]) -> str:
    """The fingerprint of a prompt set from those of its prompts, in their order: 64 hex digits.

    It needs no tokens, so that of two scans' prompts together follows from their files.
    """
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()
