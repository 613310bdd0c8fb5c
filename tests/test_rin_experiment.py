"""The noise experiment: pairing, equal energy, clean bits, kept runs, and figures by hand."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import families
import made_scans
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import srdd
import srdd.rin
from srdd.errors import InputError, UsageError

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.append(str(EXAMPLES))

from experiment import figures, kept, plan, shown, text, training  # noqa: E402

ERRORS = (0.5, 0.3, 0.2)
SETTINGS = plan.Settings(
    steps=6, stages=3, batch=2, context=16, rate=1e-3, windows=8, site="output"
)
LEVEL = (0.05, 0.0005)


@pytest.fixture(scope="module")
def scan() -> srdd.Scan:
    return made_scans.made(ERRORS, size=families.HIDDEN, norms=("input_layernorm",))


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, families.VOCABULARY, size=2000)


@pytest.fixture
def model() -> nn.Module:
    return families.new("llama").float().requires_grad_(True)


def config_of(scan: srdd.Scan, arm: str = "uniform", seed: int = 0) -> srdd.RinConfig:
    found = plan.configs_of(scan, SETTINGS, [LEVEL], seed + 1)
    return found[str(plan.Run(0, arm, seed).config)]


def trained(model: nn.Module, ids: np.ndarray, config: Any = None, seed: int = 0) -> dict[str, Any]:
    return training.train(copy.deepcopy(model), config, ids, SETTINGS, seed)


# What is compared


def test_every_seed_has_one_run_of_each_arm_and_level_and_one_without_noise() -> None:
    runs = plan.runs_of(levels=2, seeds=3)
    assert len(runs) == 3 * (1 + 2 * 6) == len({run.name for run in runs})
    first = runs[: len(runs) // 3]
    assert {run.seed for run in first} == {0}
    assert [run.arm for run in first].count("none") == 1


def test_all_arms_of_a_level_have_equal_energy(scan: srdd.Scan) -> None:
    levels = [LEVEL, (0.01, 0.0001)]
    for name, config in plan.configs_of(scan, SETTINGS, levels, 2).items():
        start, end = levels[int(name.split("-level")[1][0])]
        # Three stages: a clean one, one at the start and one at the end, over 3 norms of 64.
        mean = 3 * 64 * (start**2 + end**2) / 3
        by_hand = sum(
            64 * (layer.multiplier * sigma) ** 2
            for tier in config.tiers
            for layer in tier.layers
            for sigma in (0.0, tier.schedule.sigma_start, tier.schedule.sigma_end)
        )
        assert by_hand / 3 == pytest.approx(mean, rel=1e-9), name
        assert plan.planned_energy(config, SETTINGS.steps) == pytest.approx(mean * 6, rel=1e-9)


def test_unequal_energy_is_noticed(scan: srdd.Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    suggest = srdd.suggest
    monkeypatch.setattr(
        srdd, "suggest", lambda *a, **k: suggest(*a, **{**k, "equal_energy": False})
    )
    with pytest.raises(RuntimeError, match="targeted-level0 is not that of uniform"):
        plan.configs_of(scan, SETTINGS, [LEVEL], 1)


def test_shuffled_noise_is_dealt_anew_for_each_seed() -> None:
    scan = made_scans.made([0.1 * n for n in range(1, 9)])
    found = plan.configs_of(scan, SETTINGS, [LEVEL], 3)
    dealt = [found[f"shuffled-level0-seed{seed}"] for seed in range(3)]
    orders = {tuple(layer.multiplier for layer in config.layers) for config in dealt}
    assert len(orders) > 1


def test_steps_that_do_not_divide_into_the_stages_are_refused() -> None:
    with pytest.raises(UsageError, match="55 steps do not divide into 10 equal stages"):
        plan.Settings(steps=55)


# One run


def test_the_text_of_a_step_follows_from_the_seed_and_not_from_the_arm(
    model: nn.Module, ids: np.ndarray, scan: srdd.Scan
) -> None:
    clean = trained(model, ids)
    noisy = trained(model, ids, config_of(scan))
    assert clean["data"] == noisy["data"] != trained(model, ids, seed=1)["data"]


def test_noise_begins_after_the_clean_stage_and_costs_the_energy_that_was_planned(
    model: nn.Module, ids: np.ndarray, scan: srdd.Scan
) -> None:
    config = config_of(scan)
    clean, noisy = trained(model, ids), trained(model, ids, config)
    assert noisy["losses"][:2] == clean["losses"][:2]
    assert noisy["losses"][2] != clean["losses"][2]
    assert clean["noise_energy"] == 0
    # 2 steps of 192 draws: their squares vary by sqrt(2 / 384), 7 %.
    planned = plan.planned_energy(config, SETTINGS.steps)
    assert noisy["noise_energy"] == pytest.approx(planned, rel=0.3)


def test_a_run_repeats_to_the_bit(model: nn.Module, ids: np.ndarray, scan: srdd.Scan) -> None:
    config = config_of(scan, "zone")
    assert trained(model, ids, config) == trained(model, ids, config)


def test_noise_that_stays_in_the_weights_ends_the_run(
    model: nn.Module, ids: np.ndarray, scan: srdd.Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def leaking(model: nn.Module, config: Any, *, step: int, **_: Any) -> Iterator[None]:
        yield
        if step == 3:
            with torch.no_grad():
                model.get_submodule("model.layers.1.input_layernorm").weight[0].add_(1e-6)

    monkeypatch.setattr(srdd.rin, "noisy", leaking)
    with pytest.raises(RuntimeError, match="norms of step 3 did not come back"):
        trained(model, ids, config_of(scan))


def test_training_runs_in_four_bits(model: nn.Module, ids: np.ndarray) -> None:
    first = text.batch_at(ids, 0, 0, SETTINGS.batch, SETTINGS.context)
    with torch.no_grad():
        plain = model(input_ids=first, labels=first).loss.item()
        with srdd.simulate(model, weights="mxfp4", activations="mxfp4"):
            simulated = model(input_ids=first, labels=first).loss.item()
    loss = trained(model, ids)["losses"][0]
    assert loss == pytest.approx(simulated, abs=1e-6)
    assert abs(loss - plain) > 1e-4


def test_held_out_losses_are_those_of_the_stored_weights(model: nn.Module, ids: np.ndarray) -> None:
    with torch.no_grad():
        model.get_submodule("lm_head").weight.mul_(100)  # so that rounding to 16 bits shows
    windows = torch.from_numpy(ids[: 125 * 16].reshape(125, 16)[[0, 18, 35, 53, 71, 89, 106, 124]])

    def loss(wide: nn.Module) -> float:
        with torch.no_grad():
            logits = wide(input_ids=windows).logits[:, :-1].reshape(-1, families.VOCABULARY)
        return functional.cross_entropy(logits, windows[:, 1:].reshape(-1)).item()

    expected = loss(copy.deepcopy(model).to(torch.bfloat16).double())
    found = training.held_out_losses(copy.deepcopy(model), ids, SETTINGS)
    assert found["bfloat16"] == pytest.approx(expected, abs=2e-5)
    assert abs(loss(copy.deepcopy(model).double()) - expected) > 2e-4
    assert abs(found["w4a4"] - expected) > 1e-2


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    settings = plan.Settings(steps=100, rate=1.0)
    rates = [training.learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


# Text


def write_sources(root: Path, contents: list[str]) -> None:
    root.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (root / f"module_{number:02}.py").write_text(content, encoding="utf-8")


def test_whole_files_are_held_out_by_name_and_copies_are_dropped(
    tmp_path: Path, tokenizer: Any
) -> None:
    write_sources(tmp_path, ["twice = 1\n", "twice = 1\n", "", *(f"x = {n}\n" for n in range(40))])
    found = text.read_text(tokenizer, tmp_path)
    assert found.facts["training_files"] + found.facts["held_out_files"] == 41
    assert 0 < found.facts["held_out_files"] < 15
    apart = [
        set(tokenizer.decode(ids.tolist()).split("<eos>"))
        for ids in (found.training, found.held_out)
    ]
    assert not apart[0] & apart[1] - {""}

    (tmp_path / "module_07.py").write_text("x = 99\n", encoding="utf-8")
    assert text.read_text(tokenizer, tmp_path).facts["fingerprint"] != found.facts["fingerprint"]


def test_too_few_sources_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    write_sources(tmp_path, ["x = 1\n"])
    with pytest.raises(InputError, match=r"1 files of Python sources .* too few"):
        text.read_text(tokenizer, tmp_path)


def test_windows_are_spread_and_never_overlap() -> None:
    windows = text.spread_windows(np.arange(103), context=10, count=4)
    assert windows[:, 0].tolist() == [0, 30, 60, 90]
    assert len(text.spread_windows(np.arange(35), context=10, count=4)) == 3


# Kept runs

FACTS = {"settings": {"steps": 6}, "levels": [[0.05, 0.0005]], "model": "a"}
RUN = plan.Run(0, "uniform", 0)


def test_a_kept_run_comes_back(tmp_path: Path, scan: srdd.Scan) -> None:
    config = config_of(scan)
    folder = kept.open_folder(tmp_path, FACTS)
    assert folder.read(RUN, config) is None
    folder.keep(RUN, config, {"seed": 0})
    found = kept.open_folder(tmp_path, FACTS).read(RUN, config)
    assert found is not None
    assert found["seed"] == 0


def test_a_folder_of_another_experiment_is_refused(tmp_path: Path) -> None:
    kept.open_folder(tmp_path, FACTS)
    with pytest.raises(InputError, match="an experiment with other model"):
        kept.open_folder(tmp_path, FACTS | {"model": "b"})


def test_runs_of_another_experiment_or_another_noise_are_never_mixed_in(
    tmp_path: Path, scan: srdd.Scan
) -> None:
    config = config_of(scan)
    other = kept.open_folder(tmp_path / "other", FACTS | {"model": "b"})
    other.keep(RUN, config, {})
    folder = kept.open_folder(tmp_path / "this", FACTS)
    folder.file_of(RUN).write_bytes(other.file_of(RUN).read_bytes())
    with pytest.raises(InputError, match="is of another experiment"):
        folder.read(RUN, config)
    folder.keep(RUN, config_of(scan, "targeted"), {})
    with pytest.raises(InputError, match="holds another run, or one with other noise"):
        folder.read(RUN, config)
    folder.file_of(RUN).write_text('{"key": ')
    with pytest.raises(InputError, match="is not JSON"):
        folder.read(RUN, config)


# Figures


def result(arm: str, level: int | None, seed: int, loss: float, data: str = "") -> dict[str, Any]:
    return {
        "run": plan.Run(level, arm, seed).name,
        "arm": arm,
        "level": level,
        "seed": seed,
        "data": data or f"of seed {seed}",
        "held_out": {"w4a4": loss, "bfloat16": loss - 0.1},
        "noise_energy": 0.0 if level is None else 1.0,
    }


CLEAN = (3.0, 3.4, 3.2)


def results(shift: dict[str, tuple[float, float, float]]) -> figures.Results:
    none = [result("none", None, seed, loss) for seed, loss in enumerate(CLEAN)]
    found: dict[tuple[int | None, str], list[dict[str, Any]]] = {(None, "none"): none}
    for arm in plan.ARMS:
        by = shift.get(arm, (0.1, -0.1, 0.0))
        found[0, arm] = [result(arm, 0, seed, loss + by[seed]) for seed, loss in enumerate(CLEAN)]
    return found


def test_an_interval_is_students_t_over_seeds() -> None:
    found = figures.interval([1.0, 2.0, 3.0])
    # t of 0.975 with 2 degrees of freedom is 4.3027, from a table; the standard deviation is 1.
    assert found["mean"] == 2.0
    assert found["half_width"] == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    with pytest.raises(ValueError, match="two seeds"):
        figures.interval([1.0])


def test_differences_are_paired_by_seed() -> None:
    # Seeds differ by 0.2, the arm from no noise by 0.01 everywhere: pairing takes the seeds out.
    found = figures.summary(results({"zone": (-0.011, -0.010, -0.009)}), 1, BEFORE)
    zone = next(row for row in found["rows"] if row["arm"] == "zone")
    assert zone["w4a4"]["to_none"]["mean"] == pytest.approx(-0.010)
    half_width = 0.001 * 4.3027 / math.sqrt(3)
    assert zone["w4a4"]["to_none"]["half_width"] == pytest.approx(half_width, rel=1e-3)
    assert zone["w4a4"]["loss"]["half_width"] > 0.4
    assert found["comparisons"]["number"] == 6
    assert found["comparisons"]["exclude_zero"] == 1
    assert found["comparisons"]["of_these_lower_loss"] == 1
    assert found["comparisons"]["by_chance"] == pytest.approx(0.3)
    # t of 1 - 0.05 / 12 is 10.886: the interval widens to 0.0063, and still excludes 0.
    assert found["comparisons"]["exclude_zero_bonferroni"] == 1
    weaker = figures.summary(results({"zone": (-0.013, -0.010, -0.007)}), 1, BEFORE)
    assert weaker["comparisons"]["exclude_zero"] == 1
    assert weaker["comparisons"]["exclude_zero_bonferroni"] == 0


BEFORE = {"w4a4": 4.0, "bfloat16": 3.9}


def test_runs_that_saw_other_text_are_no_pair() -> None:
    runs = [result("zone", 0, seed, 3.0, "other") for seed in range(2)]
    clean = [result("none", None, seed, 3.0) for seed in range(2)]
    with pytest.raises(RuntimeError, match="are no pair"):
        figures.paired(runs, clean, "w4a4")


def test_the_table_says_when_training_taught_nothing() -> None:
    level = [LEVEL]
    taught = figures.summary(results({}), 1, BEFORE)
    untaught = figures.summary(results({}), 1, {"w4a4": 3.3, "bfloat16": 3.2})
    assert "says nothing about noise" not in shown.table(taught, level, "mxfp4")
    assert "says nothing about noise" in shown.table(untaught, level, "mxfp4")


def test_the_table_has_every_arm_on_eighty_columns() -> None:
    shift = dict.fromkeys(plan.ARMS, (-1.0, -1.01, -1.02))
    found = shown.table(figures.summary(results(shift), 1, BEFORE), [LEVEL], "mxfp4")
    assert max(map(len, found.splitlines())) <= 80
    rows = [line.split() for line in found.splitlines()]
    assert [row[0] for row in rows if row and row[0] in plan.ARMS] == list(plan.ARMS)
    assert "-1.0100 ±0.0248*" in found


def test_the_plot_is_the_same_file_for_the_same_figures(tmp_path: Path) -> None:
    found = results({})
    summary = figures.summary(found, 1, BEFORE)
    for name in ("a.svg", "b.svg"):
        shown.draw(found, summary, [LEVEL], tmp_path / name)
    content = (tmp_path / "a.svg").read_bytes()
    assert content == (tmp_path / "b.svg").read_bytes()
    assert b"targeted" in content


# What the README says came out


def test_the_kept_results_are_paired_and_the_readme_shows_their_table() -> None:
    found = json.loads((EXAMPLES / "rin_experiment.json").read_text(encoding="utf-8"))
    levels = [tuple(level) for level in found["facts"]["levels"]]
    assert found["seeds"] >= 5
    assert len(found["runs"]) == found["seeds"] * (1 + len(levels) * len(plan.ARMS))
    by_arm: dict[Any, list[Any]] = {}
    for run in found["runs"]:
        by_arm.setdefault((run["level"], run["arm"]), []).append(run)
    before = found["summary"]["training"]["before"]
    summary = figures.summary(by_arm, len(levels), before)
    assert summary["comparisons"] == found["summary"]["comparisons"]
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- table: rin_experiment.json -->\n```text\n")[2].partition("```")[
        0
    ]
    assert table == shown.table(summary, levels, found["facts"]["settings"]["format"])


# The command

LEVELS = ("--sigma", "0.05:0.0005", "--sigma", "0.01:0.0001")


def command(out: Path, *options: str) -> list[str]:
    script = str(EXAMPLES / "rin_experiment.py")
    return [sys.executable, script, "--quick", "--out", str(out), *LEVELS, *options]


def environment() -> dict[str, str]:
    return os.environ | {"COLUMNS": "80", "HF_HUB_OFFLINE": "1"}


def ran(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *options), capture_output=True, text=True, env=environment())


def test_a_sigma_that_is_no_schedule_is_refused() -> None:
    import rin_experiment

    for given, message in (
        ("0.05", "--sigma '0.05' is no schedule"),
        ("a:b", "--sigma 'a:b' is no schedule"),
        ("0.05:0", "sigma_end 0 gives one noisy stage and then silence"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            rin_experiment.parse_level(given, stages=10)
    assert rin_experiment.parse_level("0.05:0.0005", stages=10) == LEVEL


def test_the_duration_spans_all_commands_that_it_took() -> None:
    runs = [
        {"started": "2026-01-01T10:00:00+00:00", "elapsed_s": 30.0, "cpu_s": 20.0},
        {"started": "2026-01-01T10:05:00+00:00", "elapsed_s": 45.0, "cpu_s": 40.0},
        {"started": "2026-01-01T10:04:00+00:00", "elapsed_s": 5.0, "cpu_s": 4.0},
    ]
    found = kept.duration(runs)
    assert found["elapsed_s"] == 345.0
    assert found["cpu_s"] == 64.0


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], str]:
    """`--quick`, interrupted after its first run and then finished; what the first part kept."""
    out = tmp_path_factory.mktemp("experiment") / "out"
    with subprocess.Popen(
        command(out), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("1 of"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "the same command goes on" in rest
    assert "Traceback" not in rest
    there = {path.name: path.read_bytes() for path in (out / "runs").glob("*.json")}
    assert 1 <= len(there) < 26
    finished = ran(out)
    assert finished.returncode == 0, finished.stderr
    assert f"going on: {len(there)} of 26 runs are finished" in finished.stderr
    return out, there, finished.stdout


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_with_what_is_not_finished(
    quick: tuple[Path, dict[str, bytes], str],
) -> None:
    out, there, _ = quick
    for name, content in there.items():
        assert (out / "runs" / name).read_bytes() == content
    assert len(list((out / "runs").iterdir())) == 26


@pytest.mark.slow
def test_the_quick_experiment_is_paired_and_has_equal_energy(
    quick: tuple[Path, dict[str, bytes], str],
) -> None:
    out, _, table = quick
    found = json.loads((out / "results.json").read_text())
    assert len(found["runs"]) == 26
    for seed in range(2):
        assert len({run["data"] for run in found["runs"] if run["seed"] == seed}) == 1
    assert len({run["data"] for run in found["runs"]}) == 2
    for level in range(2):
        planned = [
            config["planned_noise_energy"]
            for name, config in found["configs"].items()
            if f"-level{level}" in name
        ]
        assert max(planned) == pytest.approx(min(planned), rel=1e-9)
        for run in found["runs"]:
            if run["level"] == level:
                # Two noisy steps of up to 3,072 weights, of which the first outweighs the second.
                assert run["noise_energy"] == pytest.approx(planned[0], rel=0.25), run["run"]
    assert all(run["noise_energy"] == 0 for run in found["runs"] if run["arm"] == "none")
    assert found["summary"]["comparisons"]["number"] == 12
    assert (out / "table.txt").read_text() == table
    assert table.count("shuffled") == 2
    assert (out / "differences.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_another_experiment_does_not_go_into_the_same_folder(
    quick: tuple[Path, dict[str, bytes], str],
) -> None:
    out, _, _ = quick
    before = (out / "results.json").read_bytes()
    refused = ran(out, "--sigma", "0.02:0.0002")
    assert refused.returncode == 2
    assert "holds an experiment with other levels" in refused.stderr
    assert (out / "results.json").read_bytes() == before
