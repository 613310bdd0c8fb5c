"""`srdd scan` inside one process: what it writes, what it says, and how it ends.

What only shows in a process of its own (signals, pipes, terminals) is in test_terminal.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import families
import pytest
import torch
import typer

from srdd import load_scan
from srdd.cli import app
from srdd.cli.scan import default_name, parse_thresholds
from srdd.errors import UsageError

TEXT = "What is 12 times 12?\nOnce upon a time.\ndef add(a, b):\nHello\n"
ESCAPE = "\x1b"


class Told(NamedTuple):
    """How a command ended, and what it wrote to its two streams."""

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
        assert told.code == 2
        assert told.out == ""
        found = re.search(r"^error: (.*)\nhint: (.*)\n\Z", told.err, re.MULTILINE)
        assert found, told.err
        assert "Traceback" not in told.err
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
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is an error: what fails, fails before."""

    def load(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("srdd.model.load.load_model", load)
    monkeypatch.setattr("srdd.model.load.load_tokenizer", load)


def left(folder: str | Path = ".") -> list[str]:
    """The files in a folder."""
    return sorted(entry.name for entry in Path(folder).iterdir())


# What it writes


def test_a_scan_is_written_and_shown(srdd: Command, saved_once: Path, text: Path) -> None:
    told = srdd("scan", saved_once, "--prompts", text, "-o", "scan.json")
    assert told.code == 0
    scan = load_scan("scan.json")
    assert (scan.model.name, scan.model.source) == (str(saved_once), "folder")
    assert (scan.calibration.source, scan.calibration.prompts) == (str(text), 4)
    assert left() == ["scan.json"]
    assert "site output" in told.out
    assert f"{scan.select()[0].metrics.sqnr_db:.1f}" in told.out


def test_results_go_to_standard_output_and_talk_to_standard_error(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    told = srdd("scan", saved_once, "--prompts", text, "-o", "scan.json")
    talk = told.err.splitlines()
    assert talk[0] == "loading torch and transformers"
    assert talk[1] == f"loading {saved_once}"
    assert "measuring 4 prompts: 56 tokens" in talk
    assert "wrote scan.json" in talk
    following = [line.split("`")[1].split()[1] for line in talk if line.startswith("next: ")]
    assert following == ["suggest", "report", "eval"]
    assert not set(talk) & set(told.out.splitlines())


def test_without_a_name_the_file_is_named_after_model_format_and_time(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    assert srdd("scan", saved_once, "--prompts", text, "--format", "mxfp4:even").code == 0
    (name,) = left()
    assert re.fullmatch(r"srdd-tiny-mxfp4-even-\d{8}-\d{6}\.json", name)
    assert load_scan(name).settings.formats == ["mxfp4:even"]


NOW = datetime(2026, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("model", "stem"),
    [
        ("Qwen/Qwen2.5-1.5B", "Qwen2.5-1.5B"),
        ("/models/tiny/", "tiny"),
        ("demo", "demo"),
        ("..", "model"),
        ("", "model"),
        ("$(rm -rf x); \x1b[31m", "rm--rf-x-31m"),
        ("été", "t"),
        ("x" * 300, "x" * 80),
    ],
)
def test_the_name_of_a_file_holds_nothing_that_a_shell_would_mind(model: str, stem: str) -> None:
    assert default_name(model, ["mxfp4:floor"], NOW) == Path(
        f"srdd-{stem}-mxfp4-floor-20260304-050607.json"
    )


def test_of_several_formats_the_first_gives_the_name() -> None:
    name = default_name("m", ["mxfp4:floor", "mxfp4:even", "mxfp4:ceil"], NOW)
    assert name.name == "srdd-m-mxfp4-floor-and-2-20260304-050607.json"


def test_a_dash_writes_only_the_document_to_standard_output(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    told = srdd("scan", saved_once, "--prompts", text, "-o", "-")
    assert told.code == 0
    assert json.loads(told.out)["kind"] == "srdd.scan"
    assert told.out.count("\n") == 1
    assert left() == []


def test_the_command_is_kept_in_the_document(
    srdd: Command, saved_once: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["scan", str(saved_once), "--prompts", str(text), "-o", "a b.json"]
    monkeypatch.setattr(sys, "argv", ["/bin/srdd", *arguments])
    srdd(*arguments)
    assert load_scan("a b.json").run.command == (
        f"srdd scan {saved_once} --prompts {text} -o 'a b.json'"
    )


def test_options_reach_the_scan(srdd: Command, saved_once: Path, text: Path) -> None:
    told = srdd(
        *("scan", saved_once, "--prompts", text, "-o", "scan.json", "--skip", "1", "--limit", "2"),
        *("--max-length", "9", "--batch-size", "1", "--rounding", "stochastic", "--seed", "5"),
        *("--format", "mxfp4:ceil", "--format", "mxfp4", "--site", "output", "--dtype", "bfloat16"),
        *("--threshold", "sqnr_db=3", "--skip-first-token", "--device", "cpu"),
    )
    assert told.code == 0, told.err
    scan = load_scan("scan.json")
    assert scan.settings.formats == ["mxfp4:ceil", "mxfp4:floor"]
    assert scan.settings.sites == ["output"]
    assert (scan.settings.rounding, scan.settings.seed) == ("stochastic", 5)
    assert scan.settings.thresholds.sqnr_db == 3
    assert (scan.calibration.prompts, scan.calibration.truncated) == (2, 2)
    assert (scan.calibration.max_length, scan.calibration.skip_first_token) == (9, True)
    assert (scan.model.dtype, scan.run.batch_size) == ("bfloat16", "1")


def test_two_halves_made_by_the_command_merge_into_the_whole(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    from srdd import merge_scans

    common = ["scan", saved_once, "--prompts", text, "--batch-size", "1", "-o"]
    srdd(*common, "a.json", "--limit", "2")
    srdd(*common, "b.json", "--skip", "2")
    srdd(*common, "whole.json")
    merged = merge_scans([load_scan("a.json"), load_scan("b.json")])
    assert merged.records == load_scan("whole.json").records


def test_prompts_are_read_from_standard_input(
    srdd: Command, saved_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert srdd("scan", saved_once, "--prompts", "-", "-o", "scan.json").code == 0
    text = load_scan("scan.json").calibration
    assert (text.source, text.prompts) == ("stdin", 4)


# Where it is written


def test_an_existing_file_is_kept(
    srdd: Command, saved_once: Path, text: Path, unloaded: None
) -> None:
    Path("scan.json").write_text("mine")
    message, hint = srdd.fails("scan", saved_once, "--prompts", text, "-o", "scan.json")
    assert (message, hint) == ("scan.json exists already", "name another file, or add --force")
    assert Path("scan.json").read_text() == "mine"


def test_an_existing_file_is_overwritten_when_asked(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    Path("scan.json").write_text("mine")
    assert srdd("scan", saved_once, "--prompts", text, "-o", "scan.json", "--force").code == 0
    assert load_scan("scan.json").calibration.prompts == 4


def test_a_missing_folder_is_told_before_the_model_is_loaded(
    srdd: Command, saved_once: Path, unloaded: None
) -> None:
    message, hint = srdd.fails("scan", saved_once, "-o", "new/scan.json")
    assert (message, hint) == ("there is no folder new", "mkdir -p 'new'")


def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_loaded(
    srdd: Command, saved_once: Path, unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not hold for the superuser, whom tests may run as.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message, _ = srdd.fails("scan", saved_once)
    assert message == ". is not writable"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_on_a_full_disk_what_was_measured_is_still_shown(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    told = srdd("scan", saved_once, "--prompts", text, "-o", "/dev/full")
    assert told.code == 2
    assert "site output" in told.out
    assert told.err.splitlines()[-2:] == [
        "error: cannot write /dev/full: the disk is full",
        "hint: free some space, or name a file elsewhere with --output",
    ]


# What is refused before anything is loaded

WRONG: dict[str, tuple[list[str], str, str]] = {
    "format": (["--format", "mxfp5"], "unknown format 'mxfp5'", "choose from: mxfp4"),
    "shortened": (["--format", "mxfp8"], "unknown format 'mxfp8'", "choose from: mxfp8_e4m3, "),
    "rule": (
        ["--format", "mxfp4:rcel"],
        "unknown scale rule for mxfp4 'rcel'",
        "choose from: rceil, ceil, ",
    ),
    "site": (["--site", "outputs"], "unknown site 'outputs'", "choose from: output"),
    "rounding": (["--rounding", "evn"], "unknown rounding 'evn'", "choose from: even, "),
    "dtype": (["--dtype", "float61"], "unknown dtype 'float61'", "choose from: float16, "),
    "threshold": (
        ["--threshold", "error=3"],
        "unknown metric 'error'",
        "choose from: relative_error, ",
    ),
    "threshold without number": (
        ["--threshold", "sqnr_db=low"],
        "--threshold 'sqnr_db=low' has no number",
        "write --threshold sqnr_db=0.1",
    ),
    "threshold as percentage": (
        ["--threshold", "deadzone=5"],
        "--threshold deadzone=5 is not a fraction",
        "5 % is written deadzone=0.05",
    ),
    "batch size": (
        ["--batch-size", "big"],
        "--batch-size is 'big'",
        "use auto, or a whole number from 1",
    ),
    "limit": (["--limit", "0"], "Invalid value for '--limit'", "see srdd scan --help"),
    "skip": (["--skip", "-1"], "Invalid value for '--skip'", "see srdd scan --help"),
    "length": (["--max-length", "0"], "Invalid value for '--max-length'", "see srdd scan"),
    "seed": (["--seed", "-1"], "Invalid value for '--seed'", "see srdd scan --help"),
    "prompts": (["--prompts", "gone.txt"], "there is no file gone.txt", "no name in . is"),
    "revision": (["--revision", "v1"], "demo is a folder", "leave out --revision"),
    "tokenizer": (["--tokenizer", "./gone"], "there is no folder gone", "models here: demo"),
    "option": (["--formt", "x"], "No such option: --formt", "did you mean --format"),
    "several": (["--fo", "x"], "No such option: --fo", "did you mean --fo"),
    "number": (
        ["--limit", "many"],
        "Invalid value for '--limit': ",
        "see srdd scan --help",
    ),
    "second model": (["other"], "Got unexpected extra argument", "see srdd scan --help"),
    "option without value": (["--format"], "Option '--format' requires an argument", "see srdd"),
}


@pytest.mark.parametrize(("arguments", "message", "hint"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_before_the_model_is_loaded(
    arguments: list[str], message: str, hint: str, srdd: Command, unloaded: None
) -> None:
    told = srdd.fails("scan", "demo", *arguments)
    assert told[0].startswith(message)
    assert told[1].startswith(hint)
    assert left() == []


def test_an_unknown_model_is_told(srdd: Command, unloaded: None) -> None:
    message, hint = srdd.fails("scan", "no/model")
    assert "there is no folder 'no/model'" in message
    assert hint == "models here: demo"


def test_a_folder_without_tokenizer_is_told(srdd: Command, folder: Path, unloaded: None) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert srdd.fails("scan", folder)[0] == f"{folder} has no tokenizer"


def test_weights_alone_need_neither_prompts_nor_tokenizer(srdd: Command, folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    told = srdd("scan", folder, "--site", "weight", "-o", "scan.json", "--prompts", "gone.txt")
    assert told.code == 0, told.err
    assert {record.site for record in load_scan("scan.json").records} == {"weight"}


def test_another_tokenizer_can_be_named(
    srdd: Command, folder: Path, saved_once: Path, text: Path
) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    told = srdd("scan", folder, "--tokenizer", saved_once, "--prompts", text, "-o", "scan.json")
    assert told.code == 0


# What is refused once the model is there


def test_prompts_longer_than_the_context_are_told(
    srdd: Command, tokenizer: Any, text: Path, tmp_path: Path
) -> None:
    families.new("llama", max_position_embeddings=4).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    told = srdd("scan", tmp_path / "short", "--prompts", text)
    assert told.code == 2
    assert told.err.splitlines()[-2:] == [
        "error: no prompt is left: 4 longer than the model's context of 4 tokens",
        "hint: cut them with --max-length 4",
    ]
    assert left() == []
    assert srdd("scan", tmp_path / "short", "--prompts", text, "--max-length", "4").code == 0


def test_broken_weights_are_told(srdd: Command, tokenizer: Any, tmp_path: Path) -> None:
    model = families.new("llama")
    model.model.norm.weight[3] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    told = srdd("scan", tmp_path / "broken")
    assert told.code == 2
    assert "error: the weights hold NaN or infinity: model.norm.weight\n" in told.err
    assert left() == []


def test_broken_activations_are_told_loudly(
    srdd: Command, tokenizer: Any, text: Path, tmp_path: Path
) -> None:
    model = families.new("llama").to(torch.float16)
    for projection in ("gate_proj", "up_proj"):
        getattr(model.model.layers[1].mlp, projection).weight.fill_(300.0)  # it overflows
    model.save_pretrained(tmp_path / "hot")
    tokenizer.save_pretrained(tmp_path / "hot")
    told = srdd("scan", tmp_path / "hot", "--prompts", text, "-o", "scan.json", "--site", "output")
    assert told.code == 0
    assert "warning: NON-FINITE VALUES: " in told.err
    assert "broken" in told.out
    assert load_scan("scan.json").warnings[0].startswith("NON-FINITE VALUES: ")


def test_pickled_weights_are_taken_when_allowed(srdd: Command, folder: Path, text: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "--allow-pickle" in srdd.fails("scan", folder, "--prompts", text)[1]
    assert srdd("scan", folder, "--prompts", text, "--allow-pickle", "-o", "x.json").code == 0


# Names that want to be more than names

HOSTILE = ["\x1b[31mred", "[red]x[/red]", "a\u202eb", "bell\x07", "\x9b31m", "{x}%s"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_not_obeyed(name: str, srdd: Command, unloaded: None) -> None:
    shown = name.encode("unicode_escape").decode()
    for arguments in (
        ["scan", name],
        ["scan", f"./{name}"],
        ["scan", "demo", "--prompts", name],
        ["scan", "demo", "-o", f"{name}/x"],
        ["scan", "demo", "--format", name],
        ["scan", "demo", f"--{name}"],
        [name],
    ):
        told = srdd(*arguments)
        assert told.code == 2
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", told.err)
        assert shown in told.err.replace("\\\\", "\\")
        assert re.fullmatch(r"error: [^\n]*\nhint: [^\n]*\n", told.err)


def test_a_folder_with_a_hostile_name_is_scanned(
    srdd: Command, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    hostile = folder.rename(folder.parent / "[red]\x1b[31mx[")
    told = srdd("scan", hostile, "--prompts", text)
    assert told.code == 0
    assert ESCAPE not in told.out + told.err
    assert "[red]\\x1b[31mx[ | LlamaForCausalLM" in told.out
    assert f"loading {folder.parent}/[red]\\x1b[31mx[" in told.err
    (name,) = left()
    assert re.fullmatch(r"srdd-red-31mx-mxfp4-floor-[\d-]+\.json", name)


def test_a_folder_whose_name_is_no_utf8_is_told(
    srdd: Command, folder: Path, unloaded: None
) -> None:
    odd = folder.rename(os.fsdecode(os.fsencode(folder.parent) + b"/mod\xe8le"))
    message, hint = srdd.fails("scan", odd)
    assert message == (
        f"the name of the folder {folder.parent}/mod\\udce8le is not UTF-8, "
        "which transformers cannot read"
    )
    assert hint.startswith("rename it")


def test_a_prompt_file_whose_name_is_no_utf8_is_read(
    srdd: Command, saved_once: Path, text: Path
) -> None:
    odd = text.rename(os.fsdecode(os.fsencode(text.parent) + b"/text\xe8.txt"))
    told = srdd("scan", saved_once, "--prompts", odd, "-o", "scan.json")
    assert told.code == 0, told.err
    assert str(load_scan("scan.json").calibration.source).endswith("/text\\udce8.txt")


def test_names_of_weights_are_escaped_in_warnings(srdd: Command, folder: Path, text: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["\x1b[31mextra"] = torch.ones(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    told = srdd("scan", folder, "--prompts", text, "-o", "scan.json")
    assert told.code == 0
    assert "that the model does not use, \\x1b[31mextra first" in told.err
    assert ESCAPE not in told.err


# How it ends


def test_an_internal_error_says_how_to_see_more(
    srdd: Command, saved_once: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("boom\nand more")

    monkeypatch.setattr("srdd.measurement.scanner.measure_model", fail)
    told = srdd("scan", saved_once, "--prompts", text)
    assert told.code == 2
    assert told.err.splitlines()[-2:] == [
        "error: internal error: RuntimeError: boom\\nand more",
        "hint: run again with --debug",
    ]
    assert "Traceback" not in told.err
    debugged = srdd("scan", saved_once, "--prompts", text, "--debug")
    assert debugged.code == 2
    assert "Traceback (most recent call last)" in debugged.err
    assert "in fail" in debugged.err
    assert debugged.err.splitlines()[-2].startswith("error: internal error: RuntimeError")


def test_debug_shows_the_traceback_of_an_input_error(srdd: Command) -> None:
    told = srdd("scan", "./gone", "--debug")
    assert told.code == 2
    assert "Traceback (most recent call last)" in told.err
    assert told.err.splitlines()[-2] == "error: there is no folder gone"
    assert told.err.count("hint: ") == 1


def test_an_interrupt_is_no_error(
    srdd: Command, saved_once: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("srdd.measurement.scanner.measure_model", interrupt)
    told = srdd("scan", saved_once, "--prompts", text)
    assert told.code == 130
    assert told.err.splitlines()[-1] == "interrupted; nothing was written"
    assert left() == []


def test_a_reader_that_went_away_is_no_error(
    srdd: Command, saved_once: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(content: bytes) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("srdd.cli.console.write_result", gone)
    told = srdd("scan", saved_once, "--prompts", text, "-o", "-")
    assert told.code == 0
    assert "rror" not in told.err


# Help


def test_without_a_command_the_help_is_shown(srdd: Command) -> None:
    told = srdd()
    assert told.code == 2
    assert told.out.startswith("Usage: srdd ")
    assert told.out.rstrip() == srdd("--help").out.rstrip()


def test_the_version_is_shown(srdd: Command) -> None:
    from srdd import __version__

    assert srdd("--version") == Told(0, f"srdd {__version__}\n", "")


def test_an_unknown_command_is_told(srdd: Command) -> None:
    message, hint = srdd.fails("scna")
    assert message.startswith("No such command 'scna'")
    assert re.fullmatch(r"choose from: scan, suggest(, \w+)*; see srdd --help", hint)


COMMANDS = [
    info.name or info.callback.__name__ for info in app.app.registered_commands if info.callback
]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_every_default_an_example_and_the_exit_codes(
    name: str, srdd: Command
) -> None:
    told = srdd(name, "--help")
    assert told.code == 0
    assert told.err == ""
    listed = told.out[told.out.index("Options:") : told.out.index("Example:")]
    listed = re.sub(r"\n\n\w[\w ]*:(?=\n)", "", listed)  # headings of panels
    options = [" ".join(option.split()) for option in re.split(r"\n  (?=-)", listed)[1:]]
    with_default = ("[default: ", "[required]")
    assert [option for option in options if not any(word in option for word in with_default)] == [
        "-h, --help Show this message and exit."
    ]
    text = " ".join(told.out.split())
    assert f"Example: srdd {name}" in text
    assert "Exit codes: 0 done; 1 a gate or check failed; 2 usage" in text


def test_the_examples_of_the_help_run(
    srdd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, part in {
        "old": ["--limit", "2"],
        "new": ["--limit", "2"],
        "part-1": ["--limit", "1"],
        "part-2": ["--skip", "1", "--limit", "1"],
    }.items():
        made = srdd("scan", "demo", "--site", "output", *part, "-o", f"{name}.json")
        assert made.code == 0, made.err
    costs = srdd("scan", "demo", "--limit", "3", "--kl", "--kl-check", "0", "-o", "scan.json")
    assert costs.code == 0, costs.err
    for info in app.app.registered_commands:
        assert info.epilog is not None
        example = info.epilog.splitlines()[0].removeprefix("Example: srdd ")
        words, _, target = example.partition(" > ")
        told = srdd(*words.split())
        assert told.code == 0, told.err
        if target:
            assert told.out
    assert any(name.startswith("srdd-demo-") for name in left())


def test_every_command_is_a_subcommand_of_the_one_that_is_installed() -> None:
    assert typer.main.get_command(app.app).name == "srdd"
    assert "scan" in COMMANDS


# Options as values


def test_thresholds_by_metric() -> None:
    assert parse_thresholds([]) == {}
    assert parse_thresholds(["sqnr=-3", "relative_error=2", "deadzone=1"]) == {
        "sqnr_db": -3,
        "relative_error": 2,
        "deadzone": 1,
    }
    assert parse_thresholds(["sqnr_db=1", "sqnr_db=2"]) == {"sqnr_db": 2}


@pytest.mark.parametrize("value", ["", "=", "1,5"])
def test_a_threshold_is_a_number(value: str) -> None:
    with pytest.raises(UsageError, match="has no number"):
        parse_thresholds([f"sqnr_db={value}"])
