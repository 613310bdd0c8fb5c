"""What was measured, on which text, how, and where: the parts of a Scan beside its figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from srdd.documents.document import Count, Fraction, Number, Part, Positive, one_of
from srdd.documents.rollouts import Rollouts
from srdd.errors import SrddError
from srdd.numerics import metrics
from srdd.numerics.formats import ROUNDINGS, parse_spec
from srdd.numerics.sites import SITES


class Norm(Part):
    """A normalisation module: where noise can be injected.

    `gain_rms` is the root mean square of the factors that it multiplies with; null where they could
    not be observed. `tied_to` is the first module with the same weight, where there is another.
    """

    name: str
    kind: Literal["rmsnorm", "layernorm"]
    type: str
    size: Count
    gain_rms: Positive | None
    tied_to: str | None = None


class Linear(Part):
    """A linear module, with its weight seen as (out_features, in_features).

    `tied_to` is the first module with the same weight, where there is another.
    """

    name: str
    type: str
    in_features: Count
    out_features: Count
    tied_to: str | None = None


class Experts(Part):
    """The weights of several experts, stacked in the parameter of this name."""

    name: str
    experts: Count
    size: Count


class Layer(Part):
    """A decoder layer by its index in the model's own list.

    Name and type are null in a scan that was not made by srdd.
    """

    index: Count
    name: str | None = None
    type: str | None = None
    norms: list[Norm] = []
    linears: list[Linear] = []
    experts: list[Experts] = []


class Model(Part):
    """Which model was measured.

    `fingerprint` follows from the names, shapes, types and values of the weights as they were
    loaded, so the same checkpoint in another dtype has another one. What a scan made by another
    program does not tell is null, and its `source` is `prototype`.
    """

    name: str
    source: Literal["folder", "hub", "memory", "prototype"]
    revision: str | None = None
    fingerprint: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    dtype: str | None = None
    parameters: Count | None = None
    hidden_size: Count | None = None
    tokenizer: str | None = None
    decoder: str | None = None
    layers: list[Layer] = Field(min_length=1)
    other_norms: list[Norm] = []

    @model_validator(mode="after")
    def _layers_in_order(self) -> Model:
        if [layer.index for layer in self.layers] != list(range(len(self.layers))):
            raise ValueError("the layers are not numbered 0, 1, 2, ... in order")
        return self


class Calibration(Part):
    """Which text it was measured on. The fingerprints are of token ids, in order of the prompts.

    Where it was measured on `rollouts`, these stand for prompts, their fingerprints also say which
    tokens are the response's, and `tokens` counts response tokens only.

    `replicate_rule` says what a prompt's replicate follows from: its fingerprint (`prompt`: the
    number that the first ten digits are, modulo 64), or its place modulo 64 in the `order` of the
    prompts, as in older files, which do not say.
    """

    source: str | None = None
    fingerprint: str | None = None
    prompt_fingerprints: list[str] = []
    prompts: Count | None = None
    tokens: Count | None = None
    truncated: Count | None = None
    left_out: Count | None = None
    max_length: Count | None = None
    chat_template: bool | None = None
    skip_first_token: bool | None = None
    rollouts: Rollouts | None = None
    replicate_rule: Literal["prompt", "order"] = "order"


class Thresholds(Part):
    """Where a layer is flagged; see `srdd.numerics.metrics.Thresholds`."""

    sqnr_db: Number = metrics.Thresholds.sqnr_db
    deadzone: Fraction = metrics.Thresholds.deadzone
    saturation: Fraction = metrics.Thresholds.saturation
    relative_error: Positive = metrics.Thresholds.relative_error


def complete_format(text: str) -> str:
    """A format with its scale rule, as the program writes it."""
    try:
        complete = str(parse_spec(text))
    except SrddError as error:
        raise ValueError(error.message) from None
    if complete != text:
        raise ValueError(f"{text!r} is not a format with its scale rule")
    return text


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return names


class Settings(Part):
    """How it was measured."""

    formats: Annotated[
        list[Annotated[str, AfterValidator(complete_format)]], AfterValidator(_each_once)
    ] = Field(min_length=1)
    sites: Annotated[list[Annotated[str, one_of(SITES)]], AfterValidator(_each_once)] = Field(
        min_length=1
    )
    include: list[str] = []
    exclude: list[str] = []
    rounding: Annotated[str, one_of(ROUNDINGS)]
    seed: int
    thresholds: Thresholds


class Run(Part):
    """When, where and with which software; not needed to read the figures."""

    versions: dict[str, str] = {}
    device: str | None = None
    kernel: str | None = None
    batch_size: str | None = None
    command: str | None = None
    started: str = ""
    elapsed_s: Positive | None = None
