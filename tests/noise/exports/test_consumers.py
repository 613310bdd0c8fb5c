"""Each trainer, reading what was written for it, does what the configuration says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import injectors
import pytest
import yaml
from made_scans import PROTOTYPE, made, rising, with_costs

from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan, load_scan
from srdd.errors import InputError, UsageError
from srdd.noise import BY_COST, CONTROLS, STRATEGIES, suggest
from srdd.noise.exports import TRAINERS, export, form_of

REFERENCE = load_scan(PROTOTYPE)
NAMED = made(rising(12))
COSTED = with_costs(
    NAMED, [0.01 * n for n in (9, 1, 8, 2, 7, 3, 6, 4, 5, 9, 1, 2)], rising(12, 9, 1)
)
ONE_RATIO = {"high": (0.05, 0.001), "medium": (0.03, 0.0006)}

Injector = Callable[[Mapping[str, Any], str, int], float]
INJECTORS: dict[str, Injector] = {"guide": injectors.guide, "verl-rin": injectors.verl_rin}


def modules_of(scan: Scan) -> Iterator[tuple[int | None, str]]:
    """Each norm of the model with the layer it belongs to."""
    for layer in scan.model.layers:
        for norm in layer.norms:
            yield layer.index, norm.name
    for norm in scan.model.other_norms:
        yield None, norm.name


def expected_sigma(config: RinConfig, layer: int | None, stage: int) -> float:
    for tier in config.tiers:
        for entry in tier.layers:
            if entry.layer == layer:
                return entry.multiplier * tier.sigmas[stage]
    return 0.0


def configurations(scan: Scan) -> list[RinConfig]:
    known = [name for name in STRATEGIES if scan.sensitivity is not None or name not in BY_COST]
    plain = [suggest(scan, name) for name in (*known, *CONTROLS) if name != "zone"]
    if scan.sensitivity is not None:
        plain += [
            suggest(scan, "zone", equal_kl=True, tiers=ONE_RATIO),
            suggest(scan, target_kl=0.1),
        ]
    return [
        *plain,
        suggest(scan, "targeted", control="inverse"),
        suggest(scan, "variable", equal_energy=True),
        suggest(scan, "zone", tiers=ONE_RATIO, zones="breaks"),
        suggest(scan, "zone", tiers={"medium": None}),
    ]


def parsed(config: RinConfig, consumer: str, form: str) -> Any:
    text = export(config, consumer, form)
    return yaml.safe_load(text) if form == "yaml" else json.loads(text)


@pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_every_norm_gets_its_sigma_in_every_stage(consumer: str, form: str) -> None:
    for config in [*configurations(NAMED), *configurations(COSTED)]:
        root = parsed(config, consumer, form)
        for layer, module in modules_of(NAMED):
            for stage in range(10):
                actual = INJECTORS[consumer](root, module, stage)
                expected = expected_sigma(config, layer, stage)
                assert actual == pytest.approx(expected, rel=1e-12), (config.label, module, stage)


def qwen_norms() -> Iterator[tuple[int | None, str]]:
    for layer in range(28):
        yield layer, f"model.layers.{layer}.input_layernorm"
    yield None, "model.norm"


def test_without_module_names_verl_spares_what_is_not_named() -> None:
    for config in configurations(REFERENCE):
        root = parsed(config, "verl-rin", "yaml")
        for layer, module in qwen_norms():
            actual = injectors.verl_rin(root, module, 1)
            assert actual == pytest.approx(expected_sigma(config, layer, 1), rel=1e-12)


def test_multipliers_alone_spare_the_layers_that_get_no_noise() -> None:
    """An injector of the guide's may know multipliers and not target_layers."""
    config = suggest(REFERENCE, "targeted", control="inverse", equal_energy=True)
    root = parsed(config, "guide", "yaml")
    del root["trainer"]["noise_injection"]["target_layers"]
    for layer, module in qwen_norms():
        if layer is not None:
            actual = injectors.guide(root, module, 1)
            assert actual == pytest.approx(expected_sigma(config, layer, 1), rel=1e-12)


