"""The RinConfig document: how much noise goes where and when, for any trainer.

Every strategy has the same form: tiers, each with a schedule and the layers that follow it, and for
each layer a multiplier. In stage k of a tier's schedule, every weight of a layer's modules gets
Gaussian noise of standard deviation multiplier * sigmas[k]. A layer in no tier gets
none. So uniform noise is one tier that holds all layers with multiplier 1, the worst k layers are
one tier that holds k, and zones are several tiers.

The modules come from the scan. They are empty where the scan does not name any; an injector then
finds them by the layer's index.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from srdd.documents.document import AboveZero, Count, Document, Interval, Number, Part, Positive

FEWEST_STAGES = 3
MOST_STAGES = 10_000


def unusable_reason(
    sigma_start: float, sigma_end: float, num_stages: int
) -> tuple[str, str] | None:
    """What is wrong with a schedule, and what to do about it; None where nothing is.

    Trainers accept some of these and then do something else than was meant.
    """
    if num_stages in (1, 2):
        return (
            "num_stages 1 gives no noise at all, since the first stage is always clean"
            if num_stages == 1
            else "num_stages 2 makes trainers divide by zero",
            "use at least 3 stages; constant noise is 3 stages with sigma_end = sigma_start",
        )
    if not FEWEST_STAGES <= num_stages <= MOST_STAGES:
        return f"num_stages is {num_stages}", f"use {FEWEST_STAGES} to {MOST_STAGES} stages"
    for name, value in (("sigma_start", sigma_start), ("sigma_end", sigma_end)):
        if not math.isfinite(value):
            return f"{name} is {value}", "give a finite number above 0, such as 0.05"
    if sigma_end == 0:
        return (
            "sigma_end 0 gives one noisy stage and then silence, since the decay is geometric",
            "end at a small sigma above 0, such as 0.0005",
        )
    if sigma_start <= 0 or sigma_end < 0:
        return (
            f"sigma goes from {sigma_start:g} to {sigma_end:g}, and both must be above 0",
            "the guide's schedule is 0.05 to 0.0005",
        )
    if sigma_end > sigma_start:
        return (
            f"sigma_end {sigma_end:g} is above sigma_start {sigma_start:g}: noise only decays",
            "swap the two, or make them equal for constant noise",
        )
    return None


class Schedule(Part):
    """How sigma falls over a run that is cut into `num_stages` equal stages.

    Stage 0 is clean. Stage k >= 1 has sigma_start * (sigma_end / sigma_start)^((k-1)/(K-2)), where
    K is the number of stages. Sigma is absolute, in the units of the weights.

    Source: the adaptive quantization noise of QeRL (Huang et al. 2025), as its trainers do it.
    """

    sigma_start: AboveZero
    sigma_end: AboveZero
    num_stages: int

    @model_validator(mode="after")
    def _usable(self) -> Schedule:
        if problem := unusable_reason(self.sigma_start, self.sigma_end, self.num_stages):
            raise ValueError(problem[0])
        return self

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Sigma of each stage, `num_stages` of them; the first is 0."""
        ratio, steps = self.sigma_end / self.sigma_start, self.num_stages - 2
        # The last one is set, since the power may miss it by a rounding error.
        falling = [self.sigma_start * ratio ** (k / steps) for k in range(steps)]
        return 0.0, *falling, self.sigma_end

    def scaled(self, factor: float) -> Schedule:
        """The same schedule with both sigmas times `factor`, which is above 0."""
        return self.model_copy(
            update={
                "sigma_start": self.sigma_start * factor,
                "sigma_end": self.sigma_end * factor,
            }
        )


