"""What is printed, read by the trainers' own parsers and by a real shell; and hostile names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import OverrideParseException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_scans import PROTOTYPE, made, rising
from omegaconf import OmegaConf
from transformers import HfArgumentParser

from srdd.documents.rin import RinConfig
from srdd.documents.scan import load_scan
from srdd.documents.settings_text import to_yaml
from srdd.errors import InputError
from srdd.noise import suggest
from srdd.noise.exports import export
from srdd.noise.exports.forms import quoted, to_overrides

BASE = """\
trainer:
  project_name: mine
  noise_injection:
    enabled: false
    sigma_start: 0.05
    sigma_end: 0.0005
    num_stages: 10
    target_modules: []  # Empty = auto-detect
    exclude_patterns: []  # Empty = auto-detect
"""

NAMED = made(rising(12))
REFERENCE = load_scan(PROTOTYPE)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hydra")
    (folder / "ppo_trainer.yaml").write_text(BASE)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base=None):
        yield folder


def through_bash(pasted: str) -> list[str]:
    """The arguments that a program gets when this is pasted behind its name."""
    script = f"printf '%s\\0' {pasted}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert run.stderr == b""
    return run.stdout.decode().split("\0")[:-1]


def composed(arguments: list[str]) -> dict[str, Any]:
    actual = OmegaConf.to_container(compose("ppo_trainer", arguments), resolve=True)
    assert isinstance(actual, dict)
    return {str(key): value for key, value in actual.items()}


CONFIGS = [
    suggest(NAMED, "uniform"),
    suggest(NAMED, "targeted", top_k=3),
    suggest(NAMED, "variable", equal_energy=True, sigma_end=1e-7),
    suggest(NAMED, "shuffled"),
    suggest(NAMED, "zone", tiers={"medium": (0.03, 0.0006)}),
    suggest(REFERENCE, "variable"),
]


@pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.label)
def test_hydra_takes_every_override_through_a_shell(
    base: Path, config: RinConfig, consumer: str
) -> None:
    arguments = through_bash(export(config, consumer, "overrides"))
    assert all(argument.startswith("++trainer.noise_injection.") for argument in arguments)
    for argument in arguments:
        composed([argument])
    actual = composed(arguments)
    assert actual["trainer"]["project_name"] == "mine"
    expected = yaml.safe_load(export(config, consumer, "yaml"))["trainer"]["noise_injection"]
    merged = yaml.safe_load(BASE)["trainer"]["noise_injection"] | expected
    assert actual["trainer"]["noise_injection"] == merged


@pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
def test_omegaconf_merges_the_yaml(consumer: str) -> None:
    text = export(suggest(NAMED, "variable"), consumer, "yaml")
    merged = OmegaConf.merge(OmegaConf.create(BASE), OmegaConf.create(text))
    assert merged.trainer.noise_injection.enabled is True
    assert merged.trainer.project_name == "mine"


def test_hydra_does_refuse_what_is_never_written(base: Path) -> None:
    with pytest.raises(OverrideParseException):
        composed(['++trainer.noise_injection.layer_multipliers={"14": 1.0}'])


def test_the_command_keeps_what_stands_before_it() -> None:
    actual = through_bash("trainer.n_gpus_per_node=8 \\\n" + export(CONFIGS[0], form="overrides"))
    assert actual[:2] == ["trainer.n_gpus_per_node=8", "++trainer.noise_injection.enabled=True"]


@dataclass
class Arguments:
    """The fields of QeRL's arguments that noise is set by."""

    sigma_start: float = 0.0
    sigma_end: float = 0.0
    num_stages: int = 0


def test_the_parser_of_hugging_face_takes_the_flags(tmp_path: Path) -> None:
    config = suggest(NAMED, "uniform", sigma_start=0.01, sigma_end=1e-7, num_stages=5)
    parser = HfArgumentParser(Arguments)
    expected = Arguments(0.01, 1e-7, 5)
    arguments = through_bash(export(config, "qerl"))
    assert arguments[::2] == ["--sigma-start", "--sigma-end", "--num-stages"]
    assert parser.parse_args_into_dataclasses(arguments) == (expected,)
    for form, read in (("yaml", parser.parse_yaml_file), ("json", parser.parse_json_file)):
        path = tmp_path / f"arguments.{form}"
        path.write_text(export(config, "qerl", form))
        assert read(path) == (expected,)


hostile = st.text(st.characters(codec="utf-8"), max_size=30)
QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUIET
@given(hostile)
@example("$(touch /tmp/owned)")
@example("a'b;c`d`")
@example("layers.0\nrm -rf")
@example("\u2028\x85\x1b[31m")
@example("\x85")
@example("\u2029")
@example("{x: 1, y: [2]}")
@example("null")
@example("1e3")
@example("${oc.env:HOME}")
def test_a_hostile_name_stays_one_text_in_every_form(base: Path, text: str) -> None:
    tree = {"trainer": {"noise_injection": {"target_modules": [text], "enabled": True}}}
    assert yaml.safe_load(to_yaml([tree], [text])) == tree
    if not text.isprintable() or set(text) & set('"\\'):
        with pytest.raises(InputError, match="cannot be written as a Hydra override"):
            to_overrides(tree, [text])
        return
    pasted = to_overrides(tree, [text])
    arguments = through_bash(pasted)
    assert len(arguments) == 2
    actual = OmegaConf.to_container(compose("ppo_trainer", arguments), resolve=False)
    assert isinstance(actual, dict)
    assert actual["trainer"]["noise_injection"]["target_modules"] == [text]


@pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
def test_a_name_that_refers_to_another_setting_is_refused(consumer: str) -> None:
    scan = made(rising(3), prefix="model.${oc.env:HOME}.layers")
    config = suggest(scan, "uniform", exclude=["${trainer.project_name}"])
    for form in ("yaml", "json", "overrides"):
        with pytest.raises(InputError, match="reference to another setting"):
            export(config, consumer, form)


@QUIET
@given(hostile)
@example("x\n- injected: true\n#")
def test_a_hostile_model_name_stays_in_its_comment(text: str) -> None:
    scan = made([0.2, 0.4], name=text)
    config = suggest(scan, "variable")
    plain = suggest(made([0.2, 0.4]), "variable")
    for consumer in ("guide", "verl-rin"):
        assert yaml.safe_load(export(config, consumer)) == yaml.safe_load(export(plain, consumer))
        assert through_bash(export(config, consumer, "overrides")) == through_bash(
            export(plain, consumer, "overrides")
        )


@pytest.mark.parametrize("text", ['say "hi"', "back\\slash", "two\nlines"])
def test_texts_that_hydra_would_change_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot be written as a Hydra override") as caught:
        quoted(text)
    assert caught.value.hint == "use `form=yaml`"
