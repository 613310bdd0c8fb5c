"""Noise in training, with real trainers: updates start from clean weights, and so does all else.

The demo model is trained by transformers' Trainer, a tiny one by TRL's GRPOTrainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from datasets import Dataset
from made_scans import made, rising
from safetensors.torch import load_file
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import srdd
from srdd.errors import InputError, UsageError
from srdd.model.checkpoint import find
from srdd.model.load import load_model
from srdd.rin import RinCallback, noisy

CONFIG = srdd.suggest(
    made(rising(12), size=128), "variable", sigma_start=0.05, sigma_end=0.02, num_stages=3
)
"""Over six steps: two clean, two at 0.05, two at 0.02."""

Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def nothing_stays_noisy() -> Iterator[None]:
    yield
    from srdd.rin.inject import _noisy_now

    assert _noisy_now == {}


def demo() -> nn.Module:
    model = load_model(find("demo"), device="cpu").model
    return model.requires_grad_(True)


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4000, (count, 12), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


def trainer_for(model: nn.Module, folder: Path, *more: TrainerCallback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**(defaults | options)),
        train_dataset=rows(24),
        eval_dataset=rows(4),
        callbacks=list(more),
    )


def weights_of(model: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def different(a: Weights, b: Weights) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


def logged(trainer: Trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


NOISY = {f"{m.name}.weight" for entry in CONFIG.layers for m in entry.modules}


class Spy(TrainerCallback):
    """Keeps the weights at events, and all that is logged. It stands behind RinCallback."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, int], Weights] = {}
        self.logs: list[dict[str, float]] = []

    def _keep(self, event: str, state: Any, model: nn.Module) -> None:
        self.at[event, state.global_step] = weights_of(model)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self._keep("begin", state, model)

    def on_substep_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self._keep("between", state, model)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any, **_: Any
    ) -> None:
        self._keep("update", state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self._keep("end", state, model)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        self.logs.append(dict(logs))


def test_each_step_is_noisy_and_each_update_starts_from_the_last_ones_end(tmp_path: Path) -> None:
    model, spy = demo(), Spy()
    trainer = trainer_for(model, tmp_path, spy)
    last = weights_of(model)
    with RinCallback(CONFIG, seed=3).on(trainer):
        trainer.train()
    for step in range(6):
        expected = NOISY if step >= 2 else set()
        assert different(spy.at["begin", step], last) == expected, step
        # The same noise in both parts of an accumulated gradient.
        assert different(spy.at["between", step], spy.at["begin", step]) == set()
        assert different(spy.at["update", step], last) == set(), step
        last = spy.at["end", step + 1]
    assert different(weights_of(model), last) == set()
    # And something was learned.
    assert different(last, spy.at["update", 0])


def test_the_run_is_the_one_written_by_hand(tmp_path: Path) -> None:
    model, by_hand = demo().float(), demo().float()
    trainer = trainer_for(model, tmp_path, max_grad_norm=0.0, seed=5)
    with RinCallback(CONFIG, seed=3).on(trainer):
        trainer.train()

    # The same batches in the same order, which the trainer's own loader tells.
    set_seed(5)
    again = trainer_for(by_hand, tmp_path, seed=5)
    batches = list(again.get_train_dataloader())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01)
    by_hand.train()
    for step in range(6):
        with noisy(by_hand, CONFIG, step=step, total_steps=6, seed=3):
            for batch in batches[2 * step : 2 * step + 2]:
                (by_hand(**batch).loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, ours), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6), name
    assert different(weights_of(model), weights_of(demo().float()))


def test_sigma_and_energy_reach_the_log_and_every_logger(tmp_path: Path) -> None:
    spy = Spy()
    trainer = trainer_for(demo(), tmp_path, spy)
    with RinCallback(CONFIG).on(trainer) as noise:
        trainer.train()
        assert noise.last is not None
        assert noise.last.step == 5
    squares = sum(2 * 128 * entry.multiplier**2 for entry in CONFIG.layers)
    expected = [squares * sigma**2 for sigma in (0, 0, 0.05, 0.05, 0.02, 0.02)]
    assert logged(trainer, "rin/energy") == pytest.approx(expected)
    weights = 12 * 2 * 128
    assert logged(trainer, "rin/sigma") == pytest.approx([(e / weights) ** 0.5 for e in expected])
    realised = logged(trainer, "rin/realised_energy")
    assert realised == pytest.approx(expected, rel=0.15)
    assert realised[2] != realised[3]
    assert logged(trainer, "rin/unchanged")[:2] == [1, 1]
    seen = [entry["rin/energy"] for entry in spy.logs if "loss" in entry]
    assert seen == logged(trainer, "rin/energy")
    # The summary at the end is not of a step.
    assert "rin/energy" not in spy.logs[-1]


