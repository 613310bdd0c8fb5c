"""Noise in training with transformers' Trainer and what builds on it, such as TRL.

    noise = RinCallback(config, seed=0)
    with noise.on(trainer):
        trainer.train()

The optimizer always starts from clean weights, and so do evaluation and checkpoints. What the noise
is in, while a step lasts, depends on the trainer:

- `step`: forward and backward passes, of all parts of a step where gradients are accumulated. Noise
  is added at the beginning of the step and removed just before the optimizer's update.
- `generation`: completions and nothing else, for a trainer that generates them (TRL's GRPO and
  RLOO). Log-probabilities and gradients are those of the clean weights. So the trainer takes the
  completions of a noisy model for those of the clean one, and does not correct for the difference.

`with` is for training that ends with an error: a callback is not called then, and the noise would
stay. Leaving it restores the clean weights in any case.

The run's step and length come from the trainer's state. A resumed run therefore goes on with the
noise that the unbroken one would have had.

vLLM has a copy of the weights that noise in this process does not reach, so a trainer that uses it
is refused. A rollout under noise is still possible there: `with noisy(...)` around what copies the
weights (in TRL `trainer.vllm_generation.sync_weights()`) gives noisy weights to vLLM, which keeps
them, also for evaluation, until they are copied again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean
from typing import Any, Literal

from torch import nn
from transformers import TrainerCallback

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError, unknown_name
from srdd.rin.inject import noisy_targets
from srdd.rin.report import NoiseReport
from srdd.rin.targets import Targets, targets_of

DURING = ("step", "generation")

GENERATING = ("generate", "generate_batch")
"""The methods of a model that write completions."""

During = Literal["step", "generation"]


class RinCallback(TrainerCallback):  # type: ignore[misc]
    """Noise in a training run; see the top of the module.

    It logs, with the trainer's own figures and averaged over as many steps:

    - `rin/sigma`: root mean square of sigma over the configured weights;
    - `rin/energy`: sum over these weights of sigma^2;
    - `rin/realised_energy`: sum of the squares of what was added, after rounding to their type, in
      the process that logs;
    - `rin/unchanged`: share of them that rounding left as they were;
    - `rin/generations`: how many calls generated completions under noise, with `generation`.

    Arguments:
        config: made from a scan of such a model.
        seed: of the noise.
        during: of DURING; if left out, `generation` for a trainer that generates completions, and
            `step` for any other.

    Attributes:
        last: what was added last; None before.

    Raises:
        UsageError: an unknown `during`.
    """

    def __init__(self, config: RinConfig, *, seed: int = 0, during: During | None = None) -> None:
        if during is not None and during not in DURING:
            raise unknown_name("during", during, DURING)
        self.config = config
        self.seed = seed
        self.last: NoiseReport | None = None
        self._during = during
        self._noise = ExitStack()
        self._targets = Targets((), ())
        self._since_log: list[NoiseReport] = []
        self._trainer: Any = None
        self._current: str | None = None
        self._wrapped: nn.Module | None = None
        self._generating = False

    @contextmanager
    def on(self, trainer: Any) -> Iterator[RinCallback]:
        """While this runs, training with `trainer` is noisy; afterwards its weights are clean.

        Raises:
            UsageError: it is on a trainer already, or this trainer updates weights where noise
                could not be removed first, or generates completions elsewhere.
        """
        if self._trainer is not None:
            raise UsageError(
                "this callback is on a trainer already", "leave the other `with` first"
            )
        during = self._during or ("generation" if _generates(trainer) else "step")
        _check_trainer(trainer, during)
        callbacks = trainer.callback_handler.callbacks
        listed = self in callbacks
        if listed:
            callbacks.remove(self)
        # In front of the loggers, which then see what is added to the logs.
        callbacks.insert(0, self)
        self._trainer, self._current = trainer, during
        try:
            with self._noise:
                yield self
        finally:
            self._trainer = None
            self._unwrap_generate()
            if not listed:
                callbacks.remove(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer is None:
            raise UsageError(
                "RinCallback is in the trainer's list, and nothing would remove its noise after an "
                "error",
                "train inside it: `with noise.on(trainer): trainer.train()`",
            )
        self._noise.close()  # of a run that was started again with a smaller batch
        self._unwrap_generate()
        self._since_log = []
        self._targets = targets_of(kwargs["model"], self.config)
        if self._current == "generation":
            self._wrap_generate(kwargs["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._noise.close()
        if self._current == "step":
            self._noise.enter_context(self._noisy(kwargs["model"]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._noise.close()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._noise.close()  # of a step that was broken off

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._noise.close()
        self._unwrap_generate()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs or not self._since_log:
            return
        figures = _figures(self._since_log)
        if self._current == "generation":
            figures["rin/generations"] = len(self._since_log)
        self._since_log = []
        logs.update(figures)
        if state.log_history:
            # The trainer keeps its log before it calls this.
            state.log_history[-1].update(figures)

    @contextmanager
    def _noisy(self, model: nn.Module) -> Iterator[None]:
        state = self._trainer.state
        with noisy_targets(
            model,
            self._targets,
            step=state.global_step,
            total_steps=state.max_steps,
            seed=self.seed,
        ) as report:
            self.last = report
            self._since_log.append(report)
            yield

    def _wrap_generate(self, model: nn.Module) -> None:
        """Make the model's own methods generate under noise, outside of evaluation."""
        self._wrapped = model
        for name in GENERATING:
            if callable(getattr(model, name, None)):
                setattr(model, name, self._noisy_generate(model, getattr(model, name)))

    def _noisy_generate(self, model: nn.Module, generate: Callable[..., Any]) -> Callable[..., Any]:
        def generate_with_noise(*args: Any, **kwargs: Any) -> Any:
            if self._generating or not model.training:
                return generate(*args, **kwargs)
            self._generating = True
            try:
                with self._noisy(model):
                    return generate(*args, **kwargs)
            finally:
                self._generating = False

        return generate_with_noise

    def _unwrap_generate(self) -> None:
        if self._wrapped is not None:
            for name in GENERATING:
                self._wrapped.__dict__.pop(name, None)
        self._wrapped = None


