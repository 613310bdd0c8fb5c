"""`srdd eval` inside one process and in a pipe: table, document, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import families
import pytest
from made_recipes import for_llama

from srdd import load_rin, load_scan, suggest
from srdd.cli import app
from srdd.cli.eval import operands, read_recipes
from srdd.documents.evaluation import Evaluation
from srdd.errors import UsageError
from srdd.model import load
from srdd.noise.exports import export

TEXT = "What is 12 times 12?\nOnce upon a time.\ndef add(a, b):\nHello there\n"


class Told(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """Runs the command in the folder of the test."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: object) -> Told:
        self._capfd.readouterr()
        code = app.run([str(argument) for argument in arguments])
        return Told(code, *self._capfd.readouterr())

    def fails(self, *arguments: object) -> tuple[str, str]:
        """Message and hint of a command that has to fail the way input errors do."""
        told = self(*arguments)
        assert told.code == 2, told
        assert told.out == ""
        found = re.search(r"^error: (.*)\nhint: (.*)\n\Z", told.err, re.MULTILINE)
        assert found, told.err
        return found[1], found[2]


@pytest.fixture
def srdd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return Command(capfd)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def rin(folder: Path, tmp_path: Path, srdd: Command) -> Path:
    """A noise configuration for the model in `folder`."""
    told = srdd("scan", folder, "--limit", 2, "-o", "scan.json")
    assert told.code == 0, told.err
    config = suggest(load_scan("scan.json"), strategy="uniform")
    file = tmp_path / "rin.json"
    file.write_text(export(config, "srdd"))
    return file


def table(text: str) -> list[str]:
    """The header and the rows of the only table."""
    lines = text.splitlines()
    rule = next(n for n, line in enumerate(lines) if line and set(line) <= {"─", "-"})
    header = next(line for line in reversed(lines[:rule]) if line.startswith("weights"))
    rows = lines[rule + 1 :]
    return [header, *rows[: next(n for n, row in enumerate(rows) if not row or row[0] == "(")]]


def test_a_table_with_the_model_as_it_is_first(srdd: Command, folder: Path, text: Path) -> None:
    told = srdd("eval", folder, "--prompts", text)
    assert told.code == 0, told.err
    assert "4 prompts, 58 predicted tokens" in " ".join(told.out.split())
    header, *rows = table(told.out)
    assert header.split()[:2] == ["weights", "activations"]
    assert header.split()[-1] == "KL"
    assert [row.split()[:2] for row in rows] == [
        ["float32", "float32"],
        ["mxfp4:floor", "mxfp4:floor"],
    ]
    assert max(map(len, told.out.splitlines())) <= 80
    assert "evaluating 4 prompts in 1 variant" in told.err
    assert not list(Path().iterdir())


def test_several_formats_side_by_side(srdd: Command, folder: Path, text: Path) -> None:
    told = srdd(
        *("eval", folder, "--prompts", text, "--format", "mxfp4:even", "--format", "nvfp4"),
        *("--weights", "int4_g32", "-o", "out.json"),
    )
    assert told.code == 0, told.err
    found = Evaluation.load("out.json")
    assert [(result.weights, result.activations) for result in found.results] == [
        (None, None),
        ("mxfp4:even", "mxfp4:even"),
        ("nvfp4:token", "nvfp4:token"),
        ("int4_g32:absmax", None),
    ]
    assert all(result.kl > 0 for result in found.results[1:])
    assert found.text.predicted == [19, 16, 13, 10]
    rows = table(told.out)[1:]
    assert len(rows) == 4
    for result, row in zip(found.results[1:], rows[1:], strict=True):
        assert f"{result.kl:.4f}" in row.split()


def test_the_document_alone_goes_to_standard_output(
    srdd: Command, folder: Path, text: Path
) -> None:
    told = srdd("eval", folder, "--prompts", text, "--limit", 2, "-o", "-")
    found: dict[str, Any] = json.loads(told.out)
    assert found["kind"] == "srdd.evaluation"
    assert found["text"]["indices"] == [0, 1]
    assert found["run"]["command"].startswith("srdd")


