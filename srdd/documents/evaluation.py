"""The Evaluation document: what quantized operands do to a model's predictions.

A result is one way to run the model: formats of the weights and of the activations, with noise or
without, or a format for each linear. Its figures are means over predicted tokens, in nats, with
those of each prompt beside them, so that intervals can be had again from the file alone. The first
result is the model as it is; the others are compared with it, prompt by prompt.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from srdd.documents.document import AboveZero, Count, Document, Interval, Part
from srdd.documents.mismatch import Mismatch
from srdd.documents.rollouts import Rollouts

# A perplexity may be far beyond the largest figure of other documents.
Positive = Annotated[float, Field(ge=0)]


class Model(Part):
    """Which model it was; `fingerprint` is of its weights, as in a scan."""

    name: str
    source: Literal["folder", "hub", "memory"]
    revision: str | None
    fingerprint: str
    architecture: str
    dtype: str
    parameters: Count
    tokenizer: str


class Text(Part):
    """What was predicted.

    `form` is `prompts`, or `text` where one text was cut into pieces of `max_length` tokens, which
    then stand for prompts. `indices` are the prompts' places in their source, `predicted` the
    tokens of each that are predicted from those before it: all but the first, of `rollouts` those
    of the response.
    """

    form: Literal["prompts", "text", "rollouts"]
    source: str
    fingerprint: str
    indices: list[Count] = Field(min_length=1)
    predicted: list[Annotated[int, Field(ge=1)]]
    truncated: Count
    left_out: Count
    max_length: Count | None
    chat_template: bool
    rollouts: Rollouts | None = None


class Noise(Part):
    """The noise of one training step, from a configuration with this fingerprint."""

    config: str
    strategy: str
    fingerprint: str
    step: Count
    total_steps: Annotated[int, Field(ge=1)]
    seed: Count


class NoiseStage(Part):
    """What the noise of one stage costs, in nats a token, beside the KL that was predicted.

    `sigma` is the root mean square over the noisy weights, `arriving` the share of its energy that
    rounding to the weights' type lets through. Intervals are of 95 %: of the prediction over its
    prompts, of what was measured over groups of prompts, each with draws of its own. `ratio` is the
    prediction over the measured figure, with an interval of both. Null where nothing predicts, and
    intervals also with a single group.
    """

    stage: Annotated[int, Field(ge=1)]
    sigma: Positive
    arriving: Positive | None
    predicted: Positive | None
    predicted_interval: Interval | None
    measured: Positive
    measured_interval: Interval | None
    ratio: Positive | None
    ratio_interval: Interval | None

    @property
    def agrees(self) -> bool | None:
        """Whether the interval of the ratio holds 1; None where there is none."""
        if self.ratio_interval is None:
            return None
        return self.ratio_interval[0] <= 1 <= self.ratio_interval[1]


class NoiseStages(Part):
    """The noise of all stages of a configuration, injected and measured.

    `config` is its file and `fingerprint` of its content. Each of `groups` of prompts had noise of
    its own in every stage, in `draws` draws over all groups, of `seed`. `measured_in` is the type
    of the model that predicted tokens; the noise was drawn in the model's own. `scan` is what
    predicted the KL, null for nothing; `same_prompts` says whether it saw the same ones: then both
    are compared group by group.
    """

    config: str
    strategy: str
    fingerprint: str
    seed: Count
    draws: Annotated[int, Field(ge=1)]
    groups: Annotated[int, Field(ge=1)]
    measured_in: str
    scan: str | None
    same_prompts: bool
    stages: list[NoiseStage]


class Settings(Part):
    """What the caller chose; `seed` was that of the bootstrap in earlier versions, else null."""

    include: list[str]
    exclude: list[str]
    seed: int | None = None
    noise: Noise | None


class Run(Part):
    """What it ran on."""

    versions: dict[str, str]
    device: str
    batch_size: str
    command: str | None
    started: str
    elapsed_s: Positive


class NotSimulated(Part):
    """A linear that was selected and computed in full precision all the same."""

    module: str
    reason: str


Role = Literal["recipe", "lowest", "heuristic"]
"""A recipe; its lowest format everywhere; or what people choose by habit at about its bits."""


class Assigned(Part):
    """A format for each linear, in place of one for all.

    `name` is of the recipe's file, or says which linears get which format. `bits` are the average
    over the recipe's weights with their scales; `predicted_kl` is null where nothing predicts it.
    """

    name: str
    role: Role
    bits: AboveZero
    predicted_kl: Positive | None
    predicted_interval: Interval | None


class Result(Part):
    """One way to run the model, and how well it predicts.

    Formats are null where an operand is not quantized, and where `assigned` says what linears get.
    `loss` is the mean negative log-likelihood,
    `perplexity` its exponential, `loss_difference` the loss minus that of the model as it is, `kl`
    the mean Kullback-Leibler divergence KL(model as it is || this) between the distributions of the
    next token. A figure is null where it is not finite, and an interval where there is one prompt
    only; the model as it is has no `loss_difference` and no `kl`. By prompt, figures are means over
    its predicted tokens, in the order of `text.indices`. `mismatch` is of rollouts only.
    """

    weights: str | None
    activations: str | None
    noise: bool
    assigned: Assigned | None = None
    loss: Positive | None
    loss_interval: Interval | None
    perplexity: Positive | None
    perplexity_interval: Interval | None
    loss_difference: float | None
    loss_difference_interval: Interval | None
    kl: float | None
    kl_interval: Interval | None
    loss_by_prompt: list[Positive | None]
    kl_by_prompt: list[float | None] | None
    simulated: Count
    not_simulated: list[NotSimulated]
    mismatch: Mismatch | None = None

    @property
    def is_plain(self) -> bool:
        """Whether this is the model as it is."""
        formats = self.weights or self.activations or self.assigned
        return formats is None and not self.noise


class Compared(Part):
    """Another assignment beside a recipe.

    `kl_difference` is its `kl` minus the recipe's, with an interval over the same prompts: positive
    where the recipe costs less. Null where a figure is not finite.
    """

    name: str
    kl_difference: float | None
    kl_difference_interval: Interval | None

    @property
    def outcome(self) -> Literal["costs more", "costs less", "open"]:
        """Whether the other costs more than the recipe; open where the interval contains 0."""
        low, high = self.kl_difference_interval or (0.0, 0.0)
        return "costs more" if low > 0 else "costs less" if high < 0 else "open"


class RecipeResult(Part):
    """A recipe that was run, beside others of about the same bits.

    `name` is that of its result, `fingerprint` of the recipe, `ratio` the predicted KL over the
    measured one. `of_these_weights` says whether it was made from a scan of this very model.
    """

    name: str
    fingerprint: str
    of_these_weights: bool | None
    ratio: Positive | None
    others: list[Compared]


class Evaluation(Document):
    """The result of an evaluation."""

    kind: Literal["srdd.evaluation"] = "srdd.evaluation"
    schema_version: Literal[1] = 1
    model: Model
    text: Text
    settings: Settings
    run: Run
    results: list[Result] = Field(min_length=2)
    recipes: list[RecipeResult] = []
    noise_stages: NoiseStages | None = None
    warnings: list[str]

    def check(self) -> None:
        """Check that results are of the same prompts, each another one, the plain model first.

        Raises:
            ValueError: they are not.
        """
        kinds = [
            (one.weights, one.activations, one.assigned and one.assigned.name, one.noise)
            for one in self.results
        ]
        if not self.results[0].is_plain or len(set(kinds)) < len(kinds):
            raise ValueError("results: the first is not the model as it is, or one occurs twice")
        if self.settings.noise is None and any(noise for *_, noise in kinds):
            raise ValueError("results: one has noise, and the settings have none")
        names = {one.assigned.name for one in self.results if one.assigned}
        for recipe in self.recipes:
            if not {recipe.name, *(other.name for other in recipe.others)} <= names:
                raise ValueError(f"recipes: {recipe.name} is compared with what has no result")
        lengths = {len(self.text.indices), len(self.text.predicted)}
        for result in self.results:
            lengths |= {len(result.loss_by_prompt), len(result.kl_by_prompt or self.text.indices)}
        if len(lengths) > 1:
            raise ValueError("results: one has another number of prompts than the text")