def _generates(trainer: Any) -> bool:
    """Whether a trainer generates completions, as TRL's online trainers do."""
    return hasattr(trainer, "_generate_and_score_completions")


def _check_trainer(trainer: Any, during: str) -> None:
    args = trainer.args
    if during == "generation":
        if getattr(args, "use_vllm", False):
            raise UsageError(
                "the trainer lets vLLM generate, which has its own copy of the weights: noise in "
                "this process does not reach it",
                "train with use_vllm=False, or see srdd.rin.callback for noise in the weights that "
                "vLLM gets",
            )
        return
    if getattr(trainer, "is_deepspeed_enabled", False):
        raise UsageError(
            "DeepSpeed updates weights inside its backward pass, where noise is still in them",
            "train without DeepSpeed, for example with fully_shard",
        )
    optimizer = str(getattr(args.optim, "value", args.optim))
    if "lomo" in optimizer or "layerwise" in optimizer:
        raise UsageError(
            f"the optimizer {optimizer} updates weights inside the backward pass, where noise is "
            "still in them",
            "choose another, such as adamw_torch",
        )
    if args.torch_compile:
        raise UsageError(
            "the trainer compiles the model: what a compiled backward pass keeps of the weights is "
            "the compiler's choice, and may not fit the noise",
            "train with torch_compile=False",
        )


def _figures(reports: Sequence[NoiseReport]) -> dict[str, float]:
    """Means over the reports of what is logged."""
    figures = {}
    for name in ("sigma", "energy", "realised_energy", "unchanged"):
        values = [getattr(report, name) for report in reports]
        if known := [value for value in values if value is not None]:
            figures[f"rin/{name}"] = fmean(known)
    return figures
