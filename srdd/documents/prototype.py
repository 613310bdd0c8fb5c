"""The scan files of the method's prototype, read as a Scan.

They have no version, so they are recognised by their keys. Their figures are those of layer outputs
in MXFP4 with rounding half away from zero, each a plain mean over prompts, decibels too. What such
a file cannot give is null:

- no sums, so no intervals, no stability of the ranking, no merging;
- no tokens and no fingerprints of model or text;
- no modules, so a configuration finds its norms by the index of their layer;
- no saturation: its `saturation_ratio` counts values within 1 % of the largest dequantised value
  of the whole tensor, which says nothing about clipping.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srdd.documents import scan as schema
from srdd.documents.document import Fraction, Number, Positive, invalid
from srdd.errors import InputError
from srdd.numerics.floors import floor_of
from srdd.numerics.formats import FORMATS, FormatSpec, parse_spec
from srdd.numerics.metrics import METRICS

ROUNDING = "half-away"

# A file that names a layer far beyond any model would otherwise make us list all those before it.
_Layers = Annotated[int, Field(ge=0, le=100_000)]

_NOT_MEASURED = {
    "saturation": "the prototype counts values near the largest one instead of clipped ones",
    "clipping_share": "the prototype does not measure it",
    "relative_l1": "the prototype does not measure it",
}


class _Lenient(BaseModel):
    """Keys that are not needed are ignored; figures are still checked."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Layer(_Lenient):
    layer_id: _Layers
    sqnr_db: Number | None = None
    deadzone_ratio: Fraction | None = None
    relative_error: Positive | None = None


class _Thresholds(_Lenient, schema.Thresholds):
    """Those of the guide where the file has none."""


class _Config(_Lenient):
    model_path: str | None = None
    quant_type: str
    num_layers: _Layers | None = None
    thresholds: _Thresholds = _Thresholds()


class _Report(_Lenient):
    per_layer: list[_Layer]


class _File(_Lenient):
    config: _Config
    report: _Report
    timestamp: str | None = None


def is_prototype(content: dict[str, Any]) -> bool:
    """Whether a JSON object has the layout of the prototype's scan files."""
    config, report = content.get("config"), content.get("report")
    return (
        "kind" not in content
        and isinstance(config, dict)
        and "quant_type" in config
        and isinstance(report, dict)
        and isinstance(report.get("per_layer"), list)
    )


def read_prototype(content: dict[str, Any], name: str) -> schema.Scan:
    """A JSON object in the prototype's layout -> the Scan; `name` is what errors call it.

    Raises:
        InputError: it has no layer, an unknown format, a layer twice or one beyond the model, or
            a figure that cannot be (negative, or a fraction above 1).
    """
    try:
        file = _File.model_validate(content)
        if not file.report.per_layer:
            raise InputError(f"{name} holds no layers", "name a scan that measured something")
        return _scan(file, _spec(file.config.quant_type, name))
    except ValidationError as error:
        raise invalid(error, name) from None


def _spec(quant_type: str, name: str) -> FormatSpec:
    if quant_type not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(f"{name} is a scan in {quant_type!r}", f"srdd knows the formats {known}")
    return parse_spec(quant_type)


def _record(layer: _Layer, spec: FormatSpec) -> schema.Record:
    values = {
        "sqnr_db": layer.sqnr_db,
        "deadzone": layer.deadzone_ratio,
        "relative_error": layer.relative_error,
    }
    metrics = schema.Metrics.model_validate(dict.fromkeys(METRICS) | values)
    sqnr = layer.sqnr_db
    return schema.Record(
        layer=layer.layer_id,
        site="output",
        tensor="output",
        format=spec.format.name,
        scale_rule=spec.scale_rule,
        metrics=metrics,
        vs_floor_db=None if sqnr is None else sqnr - floor_of(spec, ROUNDING).sqnr_db,
        undefined={
            metric: _NOT_MEASURED.get(metric, "the file does not give it")
            for metric, value in metrics
            if value is None
        },
    )


def _scan(file: _File, spec: FormatSpec) -> schema.Scan:
    config, per_layer = file.config, file.report.per_layer
    measured = {layer.layer_id for layer in per_layer}
    count = config.num_layers or 1 + max(measured)
    return schema.Scan(
        model=schema.Model(
            name=config.model_path or "unknown",
            source="prototype",
            layers=[schema.Layer(index=index) for index in range(count)],
        ),
        calibration=schema.Calibration(),
        settings=schema.Settings(
            formats=[str(spec)],
            sites=["output"],
            rounding=ROUNDING,
            seed=0,
            thresholds=schema.Thresholds.model_validate(config.thresholds.model_dump()),
        ),
        run=schema.Run(started=file.timestamp or ""),
        records=[_record(layer, spec) for layer in per_layer],
        rankings=[],
        not_measured=[
            schema.NotMeasured(module=f"layer {index}", reason="the file has no figures of it")
            for index in range(count)
            if index not in measured
        ],
        warnings=["made by the prototype: each figure is a mean over prompts, decibels too"],
    )
