"""Scans made up for tests: figures chosen, sums to match, modules named as in a real model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srdd.documents import scan as schema
from srdd.documents.records import REPLICATES, Measured, build
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Changed, Magnitudes, NoiseCost, Sensitivity
from srdd.documents.sensitivity_figures import checked, figure
from srdd.numerics import histogram, sums
from srdd.numerics.formats import parse_spec
from srdd.numerics.sites import OPERANDS

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
            "flushed": round(min(500 * own, elements)),
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
    records, rankings = build(one, rounding="even", seed=0)
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
                "replicate_rule": "prompt",
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


def scan_of(
    levels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    formats: Mapping[str, float] | None = None,
    prompts: int = 64,
    jitter: float = 0.02,
) -> Scan:
    """A scan whose tensors have chosen SQNRs.

    Arguments:
        levels: site -> tensor's name in its layer (`mlp.down_proj`) -> dB for each layer.
        formats: each with what it adds to these levels; `mxfp4:floor` with nothing if left out.
        prompts, jitter: as in `made`.
    """
    formats = formats or {"mxfp4:floor": 0.0}
    layers = max(len(values) for own in levels.values() for values in own.values())
    base = made(rising(layers), prompts=prompts)
    records, rankings = build(
        [
            _at_level(site, tensor, layer, level + gain, spec, operands, prompts, jitter)
            for site, tensors in levels.items()
            for spec, gain in formats.items()
            for tensor, values in tensors.items()
            for layer, level in enumerate(values)
            for operands in (OPERANDS if site == "linear" else (None,))
        ],
        rounding="even",
        seed=0,
    )
    settings = base.settings.model_copy(update={"sites": list(levels), "formats": list(formats)})
    update = {"records": records, "rankings": rankings, "settings": settings}
    return Scan.model_validate(base.model_copy(update=update).model_dump())


def _at_level(
    site: str,
    tensor: str,
    layer: int,
    level: float,
    spec: str,
    operands: schema.Operands | None,
    prompts: int,
    jitter: float,
) -> Measured:
    rng = np.random.default_rng([layer, len(tensor)])
    replicates = sums.new(REPLICATES)
    # With a single operand quantized half of the energy of the error is left.
    error = 10 ** (-level / 10) / (1 if operands in (None, "both") else 2)
    for index in range(1 if site == "weight" else min(prompts, REPLICATES)):
        own = error * float(np.exp(jitter * rng.standard_normal()))
        values = {
            "tokens": 10,
            "elements": 1000,
            "nonzero": 1000,
            "flushed": 150,
            "saturated": 20,
            "x2": 1000.0,
            "e2": 1000 * own,
            "abs_x": 800.0,
            "abs_e": 800 * own**0.5,
            "relative": 1500 * own**0.5,
        }
        for name, value in values.items():
            replicates[index, sums.INDEX[name]] = value
    return Measured(
        layer=layer,
        site=site,
        tensor=tensor if site == "output" else f"model.layers.{layer}.{tensor}",
        shared_with=(),
        spec=parse_spec(spec),
        replicates=replicates,
        tokens_by_sqnr=histogram.new(),
        undefined_tokens=0,
        operands=operands,
    )


COSTING_TOKENS = np.array([10.0, 30.0])


def costing(costs: list[float], method: str = "estimate") -> Scan:
    """A scan with these costs of two tensors a layer, whose local errors rise with the layer."""
    layers = len(costs) // 2
    scan = made(
        [0.1 + 0.01 * layer for layer in range(layers)],
        tensors=("q_proj", "up_proj"),
        site="input",
        prompts=4,
    )
    named = [
        record.model_copy(update={"tensor": f"layers.{record.layer}.{record.tensor}"})
        for record in scan.records
    ]
    scan = scan.model_copy(update={"records": named})
    names = [record.tensor for record in scan.select("input")]
    changes = [
        Changed(
            **figure(np.array([10.0, 30.0]) * cost, COSTING_TOKENS),
            layer=place // 2,
            tensor=name,
            format="mxfp4:floor",
            operands="both",
        )
        for place, (name, cost) in enumerate(zip(names, costs, strict=True))
    ]
    measured = COSTING_TOKENS * sum(costs)
    checks = [
        checked(None, "mxfp4:floor", "both", measured * 0.5, measured, COSTING_TOKENS),
        checked(
            names[0],
            "mxfp4:floor",
            "both",
            COSTING_TOKENS * costs[0],
            COSTING_TOKENS * costs[0],
            COSTING_TOKENS,
        ),
    ]
    section = Sensitivity.model_validate(
        {
            "method": method,
            "samples": 4,
            "tokens": [10, 30],
            "changes": changes,
            "joint": [],
            "noise": [],
            "checks": checks,
            "not_measured": {},
        }
    )
    return scan.model_copy(update={"sensitivity": section})


def with_costs(
    scan: Scan,
    quantizing: Sequence[float],
    per_sigma2: Sequence[float],
    magnitudes: Magnitudes | None = None,
) -> Scan:
    """The scan with a sensitivity: what quantizing each layer costs, and noise on each norm of it.

    Nats a token; of noise, for a variance of 1 on all norms of the layer, each of them alike. The
    second of two groups of prompts costs twice as much a token as the first.
    """
    uneven = COSTING_TOKENS * np.array([4 / 7, 8 / 7])
    changes = [
        Changed(
            **figure(uneven * cost, COSTING_TOKENS),
            layer=layer.index,
            tensor=layer.linears[0].name,
            format="mxfp4:floor",
            operands="both",
        )
        for layer, cost in zip(scan.model.layers, quantizing, strict=True)
    ]
    noise = [
        NoiseCost(
            **figure(uneven * cost / len(layer.norms), COSTING_TOKENS),
            layer=layer.index,
            tensor=norm.name,
            parameter="norm",
            magnitudes=magnitudes,
        )
        for layer, cost in zip(scan.model.layers, per_sigma2, strict=True)
        for norm in layer.norms
    ]
    section = Sensitivity(
        method="estimate",
        samples=4,
        tokens=[10, 30],
        changes=changes,
        joint=[],
        noise=noise,
        checks=[],
        not_measured={},
    )
    return scan.model_copy(update={"sensitivity": section})


def costed() -> Scan:
    """Four layers: quantizing all costs 0.13 nats a token, noise of variance 1 on norms 42.5."""
    scan = thorough([0.1, 0.2, 0.3, 0.4])
    return with_costs(scan, [0.03, 0.09, 0.002, 0.008], [8.0, 2.0, 0.5, 32.0])
