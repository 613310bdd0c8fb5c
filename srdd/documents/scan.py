"""The Scan document: what was measured, on what, with what, and what was not.

For every record, a (layer, site, tensor, format, scale rule), it keeps the raw sums, the same sums
for each replicate, and the metrics derived from them. So scans merge exactly, and intervals and
rankings can be had again from the file alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from srdd.documents.context import Calibration as Calibration
from srdd.documents.context import Experts as Experts
from srdd.documents.context import Layer as Layer
from srdd.documents.context import Linear as Linear
from srdd.documents.context import Model as Model
from srdd.documents.context import Norm as Norm
from srdd.documents.context import Run as Run
from srdd.documents.context import Settings as Settings
from srdd.documents.context import Thresholds as Thresholds
from srdd.documents.document import (
    Count,
    Document,
    Fraction,
    Interval,
    Number,
    Part,
    Positive,
    one_of,
)
from srdd.documents.sensitivity import Sensitivity
from srdd.errors import UsageError
from srdd.numerics.histogram import BINS
from srdd.numerics.metrics import METRICS
from srdd.numerics.sites import OPERANDS
from srdd.numerics.sums import COUNTS, FIELDS

KIND = "srdd.scan"
VERSION = 2

Operands = Literal["weight", "input", "both"]


def _part(name: str, doc: str, fields: Mapping[str, Any]) -> Any:
    """A required key for each of `fields`, with the type given."""
    keys: dict[str, Any] = {key: (kind, ...) for key, kind in fields.items()}
    part = create_model(name, __base__=Part, __module__=__name__, **keys)
    part.__doc__ = doc
    return part


if TYPE_CHECKING:
    from srdd.documents.noise_costs import By as NoiseBy
    from srdd.documents.rin import RinConfig

    # One key for each of FIELDS or METRICS.
    class Sums(Part):
        def __getattr__(self, name: str) -> float: ...

    class Replicates(Part):
        def __getattr__(self, name: str) -> list[float]: ...

    class Metrics(Part):
        def __getattr__(self, name: str) -> float | None: ...

    class Intervals(Part):
        def __getattr__(self, name: str) -> tuple[float, float] | None: ...

else:
    _KINDS = {name: Count if name in COUNTS else Positive for name in FIELDS}
    Sums = _part("Sums", "Raw sums; see `srdd.numerics.sums` for each.", _KINDS)
    Replicates = _part(
        "Replicates",
        "The same sums, one value a replicate: a group of prompts; see `Calibration`.",
        {
            name: Annotated[list[kind], Field(min_length=1, max_length=64)]
            for name, kind in _KINDS.items()
        },
    )
    Metrics = _part(
        "Metrics",
        "Metrics of pooled sums; null where undefined, with the reason in the record.",
        {
            name: Annotated[Number, Field(ge=metric.least, le=metric.largest)] | None
            for name, metric in METRICS.items()
        },
    )
    Intervals = _part(
        "Intervals",
        "95 % bootstrap intervals over prompts; null with a single replicate.",
        dict.fromkeys(METRICS, Interval | None),
    )


class TokenSqnr(Part):
    """SQNR of single tokens: quantiles in dB, and the histogram that they were read from.

    The histogram's bins are 0.25 dB wide from -40 dB up; `counts` begins with bin `first_bin`.
    Tokens that are all zero or reproduced exactly have no SQNR and are counted in `undefined`.
    """

    p5: Number | None
    p50: Number | None
    p95: Number | None
    first_bin: Count
    counts: list[Count]
    undefined: Count

    @model_validator(mode="after")
    def _within_the_bins(self) -> TokenSqnr:
        if self.first_bin + len(self.counts) > BINS:
            raise ValueError(f"the histogram has {BINS} bins, and the counts reach beyond")
        return self


class Record(Part):
    """One tensor in one format.

    `tensor` is the module that it belongs to, `shared_with` the others that read it too.
    `operands` tells, at site `linear` alone, which operands of the product are quantized; in a
    4-bit format `weight`, `input` and `both` are known as W4A16, W16A4 and W4A4.
    Sums, replicates and what follows from them are null in a scan that was not made by srdd.
    `vs_floor_db` is the SQNR measured minus the SQNR that Gaussian data gets in the format.
    """

    layer: Count
    site: str
    tensor: str
    shared_with: list[str] = []
    format: str
    scale_rule: str
    operands: Operands | None = None
    metrics: Metrics
    vs_floor_db: Number | None
    intervals: Intervals | None = None
    token_sqnr_db: TokenSqnr | None = None
    undefined: dict[str, str]
    sums: Sums | None = None
    replicates: Replicates | None = None

    @property
    def prompt_groups(self) -> int:
        """How many replicates hold a token; 0 where none are kept."""
        return 0 if self.replicates is None else sum(map(bool, self.replicates.tokens))


IDENTITY = ("layer", "site", "tensor", "format", "scale_rule", "operands")
"""What tells a record from all others of its scan."""


class Ranking(Part):
    """How stable the ranking of layers is; see `srdd.numerics.confidence.Stability`."""

    site: str
    format: str
    scale_rule: str
    operands: Operands | None = None
    metric: Annotated[str, one_of(METRICS)]
    top_k: Count
    tau_halves: Annotated[float, Field(ge=-1, le=1)] | None
    top_k_change: Fraction | None
    spread: Positive | None


class NotMeasured(Part):
    """A module of the model that has no figures at a site (null: at any), with the reason."""

    module: str
    site: str | None = None
    reason: str


class Scan(Document):
    """The result of a scan: `srdd.load_scan` reads one, `srdd.scan_model` makes one."""

    HINT = "`srdd scan` writes a scan"

    kind: Literal["srdd.scan"] = "srdd.scan"
    schema_version: Literal[2] = 2
    model: Model
    calibration: Calibration
    settings: Settings
    run: Run
    records: list[Record]
    rankings: list[Ranking]
    sensitivity: Sensitivity | None = None
    not_measured: list[NotMeasured]
    warnings: list[str]

    @model_validator(mode="after")
    def _records_once(self) -> Scan:
        seen: set[tuple[object, ...]] = set()
        for record in self.records:
            key = tuple(getattr(record, name) for name in IDENTITY)
            if key in seen:
                raise ValueError(f"layer {record.layer} occurs twice in {record.site}")
            if record.layer >= len(self.model.layers):
                raise ValueError(f"a record names layer {record.layer}, which the model lacks")
            seen.add(key)
        return self

    def select(
        self, site: str = "output", format: str | None = None, operands: Operands | None = None
    ) -> list[Record]:
        """The records of one site in one format, in order of layers.

        Arguments:
            site: a site of this scan.
            format: `mxfp4` or `mxfp4:floor`; may be left out when the scan has only one.
            operands: at site `linear`, which operands are quantized; `both` for None. Other sites
                have none.

        Raises:
            UsageError: the scan does not have that site or format, or the name fits several.
        """
        if site not in self.settings.sites:
            sites = ", ".join(self.settings.sites)
            raise UsageError(f"the scan holds no site {site!r}", f"it holds: {sites}")
        name, _, rule = self.spec(format).partition(":")
        wanted = (site, name, rule, (operands or "both") if site == "linear" else None)
        kept = [r for r in self.records if (r.site, r.format, r.scale_rule, r.operands) == wanted]
        return sorted(kept, key=lambda record: record.layer)

    def spec(self, format: str | None) -> str:
        """The one format of this scan that a name stands for, as `mxfp4:floor`.

        Raises:
            UsageError: it fits none, or several.
        """
        specs = self.settings.formats
        fitting = [s for s in specs if format is None or format in (s, s.partition(":")[0])]
        if len(fitting) != 1:
            what = "several formats" if len(fitting) > 1 else "no format"
            name = f" for {format!r}" if format else ""
            raise UsageError(
                f"the scan holds {what}{name}",
                f"choose `format` from: {', '.join(fitting or specs)}",
            )
        return fitting[0]

    def rows(
        self,
        site: str = "output",
        format: str | None = None,
        operands: Operands | Literal["all"] | None = None,
    ) -> list[dict[str, Any]]:
        """The records as flat dictionaries.

        Arguments:
            site, format, operands: as in `select`; `all` for every one of the scan.

        Returns:
            For each record `layer`, `site`, `tensor`, `format`, `scale_rule`, `operands`, `tokens`,
            `elements`, `nonfinite`, the metrics by name, `NAME_interval` as (low, high) or None,
            `vs_floor_db`, and `token_sqnr_db_p5`, `_p50`, `_p95`. What the scan does not have is
            None.

        Raises:
            UsageError: as `select`.
        """
        sites = self.settings.sites if site == "all" else [site]
        formats = self.settings.formats if format == "all" else [format]
        return [
            _row(record)
            for each in sites
            for name in formats
            for which in (OPERANDS if operands == "all" and each == "linear" else (operands,))
            for record in self.select(each, name, None if which == "all" else which)
        ]

    def to_pandas(self) -> Any:
        """Every record of the scan as a row of a `pandas.DataFrame`, with the columns of `rows`.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise UsageError("pandas is not installed", "pip install pandas") from None
        return pandas.DataFrame(self.rows("all", "all", "all"))

    def plot(self) -> Any:
        """The charts of the HTML page as a `plotly.graph_objects.Figure`.

        Distances from the floor by layer and kind, costs and SQNR by layer, SQNR of single tokens.

        Raises:
            UsageError: plotly is not installed.
        """
        # By name: charts are of a higher room, which nothing here needs to be loaded.
        return import_module("srdd.reports.plotly_charts").plot(self)

    def __repr__(self) -> str:
        parts = (
            f"layers={len(self.model.layers)}, sites={self.settings.sites}, "
            f"formats={self.settings.formats}, prompts={self.calibration.prompts}, "
            f"records={len(self.records)}"
        )
        return f"Scan({self.model.name!r}, {parts})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The scan in a notebook: a row for each site and format, with its worst layer."""
        from srdd.documents.notebook import scan_html

        return scan_html(self)

    def sensitivities(
        self, format: str | None = None, operands: Operands = "both", by: str = "tensor"
    ) -> list[dict[str, Any]]:
        """What quantizing each tensor, layer or kind costs.

        See srdd.documents.sensitivity_figures.rows_of.

        Arguments:
            format: `mxfp4` or `mxfp4:floor`; may be left out when the scan has only one.
            by: `tensor`, `layer` or `kind`.

        Raises:
            UsageError: the scan was made without `kl`, or the name fits none or several formats.
        """
        from srdd.documents.sensitivity_figures import rows_of  # documents load without numpy

        return rows_of(self._measured_sensitivity(), self.spec(format), operands, by)

    def joint_kl(self, format: str | None = None, operands: Operands = "both") -> dict[str, Any]:
        """What quantizing all linears costs; see srdd.documents.sensitivity_figures.joint_of.

        Raises:
            UsageError: as `sensitivities`.
        """
        from srdd.documents.sensitivity_figures import joint_of

        return joint_of(self._measured_sensitivity(), self.spec(format), operands)

    def noise_kl(
        self, config: RinConfig, stage: int | None = None, by: NoiseBy = "stage"
    ) -> list[dict[str, Any]]:
        """What the noise of a configuration is predicted to cost, by stage, layer or tensor.

        The mean over draws of the noise, to second order in it, of what arrives once the sum is
        rounded to the weight's type.

        Arguments:
            config: made from this scan, or from another of the same model.
            stage: only this one, 0 to num_stages - 1; all of them for None.
            by: `stage`, `layer` or `tensor`: what a row stands for in each stage.

        Returns:
            For each row `stage`, `layer` and `tensor` (None where a row has several); `sigma`, the
            root mean square of what was asked for over the row's weights; `arriving`, the share of
            that noise energy which arrives (slightly above 1 where rounding adds to it, None
            without noise); `kl` in nats a token; `kl_interval`, 95 % over prompts; `share` of the
            `kl` of its stage.

        Raises:
            UsageError: the scan was made without `kl`, has no figure for a module of the
                configuration, or the configuration lacks that stage.
        """
        from srdd.documents.noise_costs import noise_rows

        self._measured_sensitivity()
        return noise_rows(self, config, stage, by)

    def _measured_sensitivity(self) -> Sensitivity:
        if self.sensitivity is None:
            raise UsageError(
                "the scan has no sensitivity",
                "scan the model again with `kl=True`",
            )
        return self.sensitivity

    @classmethod
    def from_object(cls, content: dict[str, Any], name: str) -> Scan:
        """A parsed JSON object -> the Scan; one in the prototype's layout is converted.

        Raises:
            InputError: it is of another kind, newer than this srdd, or invalid.
        """
        from srdd.documents.prototype import is_prototype, read_prototype

        if is_prototype(content):
            return read_prototype(content, name)
        return super().from_object(content, name)

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a file of version 1 as that of the present version.

        Version 1 has `floor_distance_db`, the floor minus the SQNR, instead of `vs_floor_db`.
        """
        if content["schema_version"] != 1:
            return content
        content = content | {"schema_version": VERSION}
        if isinstance(records := content.get("records"), list):
            content["records"] = [_of_version_1(record) for record in records]
        return content

    def check(self) -> None:
        """Check that the figures agree with each other; see `srdd.documents.checks`."""
        from srdd.documents.checks import check_scan

        check_scan(self)


def _of_version_1(record: Any) -> Any:
    """A record, valid or not, as the present version has it."""
    if not isinstance(record, dict) or "floor_distance_db" not in record:
        return record
    distance = record["floor_distance_db"]
    rest = {name: value for name, value in record.items() if name != "floor_distance_db"}
    return rest | {"vs_floor_db": -distance if isinstance(distance, float) else distance}


def _row(record: Record) -> dict[str, Any]:
    parts: tuple[tuple[str, object, Iterable[str]], ...] = (
        ("{}", record, IDENTITY),
        ("{}", record.sums, ("tokens", "elements", "nonfinite")),
        ("{}", record.metrics, METRICS),
        ("{}_interval", record.intervals, METRICS),
        ("{}", record, ("vs_floor_db",)),
        ("token_sqnr_db_{}", record.token_sqnr_db, ("p5", "p50", "p95")),
    )
    return {
        column.format(name): getattr(part, name, None)
        for column, part, names in parts
        for name in names
    }


def is_scan(content: dict[str, Any]) -> bool:
    """Whether a JSON object says that it is a scan, by srdd or by the prototype."""
    from srdd.documents.prototype import is_prototype

    return content.get("kind") == KIND or is_prototype(content)


def load_scan(path: str | Path) -> Scan:
    """Read a scan from a file: one that srdd wrote, or one of the method's prototype.

    Raises:
        InputError: the file cannot be read, is no scan, is newer than this srdd, or contradicts
            itself.
    """
    return Scan.load(path)