def test_figures_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    trainer = trainer_for(demo(), tmp_path, logging_steps=3)
    with RinCallback(CONFIG).on(trainer):
        trainer.train()
    squares = sum(2 * 128 * entry.multiplier**2 for entry in CONFIG.layers)
    expected = [squares * 0.05**2 / 3, squares * (0.05**2 + 2 * 0.02**2) / 3]
    assert logged(trainer, "rin/energy") == pytest.approx(expected)


def test_checkpoints_hold_clean_weights_and_a_resumed_run_is_the_unbroken_one(
    tmp_path: Path,
) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
    whole, spy = demo(), Spy()
    trainer = trainer_for(whole, tmp_path / "whole", spy, **options)
    with RinCallback(CONFIG).on(trainer):
        trainer.train()
    saved = load_file(tmp_path / "whole" / "checkpoint-3" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, spy.at["end", 3][name]), name

    resumed = demo()
    again = trainer_for(resumed, tmp_path / "again", **options)
    with RinCallback(CONFIG).on(again):
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert different(weights_of(resumed), weights_of(whole)) == set()
    assert logged(again, "rin/energy") == logged(trainer, "rin/energy")


def test_evaluation_is_clean(tmp_path: Path) -> None:
    model = demo()
    trainer = trainer_for(
        model, tmp_path, eval_strategy="steps", eval_steps=1, eval_on_start=True, learning_rate=0.0
    )
    with RinCallback(CONFIG).on(trainer):
        trainer.train()
    # Nothing is learned, so every evaluation is that of the model as it was.
    assert len(logged(trainer, "eval_loss")) == 7
    assert len(set(logged(trainer, "eval_loss"))) == 1
    assert len(set(logged(trainer, "loss"))) > 1
    assert different(weights_of(model), weights_of(demo())) == set()


class _Stop(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["step", "backward"])
def test_an_error_in_training_leaves_clean_weights(tmp_path: Path, where: str) -> None:
    model, spy = demo(), Spy()
    trainer = trainer_for(model, tmp_path, spy)
    if where == "step":
        trainer.add_callback(_Stop())
    else:
        calls = []

        def fails(loss: torch.Tensor, **named: Any) -> None:
            calls.append(loss)
            loss.backward()
            if len(calls) == 7:  # the first half of step 3
                raise KeyboardInterrupt

        trainer.accelerator.backward = fails  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), RinCallback(CONFIG).on(trainer):
        trainer.train()
    assert different(spy.at["begin", 3], weights_of(model)) == NOISY
    assert different(spy.at["end", 3], weights_of(model)) == set()
    # And the trainer can go on, clean.
    trainer.evaluate()


def test_a_run_that_is_stopped_between_the_parts_of_a_step_ends_clean(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = state.global_step == 3
            return control

    model, spy = demo(), Spy()
    trainer = trainer_for(model, tmp_path, spy, Stop(), save_strategy="no")
    with RinCallback(CONFIG).on(trainer):
        trainer.train()
        assert different(spy.at["end", 3], weights_of(model)) == set()


def test_without_with_training_does_not_begin(tmp_path: Path) -> None:
    trainer = trainer_for(demo(), tmp_path, RinCallback(CONFIG))
    with pytest.raises(UsageError, match="nothing would remove its noise") as caught:
        trainer.train()
    assert caught.value.hint == "train inside it: `with noise.on(trainer): trainer.train()`"


def test_it_may_stand_in_the_trainers_list_before(tmp_path: Path) -> None:
    noise = RinCallback(CONFIG)
    trainer = trainer_for(demo(), tmp_path, noise, max_steps=2)
    with noise.on(trainer):
        trainer.train()
    assert trainer.callback_handler.callbacks.count(noise) == 1
    assert len(logged(trainer, "rin/energy")) == 2


def test_afterwards_the_trainer_trains_without_noise(tmp_path: Path) -> None:
    trainer = trainer_for(demo(), tmp_path, max_steps=1)
    with RinCallback(CONFIG).on(trainer):
        pass
    trainer.train()
    assert logged(trainer, "rin/energy") == []


def test_it_is_on_one_trainer_at_a_time(tmp_path: Path) -> None:
    noise, trainer = RinCallback(CONFIG), trainer_for(demo(), tmp_path)
    with (
        noise.on(trainer),
        pytest.raises(UsageError, match="on a trainer already"),
        noise.on(trainer),
    ):
        pass


def test_two_of_them_on_one_model_are_refused(tmp_path: Path) -> None:
    model = demo()
    trainer = trainer_for(model, tmp_path)
    with (
        pytest.raises(UsageError, match="carries noise already"),
        RinCallback(CONFIG).on(trainer),
        RinCallback(CONFIG, seed=1).on(trainer),
    ):
        trainer.train()
    assert different(weights_of(model), weights_of(demo())) == set()


def test_a_configuration_for_another_model_is_refused_before_the_first_step(tmp_path: Path) -> None:
    spy = Spy()
    trainer = trainer_for(demo(), tmp_path, spy)
    with (
        pytest.raises(InputError, match="for a model of 3 layers, and this one has 12"),
        RinCallback(srdd.suggest(made(rising(3)), "uniform")).on(trainer),
    ):
        trainer.train()
    assert spy.at == {}


def _torch_compile(trainer: Trainer) -> None:
    trainer.args.torch_compile = True


def _lomo(trainer: Trainer) -> None:
    trainer.args.optim = "lomo"  # type: ignore[assignment]


def _deepspeed(trainer: Trainer) -> None:
    trainer.is_deepspeed_enabled = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_torch_compile, "the trainer compiles the model"),
        (_lomo, "the optimizer lomo updates weights inside the backward pass"),
        (_deepspeed, "DeepSpeed updates weights inside its backward pass"),
    ],
)
def test_a_trainer_that_updates_where_noise_is_is_refused(
    tmp_path: Path, change: Callable[[Trainer], None], message: str
) -> None:
    trainer = trainer_for(demo(), tmp_path)
    change(trainer)
    with pytest.raises(UsageError, match=message), RinCallback(CONFIG).on(trainer):
        pass


