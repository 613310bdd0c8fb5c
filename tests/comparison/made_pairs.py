"""Scans for comparisons: sums chosen number by number, so that differences can be had by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from made_scans import made
from numpy.typing import NDArray

from srdd.documents.scan import Scan

FINGERPRINTS = {"old": "a" * 64, "new": "b" * 64}


def prompts(count: int, first: int = 0) -> list[str]:
    """Fingerprints of so many prompts."""
    return [f"{number:016x}" for number in range(first, first + count)]


def scan_of(
    noise: Mapping[str, Sequence[NDArray[np.float64] | Sequence[float]]] | Sequence[Any],
    *,
    signal: float = 100.0,
    weights: str = "a" * 64,
    texts: Sequence[str] | None = None,
    site: str = "output",
    name: str = "made/up",
    formats: Sequence[str] = ("mxfp4:floor",),
) -> Scan:
    """A scan whose noise power e2 is given for each layer (or tensor of a layer) and replicate.

    `noise[layer]` is a sequence of e2, one a replicate; a mapping has tensors by name, each with
    its layers. Each replicate's signal power is `signal` in one layer.
    """
    tensors = noise if isinstance(noise, Mapping) else {"": noise}
    layers = len(next(iter(tensors.values())))
    replicates = len(next(iter(tensors.values()))[0])
    base = made([0.2] * layers, site=site, name=name).model_dump()
    records = []
    for spec in formats:
        for layer in range(layers):
            for tensor, by_layer in tensors.items():
                record = dict(base["records"][layer])
                e2 = [float(value) for value in by_layer[layer]]
                record |= {
                    "format": spec.partition(":")[0],
                    "scale_rule": spec.partition(":")[2],
                    "tensor": f"model.layers.{layer}" + (f".{tensor}" if tensor else ""),
                    "replicates": _replicates(e2, signal),
                    "sums": {k: sum(v) for k, v in _replicates(e2, signal).items()},
                }
                records.append(record)
    base["records"] = records
    base["settings"]["formats"] = list(formats)
    base["model"]["fingerprint"] = weights
    given = prompts(replicates) if texts is None else list(texts)
    base["calibration"] |= {
        "prompt_fingerprints": given,
        "prompts": len(given),
        "tokens": 10 * len(given),
    }
    return Scan.model_validate(base)


def _replicates(e2: list[float], signal: float) -> dict[str, list[float]]:
    n = len(e2)
    return {
        "tokens": [10] * n,
        "elements": [1000] * n,
        "nonfinite": [0] * n,
        "nonzero": [1000] * n,
        "flushed": [int(10 * value) for value in e2],
        "saturated": [0] * n,
        "x2": [signal] * n,
        "e2": e2,
        "clipped_e2": [0.0] * n,
        "abs_x": [500.0] * n,
        "abs_e": [10 * math.sqrt(value) for value in e2],
        "relative": [100 * value for value in e2],
    }


def changed(scan: Scan, part: str, **values: object) -> Scan:
    """The scan with other entries in one part."""
    return scan.model_copy(update={part: getattr(scan, part).model_copy(update=values)})
