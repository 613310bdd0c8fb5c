"""`srdd recipe FILE`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import made_recipes
import pytest

from srdd.cli.app import run

ROLLOUT = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "float",
                "strategy": "tensor_group",
                "group_size": 16,
            },
        }
    },
    "ignore": ["lm_head"],
}
TRAINING = "qat: {mode: w4a16, ignore_patterns: [lm_head, %s]}"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "rollout.json").write_text(json.dumps({"quantization_config": ROLLOUT}))
    (tmp_path / "train.yaml").write_text(TRAINING % "mlp.gate")
    (tmp_path / "good.yaml").write_text(TRAINING % "lm_head")
    (tmp_path / "recipe.json").write_text(json.dumps(made_recipes.content()))
    return tmp_path


def check(*arguments: str) -> int:
    return run(["recipe", *arguments])


def test_two_files_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    code = check(
        "train.yaml", "--check", "demo", "--for", "verl",
        "--against", "rollout.json", "--against-for", "vllm",
    )  # fmt: skip
    shown = capsys.readouterr()
    assert code == 1
    text = " ".join(shown.out.split())
    assert "demo with train.yaml as verl (FSDP) reads it and rollout.json as vLLM reads it" in text
    assert "wrong: 12 modules in bf16 (train.yaml) and in nvfp4 (weight) (rollout.json)" in text
    assert "wrong: mlp.gate (ignore_patterns) keeps 12 linears out of quantization" in text
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80


def test_two_files_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    code = check(
        "good.yaml", "--check", "demo", "--for", "verl",
        "--against", "rollout.json", "--against-for", "vllm",
    )  # fmt: skip
    assert code == 0
    assert "nothing wrong." in capsys.readouterr().out


def test_all_modules(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("good.yaml", "--check", "demo", "--for", "verl", "--all") == 0
    assert "model.layers.11.mlp.down_proj" in capsys.readouterr().out


def test_into_a_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("train.yaml", "--check", "demo", "--for", "verl", "-o", "check.txt") == 1
    assert "wrong: mlp.gate" in (files / "check.txt").read_text()
    assert capsys.readouterr().out == ""


def test_a_recipe_is_exported_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe is of another model, most of whose linears are the demo's, too."""
    assert check("recipe.json", "--check", "demo", "--for", "compressed-tensors") == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "mxfp4 linear 7" in text


def test_an_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("recipe.json", "--for", "compressed-tensors") == 0
    shown = capsys.readouterr()
    config = json.loads(shown.out)["quantization_config"]
    assert config["ignore"] == ["lm_head", r"re:^model\.layers\.0\.mlp\.down_proj$"]
    assert "by the rule even; the recipe was chosen with floor" in " ".join(shown.err.split())


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("rollout.json --check demo", "--check needs --for", "compressed-tensors, vllm, verl"),
        ("rollout.json --check demo --for vlm", "unknown consumer 'vlm'", "choose from: vllm"),
        ("none.json --check demo --for vllm", "cannot read none.json", "name a file"),
        ("rollout.json --check ./nowhere --for vllm", "there is no folder", "models here"),
        ("train.yaml --check demo --for vllm", "no config_groups", "that has config_groups"),
        ("recipe.json --check demo --for verl", "is not written for verl", "export it for one of"),
        ("recipe.json --bits 5", "--bits does nothing with a recipe", "leave it out"),
        ("recipe.json --check demo --for vllm --bits 5", "nothing with --check", "leave it out"),
        (
            "recipe.json --for megatron",
            "no mxfp4 for weight and input",
            "nearest that it has: nvfp4",
        ),
        ("recipe.json --for vllm --against x", "--against needs --check", "add --check MODEL"),
        ("a --check demo --for vllm --against-for verl", "needs --against", "second file"),
    ],
)
def test_refused(
    arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(*arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    text = " ".join(shown.err.split())
    assert message in text
    assert hint in text


DOCUMENTATION = Path(__file__).parents[2] / "docs" / "recipes.md"


def test_the_example_of_the_documentation(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    found = {
        name: re.findall(rf"```{name}\n(.*?)```", text, re.DOTALL) for name in ("yaml", "json")
    }
    (files / "train.yaml").write_text(found["yaml"][0])
    (files / "rollout.json").write_text(found["json"][0])
    (line,) = re.findall(r"^    srdd recipe (train.yaml .*)$", text, re.MULTILINE)
    assert check(*line.split()) == 1
    shown = "\n".join(each.rstrip() for each in capsys.readouterr().out.splitlines())
    assert shown in text


def test_hostile_names_are_escaped(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = {**ROLLOUT, "ignore": ["\x1b[2Jlm_head\n"]}
    (files / "hostile.json").write_text(json.dumps(hostile))
    assert check("hostile.json", "--check", "demo", "--for", "vllm") == 1
    assert "\x1b" not in capsys.readouterr().out
