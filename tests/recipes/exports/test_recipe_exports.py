"""Exports, read by the parsers and matchers of their consumers: every linear gets its format."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import made_checkpoints
import pytest
import yaml
from torch import nn

from srdd.documents.recipe import KEPT, Module, Recipe, average_bits
from srdd.errors import UsageError
from srdd.model.inventory import Inventory, read_inventory
from srdd.model.kinds import kind_of
from srdd.numerics.formats import FORMATS
from srdd.recipes.checking.findings import findings
from srdd.recipes.checking.reading import READERS
from srdd.recipes.checking.resolving import resolve
from srdd.recipes.exports import CONSUMERS, EXPORTS, caveats, consumer_of, export

LAYERS = range(11)


def recipe(formats: dict[str, str], operands: str = "both") -> Recipe:
    """A recipe of these modules, in the order given."""
    modules = [
        Module.model_validate(
            {
                "module": name,
                "layer": int(name.split(".")[2]),
                "kind": kind_of(name),
                "parameters": 1024,
                "format": text,
                "operands": None if text == KEPT else operands,
                "kl": 0.0 if text == KEPT else 0.001,
                "group": name,
                "pinned": False,
                "why": "made up",
            }
        )
        for name, text in formats.items()
    ]
    cost = sum(m.kl for m in modules)
    content = {
        "model": {"name": "made/up", "fingerprint": None, "architecture": None},
        "source": {"scan": "5" * 64, "method": "direct", "tokens": 9, "holds": None, "check": ""},
        "budget": {"bits": 16.0, "max_kl": None},
        "granularity": "tensor",
        "bits": average_bits(modules),
        "predicted_kl": cost,
        "predicted_interval": None,
        "all_low_kl": cost,
        "formats": [*dict.fromkeys(m.format for m in modules if m.format != KEPT), KEPT],
        "modules": [m.model_dump() for m in modules],
        "left_out": [],
        "warnings": [],
    }
    return Recipe.model_validate(content)


def mixed(low: str, high: str) -> dict[str, str]:
    """Layers 1 and 10 in `high`, `down_proj` of layer 2 kept, the rest in `low`."""
    chosen = {}
    for name in made_checkpoints.dense(LAYERS):
        layer = int(name.split(".")[2])
        text = high if layer in (1, 10) else low
        chosen[name] = KEPT if name == "model.layers.2.mlp.down_proj" else text
    return chosen


def words(formats: dict[str, str]) -> dict[str, str]:
    return {name: text.partition(":")[0] for name, text in formats.items()}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    names = made_checkpoints.dense(LAYERS)
    folder = tmp_path_factory.mktemp("dense")
    return read_inventory(made_checkpoints.write_checkpoint(folder, names, layers=LAYERS))


def toy() -> nn.Module:
    names = made_checkpoints.dense(LAYERS)
    roles = dict.fromkeys(names, "linear") | {"lm_head": "head", "model.norm": "norm"}
    return made_checkpoints.modules_of(roles)


PAIRS = {
    "compressed-tensors": ("mxfp4:even", "mxfp8_e4m3:even"),
    "vllm": ("nvfp4:tensor", "fp8_e4m3_token:absmax"),
    "llm-compressor": ("nvfp4:tensor", "mxfp8_e4m3:even"),
    "torchao": ("mxfp4:floor", "mxfp8_e4m3:even"),
    "modelopt": ("nvfp4:tensor", "mxfp8_e4m3:rceil"),
    "megatron": ("nvfp4:tensor", "mxfp8_e4m3:rceil"),
}


def labels(args: Any) -> tuple[Any, ...] | None:
    return None if args is None else (args.num_bits, str(args.strategy), args.group_size)


def test_compressed_tensors_applies_it(dense: Inventory) -> None:
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    formats = mixed(*PAIRS["compressed-tensors"])
    content = json.loads(export(recipe(formats), "compressed-tensors"))["quantization_config"]
    assert content["format"] == "mixed-precision"
    model = toy()
    config = QuantizationConfig.model_validate(content)
    apply_quantization_config(model, config, show_progress=False)
    expected = {
        "mxfp4": ((4, "group", 32), (4, "group", 32)),
        "mxfp8_e4m3": ((8, "group", 32), (8, "group", 32)),
        KEPT: (None, None),
    }
    for name, text in words(formats).items():
        scheme = getattr(model.get_submodule(name), "quantization_scheme", None)
        own = scheme and (labels(scheme.weights), labels(scheme.input_activations))
        assert (own or (None, None)) == expected[text], name
    assert not hasattr(model.get_submodule("lm_head"), "quantization_scheme")


@pytest.mark.parametrize("operands", ["both", "weight"])
def test_schemes_are_those_of_compressed_tensors_presets(operands: str) -> None:
    """Where it has a preset for a format, an export says the same."""
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    presets = {
        ("mxfp4", "both"): "MXFP4",
        ("mxfp4", "weight"): "MXFP4A16",
        ("mxfp6_e2m3", "weight"): "MXFP6A16",
        ("mxfp8_e4m3", "both"): "MXFP8",
        ("mxfp8_e4m3", "weight"): "MXFP8A16",
        ("nvfp4", "both"): "NVFP4",
        ("nvfp4", "weight"): "NVFP4A16",
        ("fp8_e4m3_token", "both"): "FP8_DYNAMIC",
        ("int8_token", "both"): "INT8",
        ("int4_g128", "weight"): "W4A16",
    }
    for (name, which), preset in presets.items():
        if which != operands:
            continue
        formats = {"model.layers.0.mlp.up_proj": f"{name}:{FORMATS[name].scale_rules[0]}"}
        groups = json.loads(export(recipe(formats, operands), "compressed-tensors"))
        scheme = groups["quantization_config"]["config_groups"]["group_0"]
        own = QuantizationScheme.model_validate(scheme)
        theirs = preset_name_to_scheme(preset, own.targets)
        dumped = [each.model_dump(mode="json", exclude={"format"}) for each in (own, theirs)]
        assert dumped[0] == dumped[1], preset


@pytest.mark.parametrize("name", sorted({f for c in CONSUMERS.values() for f in c.formats}))
def test_every_format_of_torchao_is_parsed(name: str) -> None:
    from torchao.core.config import config_from_dict, config_to_dict

    from srdd.recipes.checking.formats import Operands, of_torchao

    for operands in ("both", "weight"):
        if operands not in CONSUMERS["torchao"].formats.get(name, {}):
            continue
        for rule in FORMATS[name].scale_rules:
            formats = {"model.layers.0.mlp.up_proj": f"{name}:{rule}"}
            text = export(recipe(formats, operands), "torchao")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # such as another version of a configuration
                parsed = config_from_dict(json.loads(text))
            (settings,) = parsed.fqn_to_config.values()
            expected = Operands(name, name if operands == "both" else None)
            assert of_torchao(config_to_dict(settings)) == expected
            mode = getattr(settings, "scaling_mode", None)
            assert mode is None or mode.value == rule


def test_torchao_gives_each_linear_its_configuration() -> None:
    from torchao.core.config import config_from_dict
    from torchao.quantization.quant_api import fqn_matches_fqn_config

    formats = mixed(*PAIRS["torchao"])
    config = config_from_dict(json.loads(export(recipe(formats), "torchao")))
    dtypes = {"mxfp4": "torch.float4_e2m1fn_x2", "mxfp8_e4m3": "torch.float8_e4m3fn"}
    for name, text in words(formats).items():
        assert fqn_matches_fqn_config(name, config) == (text != KEPT), name
        if text != KEPT:
            own = config.fqn_to_config.items()
            matching = [each for key, each in own if fqn_matches(name, key)]
            assert [str(each.weight_dtype) for each in matching] == [dtypes[text]], name
    assert not fqn_matches_fqn_config("lm_head", config)


def fqn_matches(name: str, key: str) -> bool:
    from torchao.quantization import FqnToConfig
    from torchao.quantization.quant_api import fqn_matches_fqn_config

    return bool(fqn_matches_fqn_config(name, FqnToConfig({key: None})))


def test_torchao_quantizes_with_it() -> None:
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    formats = mixed("int8_token:absmax", "fp8_e4m3_token:absmax")
    model = toy()
    quantize_(
        model,
        config_from_dict(json.loads(export(recipe(formats, "weight"), "torchao"))),
        filter_fn=None,
    )
    types = {"int8_token": "Int8Tensor", "fp8_e4m3_token": "Float8Tensor", KEPT: "Parameter"}
    for name, text in words(formats).items():
        assert type(model.get_submodule(name).weight).__name__ == types[text], name


def test_modelopt_quantizes_with_it(tmp_path: Path) -> None:
    mtq = pytest.importorskip("modelopt.torch.quantization", exc_type=ImportError)
    from modelopt.torch.opt.config_loader import load_config
    from modelopt.torch.quantization.config import QuantizeConfig

    formats = mixed(*PAIRS["modelopt"])
    (tmp_path / "quant.yaml").write_text(export(recipe(formats), "modelopt"))
    config = load_config(tmp_path / "quant.yaml", schema_type=QuantizeConfig)
    assert config.algorithm == "max"
    model = toy()
    mtq.quantize(model, config.model_dump())
    expected = {"nvfp4": (16, (2, 1), (4, 3)), "mxfp8_e4m3": (32, (4, 3), (8, 0))}
    for name, text in words(formats).items():
        for side in ("weight", "input"):
            quantizer = getattr(model.get_submodule(name), f"{side}_quantizer")
            assert quantizer.is_enabled == (text != KEPT), name
            if text != KEPT:
                blocks = quantizer.block_sizes
                own = (blocks[-1], quantizer.num_bits, blocks["scale_bits"])
                assert own == expected[text], name
    assert not model.get_submodule("lm_head").weight_quantizer.is_enabled


def test_megatron_matches_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("megatron.core.quantization.quant_config")
        engine = pytest.importorskip("megatron.core.extensions.transformer_engine")
    formats = mixed(*PAIRS["megatron"])
    (tmp_path / "precision.yaml").write_text(export(recipe(formats), "megatron"))
    parsed = package.RecipeConfig.from_yaml_file(str(tmp_path / "precision.yaml"))
    parts = {
        "self_attention.linear_qkv": "self_attn.q_proj",
        "self_attention.linear_proj": "self_attn.o_proj",
        "mlp.linear_fc1": "mlp.up_proj",
        "mlp.linear_fc2": "mlp.down_proj",
    }
    recipes = {"nvfp4": (None, "nvfp4"), "mxfp8_e4m3": ("mxfp8", None), KEPT: (None, None)}
    for layer in LAYERS:
        for theirs, ours in parts.items():
            context = package.MatchContext(f"decoder.layers.{layer}.{theirs}", layer)
            own = engine.TEQuantizationParams.parse_from_config(parsed.match(context))
            found = own.training_recipe
            text = words(formats)[f"model.layers.{layer}.{ours}"]
            chosen = (found.fp8_quantization_recipe, found.fp4_quantization_recipe)
            assert chosen == recipes[text], (layer, theirs)
    head = parsed.match(package.MatchContext("output_layer", None))
    assert head.config["training_recipe"] == {}


def test_llm_compressor_s_recipe_holds_a_config_of_compressed_tensors() -> None:
    """Its parser needs other versions of packages; it hands these fields on as they are."""
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    formats = mixed(*PAIRS["llm-compressor"])
    content = yaml.safe_load(export(recipe(formats), "llm-compressor"))
    ((modifiers,),) = [stage.values() for stage in content.values()]
    assert modifiers.keys() == {"QuantizationModifier"}
    model = toy()
    config = QuantizationConfig.model_validate(modifiers["QuantizationModifier"])
    apply_quantization_config(model, config, show_progress=False)
    expected = {"nvfp4": (4, "tensor_group", 16), "mxfp8_e4m3": (8, "group", 32), KEPT: None}
    for name, text in words(formats).items():
        scheme = getattr(model.get_submodule(name), "quantization_scheme", None)
        assert labels(scheme and scheme.weights) == expected[text], name


@pytest.mark.parametrize("consumer", EXPORTS)
def test_an_export_passes_the_check(consumer: str, dense: Inventory) -> None:
    formats = mixed(*PAIRS[consumer])
    if consumer != "megatron":
        formats = {n: KEPT if "layers.4" in n else text for n, text in formats.items()}
    text = export(recipe(formats), consumer)
    content = json.loads(text) if CONSUMERS[consumer].form == "json" else yaml.safe_load(text)
    resolution = resolve(READERS[consumer](content, "export"), dense, consumer)
    assert [each for each in findings(resolution) if each.severity == "wrong"] == []
    by_stored = {n: str(e.operands) for e in resolution.modules for n in e.module.stored}
    assert {name: by_stored[name] for name in formats} == words(formats)


@pytest.mark.parametrize("consumer", ["compressed-tensors", "vllm", "llm-compressor"])
def test_stacked_experts_are_named_one_by_one(consumer: str, tmp_path: Path) -> None:
    """A scan names them as transformers has them in memory, a checkpoint and vLLM one by one."""
    stacked = {
        f"model.layers.{n}.mlp.experts.{part}": "nvfp4:tensor" if n else KEPT
        for n in range(2)
        for part in ("gate_up_proj", "down_proj")
    }
    attention = {
        f"model.layers.{n}.{a}": KEPT for n in range(2) for a in made_checkpoints.ATTENTION
    }
    text = export(recipe(stacked | attention), consumer)
    content = json.loads(text) if CONSUMERS[consumer].form == "json" else yaml.safe_load(text)
    for block in ("mlp", "block_sparse_moe"):
        names = [n.replace("mlp", block) for n in made_checkpoints.experts(range(2), 3)]
        last = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"} if block != "mlp" else {}
        for old, new in last.items():
            names = [n.replace(old, new) for n in names]
        folder = tmp_path / block
        model = made_checkpoints.write_checkpoint(folder, names, layers=range(2))
        found = resolve(READERS[consumer](content, "export"), read_inventory(model), consumer)
        assert [each for each in findings(found) if each.severity == "wrong"] == []
        own = {
            (e.module.layer, str(e.operands)) for e in found.modules if e.module.role == "expert"
        }
        assert own == {(0, KEPT), (1, "nvfp4")}


class TestRefused:
    def test_a_format_that_the_consumer_does_not_know(self) -> None:
        formats = {"model.layers.0.mlp.up_proj": "mxfp4:floor"}
        with pytest.raises(UsageError, match="no mxfp4 for weight and input") as error:
            export(recipe(formats), "megatron")
        assert "nvfp4 for weight and input, then mxfp8_e4m3" in error.value.hint

    def test_operands_that_the_consumer_does_not_know(self) -> None:
        formats = {"model.layers.0.mlp.up_proj": "mxfp4:floor"}
        with pytest.raises(UsageError, match="no mxfp4 for the weight alone") as error:
            export(recipe(formats, "weight"), "torchao")
        assert "the nearest that it has: nvfp4 for the weight alone" in error.value.hint

    def test_a_rotation(self) -> None:
        formats = {"model.layers.0.mlp.up_proj": "mxfp4+hadamard32:even"}
        with pytest.raises(UsageError, match=r"no mxfp4\+hadamard32"):
            export(recipe(formats), "compressed-tensors")

    def test_parts_of_one_linear_of_megatron(self) -> None:
        formats = {
            "model.layers.0.mlp.up_proj": "nvfp4:tensor",
            "model.layers.0.mlp.gate_proj": KEPT,
        }
        with pytest.raises(UsageError, match="its parts differ"):
            export(recipe(formats), "megatron")

    def test_a_linear_that_megatron_has_not(self) -> None:
        formats = {"model.layers.0.linear_attn.in_proj_qkvz": "nvfp4:tensor"}
        with pytest.raises(UsageError, match="is not known"):
            export(recipe(formats), "megatron")

    def test_stacked_experts_of_torchao(self) -> None:
        formats = {"model.layers.0.mlp.experts.down_proj": "nvfp4:tensor"}
        with pytest.raises(UsageError, match="stack of experts"):
            export(recipe(formats), "torchao")

    def test_consumers(self) -> None:
        with pytest.raises(UsageError, match="unknown consumer 'vlm'") as error:
            consumer_of("vlm", writing=True)
        assert error.value.hint.startswith("choose from: vllm")
        with pytest.raises(UsageError, match="can be checked"):
            consumer_of("verl", writing=True)
        assert consumer_of("verl") == "verl"
        with pytest.raises(UsageError, match="Megatron-Core"):
            consumer_of("transformer-engine")


def test_another_scale_rule_is_said() -> None:
    own = recipe(mixed("mxfp4:floor", "mxfp8_e4m3:even"))
    said = caveats(own, "compressed-tensors")
    assert "by the rule even; the recipe was chosen with floor" in said[0]
    assert not any("mxfp8" in text for text in said)
    assert not any("rule" in text for text in caveats(own, "torchao"))
    assert "by the rule rceil" in export(own, "modelopt")
