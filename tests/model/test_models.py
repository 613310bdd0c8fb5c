"""Loading: what becomes of weights, and what a person is told when they cannot be loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import srdd
from srdd.errors import InputError, SrddError, UsageError
from srdd.model import load as models
from srdd.model.checkpoint import Checkpoint, find
from srdd.model.load import check_device, load_model, load_tokenizer
from srdd.model.running import is_out_of_memory
from srdd.simulation.evaluator import evaluate_model


def at(folder: Path) -> Checkpoint:
    """The folder as a checkpoint, without the look at its files that would refuse it."""
    return Checkpoint(str(folder), str(folder), "folder", None)


def refusal(checkpoint: Checkpoint, **options: Any) -> SrddError:
    """The error that loading a model ends with."""
    with pytest.raises(SrddError) as caught:
        load_model(checkpoint, **options)
    assert caught.value.hint
    return caught.value


Change = Callable[[dict[str, torch.Tensor]], None]


def rewrite(folder: Path, change: Change) -> None:
    """Change the stored weights of a folder."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_saved_model_is_loaded_as_it_was(saved_once: Path) -> None:
    loaded = load_model(find(str(saved_once)))
    expected = families.shared("llama").state_dict()
    result = loaded.model.state_dict()
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[key], expected[key]) for key in expected)
    assert (loaded.commit, loaded.notes) == (None, ())


def test_a_loaded_model_is_ready_to_run(saved_once: Path) -> None:
    model = load_model(find(str(saved_once))).model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_weights_are_loaded_in_the_dtype_asked_for(name: str, saved_once: Path) -> None:
    model = load_model(find(str(saved_once)), dtype=name).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, name)}


