"""Fingerprints of prompts, from their token ids, and of sets of prompts."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence


def prompt_fingerprint(ids: Sequence[int]) -> str:
    """First 16 hex digits of the SHA-256 of the ids, written as little-endian int64."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}q", *ids)).hexdigest()[:16]


def set_fingerprint(fingerprints: Iterable[str]) -> str:
    """The fingerprint of a prompt set from those of its prompts, in their order: 64 hex digits.

    It needs no tokens, so that of two scans' prompts together follows from their files.
    """
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()
