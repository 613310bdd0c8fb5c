"""One run of reinforcement learning: TRL's GRPO with rollouts under W4A4 and noise.

Completions are generated with quantized operands (srdd.simulate) and, in arms with noise, with
noisy norms: as by an engine that serves a quantized copy of the policy. Log-probabilities and
gradients are those of the clean model in full precision, as in a trainer that hands its weights to
such an engine. TRL takes the completions for the model's own, without a correction.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import srdd
from experiment.plan import Run, runs_of
from experiment.policy import Policy, load
from experiment.sums import ANSWER, HELD_OUT, rewards, scores, split, tokenizer
from experiment.workers import Task
from srdd.errors import UsageError
from srdd.rin import RinCallback

ARMS = ("uniform", "variable", "balanced", "matched", "inverse", "shuffled")
"""Arms with noise. `inverse` and `shuffled` are controls of `variable`."""

CONTROLLED, CONTROLS = "variable", ("inverse", "shuffled")


@dataclass(frozen=True)
class Settings:
    """What every run of an experiment has in common.

    Attributes:
        policy: the model that every run starts from.
        steps: of the optimizer; a multiple of `stages`.
        stages: of the noise schedule; the first is clean.
        questions: in a step.
        completions: of each question, which GRPO compares with each other.
        rate: highest learning rate; it falls linearly to 0.
        held_out: questions that runs are compared on.
        prompts: of the scan that the configurations follow from.
        format: of weights and activations in rollouts and in the comparison.
    """

    policy: Policy = field(default_factory=Policy)
    steps: int = 40
    stages: int = 10
    questions: int = 32
    completions: int = 8
    rate: float = 1e-4
    held_out: int = HELD_OUT
    prompts: int = 256
    format: str = "mxfp4:floor"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps % self.stages:
            raise UsageError(
                f"{self.steps} steps do not divide into {self.stages} equal stages",
                f"use a multiple of {self.stages}, such as --steps {self.stages * 10}",
            )


QUICK = Settings(
    policy=Policy(layers=3, steps=20, batch=16),
    steps=3,
    stages=3,
    questions=2,
    completions=4,
    held_out=50,
    prompts=16,
)
"""For a test: it shows that all parts work, and nothing about noise."""


def errors(model: nn.Module, settings: Settings) -> dict[str, Any]:
    """What a policy gets wrong on held-out sums, in 16 bits and under W4A4, without noise.

    Weights are first rounded to bfloat16, in a copy, as a stored model has them; products run in
    float32 either way.

    Returns:
        `w4a4` and `bfloat16`: share of wrong answers, greedy decoding; `reward`: by the same names,
        the mean probability that a sampled answer is right.
    """
    # Not a deep copy: trainers replace the `forward` of a model, and a copy's would be the model's.
    stored = type(model)(model.config).eval()
    rounded = {name: value.to(torch.bfloat16).float() for name, value in model.state_dict().items()}
    stored.load_state_dict(rounded)
    sums = split()[1][: settings.held_out]
    found = {"bfloat16": scores(stored, sums)}
    with srdd.simulate(stored, weights=settings.format, activations=settings.format):
        found["w4a4"] = scores(stored, sums)
    return {name: 1 - each["accuracy"] for name, each in found.items()} | {
        "reward": {name: each["reward"] for name, each in found.items()}
    }


@contextmanager
def quantized_generation(model: nn.Module, format: str) -> Iterator[None]:
    """While this runs, `model.generate` computes with quantized operands; other passes do not."""
    generate = model.generate

    def quantized(*args: Any, **kwargs: Any) -> Any:
        with srdd.simulate(model, weights=format, activations=format):
            return generate(*args, **kwargs)

    model.generate = quantized
    try:
        yield
    finally:
        model.__dict__.pop("generate", None)


def train(
    model: nn.Module, config: srdd.RinConfig | None, settings: Settings, seed: int
) -> dict[str, Any]:
    """Train a policy in place.

    Arguments:
        model: in float32, with gradients.
        config: the noise of rollouts; None for none.
        seed: of the order of questions, of sampling and of the noise: the same in every arm.

    Returns:
        `rewards` (one a step, of noisy W4A4 rollouts), `noise_energy` (sum over steps and noisy
        weights of what was really added, squared), `data` (fingerprint of all questions).
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    means: list[float] = []
    data = hashlib.sha256()

    def reward(prompts: Sequence[str], completions: Sequence[str], **given: Any) -> list[float]:
        data.update("\n".join(prompts).encode())
        found = rewards(completions, **given)
        means.append(float(np.mean(found)))
        return found

    sums = split()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=settings.questions * settings.completions,
                num_generations=settings.completions,
                max_completion_length=ANSWER + 1,
                max_steps=settings.steps,
                learning_rate=settings.rate,
                logging_steps=1,
                save_strategy="no",
                seed=seed,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=Dataset.from_dict(
                {"prompt": [one.prompt for one in sums], "answer": [one.answer for one in sums]}
            ),
            processing_class=tokenizer(),
        )
        trainer.remove_callback(PrinterCallback)
        stack.enter_context(quantized_generation(model, settings.format))
        if config is not None:
            stack.enter_context(RinCallback(config, seed=seed).on(trainer))
        trainer.train()
        energy = [log.get("rin/realised_energy", 0.0) for log in trainer.state.log_history]
    return {"rewards": means, "noise_energy": float(sum(energy)), "data": data.hexdigest()}


