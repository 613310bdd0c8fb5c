"""Files resolved as their consumers resolve them: compared with the consumers' own code.

Patterns are drawn from pieces that catch much, little or the wrong thing. Where a consumer cannot
be installed beside this repository's versions (vLLM, verl), tables worked out by hand stand for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import made_checkpoints
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srdd.model.inventory import Inventory, read_inventory
from srdd.recipes.checking import views
from srdd.recipes.checking.reading import READERS
from srdd.recipes.checking.resolving import Resolution, resolve

LAYERS = (1, 2, 10)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    names = made_checkpoints.dense(LAYERS)
    folder = tmp_path_factory.mktemp("dense")
    return read_inventory(made_checkpoints.write_checkpoint(folder, names, layers=LAYERS))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    folder = tmp_path_factory.mktemp("experts")
    names = made_checkpoints.experts(range(2), 2)
    return read_inventory(made_checkpoints.write_checkpoint(folder, names, layers=range(2)))


def resolved(consumer: str, content: Mapping[str, Any], inventory: Inventory) -> Resolution:
    return resolve(READERS[consumer](content, "made up"), inventory, consumer)


def by_name(resolution: Resolution) -> dict[str, str]:
    return {each.module.name: str(each.operands) for each in resolution.modules}


NAMES = [
    "model.layers.1.mlp.gate_proj",
    "model.layers.1.mlp.experts.0.gate_proj",
    "model.layers.2.self_attn.q_proj",
    "model.layers.0.mlp.gate",
    "model.embed_tokens",
    "lm_head",
    "mlp.gate",
    "q_proj",
]
REGEXES = [
    "re:.*mlp.gate",
    "re:.*mlp.gate$",
    "re:.*",
    r"re:.*layers\.1",
    r"re:model\.layers\.(?:0|1)\.mlp\.(?:up|down)_proj$",
    r"re:.*\.experts\..*",
    "re:.*proj",
    "re:lm_head",
    r"re:^model\.layers\.2\.self_attn\.[qkv]_proj$",
    "re:.*norm",
    "re:mlp",
]
CLASSES = ["Linear", "Embedding", "RMSNorm"]
TEXTS = st.sampled_from([*NAMES, *REGEXES, *CLASSES])

FLOAT4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
SCHEMES = {"nvfp4 (weight)": FLOAT4, "fp8_e4m3_token (weight)": FLOAT8, "int4_g32 (weight)": INT4}

quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def quantization_configs(draw: st.DrawFn) -> dict[str, Any]:
    targets = draw(st.lists(TEXTS, min_size=1, max_size=6, unique=True))
    ignore = draw(st.lists(TEXTS, max_size=3, unique=True))
    groups: dict[str, Any] = {}
    for number, text in enumerate(targets):
        name = list(SCHEMES)[number % len(SCHEMES)]
        groups.setdefault(name, {"targets": [], "weights": SCHEMES[name]})["targets"].append(text)
    named = {f"group_{n}": group for n, group in enumerate(groups.values())}
    return {"quant_method": "compressed-tensors", "config_groups": named, "ignore": ignore}


def roles_of(inventory: Inventory) -> dict[str, str]:
    return {each.name: each.role for each in inventory.modules}


@quick
@given(config=quantization_configs(), which=st.sampled_from(["dense", "experts"]))
def test_compressed_tensors(
    config: dict[str, Any], which: str, dense: Inventory, experts: Inventory
) -> None:
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    inventory = {"dense": dense, "experts": experts}[which]
    model = made_checkpoints.modules_of(roles_of(inventory))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apply_quantization_config(
            model, QuantizationConfig.model_validate(config), show_progress=False
        )
    expected = {}
    for name in roles_of(inventory):
        scheme = getattr(model.get_submodule(name), "quantization_scheme", None)
        bits = None if scheme is None else (scheme.weights.num_bits, str(scheme.weights.type))
        labels = {(a["num_bits"], a["type"]): label for label, a in SCHEMES.items()}
        expected[name] = "bf16" if bits is None else labels[bits]
    assert by_name(resolved("compressed-tensors", config, inventory)) == expected


def test_presets_mean_what_compressed_tensors_says() -> None:
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    from srdd.recipes.checking.formats import PRESETS, Operands, of_compressed_tensors

    for name, operands in PRESETS.items():
        scheme = preset_name_to_scheme(name, []).model_dump(mode="json")
        own = Operands(
            of_compressed_tensors(scheme["weights"]),
            of_compressed_tensors(scheme["input_activations"]),
        )
        assert own == operands, name


INT8 = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}
FP8 = {"_type": "Float8WeightOnlyConfig", "_version": 2, "_data": {}}
PARAMETERS = [f"{name}.weight" for name in NAMES[:3]] + [r"re:.*gate_proj\.weight", "re:.*weight"]


@st.composite
def fqn_configs(draw: st.DrawFn) -> dict[str, Any]:
    texts = [text for text in (*NAMES, *REGEXES, *PARAMETERS, "_default") if "norm" not in text]
    keys = draw(st.lists(st.sampled_from(texts), min_size=1, max_size=6, unique=True))
    values = draw(
        st.lists(st.sampled_from([INT8, FP8, None]), min_size=len(keys), max_size=len(keys))
    )
    chosen = dict(zip(keys, values, strict=True))
    return {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": chosen}}


@quick
@given(config=fqn_configs())
def test_torchao(config: dict[str, Any], dense: Inventory) -> None:
    """`quantize_` itself says by the types of the weights what it did, or stops."""
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    roles = {name: role for name, role in roles_of(dense).items() if role != "norm"}
    model = made_checkpoints.modules_of(roles)
    found = resolved("torchao", config, dense)
    problems = [each.problem for each in found.modules if each.problem]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if problems:
            with pytest.raises((AssertionError, NotImplementedError, AttributeError)):
                quantize_(model, config_from_dict(config), filter_fn=None)
            return
        quantize_(model, config_from_dict(config), filter_fn=None)
    labels = {"Int8Tensor": "int8_token (weight)", "Float8Tensor": "fp8_e4m3_token (weight)"}
    expected = {
        name: labels.get(type(model.get_submodule(name).weight).__name__, "bf16") for name in roles
    }
    labelled = by_name(found)
    assert {name: labelled[name] for name in roles} == expected


GLOBS = [
    "*",
    "*weight_quantizer",
    "*input_quantizer",
    "*mlp*",
    "*mlp.gate*",
    "*lm_head*",
    "*layers.1*",
    "*.layers.1.*",
    "model.layers.0.mlp.up_proj.weight_quantizer",
    "*[qk]_proj.*",
    "*embed*",
]
MX = {"num_bits": "e2m1", "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": "e8m0"}}
NV = {"num_bits": "e2m1", "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": "e4m3"}}
LABELS = {32: "mxfp4", 16: "nvfp4"}


@st.composite
def quant_cfgs(draw: st.DrawFn) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for text in draw(st.lists(st.sampled_from(GLOBS), max_size=6)):
        entry: dict[str, Any] = {"quantizer_name": text}
        entry |= draw(
            st.sampled_from([{"cfg": MX}, {"cfg": NV}, {"enable": False}, {"enable": True}])
        )
        if draw(st.integers(0, 5)) == 0:
            entry["parent_class"] = draw(st.sampled_from(["nn.Linear", "nn.Embedding"]))
        entries.append(entry)
    return {"quant_cfg": entries, "algorithm": None}


@quick
@given(config=quant_cfgs())
def test_modelopt(config: dict[str, Any], dense: Inventory) -> None:
    pytest.importorskip("modelopt.torch.quantization", exc_type=ImportError)
    from modelopt.torch.quantization.conversion import replace_quant_module, set_quantizer_by_cfg

    model = made_checkpoints.modules_of(roles_of(dense))
    replace_quant_module(model)
    set_quantizer_by_cfg(model, config["quant_cfg"])
    expected = {}
    for name, role in roles_of(dense).items():
        module = model.get_submodule(name)
        sides = []
        for side in ("weight", "input"):
            quantizer = getattr(module, f"{side}_quantizer", None)
            unused = role == "embedding" and side == "input"
            if quantizer is None or unused or not quantizer.is_enabled:
                sides.append(None)
                continue
            blocks = quantizer.block_sizes
            label = LABELS[blocks[-1]] if blocks else "int8 per tensor"
            sides.append(label)
        expected[name] = (sides[0], sides[1])
    found = resolved("modelopt", config, dense)
    assert {e.module.name: (e.operands.weight, e.operands.input) for e in found.modules} == expected


MEGATRON = [
    "*",
    "*linear_fc1",
    "*mlp*",
    "*layers.1*",
    "*.layers.1.*",
    "*experts*",
    "decoder.layers.0.self_attention.linear_qkv",
    "*router*",
]
PRECISIONS = {
    "nvfp4": {"fp4_quantization_recipe": "nvfp4"},
    "mxfp8_e4m3": {"fp8_quantization_recipe": "mxfp8"},
    "bf16": {},
}


@st.composite
def precision_files(draw: st.DrawFn) -> dict[str, Any]:
    configs = {
        name: {"transformer_engine_config_type": "TEQuantizationParams", "training_recipe": recipe}
        for name, recipe in PRECISIONS.items()
    }
    matchers = {}
    for n, pattern in enumerate(draw(st.lists(st.sampled_from(MEGATRON), max_size=5))):
        matchers[f"m{n}"] = {
            "type": "glob",
            "enabled": draw(st.integers(0, 4)) > 0,
            "pattern": pattern,
            "config": draw(st.sampled_from(list(PRECISIONS))),
        }
    return {"configs": configs, "matchers": matchers}


@quick
@given(config=precision_files())
def test_megatron(config: dict[str, Any], experts: Inventory) -> None:
    """The first matcher wins, and the rest is as the run is, here in full precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("megatron.core.quantization.quant_config")
        engine = pytest.importorskip("megatron.core.extensions.transformer_engine")
    recipe = package.RecipeConfig.from_config_dict(config)
    expected = {}
    for module in views.megatron(experts):
        found = recipe.match(package.MatchContext(module.name, 0))
        expected[module.name] = "bf16"
        if found is not None:
            own = engine.TEQuantizationParams.parse_from_config(found).training_recipe
            chosen = own.fp8_quantization_recipe or own.fp4_quantization_recipe
            labels = {"mxfp8": "mxfp8_e4m3", "nvfp4": "nvfp4", None: "bf16"}
            expected[module.name] = labels[chosen]
    assert by_name(resolved("megatron", config, experts)) == expected


