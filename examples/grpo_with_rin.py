"""TRL's GRPO on the demo model, with completions written under noise.

    python examples/grpo_with_rin.py

Needs TRL, nothing from the network, and no GPU. A scan of the demo model gives a configuration, and
a few steps of training apply it. The reward is a toy, the share of a completion that is spaces: the
example shows where the noise is, not that it helps. For each step it prints

- sigma, the noise energy, and how many weights rounding left unchanged, all from the trainer's log;
- what a forward hook saw in the norms: were they the clean bits when completions were generated,
  when gradients were computed, and when the optimizer began its update?
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from hashlib import blake2b
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import srdd
from srdd.model.checkpoint import find
from srdd.model.load import load_model, load_tokenizer
from srdd.rin import RinCallback

PROMPTS = ["def area(width, height):\n", "for line in lines:\n", "class Point:\n", "import os\n"]


def spaces(completions: list[str], **rest: Any) -> list[float]:
    """The share of each completion that is spaces."""
    return [text.count(" ") / max(1, len(text)) for text in completions]


class Witness(TrainerCallback):
    """Notes the bits of the noisy norms at every stage of a step."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        self._norms = [model.get_submodule(name) for name in names]
        self._step = 0
        self.seen: dict[int, dict[str, str]] = {}
        self.clean = {0: self._bits()}
        self._norms[0].register_forward_pre_hook(self._before_forward)

    def _bits(self) -> str:
        digest = blake2b(digest_size=8)
        for norm in self._norms:
            digest.update(norm.weight.detach().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _before_forward(self, module: torch.nn.Module, given: object) -> None:
        self._note("gradients" if torch.is_grad_enabled() else "generation")

    def _note(self, when: str) -> None:
        self.seen.setdefault(self._step, {})[when] = self._bits()

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._step = state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._note("update")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.clean[self._step + 1] = self._bits()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--stages", type=int, default=3, help="stages of the schedule")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    checkpoint = find("demo")
    model = load_model(checkpoint, device="cpu").model
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    scan = srdd.scan_model(model, tokenizer, PROMPTS)
    config = srdd.suggest(
        scan, "variable", sigma_start=0.05, sigma_end=0.01, num_stages=given.stages
    )

    model.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=spaces,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=4,
                num_generations=4,
                max_completion_length=16,
                max_steps=given.steps,
                learning_rate=1e-3,
                logging_steps=1,
                seed=given.seed,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS * given.steps}),
            processing_class=tokenizer,
        )
        witness = Witness(model, [m.name for entry in config.layers for m in entry.modules])
        trainer.add_callback(witness)
        trainer.remove_callback(PrinterCallback)
        noise = RinCallback(config, seed=given.seed)
        with noise.on(trainer):
            trainer.train()
        show(trainer.state.log_history, witness)


def show(history: list[dict[str, Any]], witness: Witness) -> None:
    """A line for each step, from the trainer's log and what the witness saw."""
    logs = {entry["step"] - 1: entry for entry in history if "loss" in entry}
    lines = ["step   sigma   energy  unchanged  reward  generation  gradients  update from"]
    for step, seen in sorted(witness.seen.items()):
        log, clean = logs[step], witness.clean[step]
        bits = {when: "clean" if found == clean else "noisy" for when, found in seen.items()}
        lines.append(
            f"{step:4} {log['rin/sigma']:7.4f} {log['rin/energy']:8.3f} "
            f"{100 * log['rin/unchanged']:8.0f} % {log['reward']:7.3f}  {bits['generation']:10}  "
            f"{bits['gradients']:9}  {bits['update']}"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
