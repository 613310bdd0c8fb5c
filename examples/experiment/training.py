"""One run: fine-tune under simulated 4 bits, with noise or without, and take the held-out loss.

Weights and activations of the linears are quantized in the forward pass, and gradients go straight
through. Each step draws its noise, goes forward and backward with the noisy norms, and restores
the clean weights, bit by bit, before the optimizer changes them. Trained is in float32; what is
evaluated is the model as it would be stored, rounded to bfloat16, without noise.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from torch import nn

import srdd
import srdd.rin
from experiment.plan import Run, Settings
from experiment.text import Text, batch_at, spread_windows
from experiment.workers import Task
from srdd.model.checkpoint import find
from srdd.model.load import load_model


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up over the first tenth of the steps, then a cosine down to a tenth."""
    warm = max(1, settings.steps // 10)
    if step < warm:
        return settings.rate * (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    return settings.rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    model: nn.Module,
    config: srdd.RinConfig | None,
    training: np.ndarray,
    settings: Settings,
    seed: int,
) -> dict[str, Any]:
    """Fine-tune `model` in place.

    Arguments:
        model: in float32, with gradients.
        config: the noise; None for none.
        training: token ids (tokens,).
        settings: of the experiment.
        seed: of the order of the text, which is thus the same in every arm, and of the noise.

    Returns:
        `losses` (one a step, under 4 bits and noise), `noise_energy` (sum over steps and noisy
        weights of what was really added, squared), `data` (fingerprint of all batches).

    Raises:
        RuntimeError: the noise left a trace in the weights, or the loss is not finite.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=0.0)
    norms = [p for p in model.parameters() if p.ndim == 1]
    losses: list[float] = []
    energy, data = 0.0, hashlib.sha256()
    with srdd.simulate(model, weights=settings.format, activations=settings.format):
        for step in range(settings.steps):
            ids = batch_at(training, step, seed, settings.batch, settings.context)
            data.update(ids.numpy().tobytes())
            clean = _values(norms)
            with _noise(model, config, step, settings.steps, seed):
                energy += float((_values(norms) - clean).double().square().sum())
                loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
            if not torch.equal(_values(norms), clean):
                raise RuntimeError(f"the norms of step {step} did not come back as they were")
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"the loss of step {step} is {loss.item()}")
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
    return {"losses": losses, "noise_energy": energy, "data": data.hexdigest()}


def _noise(
    model: nn.Module, config: srdd.RinConfig | None, step: int, steps: int, seed: int
) -> AbstractContextManager[object]:
    if config is None:
        return nullcontext()
    return srdd.rin.noisy(model, config, step=step, total_steps=steps, seed=seed)


def _values(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([parameter.detach() for parameter in parameters])


@torch.no_grad()
def held_out_losses(model: nn.Module, held_out: np.ndarray, settings: Settings) -> dict[str, float]:
    """Mean next-token loss in nats, in 16 bits and under 4 bits, without noise.

    The weights are rounded to bfloat16 for good, as a stored model has them. The products run in
    float32 either way, so that the two losses differ by the quantization alone.
    """
    model.to(torch.bfloat16).float().eval()
    windows = spread_windows(held_out, settings.context, settings.windows)

    def loss() -> float:
        total = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in parts)
        return float(total / len(windows))

    parts = windows.split(8)
    found = {"bfloat16": loss()}
    with srdd.simulate(model, weights=settings.format, activations=settings.format):
        found["w4a4"] = loss()
    return found


def finished(
    model: nn.Module,
    run: Run,
    config: srdd.RinConfig | None,
    text: Text,
    settings: Settings,
) -> dict[str, Any]:
    """One whole run, as it is kept: what came out, when, and what it cost."""
    started, clock, cpu = datetime.now(timezone.utc), time.monotonic(), time.process_time()
    trained = train(model, config, text.training, settings, run.seed)
    losses = trained["losses"]
    tenth = max(1, len(losses) // 10)
    return {
        "arm": run.arm,
        "level": run.level,
        "seed": run.seed,
        "held_out": held_out_losses(model, text.held_out, settings),
        "training_loss": {
            "first_tenth": float(np.mean(losses[:tenth])),
            "last_tenth": float(np.mean(losses[-tenth:])),
            "highest": max(losses),
        },
        "noise_energy": trained["noise_energy"],
        "data": trained["data"],
        "started": started.isoformat(timespec="seconds"),
        "elapsed_s": round(time.monotonic() - clock, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }


def trainable(name: str) -> nn.Module:
    """The model in float32 with gradients."""
    model = load_model(find(name), dtype="float32", device="cpu").model
    return model.requires_grad_(True)


@dataclass(frozen=True)
class FineTuning(Task):
    """Runs that fine-tune a model on text."""

    model: str
    settings: Settings
    text: Text

    def base(self) -> nn.Module:
        return trainable(self.model)

    def result(self, model: nn.Module, run: Run, config: srdd.RinConfig | None) -> dict[str, Any]:
        return finished(model, run, config, self.text, self.settings)