def qat(*patterns: str) -> dict[str, Any]:
    return {"actor": {"qat": {"enable": True, "mode": "w4a16", "ignore_patterns": [*patterns]}}}


LOST = [f"model.layers.{n}.mlp.gate_proj" for n in LAYERS]


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("mlp.gate", LOST),
        ("re:.*mlp.gate", LOST),
        ("re:.*mlp.gate$", []),
        ("mlp.gate_", LOST),
        ("re:mlp.gate", []),
        ("q_proj", [f"model.layers.{n}.self_attn.q_proj" for n in LAYERS]),
    ],
)
def test_verl_takes_a_pattern_for_a_piece_of_a_name(
    pattern: str, kept: list[str], dense: Inventory
) -> None:
    """By hand, from `_should_quantize` of verl/utils/qat/core.py: `in`, or `re.match`."""
    found = by_name(resolved("verl", qat("lm_head", pattern), dense))
    linears = set(made_checkpoints.dense(LAYERS))
    assert sorted(n for n, label in found.items() if n in linears and label == "bf16") == sorted(
        kept
    )
    assert {found[name] for name in linears - set(kept)} == {"nvfp4 (weight)"}


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("*mlp.linear_fc1*", "mlp.linear_fc1"),
        ("*self_attn*", "self_attention.linear_qkv self_attention.linear_proj"),
        ("*mlp.gate", ""),
        ("mlp", ""),
        ("*mlp*", "mlp.linear_fc1 mlp.linear_fc2"),
    ],
)
def test_verl_on_megatron_takes_shell_patterns(pattern: str, kept: str, dense: Inventory) -> None:
    """By hand, from `_ignore_patterns_to_quant_cfg` of verl/utils/modelopt/quantize.py."""
    found = by_name(resolved("verl-megatron", qat("lm_head", pattern), dense))
    expected = {f"decoder.layers.{n}.{name}" for n in LAYERS for name in kept.split()}
    assert {name for name, label in found.items() if label == "bf16"} == expected
    assert len(found) == 4 * len(LAYERS)


