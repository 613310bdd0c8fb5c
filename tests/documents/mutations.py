"""Seeded mutations of JSON documents: what damage, carelessness or malice may do to a file."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable
from typing import Any

import orjson

STRANGE: list[Any] = [
    *(None, True, False, "", "x", "1", "mxfp4", "\x1b[31m\n", "é" * 300, [], {}, [[]], [None]),
    *(0, 1, -1, 2, 65, 641, 2**31, 2**53, 2**62, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 0.5, 1.0, 1.01, -1.0, 1e-320, 1e-12, 1e16, 1e99, 1e300, 4.5e302, -1e300),
]
"""What a value is replaced by."""

SCALES = (0.0, -1.0, 0.5, 0.999, 1.000001, 1.5, 2.0, 1e3, 1e30, 1e-30)

Place = tuple[Any, Any]
"""A list or an object, and an index or key in it."""


def mutated(document: dict[str, Any], seed: int) -> bytes:
    """The bytes of a document with one to three mutations; the same for the same seed."""
    rng = random.Random(seed)
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(changed, rng)
    content = orjson.dumps(changed)
    return rng.choice(DAMAGES)(content, rng) if rng.random() < 0.1 else content


def _place(root: Any, rng: random.Random) -> Place | None:
    """A place reached by a random walk, so that rare keys are hit as often as long lists."""
    where, place = root, None
    while isinstance(where, dict | list) and where:
        key = rng.choice(list(where)) if isinstance(where, dict) else rng.randrange(len(where))
        place = (where, key)
        where = where[key]
        if rng.random() < 0.15:
            break
    return place


def _replace(root: Any, rng: random.Random) -> None:
    if place := _place(root, rng):
        place[0][place[1]] = copy.deepcopy(rng.choice(STRANGE))


def _scale(root: Any, rng: random.Random) -> None:
    for _ in range(20):
        place = _place(root, rng)
        if place and type(place[0][place[1]]) in (int, float):
            value = place[0][place[1]] * rng.choice(SCALES)
            is_count = type(place[0][place[1]]) is int and rng.random() < 0.9
            place[0][place[1]] = int(max(-(2**62), min(value, 2**63))) if is_count else value
            return


def _delete(root: Any, rng: random.Random) -> None:
    if place := _place(root, rng):
        del place[0][place[1]]


def _swap(root: Any, rng: random.Random) -> None:
    first, second = _place(root, rng), _place(root, rng)
    if first and second:
        a, b = copy.deepcopy(first[0][first[1]]), copy.deepcopy(second[0][second[1]])
        first[0][first[1]] = b
        with contextlib.suppress(IndexError, KeyError):  # the first swap took it away
            second[0][second[1]] = a


def _rename(root: Any, rng: random.Random) -> None:
    place = _place(root, rng)
    if place and isinstance(place[0], dict):
        place[0][f"{place[1]}{rng.choice(('', 's', '_db'))}"] = place[0].pop(place[1])


def _insert(root: Any, rng: random.Random) -> None:
    place = _place(root, rng)
    if place and isinstance(place[0], list):
        item = rng.choice((copy.deepcopy(place[0][place[1]]), rng.choice(STRANGE)))
        place[0].insert(place[1], item)
    elif place:
        place[0][rng.choice(("more", "", "kind", "layer"))] = rng.choice(STRANGE)


def _repeat(root: Any, rng: random.Random) -> None:
    place = _place(root, rng)
    if place and isinstance(place[0], list):
        place[0].extend(copy.deepcopy(place[0][place[1]]) for _ in range(rng.choice((1, 64, 700))))


def _shuffle(root: Any, rng: random.Random) -> None:
    place = _place(root, rng)
    if place and isinstance(place[0], list):
        rng.shuffle(place[0])


Mutation = Callable[[Any, random.Random], None]
MUTATIONS: list[Mutation] = [
    *(_replace, _replace, _replace, _scale, _scale, _scale, _delete, _swap),
    *(_rename, _insert, _repeat, _shuffle),
]

DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [
    lambda content, rng: content[: rng.randrange(len(content))],
    lambda content, rng: b"\xef\xbb\xbf" + content,
    lambda content, rng: content.decode().encode("utf-16"),
    lambda content, rng: content.replace(b":1", b":NaN", 1),
    lambda content, rng: content.replace(b":0", b":-Infinity", 1),
    lambda content, rng: content.replace(b":1", b":1e999", 1),
    lambda content, rng: content.replace(b":1", b":" + b"9" * 400, 1),
    lambda content, rng: content + b"]",
    lambda content, rng: content.replace(b"{", b"[", 1),
    lambda content, rng: b"[" * 100_000,
    lambda content, rng: content.replace(b'"', b"\x00", 3),
    lambda content, rng: content.replace(b'"m', b'"\\ud800', 1),
]
