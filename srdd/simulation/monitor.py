"""The mismatch of a run's own rollouts in the trainer's log, with transformers' Trainer and TRL.

    monitor = MismatchCallback("mxfp4", every=50)
    with monitor.on(trainer):
        trainer.train()

Every so many steps the last rollouts go through the model as it is and with quantized operands, and
once forward and a few times backward for what each layer costs. The log gets

- `mismatch/` and the name of each of FIGURES, as srdd.numerics.mismatch_metrics defines them;
- `mismatch/kl_layer_N`: what quantizing layer N's linears costs, estimated, nats a token;
- `mismatch/drift_layer_N`: that over what it was in the first report;
- `mismatch/seconds` of this report, and `mismatch/time_share` of all reports so far in the time of
  training.

Reports are left out until all of them together, the next one included, take at most `max_share` of
the training time; the first one alone may take more, since its cost is not known before. Training
itself goes on as without it: no weight, gradient, mode or random state is changed.

TRL's GRPO and RLOO trainers give their last completions. For others, `rollouts` is called for them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import TrainerCallback

from srdd.errors import SrddError, UsageError
from srdd.measurement.listener import Listener
from srdd.measurement.sensitivity import measure_sensitivity
from srdd.model.running import evaluating, vocabulary_of
from srdd.model.structure import find_structure
from srdd.numerics.formats import parse_spec
from srdd.prompts.batches import TokenizedPrompts, make_batches
from srdd.simulation import predictions
from srdd.simulation.mismatch import Collector
from srdd.simulation.variants import Runner, Variant

FIGURES = (
    "kl_reversed",
    "k3",
    "expected_chi2",
    "chi2_token",
    "ess_token",
    "ess_seq",
    "expected_mult_prob_error",
    "clipped",
)
"""What is logged, by name of srdd.numerics.mismatch_metrics.MISMATCH."""

Rollouts: TypeAlias = Sequence[tuple[Sequence[int], Sequence[bool]]]
"""Token ids of prompt and response, and which of them the policy sampled."""


class MismatchCallback(TrainerCallback):  # type: ignore[misc]
    """A mismatch and drift report in the trainer's log; see the top of the module.

    Arguments:
        format: of weights and activations of the simulated rollout policy.
        every: steps between reports; the first one is after the first step.
        responses: rollouts in a report at most.
        max_length: tokens kept of each.
        samples: of labels for what layers cost; 0 leaves layers out.
        max_share: of the training time that reports may take.
        rollouts: what gives the last rollouts, for a trainer that does not generate them.

    Attributes:
        reports: (step, figures) of each report.

    Raises:
        UsageError: an unknown format, or a number out of range.
    """

    def __init__(
        self,
        format: str = "mxfp4",
        *,
        every: int = 50,
        responses: int = 8,
        max_length: int = 512,
        samples: int = 2,
        max_share: float = 0.02,
        rollouts: Callable[[], Rollouts] | None = None,
    ) -> None:
        if min(every, responses) < 1 or max_length < 2 or samples < 0 or not 0 < max_share <= 1:
            raise UsageError(
                "every and responses have to be at least 1, max_length 2, samples 0, and max_share "
                "above 0 up to 1",
                "leave them out for the defaults",
            )
        self._spec = parse_spec(format)
        self._every, self._responses, self._max_length = every, responses, max_length
        self._samples, self._max_share, self._given = samples, max_share, rollouts
        self.reports: list[tuple[int, dict[str, float]]] = []
        self._last: Rollouts = ()
        self._pending: dict[str, float] = {}
        self._first_layers: dict[int, float] = {}
        self._spent = self._latest = self._trained = 0.0
        self._began: float | None = None
        self._broken = False

    @contextmanager
    def on(self, trainer: Any) -> Iterator[MismatchCallback]:
        """While this runs, training with `trainer` is reported on.

        Raises:
            UsageError: the trainer shards or compiles the model, or gives no rollouts.
        """
        _check_trainer(trainer)
        name = "_generate_and_score_completions"
        generate = getattr(trainer, name, None)
        if generate is None and self._given is None:
            raise UsageError(
                "the trainer generates no completions to report on",
                "give MismatchCallback(rollouts=...) a function that returns the last ones",
            )
        callbacks = trainer.callback_handler.callbacks
        # In front of the loggers, which then see what is added to the logs.
        callbacks.insert(0, self)
        if generate is not None:

            def generate_and_keep(inputs: Any) -> Any:
                output = generate(inputs)
                self._last = _completions(output, self._responses)
                return output

            setattr(trainer, name, generate_and_keep)
        try:
            yield self
        finally:
            if generate is not None:
                trainer.__dict__.pop(name, None)
            callbacks.remove(self)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._began is not None:
            self._trained += time.monotonic() - self._began
            self._began = None
        if not self._due(state.global_step):
            return
        clock = time.monotonic()
        try:
            figures = self._report(kwargs["model"])
        except SrddError as error:
            self._broken = True
            warnings.warn(f"no more mismatch reports: {error.message}", stacklevel=2)
            return
        if not figures:
            return
        self._latest = time.monotonic() - clock
        self._spent += self._latest
        figures["mismatch/seconds"] = self._latest
        figures["mismatch/time_share"] = self._spent / (self._trained or self._latest)
        self.reports.append((state.global_step, figures))
        self._pending = figures

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs or not self._pending:
            return
        logs.update(self._pending)
        if state.log_history:
            # The trainer keeps its log before it calls this.
            state.log_history[-1].update(self._pending)
        self._pending = {}

    def _due(self, step: int) -> bool:
        if self._broken:
            return False
        if not self.reports:
            return True
        if step % self._every:
            return False
        return self._spent + self._latest <= self._max_share * self._trained

    def _report(self, model: nn.Module) -> dict[str, float]:
        """The figures by the names in the log; none where there are no rollouts yet."""
        rollouts = (self._given() if self._given is not None else self._last)[: self._responses]
        tokenized = _tokenized(rollouts, self._max_length)
        if tokenized is None:
            return {}
        variant = Variant(str(self._spec), str(self._spec))
        batches = [
            part
            for batch in make_batches(tokenized)
            for part in predictions.cut(batch, vocabulary_of(model) or 1)
        ]
        collector = Collector(tokenized)
        runner = Runner(model, tokenized, batches, None, (), (), Listener())
        with evaluating(model), torch.no_grad():
            runner.run(variant, collector)
        found = collector.section(lambda ids: "").figures
        values = {f"mismatch/{name}": found[name].value for name in FIGURES}
        figures = {name: value for name, value in values.items() if value is not None}
        return figures | self._layers(model, tokenized)

    def _layers(self, model: nn.Module, tokenized: TokenizedPrompts) -> dict[str, float]:
        if self._samples == 0:
            return {}
        with evaluating(model):
            estimate = measure_sensitivity(
                model, find_structure(model), tokenized, [self._spec], samples=self._samples
            )
        layers: dict[int, float] = {}
        for tensor, spec, operands in estimate.changes:
            layer = estimate.layers[tensor]
            if operands == "both" and layer is not None:
                layers[layer] = layers.get(layer, 0.0) + estimate.kl((tensor, spec, operands))
        self._first_layers = self._first_layers or layers
        figures = {f"mismatch/kl_layer_{layer}": kl for layer, kl in layers.items()}
        for layer, kl in layers.items():
            if self._first_layers.get(layer):
                figures[f"mismatch/drift_layer_{layer}"] = kl / self._first_layers[layer]
        return figures


def _check_trainer(trainer: Any) -> None:
    if getattr(trainer, "is_deepspeed_enabled", False) or getattr(
        trainer, "is_fsdp_enabled", False
    ):
        raise UsageError(
            "the trainer shards the model's weights, which cannot be simulated",
            "evaluate a checkpoint instead: srdd eval MODEL --rollouts FILE",
        )
    if trainer.args.torch_compile:
        raise UsageError(
            "the trainer compiles the model: its graph would not see the quantization",
            "train with torch_compile=False",
        )


def _completions(output: Any, most: int) -> Rollouts:
    """The first completions of a TRL trainer, without padding, on the CPU."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    rows = zip(*(output[name][:most].cpu() for name in names), strict=True)
    kept = []
    for prompt_ids, prompt_mask, ids, mask in rows:
        prompt, response = prompt_ids[prompt_mask.bool()].tolist(), ids[mask.bool()].tolist()
        kept.append((prompt + response, [False] * len(prompt) + [True] * len(response)))
    return kept


def _tokenized(rollouts: Rollouts, max_length: int) -> TokenizedPrompts | None:
    """Those rollouts that have a response token to predict; None where none has."""
    cut = [(tuple(ids[:max_length]), tuple(scored[:max_length])) for ids, scored in rollouts]
    used = [(ids, tuple(map(bool, scored))) for ids, scored in cut if any(scored[1:])]
    if not used:
        return None
    ids, scored = zip(*used, strict=True)
    return TokenizedPrompts(
        "trainer", tuple(range(len(used))), tuple(ids), 0, (), scored=tuple(scored)
    )