def vllm_config(targets: list[str], ignore: list[str]) -> dict[str, Any]:
    group = {"targets": targets, "weights": FLOAT4, "input_activations": None}
    return {"config_groups": {"group_0": group}, "ignore": ignore}


QKV = [f"model.layers.0.self_attn.{p}_proj" for p in "qkv"]


@pytest.mark.parametrize(
    ("targets", "ignore", "first", "problem"),
    [
        # The class of a fused linear holds the word Linear.
        (["Linear"], [], "nvfp4 (weight)", None),
        (["Linear"], QKV, "bf16", None),
        (["Linear"], QKV[:1], "bf16", "only model.layers.0.self_attn.q_proj is ignored"),
        (["Linear"], ["model.layers.0.self_attn.qkv_proj"], "bf16", None),
        # A regular expression for the fused name alone does not ignore: its parts are asked.
        (["Linear"], ["re:.*qkv_proj"], "nvfp4 (weight)", None),
        (["re:.*qkv_proj"], [], "nvfp4 (weight)", None),
        (QKV, [], "nvfp4 (weight)", None),
        (QKV[:2], [], "bf16", "neither targeted nor ignored"),
        (["re:.*self_attn"], [], "nvfp4 (weight)", None),
    ],
)
def test_vllm_asks_for_fused_names(
    targets: list[str], ignore: list[str], first: str, problem: str | None, dense: Inventory
) -> None:
    """By hand, from `should_ignore_layer` and `find_matched_target` of vLLM."""
    found = resolved("vllm", vllm_config(targets, ignore), dense)
    for each in found.modules:
        if each.module.name in QKV:
            assert str(each.operands) == first
            assert (each.problem is None) == (problem is None)
            assert problem is None or problem in (each.problem or "")