def test_auto_keeps_the_dtype_that_is_stored(tmp_path: Path) -> None:
    families.new("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(find(str(tmp_path))).model.dtype == torch.bfloat16


def test_loading_leaves_the_settings_of_transformers_alone(saved_once: Path) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_info()
    try:
        load_model(find(str(saved_once)))
        assert transformers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
        assert logging.root.manager.disable == logging.NOTSET
    finally:
        transformers_logging.set_verbosity_warning()


def test_loading_says_nothing(saved_once: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(find(str(saved_once)))
    load_tokenizer(find(str(saved_once)))
    assert capfd.readouterr() == ("", "")


# Weights that do not fit


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights["model.layers.1.mlp.up_proj.weight"]
        del weights["model.layers.2.mlp.up_proj.weight"]

    rewrite(folder, drop)
    error = refusal(at(folder))
    assert isinstance(error, InputError)
    assert error.message == (
        f"{folder} lacks 2 weights of its model, model.layers.1.mlp.up_proj.weight first, "
        "and transformers would fill them with random values"
    )
    assert error.hint == "save the whole model again, or merge an adapter into it first"


def test_weights_of_another_shape_are_not_made_up(folder: Path) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"] = torch.ones(65)

    rewrite(folder, widen)
    error = refusal(at(folder))
    assert error.message == (
        f"{folder} has 1 weight of another shape than its config says: "
        "model.norm.weight is (65,), not (64,)"
    )
    assert error.hint == "use the config.json that the weights were saved with"


def test_weights_that_are_not_used_are_noted(folder: Path) -> None:
    def add(weights: dict[str, torch.Tensor]) -> None:
        weights["extra.b"] = weights["extra.a"] = torch.ones(1)
        weights["extra.b"] = torch.zeros(1)

    rewrite(folder, add)
    assert load_model(at(folder)).notes == (
        "2 weights in the checkpoint that the model does not use, extra.a first",
    )


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    families.new("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load_model(find(str(tmp_path))).notes == ()


# Pickles


@pytest.fixture
def pickled(folder: Path) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_loaded_only_when_allowed(pickled: Path) -> None:
    error = refusal(at(pickled))
    assert "has its weights as a pickle only (pytorch_model.bin)" in error.message
    assert "--allow-pickle" in error.hint
    model = load_model(find(str(pickled), allow_pickle=True), allow_pickle=True).model
    assert torch.equal(
        model.state_dict()["model.norm.weight"], families.shared("llama").model.norm.weight
    )


def test_a_damaged_pickle_is_reported(pickled: Path) -> None:
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02not a pickle")
    error = refusal(at(pickled), allow_pickle=True)
    assert error.message.startswith(f"cannot load {pickled}: ")


def test_allowing_pickles_does_not_keep_safetensors_from_being_read(saved_once: Path) -> None:
    assert load_model(find(str(saved_once)), allow_pickle=True).model is not None


# Models that transformers cannot load


def test_code_that_comes_with_a_model_is_not_run_unasked(folder: Path) -> None:
    configure(
        folder,
        model_type="homemade",
        auto_map={"AutoConfig": "home.Config", "AutoModelForCausalLM": "home.Model"},
    )
    (folder / "home.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nraise SystemExit")
    error = refusal(at(folder))
    assert error.message == f"{folder} needs code of its own, which is not run unasked"
    assert error.hint == "add --trust-remote-code if you trust its origin"
    assert not (folder / "ran").exists()


HOME = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "homemade"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_code_that_comes_with_a_model_is_run_when_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "m"))
    configure(
        folder,
        model_type="homemade",
        auto_map={"AutoConfig": "home.Config", "AutoModelForCausalLM": "home.Model"},
    )
    (folder / "home.py").write_text(HOME)
    model = load_model(at(folder), trust_remote_code=True).model
    assert type(model).__name__ == "Model"


def test_an_unknown_model_type_is_reported(folder: Path) -> None:
    configure(folder, model_type="from_the_future")
    error = refusal(at(folder))
    assert "from_the_future" in error.message
    assert "update transformers" in error.hint


def test_a_model_that_generates_no_text_is_reported(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    error = refusal(find(str(tmp_path)))
    assert error.message == (f"{tmp_path} is not a causal language model that transformers knows")
    assert error.hint == "name a decoder-only language model"


def test_whatever_else_fails_is_reported_in_one_line(
    saved_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyError("first line\nsecond line")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    error = refusal(find(str(saved_once)))
    assert error.message.startswith(f"cannot load {saved_once}: ")
    assert "\n" not in error.message
    assert error.hint == "see the whole with --debug"


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate"),
    ],
)
def test_a_model_too_large_for_memory_is_reported(
    failure: Exception, saved_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    error = refusal(find(str(saved_once)))
    assert error.message == f"{saved_once} does not fit into memory"
    assert error.hint == "try --dtype bfloat16, or --device-map auto to spread it"
    assert is_out_of_memory(failure)


@pytest.mark.parametrize(
    "failure", [ValueError("out of memory"), RuntimeError("shapes differ"), KeyboardInterrupt()]
)
def test_other_failures_are_not_taken_for_lack_of_memory(failure: BaseException) -> None:
    assert not is_out_of_memory(failure)


# Models that are quantized already


def in_memory(quantization: object) -> nn.Module:
    """A model whose configuration says that it is quantized."""
    model = families.new("llama")
    model.config.quantization_config = quantization
    return model


def scan_of(model: nn.Module, tokenizer: Any) -> object:
    return srdd.scan_model(model, tokenizer, ["abc", "def"], sites=["output", "weight"])


def evaluation_of(model: nn.Module, tokenizer: Any) -> object:
    return evaluate_model(model, tokenizer, ["abc", "def"])


def simulation_of(model: nn.Module, tokenizer: Any) -> object:
    with srdd.simulate(model, "mxfp4", "mxfp4") as simulation:
        return simulation


USES = [scan_of, evaluation_of, simulation_of]
INSTEAD = "use the checkpoint in full precision that it was made from"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("quantization", "how"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        (transformers.BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"bits": 4}, "by its quantization_config"),
    ],
    ids=["dict", "object", "compressed-tensors", "no method"],
)
def test_a_quantized_model_in_memory_is_refused(
    quantization: object, how: str, use: Callable[..., object], tokenizer: Any
) -> None:
    model = in_memory(quantization)
    with pytest.raises(InputError) as caught:
        use(model, tokenizer)
    assert caught.value.message == f"the model is quantized already ({how})"
    assert caught.value.hint == INSTEAD
    model.config.quantization_config = None
    use(model, tokenizer)


def test_an_evaluation_is_refused_before_any_prompt_is_looked_at() -> None:
    with pytest.raises(InputError, match="the model is quantized already"):
        evaluate_model(in_memory({"quant_method": "bitsandbytes"}), tokenizer=None)


@pytest.mark.parametrize("use", USES)
def test_mxfp4_in_memory_can_be_loaded_otherwise(
    use: Callable[..., object], tokenizer: Any
) -> None:
    with pytest.raises(InputError) as caught:
        use(in_memory(transformers.Mxfp4Config()), tokenizer)
    assert caught.value.message == "the model is quantized already (mxfp4)"
    assert caught.value.hint == (
        f"{INSTEAD}; if there is none, load it in Python with "
        "quantization_config=transformers.Mxfp4Config(dequantize=True) and pass the model to srdd"
    )
    use(in_memory(transformers.Mxfp4Config(dequantize=True)), tokenizer)


def test_a_text_model_that_is_quantized_inside_another_is_refused(tokenizer: Any) -> None:
    model = families.new("llama")
    model.config.text_config = {"quantization_config": {"quant_method": "awq"}}
    with pytest.raises(InputError, match=r"the model is quantized already \(awq\)"):
        scan_of(model, tokenizer)


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]  # OCP MX, the low half of a byte comes first