def test_another_time_of_noise_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown during 'steps'") as caught:
        RinCallback(CONFIG, during="steps")  # type: ignore[arg-type]
    assert caught.value.hint == "choose from: step, generation"


# TRL

SMALL = srdd.suggest(made(rising(3)), "uniform", sigma_start=0.3, sigma_end=0.3, num_stages=3)


class Seen:
    """Weights in each forward pass of a model, by whether gradients were computed."""

    def __init__(self, model: nn.Module) -> None:
        self.passes: list[tuple[bool, bool, Weights]] = []
        model.model.layers[0].register_forward_pre_hook(self._see)
        self._model = model

    def _see(self, module: nn.Module, given: object) -> None:
        self.passes.append((torch.is_grad_enabled(), self._model.training, weights_of(self._model)))


def grpo(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path, *more: Any, **options: Any
) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "num_generations": 2,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 4,
        "max_steps": 3,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    prompts = Dataset.from_dict({"prompt": ["ab", "cd", "ef", "gh"] * 3})
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completion_ids, **_: [float(sum(ids)) for ids in completion_ids],
        args=GRPOConfig(**(defaults | options)),
        train_dataset=prompts,
        eval_dataset=prompts.select(range(2)),
        processing_class=tokenizer,
        callbacks=list(more),
    )


def test_trl_generates_under_noise_and_updates_from_clean_weights(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model, spy = families.new("llama").requires_grad_(True), Spy()
    trainer = grpo(model, tokenizer, tmp_path, spy, eval_strategy="steps", eval_steps=1)
    seen = Seen(model)
    clean = {0: weights_of(model)}
    with RinCallback(SMALL).on(trainer):
        trainer.train()
    for step in range(3):
        assert different(spy.at["begin", step], clean[step]) == set()
        assert different(spy.at["update", step], clean[step]) == set()
        clean[step + 1] = spy.at["end", step + 1]
        assert different(clean[step + 1], clean[step])
    norms = {f"{m.name}.weight" for entry in SMALL.layers for m in entry.modules}
    kinds = set()
    for gradients, training, weights in seen.passes:
        noise = min((different(weights, known) for known in clean.values()), key=len)
        kinds.add((gradients, training, noise == norms, noise == set()))
    assert kinds == {
        (False, True, True, False),  # completions, noisy
        (False, True, False, True),  # completions of the clean stage
        (True, True, False, True),  # gradients, clean
        (False, False, False, True),  # evaluation, clean
    }
    energy = 3 * 2 * 64 * 0.3**2
    assert logged(trainer, "rin/energy") == pytest.approx([0, energy, energy])
    assert logged(trainer, "rin/generations") == [1, 1, 1]
    assert "generate" not in model.__dict__


def test_an_error_while_trl_generates_leaves_clean_weights(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = families.new("llama").requires_grad_(True)
    trainer = grpo(model, tokenizer, tmp_path, learning_rate=0.0)
    before, calls = weights_of(model), []

    def fail(module: nn.Module, given: object) -> None:
        if different(weights_of(model), before):
            calls.append(module)
            raise KeyboardInterrupt

    model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt), RinCallback(SMALL).on(trainer):
        trainer.train()
    assert calls
    assert different(weights_of(model), before) == set()
    assert "generate" not in model.__dict__


def test_a_trainer_whose_completions_come_from_vllm_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = grpo(families.new("llama").requires_grad_(True), tokenizer, tmp_path)
    trainer.args.use_vllm = True
    with (
        pytest.raises(UsageError, match="lets vLLM generate, which has its own copy"),
        RinCallback(SMALL).on(trainer),
    ):
        pass