def test_a_file_is_kept_unless_forced(srdd: Command, folder: Path, text: Path) -> None:
    Path("out.json").write_text("mine")
    message, hint = srdd.fails("eval", folder, "--prompts", text, "-o", "out.json")
    assert ("exists already" in message, "--force" in hint) == (True, True)
    assert Path("out.json").read_text() == "mine"
    assert srdd("eval", folder, "--prompts", text, "-o", "out.json", "--force").code == 0
    assert Evaluation.load("out.json").results


def test_a_text_is_read_as_one(srdd: Command, folder: Path, text: Path) -> None:
    told = srdd("eval", folder, "--text", text, "--max-length", 16, "--limit", 3, "-o", "out.json")
    assert told.code == 0, told.err
    found = Evaluation.load("out.json")
    assert (found.text.form, found.text.predicted) == ("text", [15, 15, 15])
    assert (found.text.source, found.text.max_length) == (str(text), 16)
    assert "3 pieces, 45 predicted tokens" in told.out


def test_patterns_select_what_is_simulated(srdd: Command, folder: Path, text: Path) -> None:
    told = srdd("eval", folder, "--prompts", text, "--include", "mlp", "-o", "out.json")
    assert told.code == 0, told.err
    found = Evaluation.load("out.json")
    assert found.results[1].simulated == 9
    assert found.settings.include == ["mlp"]


def test_noise_doubles_the_rows(srdd: Command, folder: Path, text: Path, rin: Path) -> None:
    told = srdd(
        *("eval", folder, "--prompts", text, "--rin", rin, "--step", 40, "--total-steps", 100),
        *("-o", "out.json", "--seed", 3),
    )
    assert told.code == 0, told.err
    found = Evaluation.load("out.json")
    assert [result.noise for result in found.results] == [False, True, False, True]
    assert found.settings.noise.config == str(rin)
    assert (found.settings.noise.step, found.settings.noise.seed) == (40, 3)
    assert "noise: uniform at step 40 of 100, seed 3" in " ".join(told.out.split())
    assert found.results[1].kl > 0


def test_noise_alone_is_measured_stage_by_stage_beside_what_the_newest_scan_predicts(
    srdd: Command, folder: Path, text: Path, rin: Path
) -> None:
    told = srdd("eval", folder, "--prompts", text, "--rin", rin, "-o", "none.json")
    assert told.code == 0, told.err
    assert "Nothing here predicts these figures: run `srdd scan" in " ".join(told.out.split())
    assert [one.ratio for one in Evaluation.load("none.json").noise_stages.stages] == [None] * 9

    scanned = srdd("scan", folder, "--prompts", text, "--kl", "--kl-check", 0, "-o", "kl.json")
    assert scanned.code == 0, scanned.err
    told = srdd("eval", folder, "--prompts", text, "--rin", rin, "-o", "out.json")
    assert told.code == 0, told.err
    assert "read kl.json for the KL that it predicts" in told.err
    assert "Predicted by kl.json, from the same prompts" in " ".join(told.out.split())
    assert max(map(len, told.out.splitlines())) <= 80
    found = Evaluation.load("out.json").noise_stages
    assert found.scan == "kl.json"
    assert [one.stage for one in found.stages] == list(range(1, 10))
    predicted = [row["kl"] for row in load_scan("kl.json").noise_kl(load_rin(rin))]
    assert [one.predicted for one in found.stages] == pytest.approx(predicted[1:])
    assert all(one.ratio_interval for one in found.stages)

    named = srdd("eval", folder, "--prompts", text, "--rin", rin, "--scan", "kl.json")
    assert "Predicted by kl.json" in named.out
    message, hint = srdd.fails("eval", folder, "--rin", rin, "--scan", "scan.json")
    assert "does not say what" in message
    assert "--kl" in hint


