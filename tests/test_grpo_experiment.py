"""The GRPO experiment: exact scores, what is quantized when, noise of equal KL, pairing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import srdd

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.append(str(EXAMPLES))

from experiment import figures, plan, policy, rollouts, sums  # noqa: E402

SETTINGS = dataclasses.replace(rollouts.QUICK, policy=policy.Policy(layers=2, steps=0))


@pytest.fixture
def model() -> nn.Module:
    made = policy.new(SETTINGS.policy)
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(8)  # sharp predictions, so that roundings show
    return made.requires_grad_(True)


def test_held_out_sums_are_never_trained_on() -> None:
    train, held_out = sums.split()
    assert len(train) + len(held_out) == 10_000 == len({*train, *held_out})
    assert sums.Sum(27, 58).prompt + sums.Sum(27, 58).answer == "27+58=085"


def test_scores_are_those_of_generating(model: nn.Module) -> None:
    """Half of the answers are replaced by what the model really generates."""
    some = sums.split()[1][:40]
    tokenizer = sums.tokenizer()
    ids = torch.tensor([tokenizer(one.prompt).input_ids for one in some])
    assert sums.encode(some)[:, : sums.PROMPT].tolist() == ids.tolist()
    written = model.generate(ids, max_new_tokens=4, do_sample=False)
    truth = sums.encode(some)
    right = (written[:, : truth.shape[1]] == truth).all(1).float().mean().item()
    found = sums.scores(model, some)
    assert found["accuracy"] == pytest.approx(right)
    with torch.no_grad():
        logits = model(input_ids=truth).logits.double()
    by_hand = [
        float(torch.stack([logits[n, t - 1].softmax(-1)[truth[n, t]] for t in range(6, 10)]).prod())
        for n in range(len(some))
    ]
    assert found["reward"] == pytest.approx(sum(by_hand) / len(by_hand))


def test_errors_of_a_trained_policy_are_those_of_its_own_rounded_weights(model: nn.Module) -> None:
    """Trainers replace a model's `forward`, and a copy that kept it would run the other model."""
    forward = model.forward
    model.forward = lambda *a, **k: forward(*a, **k)
    found = rollouts.errors(model, SETTINGS)["reward"]
    del model.forward
    rounded = {name: value.to(torch.bfloat16).float() for name, value in model.state_dict().items()}
    model.load_state_dict(rounded)
    held_out = sums.split()[1][: SETTINGS.held_out]
    assert found["bfloat16"] == pytest.approx(
        sums.scores(model, held_out)["reward"], rel=1e-9, abs=0
    )
    with srdd.simulate(model, weights="mxfp4", activations="mxfp4"):
        assert found["w4a4"] == pytest.approx(
            sums.scores(model, held_out)["reward"], rel=1e-9, abs=0
        )
    assert found["w4a4"] != pytest.approx(found["bfloat16"], rel=1e-3, abs=0)


def configs(model: nn.Module) -> tuple[srdd.Scan, dict[str, srdd.RinConfig]]:
    scan = rollouts.scan_of(model, SETTINGS)
    return scan, dict(rollouts.configs_of(scan, SETTINGS, (1.0, 0.1), 2))


def test_all_arms_of_a_level_cost_the_same_in_every_stage(model: nn.Module) -> None:
    scan, found = configs(model)
    assert len(found) == 2 * (5 + 2)  # shuffled noise is dealt anew for both seeds
    costs = scan.joint_kl()
    for name, config in found.items():
        factor = 1.0 if "-level0" in name else 0.1
        stages = [row["kl"] for row in scan.noise_kl(config)]
        assert stages[0] == 0
        assert stages[1] == pytest.approx(
            factor * (costs["measured"] or costs["predicted"]), rel=2e-3
        )
        assert stages[2] == pytest.approx(stages[1] / 1e4, rel=2e-3)


def test_rollouts_are_quantized_and_noisy_and_gradients_are_neither(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = configs(model)
    linear, norm = model.model.layers[0].mlp.up_proj, model.model.layers[0].input_layernorm
    clean = norm.weight.detach().clone()
    seen: list[tuple[bool, bool, bool]] = []
    simulated: list[bool] = []
    simulate = srdd.simulate

    def watched(*args: Any, **kwargs: Any) -> Any:
        simulated.append(True)
        return simulate(*args, **kwargs)

    monkeypatch.setattr(srdd, "simulate", watched)

    def note(module: nn.Module, given: Any) -> None:
        quantized = linear.forward.__qualname__ != nn.Linear.forward.__qualname__
        seen.append(
            (torch.is_grad_enabled(), quantized, not torch.equal(norm.weight.detach(), clean))
        )

    model.model.layers[0].register_forward_pre_hook(note)
    still = dataclasses.replace(SETTINGS, rate=0.0)
    result = rollouts.train(model, found["uniform-level0"], still, seed=0)
    # With a learning rate of 0 the clean weights stay as they are.
    assert {each[1:] for each in seen if each[0]} == {(False, False)}
    assert {each[1:] for each in seen if not each[0]} == {(True, False), (True, True)}
    assert len(simulated) == SETTINGS.steps == len(result["rewards"])
    assert result["noise_energy"] > 0
    other = rollouts.train(model, None, still, seed=0)
    assert other["data"] == result["data"]
    assert other["noise_energy"] == 0


def test_the_kept_results_are_paired_and_the_readme_shows_their_table() -> None:
    import grpo_experiment
    from experiment import shown

    kept = json.loads((EXAMPLES / "grpo_experiment.json").read_text(encoding="utf-8"))
    levels = kept["facts"]["levels"]
    assert len(kept["runs"]) == kept["seeds"] * (1 + len(levels) * len(rollouts.ARMS))
    for seed in range(kept["seeds"]):
        assert len({run["data"] for run in kept["runs"] if run["seed"] == seed}) == 1
    found = figures.summary(
        figures.by_arm(kept["runs"]), len(levels), kept["before"], rollouts.ARMS
    )
    table = shown.table(found, levels, "mxfp4", rollouts.ARMS, grpo_experiment.ERRORS)
    assert max(map(len, table.splitlines())) <= 80
    assert f"```text\n{table}```" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_runs_of_a_seed_have_every_arm_once() -> None:
    runs = plan.runs_of(2, 1, rollouts.ARMS)
    assert [run.arm for run in runs] == ["none", *rollouts.ARMS, *rollouts.ARMS]


@pytest.mark.slow
def test_the_quick_experiment_runs_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "grpo_experiment.py"), "--quick", "--out", "out"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("shuffled") == 2
    (tmp_path / "out" / "runs" / "matched-level1-seed1.json").unlink()
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "going on: 25 of 26 runs are finished" in again.stderr
    assert again.stdout == first.stdout