class NoisyModule(Part):
    """A module whose weight gets noise.

    Attributes:
        name: its full name in the model that was scanned.
        size: number of weights.
        gain_rms: root mean square of the factors that a norm multiplies with; null if unknown.
        signal_to_noise_db: 10 log10(gain_rms^2 / sigma^2) at the first noisy stage, so that it can
            be compared with an SQNR: higher is less noise. A norm with an unknown gain counts as 1,
            which a warning says; null for a linear, whose weights the scan does not describe.
    """

    name: str
    size: Count
    gain_rms: Positive | None
    signal_to_noise_db: Number | None


class LayerNoise(Part):
    """The noise of one layer.

    Attributes:
        layer: index of the decoder layer.
        name: its module name; null if the scan does not tell.
        multiplier: factor on the tier's sigma.
        sigma: multiplier * sigma of the first noisy stage.
        signal_to_noise_db: as for a module, pooled over the layer's modules.
        value: the layer's metric that the strategy looked at, in the metric's unit.
        sqnr_db: what quantization leaves, dB; null if undefined.
        modules: what gets noise; empty where the scan names no modules.
    """

    layer: Count
    name: str | None
    multiplier: AboveZero
    sigma: AboveZero
    signal_to_noise_db: Number | None
    value: Number
    sqnr_db: Number | None
    modules: list[NoisyModule]


class Tier(Part):
    """Layers that follow one schedule, the layer that the strategy puts first standing first.

    `sigmas` are those of the schedule, one a stage, for a layer with multiplier 1.
    """

    name: str
    schedule: Schedule
    sigmas: list[Positive]
    layers: list[LayerNoise] = Field(min_length=1)

    @model_validator(mode="after")
    def _agrees(self) -> Tier:
        expected = self.schedule.sigmas
        if len(expected) != len(self.sigmas) or not all(map(_close, self.sigmas, expected)):
            raise ValueError("the sigmas are not those of the schedule")
        for entry in self.layers:
            if not _close(entry.sigma, entry.multiplier * self.schedule.sigma_start):
                raise ValueError(
                    f"the sigma of layer {entry.layer} is not its multiplier times sigma_start"
                )
        return self


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=0.0)


class Source(Part):
    """What the configuration follows from.

    `scan` is the SHA-256 of what was measured (`srdd.noise.figures.fingerprint`); the time and
    the machine do not enter it. `layers` is the number of decoder layers of the model.
    """

    scan: str
    model: str
    model_fingerprint: str | None
    layers: Annotated[int, Field(ge=1)]
    site: str
    format: str
    scale_rule: str
    metric: str


class Parameters(Part):
    """What was asked for, so that it can be asked for again; null where it plays no part.

    `target_kl` is in nats a token at the first noisy stage; sigma_start then follows from it.
    `match_quantization` is the same as a share of what quantizing all linears costs.
    """

    sigma_start: AboveZero
    sigma_end: AboveZero
    num_stages: int
    top_k: Count | None
    direction: Literal["proportional", "inverse"] | None
    cap: AboveZero | None
    clip: tuple[Positive, Positive] | None
    zones: str | None
    tiers: dict[str, tuple[AboveZero, AboveZero] | None] | None
    seed: int | None
    equal_energy: bool
    target_kl: AboveZero | None = None
    match_quantization: AboveZero | None = None
    equal_kl: bool = False


class Energy(Part):
    """Noise energy: the sum over all noisy weights of sigma^2.

    Attributes:
        first_stage: at the first noisy stage.
        mean: over the run, each stage counting alike and the clean one as 0.
        relative_to_uniform: `mean` over that of the same schedule on every layer with multiplier 1.
        weights: how many weights get noise; null if the scan does not tell their number, in which
            case every layer counts as one weight.
    """

    first_stage: Positive
    mean: Positive
    relative_to_uniform: Positive
    weights: Count | None