def test_tiers_of_different_shapes_are_one_document_each_in_the_guide_s_form() -> None:
    config = suggest(NAMED, "zone")
    roots = list(yaml.safe_load_all(export(config, "guide")))
    assert len(roots) == len(config.tiers) == 2
    for root, tier in zip(roots, config.tiers, strict=True):
        own = {entry.layer for entry in tier.layers}
        for layer, module in modules_of(NAMED):
            for stage in range(10):
                expected = tier.sigmas[stage] if layer in own else 0.0
                assert injectors.guide(root, module, stage) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(export(config, "guide"))


@pytest.mark.parametrize("consumer", ["qerl", "surogate"])
def test_uniform_noise_reaches_trainers_without_layers(consumer: str) -> None:
    config = suggest(NAMED, "uniform", sigma_start=0.01)
    root = parsed(config, consumer, "yaml")
    settings = root["noise_scheduler"] if consumer == "surogate" else root
    for layer, module in modules_of(NAMED):
        for stage in range(10):
            expected = expected_sigma(config, 0 if layer is None else layer, stage)
            assert injectors.whole_model(settings, module, stage) == pytest.approx(expected)


def test_equal_multipliers_become_the_schedule_there() -> None:
    config = suggest(made([0.3] * 4), "variable", cap=0.5)
    assert parsed(config, "surogate", "yaml")["noise_scheduler"]["sigma_start"] == 0.025


def test_srdd_s_own_form_loses_nothing() -> None:
    for config in [*configurations(NAMED), *configurations(COSTED), suggest(REFERENCE, "zone")]:
        assert RinConfig.parse(export(config, "srdd").encode(), "x") == config


def with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): with_text_keys(inner) for key, inner in value.items()}
    return value


@pytest.mark.parametrize("consumer", ["guide", "verl-rin", "qerl", "surogate"])
def test_yaml_and_json_come_back_equal(consumer: str) -> None:
    per_layer = consumer in INJECTORS
    for config in configurations(NAMED) if per_layer else [suggest(NAMED, "uniform")]:
        assert with_text_keys(parsed(config, consumer, "yaml")) == parsed(config, consumer, "json")


class TestTheGuide:
    """Its own three configurations, from the reference scan."""

    def test_targeted(self) -> None:
        config = suggest(REFERENCE, "targeted")
        assert yaml.safe_load(export(config)) == {
            "trainer": {
                "noise_injection": {
                    "enabled": True,
                    "sigma_start": 0.05,
                    "sigma_end": 0.0005,
                    "num_stages": 10,
                    "target_layers": [15, 14, 16, 17, 12, 13, 11, 18, 19, 10],
                    "exclude_patterns": ["lm_head", "embed_tokens", "lora_"],
                }
            }
        }

    def test_variable(self) -> None:
        settings = yaml.safe_load(export(suggest(REFERENCE, "variable")))["trainer"][
            "noise_injection"
        ]
        multipliers = settings.pop("layer_multipliers")
        assert list(multipliers) == list(range(28))
        assert multipliers[15] == pytest.approx(1.17, abs=0.007)
        assert settings == {
            "enabled": True,
            "sigma_start": 0.05,
            "sigma_end": 0.0005,
            "num_stages": 10,
            "exclude_patterns": ["lm_head", "embed_tokens", "lora_"],
            "use_variable_sigma": True,
        }

    def test_zones(self) -> None:
        high, medium = (
            root["trainer"]["noise_injection"]
            for root in yaml.safe_load_all(export(suggest(REFERENCE, "zone")))
        )
        assert high["target_layers"] == [*range(10, 20)]
        assert medium["target_layers"] == [*range(4, 10), *range(20, 26)]
        assert (high["sigma_start"], high["sigma_end"]) == (0.05, 0.001)
        assert (medium["sigma_start"], medium["sigma_end"]) == (0.03, 0.0005)

    def test_its_last_experiment_is_the_high_tier_alone(self) -> None:
        config = suggest(REFERENCE, "zone", tiers={"medium": None})
        settings = yaml.safe_load(export(config))["trainer"]["noise_injection"]
        assert settings["target_layers"] == [*range(10, 20)]
        assert (settings["sigma_start"], settings["sigma_end"]) == (0.05, 0.001)