def test_vllm_takes_the_format_of_q_for_all_three(dense: Inventory) -> None:
    """By hand, from `_match_fused_layer` of vLLM: the target of the first part."""
    k = {"targets": [r"re:.*\.[kv]_proj$"], "weights": FLOAT8}
    q = {"targets": [r"re:.*\.q_proj$"], "weights": FLOAT4}
    found = resolved("vllm", {"config_groups": {"k": k, "q": q}, "ignore": []}, dense)
    own = [each for each in found.modules if each.module.name.endswith(("q_proj", "k_proj"))]
    assert {str(each.operands) for each in own} == {"nvfp4 (weight)"}
    assert all("one format" in (each.problem or "") for each in own)


@pytest.mark.parametrize(
    ("targets", "ignore", "label", "problem"),
    [
        (["Linear"], [], "nvfp4 (weight)", False),
        (["Linear"], [r"re:.*\.experts\..*"], "bf16", False),
        ([r"re:.*\.experts\.0\..*"], [], "nvfp4 (weight)", False),
        ([r"re:.*\.experts\.1\..*"], [r"re:.*\.self_attn\..*"], "bf16", True),
        ([r"re:.*\.experts\.\d+\.(?:gate|up)_proj$"], [], "bf16", True),
    ],
)
def test_vllm_asks_for_the_first_expert(
    targets: list[str], ignore: list[str], label: str, problem: bool, experts: Inventory
) -> None:
    """By hand, from `CompressedTensorsMoEMethod.get_moe_method` of vLLM."""
    found = resolved("vllm", vllm_config(targets, ignore), experts)
    own = [each for each in found.modules if each.module.role == "expert"]
    if not problem:
        assert {str(each.operands) for each in own} == {label}
    assert all((each.problem is not None) == problem for each in own)


def test_a_later_modifier_of_llm_compressor_wins(dense: Inventory) -> None:
    modifiers = {
        "QuantizationModifier": {"targets": "Linear", "scheme": "NVFP4A16", "ignore": ["lm_head"]},
        "GPTQModifier": {"scheme": {"FP8_DYNAMIC": ["re:.*down_proj$"]}},
    }
    content = {"quant_stage": {"quant_modifiers": modifiers}}
    found = by_name(resolved("llm-compressor", content, dense))
    assert found["model.layers.2.mlp.down_proj"] == "fp8_e4m3_token"
    assert found["model.layers.2.mlp.up_proj"] == "nvfp4 (weight)"
    assert found["lm_head"] == "bf16"


def test_what_it_is_read_from_has_torch_types() -> None:
    """The toy modules that consumers are run on have the classes that the views say."""
    model = made_checkpoints.modules_of({"a.b": "linear", "c": "embedding", "d": "norm"})
    types = [type(model.get_submodule(n)).__name__ for n in ("a.b", "c", "d")]
    assert types == ["Linear", "Embedding", "RMSNorm"]
    assert model.get_submodule("a.b").weight.dtype == torch.bfloat16


def test_files_are_told_apart_from_others(tmp_path: Path) -> None:
    from srdd.errors import InputError

    for consumer, reader in READERS.items():
        with pytest.raises(InputError) as error:
            reader({"something": {"else": 1}}, "file.json")
        assert "file.json" in error.value.message, consumer
