"""Mismatch reports in training, with real trainers: figures, time, and training as without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

import srdd
from srdd.errors import UsageError
from srdd.simulation.monitor import FIGURES, MismatchCallback

OPTIONS: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "learning_rate": 0.05,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def model() -> nn.Module:
    return families.new("llama").requires_grad_(True)


def trainer_for(of: nn.Module, folder: Path, **options: Any) -> Trainer:
    ids = torch.randint(200, (16, 12), generator=torch.Generator().manual_seed(0))
    return Trainer(
        model=of,
        args=TrainingArguments(output_dir=str(folder), **(OPTIONS | options)),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
    )


def rollouts() -> list[tuple[list[int], list[bool]]]:
    rng = np.random.default_rng(0)
    made = [([*map(int, rng.integers(5, 200, 14))], [False] * 4 + [True] * 10) for _ in range(5)]
    return [*made, ([1, 2], [True, False])]  # nothing to predict


def logged(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def test_reports_stand_in_the_log_and_training_is_the_same(tmp_path: Path) -> None:
    ends = []
    for watched in (False, True):
        set_seed(0)
        trained = model()
        trainer = trainer_for(trained, tmp_path)
        monitor = MismatchCallback(every=2, max_share=1.0, rollouts=rollouts)
        if watched:
            with monitor.on(trainer):
                assert monitor in trainer.callback_handler.callbacks
                trainer.train()
            assert monitor not in trainer.callback_handler.callbacks
        else:
            trainer.train()
        ends.append({name: weight.clone() for name, weight in trained.state_dict().items()})
        assert trained.training
        ends[-1]["loss"] = torch.tensor(logged(trainer, "loss"))
    for name, weight in ends[0].items():
        assert torch.equal(weight, ends[1][name]), name
    assert monitor.reports[0][0] == 1
    for name in (*FIGURES, "seconds", "time_share", "kl_layer_0", "kl_layer_1", "drift_layer_1"):
        assert len(logged(trainer, f"mismatch/{name}")) == len(monitor.reports), name
    assert logged(trainer, "mismatch/drift_layer_0")[0] == 1


def test_figures_are_those_of_the_model_at_that_step(tmp_path: Path) -> None:
    trained = model()
    trainer = trainer_for(trained, tmp_path, max_steps=1)
    monitor = MismatchCallback("nvfp4", samples=8, responses=3, rollouts=rollouts)
    with monitor.on(trainer):
        trainer.train()
    ((_, figures),) = monitor.reports
    trained.eval()
    total = count = 0.0
    for ids, _ in rollouts()[:3]:
        x = torch.tensor([ids])
        with torch.no_grad():
            p = trained(x).logits[0, 3:-1].double().log_softmax(-1)
            with srdd.simulate(trained, "nvfp4", "nvfp4"):
                q = trained(x).logits[0, 3:-1].double().log_softmax(-1)
        total += float((q.exp() * (q - p)).sum())
        count += len(p)
    assert count == 30
    assert figures["mismatch/kl_reversed"] == pytest.approx(total / count, rel=1e-3)
    layers = [figures[f"mismatch/kl_layer_{n}"] for n in (0, 1)]
    assert min(layers) > 0
    # The sum of what layers cost is about what all cost together, to second order.
    assert 0.3 < sum(layers) / figures["mismatch/kl_reversed"] < 3


def test_reports_wait_until_they_fit_into_their_share_of_the_time() -> None:
    monitor = MismatchCallback(every=10, max_share=0.02, rollouts=rollouts)
    state, clock = SimpleNamespace(global_step=0), SimpleNamespace(now=0.0)
    spent: list[tuple[int, float]] = []

    def report(model: nn.Module) -> dict[str, float]:
        clock.now += 5.0
        spent.append((state.global_step, clock.now))
        return {"mismatch/k3": 0.0}

    monitor._report = report  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srdd.simulation.monitor.time.monotonic", lambda: clock.now)
        for step in range(1, 1001):
            state.global_step = step
            monitor.on_step_begin(None, state, None)
            clock.now += 1.0
            monitor.on_step_end(None, state, None, model=None)
    # 5 s each: the second one needs 500 s of training, and so on.
    assert [step for step, _ in spent] == [1, 500, 750, 1000]
    assert [figures["mismatch/time_share"] for _, figures in monitor.reports[1:]] == pytest.approx(
        [0.02, 0.02, 0.02]
    )


def test_trl_gives_its_last_completions(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    options = OPTIONS | {
        "num_generations": 2,
        "max_completion_length": 4,
        "gradient_checkpointing": False,
        "bf16": False,
        "max_steps": 2,
    }
    trainer = GRPOTrainer(
        model=model(),
        reward_funcs=lambda completion_ids, **_: [float(sum(ids)) for ids in completion_ids],
        args=GRPOConfig(output_dir=str(tmp_path), **options),
        train_dataset=Dataset.from_dict({"prompt": ["ab", "cd"] * 4}),
        processing_class=tokenizer,
    )
    monitor = MismatchCallback(every=1, max_share=1.0, samples=0, responses=1)
    with monitor.on(trainer):
        trainer.train()
    assert "_generate_and_score_completions" not in vars(trainer)
    assert len(monitor._last) == 1
    ids, scored = monitor._last[0]
    assert len(ids) == len(scored) > sum(scored) > 0
    assert ids[: scored.index(True)] in [tokenizer(text)["input_ids"] for text in ("ab", "cd")]
    assert len(logged(trainer, "mismatch/k3")) == len(monitor.reports) >= 1
    assert not logged(trainer, "mismatch/kl_layer_0")


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    trainer = trainer_for(model(), tmp_path)
    with (
        pytest.raises(UsageError, match="generates no completions"),
        MismatchCallback().on(trainer),
    ):
        pass
    trainer.is_fsdp_enabled = True
    with pytest.raises(UsageError, match="shards"), MismatchCallback(rollouts=rollouts).on(trainer):
        pass
    for wrong in ({"every": 0}, {"responses": 0}, {"max_share": 0.0}, {"format": "mxfp5"}):
        with pytest.raises(UsageError):
            MismatchCallback(**wrong)


def test_a_report_that_fails_ends_reports_and_not_training(tmp_path: Path) -> None:
    trainer = trainer_for(model(), tmp_path)
    monitor = MismatchCallback("mxfp4+hadamard256", rollouts=rollouts)
    with monitor.on(trainer), pytest.warns(UserWarning, match="no more mismatch reports"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert monitor.reports == []