class TestNeverWritten:
    @pytest.mark.parametrize("form", ["yaml", "json", "overrides"])
    def test_keys_that_verl_ignores(self, form: str) -> None:
        for config in configurations(NAMED):
            text = export(config, "verl-rin", form)
            assert "target_layers" not in text
            assert "use_variable_sigma" not in text

    @pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
    def test_a_substring_without_its_dot(self, consumer: str) -> None:
        for config in configurations(NAMED):
            targets = parsed(config, consumer, "yaml")["trainer"]["noise_injection"][
                "target_modules"
            ]
            assert all(target.endswith(".") for target in targets)
            assert len(targets) == len(config.layers)

    @pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
    def test_names_that_the_scan_does_not_give(self, consumer: str) -> None:
        text = export(suggest(REFERENCE, "targeted"), consumer)
        assert "target_modules:" not in text
        assert "target_modules is left to the trainer" in " ".join(text.replace("#", "").split())

    @pytest.mark.parametrize("consumer", ["guide", "verl-rin"])
    def test_quoted_keys_in_braces(self, consumer: str) -> None:
        for config in configurations(NAMED):
            text = export(config, consumer, "overrides")
            assert '{"' not in text
            assert '": ' not in text.split("#")[0]


def test_warnings_and_reasons_are_in_the_file() -> None:
    config = suggest(REFERENCE, "variable")
    for consumer, form in (("guide", "yaml"), ("guide", "overrides"), ("verl-rin", "yaml")):
        lines = [line for line in export(config, consumer, form).splitlines() if line[:1] == "#"]
        said = " ".join(" ".join(line[1:].split()) for line in lines)
        for text in (*config.warnings, *config.recommendation.reasons):
            assert text in said
        assert config.source.scan in said


def test_default_multiplier_and_final_norm_are_explained() -> None:
    text = " ".join(export(suggest(NAMED, "targeted"), "verl-rin").replace("#", "").split())
    assert "default_multiplier 0 holds for every layer that is not named" in text
    assert "the norm behind the last layer" in text


def test_layers_whose_names_end_alike_get_their_whole_names() -> None:
    scan = made(rising(3), prefix="model.h", norms=("a.h.0.norm", "b.norm"))
    targets = parsed(suggest(scan, "uniform"), "guide", "yaml")["trainer"]["noise_injection"][
        "target_modules"
    ]
    assert targets == ["model.h.0.", "h.1.", "h.2."]


@pytest.mark.parametrize(
    ("config", "consumer", "form", "message", "hint"),
    [
        (suggest(NAMED, "targeted"), "qerl", None, "QeRL puts the same noise", "uniform"),
        (suggest(NAMED, "variable"), "surogate", None, "Surogate puts the same", "uniform"),
        (suggest(NAMED, "zone"), "qerl", None, "QeRL puts the same noise", "uniform"),
        (suggest(COSTED, "balanced"), "qerl", None, "QeRL puts the same noise", "uniform"),
        (suggest(COSTED, "matched"), "surogate", None, "Surogate puts the same", "uniform"),
        (suggest(NAMED, "zone"), "surogate", "json", "Surogate puts the same", "uniform"),
        (
            suggest(NAMED, "uniform", exclude=["post_"]),
            "qerl",
            None,
            "QeRL puts noise on every RMSNorm, and 12 are excluded",
            "drop `exclude`",
        ),
        (
            suggest(NAMED, "uniform", layer_type="linear"),
            "qerl",
            None,
            "QeRL puts noise on RMSNorm only",
            "rmsnorm",
        ),
        (
            suggest(NAMED, "uniform", layer_type="linear"),
            "guide",
            None,
            "the guide's form puts noise on RMSNorm only",
            "trainer=srdd",
        ),
        (
            suggest(NAMED, "zone"),
            "verl-rin",
            None,
            "verl-rin has one schedule for all layers, and tier medium falls from 0.03 to 0.0005",
            "tiers=medium=0.03:0.0006",
        ),
        (suggest(NAMED, "zone"), "guide", "json", "json holds only one", "form=yaml"),
        (suggest(NAMED, "zone"), "guide", "overrides", "overrides holds only", "form=yaml"),
        (suggest(NAMED, "uniform"), "surogate", "overrides", "surogate takes no over", "yaml"),
        (suggest(NAMED, "uniform"), "srdd", "yaml", "srdd takes no yaml", "json"),
        (suggest(NAMED, "uniform"), "verl", None, "verl itself has no setting", "verl-rin"),
        (suggest(NAMED, "uniform"), "trl", None, "TRL has no setting", "trainer=srdd"),
        (suggest(NAMED, "uniform"), "verlrin", None, "unknown trainer 'verlrin'", "verl-rin"),
        (suggest(NAMED, "uniform"), "guide", "toml", "unknown form 'toml'", "yaml"),
        (
            suggest(made(rising(3), prefix="model.stack"), "uniform"),
            "verl-rin",
            None,
            "verl-rin cannot tell the layer of 'model.stack.0.input_layernorm'",
            "trainer=srdd",
        ),
    ],
)
def test_a_trainer_that_cannot_do_it_gets_an_error_and_no_part_of_it(
    config: RinConfig, consumer: str, form: str | None, message: str, hint: str
) -> None:
    with pytest.raises((UsageError, InputError)) as caught:
        export(config, consumer, form)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_hint_s_tier_does_fit() -> None:
    config = suggest(NAMED, "zone", tiers=ONE_RATIO)
    assert export(config, "verl-rin")


