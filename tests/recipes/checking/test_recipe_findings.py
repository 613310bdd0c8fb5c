"""What a check finds wrong with a file, each case made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_checkpoints
import pytest

from srdd.model.inventory import Inventory, read_inventory
from srdd.recipes.checking.findings import Finding, differences, findings, tally
from srdd.recipes.checking.reading import READERS
from srdd.recipes.checking.resolving import Resolution, resolve

LAYERS = range(56)
FLOAT4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """A model of 56 layers whose gate and up projections are one linear, as in Phi-3."""
    parts = (*made_checkpoints.ATTENTION, "mlp.gate_up_proj", "mlp.down_proj")
    names = [f"model.layers.{n}.{part}" for n in LAYERS for part in parts]
    folder = tmp_path_factory.mktemp("fused")
    return read_inventory(made_checkpoints.write_checkpoint(folder, names, layers=LAYERS))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    names = made_checkpoints.experts(range(2), 2)
    folder = tmp_path_factory.mktemp("experts")
    return read_inventory(made_checkpoints.write_checkpoint(folder, names, layers=range(2)))


def resolved(consumer: str, content: dict[str, Any], inventory: Inventory) -> Resolution:
    return resolve(READERS[consumer](content, "made up"), inventory, consumer)


def qat(*patterns: str) -> dict[str, Any]:
    return {"qat": {"mode": "w4a16", "ignore_patterns": [*patterns]}}


def quantized(targets: dict[str, dict[str, Any]], ignore: list[str]) -> dict[str, Any]:
    groups = {
        f"group_{n}": {"targets": [text], "weights": scheme}
        for n, (text, scheme) in enumerate(targets.items())
    }
    return {"config_groups": groups, "ignore": ignore}


def wrong(resolution: Resolution) -> list[Finding]:
    return [each for each in findings(resolution) if each.severity == "wrong"]


def test_56_layers_that_a_router_s_pattern_takes_out_of_training(dense: Inventory) -> None:
    """In training a substring, in the rollout engine a name: the same list of patterns."""
    training = resolved("verl", qat("lm_head", "mlp.gate"), dense)
    (found,) = wrong(training)
    assert found.what == "partial match"
    assert found.modules == tuple(f"model.layers.{n}.mlp.gate_up_proj" for n in LAYERS)
    rollout = resolved("vllm", quantized({"Linear": FLOAT4}, ["lm_head", "mlp.gate"]), dense)
    assert [each.what for each in wrong(rollout)] == ["unmatched"]
    (differing,) = differences(training, rollout)
    assert differing.modules == found.modules
    assert "56 modules in bf16 (made up) and in nvfp4 (weight)" in differing.text


def test_a_pattern_that_ends_with_the_name_takes_none(dense: Inventory) -> None:
    training = resolved("verl", qat("lm_head", "re:.*mlp.gate$"), dense)
    assert wrong(training) == []
    assert ("nvfp4 (weight)", "linear", 6 * 56) in tally(training)


def test_layer_1_and_those_from_10_on(dense: Inventory) -> None:
    (found, *others) = wrong(resolved("verl", qat("lm_head", "layers.1"), dense))
    assert found.what == "partial match"
    assert not others
    assert {int(name.split(".")[2]) for name in found.modules} == {*range(10, 20)}


@pytest.mark.parametrize(
    ("role", "consumer", "content"),
    [
        ("router", "vllm", quantized({"Linear": FLOAT4}, ["lm_head"])),
        ("head", "compressed-tensors", quantized({"Linear": FLOAT4}, ["re:.*gate$"])),
        ("head", "verl", qat("re:.*gate$")),
        (
            "embedding",
            "modelopt",
            {
                "quant_cfg": [
                    {"quantizer_name": "*", "enable": False},
                    {"quantizer_name": "*embed_tokens*", "cfg": {"num_bits": 8, "axis": 0}},
                ]
            },
        ),
        (
            "norm",
            "torchao",
            {
                "_type": "FqnToConfig",
                "_data": {"fqn_to_config": {"re:.*layernorm": {"_type": "Int8WeightOnlyConfig"}}},
            },
        ),
    ],
)
def test_caught_by_accident(
    role: str, consumer: str, content: dict[str, Any], experts: Inventory
) -> None:
    found = [each for each in wrong(resolved(consumer, content, experts)) if each.what == "caught"]
    assert [each.text.split()[1].rstrip("s") for each in found] == [role]
    expected = [each.name for each in experts.modules if each.role == role]
    if role == "norm":
        expected.remove("model.norm")
    assert list(found[0].modules) == expected


def test_a_head_that_is_named_in_full_is_meant(experts: Inventory) -> None:
    content = quantized({"lm_head": FLOAT8}, [])
    (found,) = findings(resolved("compressed-tensors", content, experts))
    assert (found.what, found.severity) == ("caught", "note")


def test_fused_groups_with_mixed_formats(experts: Inventory) -> None:
    content = quantized({r"re:.*\.[qk]_proj$": FLOAT4, r"re:.*\.experts\.0\..*": FLOAT8}, [])
    mixed = wrong(resolved("compressed-tensors", content, experts))
    assert {each.what for each in mixed} == {"mixed"}
    attention = [f"model.layers.{n}.self_attn.{x}_proj" for n in range(2) for x in "kqv"]
    own = [m.name for m in experts.modules if m.role == "expert"]
    assert sorted(map(sorted, (each.modules for each in mixed))) == [sorted(own), attention]


def test_a_trainer_that_fuses_nothing_gets_a_note(experts: Inventory) -> None:
    config = {"_type": "NVFP4WeightOnlyConfig", "_data": {}}
    data = {"fqn_to_config": {r"re:.*\.[qk]_proj": config}}
    found = findings(resolved("torchao", {"_type": "FqnToConfig", "_data": data}, experts))
    assert [(each.what, each.severity) for each in found] == [("mixed", "note")]


def test_two_targets_of_different_formats(experts: Inventory) -> None:
    targets = {"re:.*self_attn.*": FLOAT8, r"re:.*\.o_proj$": FLOAT4}
    (found,) = wrong(resolved("compressed-tensors", quantized(targets, []), experts))
    assert found.what == "twice"
    assert found.modules == tuple(f"model.layers.{n}.self_attn.o_proj" for n in range(2))
    # The library takes them in the order of the alphabet, vLLM in that of the file.
    assert r"re:.*\.o_proj$ (config_groups.group_1) decides" in found.text


def test_a_general_matcher_after_special_ones_is_no_finding(experts: Inventory) -> None:
    config = {"transformer_engine_config_type": "TEQuantizationParams"}
    nvfp4 = {**config, "training_recipe": {"fp4_quantization_recipe": "nvfp4"}}
    mxfp8 = {**config, "training_recipe": {"fp8_quantization_recipe": "mxfp8"}}

    def matcher(pattern: str, key: str) -> dict[str, Any]:
        return {"type": "glob", "enabled": True, "pattern": pattern, "config": key}

    special = {"a": matcher("*.linear_qkv", "nvfp4"), "b": matcher("*", "mxfp8")}
    content = {"configs": {"nvfp4": nvfp4, "mxfp8": mxfp8}, "matchers": special}
    assert findings(resolved("megatron", content, experts)) == []
    special["c"] = matcher("*.layers.1.*", "mxfp8")
    assert wrong(resolved("megatron", content, experts)) == []
    special = {"a": special["a"], "c": special["c"], "b": special["b"]}
    (found,) = findings(resolved("megatron", content | {"matchers": special}, experts))
    assert (found.what, found.severity) == ("twice", "note")


def test_patterns_that_stand_in_everybody_s_file_need_match_nothing(dense: Inventory) -> None:
    (found,) = findings(resolved("verl", qat("lm_head", "re:.*mlp.gate$"), dense))
    assert (found.what, found.severity) == ("unmatched", "note")
    (found,) = findings(resolved("verl", qat("lm_head", "mlp.gates"), dense))
    assert (found.what, found.severity) == ("unmatched", "wrong")


def test_linears_that_compressed_tensors_does_not_know(tmp_path: Path) -> None:
    """GPT-2 has Conv1D of transformers for its linears, and the library only takes nn.Linear."""
    shapes = {f"transformer.h.{n}.mlp.c_fc.weight": (32, 128) for n in range(2)}
    folder = made_checkpoints.write_checkpoint(tmp_path, [], layers=[], shapes=shapes)
    content = quantized({"re:.*c_fc$": FLOAT4}, [])
    resolution = resolved("compressed-tensors", content, read_inventory(folder))
    (found,) = wrong(resolution)
    assert found.what == "refused"
    assert len(found.modules) == 2
    assert {str(each.operands) for each in resolution.modules} == {"bf16"}