@dataclass(frozen=True)
class Reinforcement(Task):
    """Runs of GRPO that start from the policy in a folder."""

    policy: Path
    settings: Settings

    def base(self) -> nn.Module:
        return load(self.policy)

    def result(self, model: nn.Module, run: Run, config: srdd.RinConfig | None) -> dict[str, Any]:
        """What came out, when, and what it cost."""
        started, clock, cpu = datetime.now(timezone.utc), time.monotonic(), time.process_time()
        trained = train(model, config, self.settings, run.seed)
        held_out = errors(model, self.settings)
        means = trained["rewards"]
        tenth = max(1, len(means) // 10)
        return {
            "arm": run.arm,
            "level": run.level,
            "seed": run.seed,
            "reward": held_out.pop("reward"),
            "held_out": held_out,
            "training_reward": {
                "first_tenth": float(np.mean(means[:tenth])),
                "last_tenth": float(np.mean(means[-tenth:])),
            },
            "noise_energy": trained["noise_energy"],
            "data": trained["data"],
            "started": started.isoformat(timespec="seconds"),
            "elapsed_s": round(time.monotonic() - clock, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
        }


def scan_of(model: nn.Module, settings: Settings) -> srdd.Scan:
    """The scan that the configurations follow from: of training questions with their answers."""
    texts = [one.prompt + one.answer for one in split()[0][: settings.prompts]]
    return srdd.scan_model(
        model,
        tokenizer(),
        texts,
        formats=[settings.format],
        sites=("output", "input"),
        kl=True,
    )


def configs_of(
    scan: srdd.Scan, settings: Settings, levels: Sequence[float], seeds: int
) -> dict[str, srdd.RinConfig]:
    """Name -> noise configuration of every run with noise, all of a level at equal KL.

    Arguments:
        levels: what the noise costs at its first noisy stage, as a fraction of what quantizing all
            linears costs; both are predicted from the scan.

    Raises:
        RuntimeError: the noise of a configuration does not cost that, or differs from that of
            uniform noise at some stage.
    """
    found: dict[str, srdd.RinConfig] = {}
    costs = scan.joint_kl(settings.format)
    quantization = costs["predicted"] if costs["measured"] is None else costs["measured"]
    for run in runs_of(len(levels), seeds, ARMS):
        if run.config is None or run.level is None or run.config in found:
            continue
        made = srdd.suggest(
            scan,
            CONTROLLED if run.arm in CONTROLS else run.arm,
            control=run.arm if run.arm in CONTROLS else None,
            match_quantization=levels[run.level],
            num_stages=settings.stages,
            seed=run.seed,
        )
        wanted = levels[run.level] * quantization
        own = [row["kl"] for row in scan.noise_kl(made)]
        baseline = [
            row["kl"] for row in scan.noise_kl(found.get(f"uniform-level{run.level}", made))
        ]
        if not (
            math.isclose(own[1], wanted, rel_tol=2e-3) and np.allclose(own, baseline, rtol=2e-3)
        ):
            raise RuntimeError(f"the noise of {run.config} does not cost what it should")
        found[run.config] = made
    return found