class NoiseKl(Part):
    """What the noise is predicted to cost the predictions, nats a token; see `Scan.noise_kl`.

    Attributes:
        stages: of each stage, the mean over draws of the noise.
        intervals: their 95 % intervals over prompts.
        arriving: the share of each stage's noise energy that arrives once sums are rounded to the
            weights' type, which can be slightly above 1; null in a stage without noise.
        quantization: what quantizing both operands of all linears costs, in the source's format.
        quantization_interval: its 95 % interval.
        quantization_measured: whether that was measured directly, and is not the sum of estimates.
    """

    stages: list[Positive] = Field(min_length=2)
    intervals: list[Interval | None]
    arriving: list[Positive | None]
    quantization: Positive
    quantization_interval: Interval | None
    quantization_measured: bool

    @property
    def first(self) -> float:
        """At the first noisy stage."""
        return self.stages[1]

    @property
    def mean(self) -> float:
        """Over the run, each stage counting alike and the clean one as 0."""
        return math.fsum(self.stages) / len(self.stages)

    def of_quantization(self, kl: float) -> float | None:
        """A cost over that of quantization; None where that costs nothing."""
        return kl / self.quantization if self.quantization else None


class Recommendation(Part):
    """Which strategy the scan supports: the one asked for, or uniform noise, with the reasons."""

    strategy: str
    reasons: list[str]


class RinConfig(Document):
    """Which weights get how much noise, when. Read one with `srdd.load_rin`.

    Attributes:
        strategy: the rule that chose the layers and multipliers.
        control: what was then done to them as a control, if anything: `inverse` or `shuffled`.
        layer_type: whether norms or linears get noise.
        exclude_patterns: modules whose name contains one of these get none.
        excluded: modules of the layers that get no noise: those that the patterns leave out, and
            the routers of a mixture.
        kl: null where the scan does not say what noise on all of these modules costs.
        warnings: about the scan, the noise and the trainer.
    """

    PRETTY = True
    HINT = "`srdd suggest --for srdd` writes a noise configuration that srdd reads"

    kind: Literal["srdd.rin"] = "srdd.rin"
    schema_version: Literal[1] = 1
    strategy: Literal["uniform", "targeted", "variable", "zone", "balanced", "matched"]
    control: Literal["inverse", "shuffled"] | None
    source: Source
    parameters: Parameters
    layer_type: Literal["rmsnorm", "linear"]
    exclude_patterns: list[str]
    excluded: list[str]
    tiers: list[Tier] = Field(min_length=1)
    energy: Energy
    kl: NoiseKl | None = None
    recommendation: Recommendation
    warnings: list[str]

    @model_validator(mode="after")
    def _layers_once(self) -> RinConfig:
        for layer, times in Counter(entry.layer for entry in self.layers).items():
            if layer >= (count := self.source.layers):
                raise ValueError(f"a tier names layer {layer}, and the model has {count} layers")
            if times > 1:
                raise ValueError(f"layer {layer} gets noise twice")
        return self

    @property
    def label(self) -> str:
        """The control's name, or else the strategy's."""
        return self.control or self.strategy

    @property
    def layers(self) -> list[LayerNoise]:
        """The layers of all tiers, in order of the tiers."""
        return [entry for tier in self.tiers for entry in tier.layers]

    @classmethod
    def from_object(cls, content: dict[str, Any], name: str) -> RinConfig:
        """A parsed JSON object -> the RinConfig.

        What used to be ranked by `floor_distance_db` is ranked by `vs_floor_db`, the same figure
        with the other sign.

        Raises:
            InputError: it is of another kind, newer than this srdd, or invalid.
        """
        config = super().from_object(content, name)
        if config.source.metric != "floor_distance_db":
            return config
        renamed = config.model_dump()
        renamed["source"]["metric"] = "vs_floor_db"
        for tier in renamed["tiers"]:
            for entry in tier["layers"]:
                entry["value"] *= -1
        return cls.model_validate(renamed)


def load_rin(path: str | Path) -> RinConfig:
    """Read a RinConfig from a file.

    Raises:
        InputError: the file cannot be read, is no RinConfig, is newer than this srdd, or
            contradicts itself.
    """
    return RinConfig.load(path)
