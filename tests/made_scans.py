"""Scans made up for tests: figures chosen, sums to match, modules named as in a real model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srdd.documents import scan as schema
from srdd.documents.records import REPLICATES, Measured, build
from srdd.documents.scan import Scan
from srdd.numerics import histogram, sums
from srdd.numerics.formats import parse_spec

DATA = Path(__file__).parent / "data"
PROTOTYPE = DATA / "prototype_scan.json"

NORMS = ("input_layernorm", "post_attention_layernorm")


def prototype() -> dict[str, Any]:
    """The fixture in the prototype's layout, to be changed by a test."""
    found: dict[str, Any] = json.loads(PROTOTYPE.read_text())
    return found


def measured(
    layer: int, error: float, *, prompts: int = 64, jitter: float = 0.0, tensor: str = "output"
) -> Measured:
    """Sums whose relative error is `error`, with SQNR, deadzone and relative L1 to match.

    `jitter` makes the replicates differ by that relative standard deviation.
    """
    rng = np.random.default_rng([layer, prompts])
    replicates = sums.new(REPLICATES)
    for index in range(min(prompts, REPLICATES)):
        own = error * float(np.exp(jitter * rng.standard_normal()))
        elements = 1000.0
        values = {
            "tokens": 10,
            "elements": elements,
            "nonzero": elements,
            "flushed": min(500 * own, elements),
            "x2": elements,
            "e2": elements * (0.4 * own) ** 2,
            "abs_x": elements,
            "abs_e": elements * 0.3 * own,
            "relative": elements * own,
        }
        for name, value in values.items():
            replicates[index, sums.INDEX[name]] = value
    return Measured(
        layer=layer,
        site="output",
        tensor=tensor,
        shared_with=(),
        spec=parse_spec("mxfp4"),
        replicates=replicates,
        tokens_by_sqnr=histogram.new(),
        undefined_tokens=0,
    )


def made(
    errors: Sequence[float],
    *,
    prompts: int = 1,
    tokens: int = 5000,
    jitter: float = 0.0,
    prefix: str = "model.layers",
    norms: Sequence[str] = NORMS,
    kind: str = "rmsnorm",
    gain: float | None = 1.0,
    size: int = 64,
    tensors: Sequence[str] = ("output",),
    site: str = "output",
    warnings: Sequence[str] = (),
    name: str = "made/up",
) -> Scan:
    """A scan of a model with one decoder layer for each of `errors`.

    With a single prompt nothing is resampled, which makes it quick; `thorough` has 64.
    """
    one = [
        measured(layer, error, prompts=prompts, jitter=jitter, tensor=tensor)
        for layer, error in enumerate(errors)
        for tensor in tensors
    ]
    one = [Measured(**{**vars(m), "site": site}) for m in one]
    records, rankings = build(one, rounding="even", prompts=prompts, seed=0)
    layers = [
        {
            "index": index,
            "name": f"{prefix}.{index}",
            "type": "Layer",
            "norms": [
                {
                    "name": f"{prefix}.{index}.{norm}",
                    "kind": kind,
                    "type": "RMSNorm",
                    "size": size,
                    "gain_rms": gain,
                }
                for norm in norms
            ],
            "linears": [
                {
                    "name": f"{prefix}.{index}.mlp.up_proj",
                    "type": "Linear",
                    "in_features": size,
                    "out_features": 2 * size,
                }
            ],
        }
        for index in range(len(errors))
    ]
    return Scan.model_validate(
        {
            "model": {
                "name": name,
                "source": "memory",
                "revision": None,
                "fingerprint": "f" * 16,
                "architecture": "MadeForCausalLM",
                "model_type": "made",
                "dtype": "bfloat16",
                "parameters": 1000,
                "hidden_size": size,
                "tokenizer": None,
                "decoder": prefix,
                "layers": layers,
                "other_norms": [
                    {
                        "name": "model.norm",
                        "kind": kind,
                        "type": "RMSNorm",
                        "size": size,
                        "gain_rms": gain,
                    }
                ],
            },
            "calibration": {
                "source": "built in",
                "fingerprint": "c" * 16,
                "prompt_fingerprints": [],
                "prompts": prompts,
                "tokens": tokens,
                "truncated": 0,
                "left_out": 0,
                "max_length": None,
                "chat_template": False,
                "skip_first_token": False,
            },
            "settings": {
                "formats": ["mxfp4:floor"],
                "sites": [site],
                "rounding": "even",
                "seed": 0,
                "thresholds": {
                    "sqnr_db": 20,
                    "deadzone": 0.05,
                    "saturation": 0.01,
                    "relative_error": 0.1,
                },
            },
            "run": {
                "versions": {},
                "device": "cpu",
                "kernel": "eager",
                "batch_size": "auto",
                "command": None,
                "started": "2026-01-01T00:00:00+00:00",
                "elapsed_s": 1.0,
            },
            "records": records,
            "rankings": rankings,
            "not_measured": [],
            "warnings": list(warnings),
        }
    )


def thorough(errors: Sequence[float], **options: Any) -> Scan:
    """The same with enough prompts for intervals and rankings."""
    return made(errors, **{"prompts": 64, "jitter": 0.02, **options})


def rising(layers: int, low: float = 0.2, high: float = 0.4) -> list[float]:
    """Errors that rise evenly from layer to layer."""
    return [float(v) for v in np.linspace(low, high, layers)]


def with_metric(scan: Scan, layer: int, **values: float | None) -> Scan:
    """The scan with other metrics in one layer."""
    records: list[schema.Record] = [
        record.model_copy(update={"metrics": record.metrics.model_copy(update=values)})
        if record.layer == layer
        else record
        for record in scan.records
    ]
    return scan.model_copy(update={"records": records})