def test_a_configuration_of_another_model_is_refused(
    srdd: Command, text: Path, rin: Path, tokenizer: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    families.new("llama", num_hidden_layers=2).save_pretrained(other)
    tokenizer.save_pretrained(other)
    message, hint = srdd.fails(
        *("eval", other, "--prompts", text, "--rin", rin, "--step", 40, "--total-steps", 100)
    )
    assert "3 layers" in message, message
    assert "2" in message
    assert "scan" in hint


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe for the model in `folder`."""
    file = tmp_path / "recipe.json"
    formats = {f"model.layers.{layer}.mlp.down_proj": "bf16" for layer in (0, 2)}
    for_llama(families.shared("llama"), formats).save(file)
    return file


def test_a_recipe_runs_beside_its_lowest_format(
    srdd: Command, folder: Path, text: Path, recipe: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    for_llama(families.shared("llama"), {}, "weight").save(other)
    told = srdd(
        *("eval", folder, "--prompts", text, "--recipe", recipe, "--recipe", other),
        *("-o", "out.json"),
    )
    assert told.code == 0, told.err
    found = Evaluation.load("out.json")
    assert [each.name for each in found.recipes] == ["recipe.json", "other.json"]
    assert max(map(len, told.out.splitlines())) <= 80
    words = " ".join(told.out.split())
    kl = {one.assigned.name: one.kl for one in found.results if one.assigned}
    for each in found.recipes:
        assert f"{each.name} costs {1000 * kl[each.name]:.2f} ±" in words
        assert f"(ratio {each.ratio:.2f})" in words
    for one in found.recipes[0].others:
        shown = f"{1000 * one.kl_difference:+.2f}"
        assert f"{shown if shown.strip('+-0.') else '0.00'} ±" in told.out
    assert "Predictions of the next token" not in told.out


def test_recipes_of_one_name_go_by_their_paths(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / recipe.name
    other.write_bytes(recipe.read_bytes())
    assert list(read_recipes([str(recipe), str(recipe)])) == ["recipe.json"]
    assert list(read_recipes([str(recipe), str(other)])) == [str(recipe), str(other)]


def test_formats_stand_in_a_table_of_their_own(
    srdd: Command, folder: Path, text: Path, recipe: Path
) -> None:
    told = srdd("eval", folder, "--prompts", text, "--recipe", recipe, "--format", "nvfp4")
    assert told.code == 0, told.err
    assert [row.split()[0] for row in table(told.out)[1:]] == ["float32", "nvfp4:token"]
    assert "recipe.json beside others" in told.out


def test_a_recipe_for_another_model_is_refused_before_its_weights_are_read(
    srdd: Command,
    text: Path,
    recipe: Path,
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "load_model", lambda *given, **named: pytest.fail("it was loaded"))
    other = tmp_path / "other"
    families.new("phi3").save_pretrained(other)
    tokenizer.save_pretrained(other)
    message, hint = srdd.fails("eval", other, "--prompts", text, "--recipe", recipe)
    assert message.startswith("recipe.json names 15 linears that this model does not have")
    assert "qkv_proj" in hint


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--recipe", "none.json"), "no file none.json", "name"),
        (("--recipe", "{recipe}", "--include", "mlp"), "--recipe excludes", "--pattern"),
        (("--recipe", "-", "--prompts", "-"), "standard input", "file"),
        (("--format", "mxfp3"), "unknown format 'mxfp3'", "mxfp4"),
        (("--weights", "mxfp4:odd"), "unknown scale rule", "floor"),
        (("--activations", "fp4"), "unknown format 'fp4'", "mxfp4"),
        (("--rin", "rin.json", "--step", 3), "--step and --total-steps belong", "--step 30"),
        (("--step", 3), "--step and --total-steps belong together", "--rin rin.json"),
        (("--total-steps", 3), "--step and --total-steps belong together", "--rin rin.json"),
        (
            ("--rin", "rin.json", "--step", 9, "--total-steps", 9),
            "--step 9 is outside a run of 9 steps",
            "0 to 8",
        ),
        (
            ("--rin", "rin.json", "--step", 0, "--total-steps", 0),
            "Invalid value for '--total-steps'",
            "eval --help",
        ),
        (("--rin", "none.json", "--step", 1, "--total-steps", 9), "no file none.json", "name"),
        (("--text", "none.txt"), "cannot read none.txt", "text file"),
        (("--text", "a.txt", "--skip", 1), "--text excludes", "leave one out"),
        (("--prompts", "-", "--text", "-"), "--text excludes", "leave one out"),
        (("--rin", "-", "--step", 1, "--total-steps", 9, "--text", "-"), "standard input", "file"),
        (("--max-length", 1), "Invalid value for '--max-length'", "eval --help"),
        (("--batch-size", "0"), "--batch-size is 0", "auto"),
        (("--dtype", "fp4"), "unknown dtype", "bfloat16"),
        (("--seed", -1), "Invalid value for '--seed'", "eval --help"),
        (("--include", "nothing"), "fits no linear", "names look like"),
        (("--exclude", "*"), "leave no linear", "drop"),
        (("--format", "mxfp4+hadamard64"), "cannot be rotated in groups of 64", "divides 96"),
    ],
)
def test_bad_input_is_refused(
    srdd: Command,
    folder: Path,
    recipe: Path,
    arguments: tuple[object, ...],
    message: str,
    hint: str,
) -> None:
    given = [recipe if argument == "{recipe}" else argument for argument in arguments]
    told, next_step = srdd.fails("eval", folder, *given)
    assert message in told
    assert hint in next_step


def test_noise_in_another_format_says_how_to_write_it(srdd: Command, folder: Path) -> None:
    Path("rin.yaml").write_text("trainer:\n  noise_injection:\n")
    message, hint = srdd.fails("eval", folder, "--rin", "rin.yaml", "--step", 1, "--total-steps", 9)
    assert "rin.yaml is not valid JSON" in message
    assert "srdd suggest --for srdd" in hint


def test_a_text_with_nothing_to_predict_is_refused(
    srdd: Command, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "short.txt"
    for content, message in (
        ("a", "the text has 1 token, fewer than one piece of"),
        (" \n", "is blank"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert message in srdd.fails("eval", folder, "--text", file)[0]


def test_formats_of_the_operands() -> None:
    assert operands([], [], []) == [("mxfp4:floor", "mxfp4:floor")]
    assert operands(["nvfp4", "mxfp4:even"], [], []) == [
        ("nvfp4:token", "nvfp4:token"),
        ("mxfp4:even", "mxfp4:even"),
    ]
    assert operands([], ["mxfp4"], []) == [("mxfp4:floor", None)]
    assert operands(["mxfp4"], [], ["nvfp4"]) == [
        ("mxfp4:floor", "mxfp4:floor"),
        (None, "nvfp4:token"),
    ]
    with pytest.raises(UsageError):
        operands(["mxfp4"], ["mxfp5"], [])


def test_a_pipe_gets_plain_lines_and_its_end_no_traceback(folder: Path, text: Path) -> None:
    command = [sys.executable, "-m", "srdd", "eval", str(folder), "--prompts", str(text)]
    run = subprocess.run(
        f"{' '.join(command)} | head -1", shell=True, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.startswith(str(folder)[:40])
    assert "Traceback" not in run.stderr
    assert "\x1b" not in run.stdout + run.stderr


@pytest.mark.parametrize("columns", ["40", "60", "80"])
def test_no_figure_is_cut_however_long_the_names(
    columns: str, srdd: Command, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    formats = ("--weights", "mxfp4+hadamard32", "--activations", "mxfp8_e4m3+hadamard32")
    told = srdd("eval", folder, "--prompts", text, *formats, "-o", f"{columns}.json")
    assert told.code == 0, told.err
    row = table(told.out)[2]
    kl = Evaluation.load(f"{columns}.json").results[1].kl
    assert kl is not None
    assert row.split()[:2] == ["mxfp4+hadamard32:floor", "mxfp8_e4m3+hadamard32:floor"]
    assert f"{kl:.4f}" in row.split()
    assert "hidden at this width" in " ".join(told.out.split())


@pytest.mark.parametrize("option", ["--weights", "--activations"])
def test_an_operand_is_named_once(option: str, srdd: Command, text: Path) -> None:
    given = (option, "mxfp4", option, "nvfp4")
    message, hint = srdd.fails("eval", "demo", "--prompts", text, *given)
    assert message == f"{option} is given 2 times"
    assert "--format" in hint