def test_each_trainer_has_a_default_form() -> None:
    assert {name: form_of(name) for name in TRAINERS} == {
        "guide": "yaml",
        "verl-rin": "yaml",
        "qerl": "overrides",
        "surogate": "yaml",
        "srdd": "json",
    }


def comment_lines(config: RinConfig, trainer: str, form: str) -> list[str]:
    text = export(config, trainer, form)
    return [" ".join(line[1:].split()) for line in text.splitlines() if line[:1] == "#"]


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "srdd"])
def test_the_first_comment_says_who_reads_this_form(trainer: str) -> None:
    config = suggest(NAMED, "uniform")
    for form in TRAINERS[trainer].forms:
        if form != "json":
            lines = comment_lines(config, trainer, form)
            assert lines[0].startswith(f"for {TRAINERS[trainer].title}: ")
            assert TRAINERS[trainer].link in " ".join(lines[:3])


def test_no_public_trainer_reads_the_guide_s_keys_and_its_file_says_so() -> None:
    said = " ".join(comment_lines(suggest(NAMED, "uniform"), "guide", "yaml"))
    assert "no public trainer reads these keys" in said


def test_multipliers_have_four_decimals_in_every_form() -> None:
    config = suggest(NAMED, "zone", tiers={"high": (0.07, 0.0007), "medium": (0.03, 0.0003)})
    for wanted in (suggest(NAMED, "variable"), config):
        for trainer in ("guide", "verl-rin"):
            settings = parsed(wanted, trainer, "yaml")["trainer"]["noise_injection"]
            own = settings.get("layer_sigma_config", settings)["layer_multipliers"]
            assert all(value == round(value, 4) for value in own.values())
            assert any(value != round(value, 2) for value in own.values())


def test_comments_distinguish_what_was_asked_for_from_what_is_recommended() -> None:
    said = " ".join(comment_lines(suggest(REFERENCE, "variable"), "guide", "yaml"))
    assert "strategy variable; recommended instead: uniform, because" in said
    said = " ".join(comment_lines(suggest(REFERENCE, "uniform"), "guide", "yaml"))
    assert "strategy uniform, which is also recommended" in said


def test_a_file_says_what_its_noise_costs() -> None:
    config = suggest(COSTED, "balanced", target_kl=0.1)
    for trainer, form in (("guide", "yaml"), ("verl-rin", "overrides")):
        said = " ".join(comment_lines(config, trainer, form))
        assert "predicted to cost 0.1 nats a token at the first noisy stage, 17.5 % of" in said
    assert "predicted to cost" not in " ".join(comment_lines(suggest(NAMED), "guide", "yaml"))