def mxfp4_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """GPT-OSS with experts in MXFP4 as it was released; gives their values, (experts, in, out)."""
    families.new("gpt_oss").to(torch.bfloat16).save_pretrained(folder)
    configure(folder, quantization_config={"quant_method": "mxfp4"})
    values = torch.tensor(E2M1 + [-value for value in E2M1])
    generator = torch.Generator().manual_seed(0)
    wanted = {}

    def pack(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith(("up_proj", "down_proj"))]:
            experts, columns, rows = weights.pop(name).shape
            shape = (experts, rows, columns // 32)
            codes = torch.randint(0, 16, (*shape, 32), generator=generator, dtype=torch.uint8)
            scales = torch.randint(118, 124, shape, generator=generator, dtype=torch.uint8)
            weights[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
            weights[f"{name}_scales"] = scales
            blocks = values[codes.long()] * 2.0 ** (scales[..., None].float() - 127)
            wanted[name] = blocks.reshape(experts, rows, columns).transpose(1, 2)

    rewrite(folder, pack)
    return wanted


def test_gpt_oss_is_scanned_as_its_hint_says(tmp_path: Path, tokenizer: Any) -> None:
    wanted = mxfp4_checkpoint(tmp_path)
    with pytest.raises(InputError) as caught:
        find(str(tmp_path))
    assert "quantization_config=transformers.Mxfp4Config(dequantize=True)" in caught.value.hint
    assert "mxfp4" in refusal(at(tmp_path)).message
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=transformers.Mxfp4Config(dequantize=True)
    )
    for name, values in wanted.items():
        assert torch.equal(model.get_parameter(name).float(), values)
    scan = srdd.scan_model(model, tokenizer, ["abc", "def"], sites=["output", "weight"])
    assert scan.not_measured == []
    assert set(wanted) <= {record.tensor for record in scan.records}


def test_fp8_is_scanned_as_its_hint_says(tmp_path: Path, tokenizer: Any) -> None:
    families.new("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    configure(
        tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}
    )
    wanted = {}

    def pack(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith("_proj.weight")]:
            codes = weights[name].to(torch.float8_e4m3fn)
            weights |= {name: codes, f"{name}_scale_inv": torch.full((1, 1), 0.5)}
            wanted[name] = codes.bfloat16() * 0.5

    rewrite(tmp_path, pack)
    assert "FineGrainedFP8Config(dequantize=True)" in refusal(at(tmp_path)).hint
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=transformers.FineGrainedFP8Config(dequantize=True)
    )
    for name, values in wanted.items():
        assert torch.equal(model.get_parameter(name), values)
    assert srdd.scan_model(model, tokenizer, ["abc", "def"], sites=["weight"]).not_measured == []


# Devices


def test_without_a_name_the_device_is_one_that_is_there() -> None:
    assert check_device(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert check_device("cpu") == "cpu"


def test_an_unknown_device_lists_the_closest_first() -> None:
    with pytest.raises(UsageError) as caught:
        check_device("cudda")
    assert caught.value.message == "unknown device 'cudda'"
    assert caught.value.hint.startswith("choose from: cuda, ")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "meta", "xpu", "mps"])
def test_a_device_that_is_not_there_lists_those_that_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError) as caught:
        check_device(name)
    assert caught.value.message == f"this machine has no device {name!r}"
    assert caught.value.hint == "choose from: cpu"


def test_a_gpu_beyond_those_that_are_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="no device 'cuda:2'"):
        check_device("cuda:2")


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float61"}, {"device": "nowhere"}, {"device": "cpu", "device_map": "auto"}],
)
def test_wrong_options_are_reported_before_anything_is_loaded(
    options: dict[str, str], saved_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    assert isinstance(refusal(find(str(saved_once)), **options), UsageError)


def test_a_device_map_is_passed_on(saved_once: Path) -> None:
    model = load_model(find(str(saved_once)), device_map="cpu").model
    assert isinstance(model, nn.Module)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


# Tokenizers


def test_a_saved_tokenizer_is_loaded_as_it_was(saved_once: Path, tokenizer: Any) -> None:
    loaded = load_tokenizer(find(str(saved_once)))
    text = "Ünïcode, and  spaces"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"model": 1}'])
def test_a_broken_tokenizer_is_reported(content: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_tokenizer(at(folder))
    assert caught.value.message.startswith(f"cannot load the tokenizer of {folder}: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint == "name one with --tokenizer, a folder or a Hub id"


def test_code_that_comes_with_a_tokenizer_is_not_run_unasked(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    options = json.loads(file.read_text())
    options["tokenizer_class"] = "Homemade"
    options["auto_map"] = {"AutoTokenizer": ["home.Homemade", None]}
    file.write_text(json.dumps(options))
    (folder / "home.py").write_text("raise SystemExit")
    with pytest.raises(InputError) as caught:
        load_tokenizer(at(folder))
    assert caught.value.hint == "add --trust-remote-code if you trust its origin"


def test_what_is_silenced_is_heard_again_after_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), models.quiet_imports():
        raise KeyboardInterrupt
    assert logging.root.manager.disable == logging.NOTSET
