"""What a look at a model's files tells, before anything is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from srdd.errors import InputError, SrddError, UsageError
from srdd.model import checkpoint
from srdd.model.checkpoint import Checkpoint, check_dtype, check_tokenizer, find


def refusal(name: str | Path, **options: Any) -> SrddError:
    """The error that looking for a model ends with."""
    with pytest.raises(SrddError) as caught:
        find(str(name), **options)
    assert caught.value.hint
    return caught.value


# Folders


def test_a_folder_is_found_by_its_path(folder: Path) -> None:
    assert find(str(folder)) == Checkpoint(str(folder), str(folder), "folder", None)


def test_a_relative_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert find("tiny").source == "folder"
    assert find("./tiny").location == "tiny"


def test_a_folder_in_the_home_directory_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find("~/tiny").location == str(folder)


def test_the_demo_model_is_a_folder_like_any_other() -> None:
    result = find("demo")
    assert (result.name, result.source) == ("demo", "folder")
    assert (Path(result.location) / "config.json").is_file()
    check_tokenizer(result)


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", "~/missing"])
def test_a_path_that_is_not_there_is_named_with_the_models_nearby(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    error = refusal(name)
    assert error.message == f"there is no folder {Path(name).expanduser()}"
    assert error.hint.startswith("models here: ")
    assert {"demo", str(folder)} <= set(error.hint.removeprefix("models here: ").split(", "))


def test_of_the_models_nearby_the_closest_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert refusal(folder.parent / "tinny").hint == f"models here: {folder}, demo"


def test_a_file_is_no_model() -> None:
    error = refusal(__file__)
    assert error.message == f"{__file__} is a file, not a model's folder"
    assert error.hint == f"try its folder: {Path(__file__).parent}"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("scan.json", "is a document, not a model", "srdd report"),
        ("prompts.parquet", "is a file of prompts", "--prompts"),
        ("model-q4.gguf", "is a GGUF file", "checkpoint that the GGUF file was made from"),
        ("policy.pt", "no config.json", "save_pretrained"),
        ("model.safetensors", "no config.json", "save_pretrained"),
    ],
)
def test_other_files_say_what_they_are(name: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"{}")
    error = refusal(tmp_path / name)
    assert message in error.message
    assert hint in error.hint


def test_an_adapter_comes_with_the_call_that_merges_it(tmp_path: Path) -> None:
    settings = {"base_model_name_or_path": "some/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    error = refusal(tmp_path)
    assert error.message == f"{tmp_path} is an adapter of some/base, not a whole model"
    assert f'from_pretrained("some/base"), "{tmp_path}").merge_and_unload()' in error.hint


def test_a_folder_of_gguf_files_points_to_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert "GGUF" in refusal(tmp_path).hint


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"is_encoder_decoder": True},
    ],
)
def test_what_does_not_predict_the_next_token_is_refused(
    changes: dict[str, Any], folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    assert "is not a causal language model" in refusal(folder).message


def test_a_decoder_of_an_encoder_architecture_is_taken(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    changes = {"architectures": ["BertForMaskedLM"], "is_decoder": True}
    (folder / "config.json").write_text(json.dumps(config | changes))
    assert find(str(folder)).source == "folder"


def test_a_name_too_long_for_a_file_is_no_model() -> None:
    assert "there is no folder" in refusal("./" + "x" * 5000).message


def test_an_empty_name_is_no_model() -> None:
    assert refusal("").message == "the model's name is empty"


def test_a_revision_of_a_folder_does_not_exist(folder: Path) -> None:
    error = refusal(folder, revision="main")
    assert error.message == f"{folder} is a folder, and --revision is for the Hub"
    assert refusal("demo", revision="main").hint == "leave out --revision"


def test_a_folder_without_config_is_reported_with_what_it_holds(folder: Path) -> None:
    (folder / "config.json").unlink()
    error = refusal(folder)
    assert isinstance(error, InputError)
    assert error.message.startswith(f"{folder} has no config.json (it has: ")
    assert "model.safetensors" in error.message
    assert error.hint == "name a folder with a config.json"


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert refusal(tmp_path).message == f"{tmp_path} has no config.json (it has: nothing)"


def test_a_folder_of_models_points_to_them(folder: Path) -> None:
    assert refusal(folder.parent).hint == f"name one of: {folder}"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"model_type": ', "is not valid JSON ("),
        (b"", "is not valid JSON ("),
        (b"\xff\xfe", "is not valid JSON ("),
        (b"[]", "is not a JSON object"),
        (b"{}", "names no model_type"),
    ],
)
def test_a_broken_config_is_reported_with_what_is_wrong(
    content: bytes, complaint: str, folder: Path
) -> None:
    (folder / "config.json").write_bytes(content)
    error = refusal(folder)
    assert error.message.startswith(f"{folder / 'config.json'} {complaint}")
    assert error.hint.startswith("save the model")


def test_a_config_that_cannot_be_read_is_reported(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    error = refusal(folder)
    assert error.message == f"cannot read {folder / 'config.json'}: Is a directory"


BITSANDBYTES = {
    "quant_method": "bitsandbytes",
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
}
COMPRESSED_TENSORS = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group"},
            "input_activations": {"num_bits": 4, "type": "float", "dynamic": "local"},
        }
    },
}
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
ORIGINAL = "use the checkpoint in full precision that it was made from"


@pytest.mark.parametrize(
    ("entry", "how", "dequantizing"),
    [
        (BITSANDBYTES, "bitsandbytes", None),
        (COMPRESSED_TENSORS, "compressed-tensors", None),
        (MXFP4, "mxfp4", "Mxfp4Config"),
        (FP8, "fp8", "FineGrainedFP8Config"),
        ({"quant_method": "gptq", "bits": 4}, "gptq", None),
        ({"bits": 4}, "by its quantization_config", None),
        (["odd"], "by its quantization_config", None),
    ],
)
@pytest.mark.parametrize("place", [None, "text_config"])
def test_a_model_that_is_quantized_already_is_refused(
    place: str | None, entry: object, how: str, dequantizing: str | None, folder: Path
) -> None:
    def write(entry: object) -> None:
        kept = {"quantization_config": entry}
        added = kept if place is None else {place: kept}
        (folder / "config.json").write_text(json.dumps(config | added))

    config = json.loads((folder / "config.json").read_text())
    write(entry)
    error = refusal(folder)
    assert isinstance(error, InputError)
    assert error.message == f"{folder} is quantized already ({how})"
    if dequantizing is None:
        assert error.hint == ORIGINAL
    else:
        assert error.hint == (
            f"{ORIGINAL}; if there is none, load it in Python with quantization_config="
            f"transformers.{dequantizing}(dequantize=True) and pass the model to srdd"
        )
    write(None)
    assert find(str(folder)).source == "folder"


# Weights


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_a_weight_file_cut_short_is_detected(share: float, folder: Path) -> None:
    file = folder / "model.safetensors"
    length = int(share * file.stat().st_size)
    os.truncate(file, length)
    error = refusal(folder)
    assert isinstance(error, InputError)
    assert error.message.startswith(f"{file} is cut short or damaged ({length:,} bytes: ")
    assert error.hint == "download or save it again"


def test_a_weight_file_with_a_damaged_header_is_detected(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:40] = bytes(32)
    file.write_bytes(content)
    assert refusal(folder).message.startswith(f"{file} is cut short or damaged")


def shard(folder: Path) -> list[Path]:
    """The folder's model in several files instead of one."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    return sorted(folder.glob("*.safetensors"))


def test_missing_shards_are_counted_and_the_first_is_named(folder: Path) -> None:
    files = shard(folder)
    assert find(str(folder)).source == "folder"
    for file in files[1:3]:
        file.unlink()
    error = refusal(folder)
    assert error.message == (
        f"{folder} lacks 2 of {len(files)} weight files, {files[1].name} first"
    )
    assert error.hint == "download the missing files"


def test_a_shard_cut_short_is_detected(folder: Path) -> None:
    last = shard(folder)[-1]
    os.truncate(last, last.stat().st_size - 1)
    assert refusal(folder).message.startswith(f"{last} is cut short")


def test_an_index_beside_the_whole_weights_does_not_matter(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}')
    assert find(str(folder)).source == "folder"


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}'])
def test_a_broken_weight_index_is_reported(index: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    file = folder / "model.safetensors.index.json"
    file.write_text(index)
    error = refusal(folder)
    assert error.message == f"{file} is not a weight index"


def test_a_folder_without_weights_is_reported(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    error = refusal(folder)
    assert error.message == f"{folder} has no weights"
    assert error.hint.startswith("it needs model.safetensors")


def test_safetensors_under_another_name_are_not_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    error = refusal(folder)
    assert error.message == f"{folder} is an adapter, not a whole model"
    assert "merge_and_unload" in error.hint
    (folder / "adapter_model.safetensors").rename(folder / "other.safetensors")
    assert refusal(folder).message == f"{folder} has no weights (it has other.safetensors)"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_not_read_unasked(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / name)
    error = refusal(folder)
    assert error.message == (
        f"{folder} has its weights as a pickle only ({name}), which can run code when it is read"
    )
    assert error.hint == (
        "convert it with save_pretrained(), or add --allow-pickle if you trust its origin"
    )
    assert find(str(folder), allow_pickle=True).source == "folder"


def test_pickles_beside_safetensors_do_not_matter(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    assert find(str(folder)).source == "folder"


# Tokenizers


def test_a_folder_without_tokenizer_is_reported(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError) as caught:
        check_tokenizer(find(str(folder)))
    assert caught.value.message == f"{folder} has no tokenizer"
    assert caught.value.hint == "name one with --tokenizer, a folder or a Hub id"


def test_a_tokenizer_of_its_own_needs_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    check_tokenizer(find(str(folder), weights=False))


def test_an_unknown_dtype_lists_the_closest_first() -> None:
    assert check_dtype("bfloat16") == "bfloat16"
    with pytest.raises(UsageError) as caught:
        check_dtype("bfloat61")
    assert caught.value.message == "unknown dtype 'bfloat61'"
    assert caught.value.hint.startswith("choose from: bfloat16, ")


# The Hub, as its client's errors show it; nothing here asks the network


Answer = Callable[[Any], None]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Make the Hub answer with an error, or with a model of the files given."""

    def answers(answer: Any) -> None:
        def model_info(self: object, repo_id: str, **options: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            files = [SimpleNamespace(rfilename=name) for name in answer]
            return SimpleNamespace(siblings=files or None)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    return answers


def response(status: int) -> Any:
    """As much of an answer as the client's errors look at."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_an_unknown_name_offers_the_models_here(hub: Answer) -> None:
    hub(errors.RepositoryNotFoundError("404", response=response(404)))
    error = refusal("nobody/nothing")
    assert error.message == (
        "there is no folder 'nobody/nothing', and the Hub has no model of that name"
    )
    assert error.hint.startswith("models here: demo")


def test_a_gated_model_has_to_be_asked_for(hub: Answer) -> None:
    hub(errors.GatedRepoError("403", response=response(403)))
    error = refusal("some/model")
    assert error.message == "some/model is gated: access has to be requested on the Hub"
    assert "hf auth login" in error.hint


def test_an_unknown_revision_is_reported(hub: Answer) -> None:
    hub(errors.RevisionNotFoundError("404", response=response(404)))
    error = refusal("some/model", revision="v9")
    assert error.message == "some/model has no revision 'v9'"


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("Name or service not known"),
        OSError("Name or service not known\nand more lines"),
        errors.HfHubHTTPError("Name or service not known", response=response(503)),
    ],
)
def test_a_hub_out_of_reach_is_reported_with_the_reason(failure: Exception, hub: Answer) -> None:
    hub(failure)
    error = refusal("some/model")
    assert error.message == (
        "there is no folder 'some/model', and the Hub could not be asked "
        "(Name or service not known)"
    )


def test_a_model_without_listed_files_is_left_to_transformers(hub: Answer) -> None:
    hub([])
    assert find("some/model").source == "hub"


def test_pickled_weights_on_the_hub_are_refused_before_they_are_downloaded(hub: Answer) -> None:
    hub(["config.json", "pytorch_model.bin"])
    assert "has its weights as a pickle only (pytorch_model.bin)" in refusal("some/model").message
    assert find("some/model", allow_pickle=True).source == "hub"
    assert find("some/model", weights=False).source == "hub"


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter"),
        (["config.json", "model-Q4_K_M.gguf"], "GGUF"),
    ],
)
def test_what_is_no_whole_model_on_the_hub_is_refused(
    files: list[str], word: str, hub: Answer
) -> None:
    hub(files)
    assert word in refusal("some/model").message
    assert find("some/model", weights=False).source == "hub"


def test_a_model_on_the_hub_is_found_with_its_revision(hub: Answer) -> None:
    hub(["config.json", "model.safetensors", "pytorch_model.bin"])
    assert find("some/model", revision="v1") == Checkpoint("some/model", "some/model", "hub", "v1")


def test_offline_the_cache_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    error = refusal("nobody/nothing")
    assert error.message == (
        "there is no folder 'nobody/nothing', no copy in the Hub's cache, and HF_HUB_OFFLINE is set"
    )
    assert "cache" not in error.hint
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *a, **k: "/cache/config.json"
    )
    assert find("nobody/nothing").source == "hub"


def test_offline_the_models_in_the_cache_are_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("models--Qwen--Qwen2.5-1.5B", "models--gpt2", "datasets--x--y"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert refusal("nobody/nothing").hint.endswith("in the cache: Qwen/Qwen2.5-1.5B, gpt2")


@pytest.mark.parametrize("name", ["dmeo", "Demo", "demos"])
def test_a_misspelt_demo_is_recognised(name: str, hub: Answer) -> None:
    hub(errors.RepositoryNotFoundError("404", response=response(404)))
    assert refusal(name).hint.startswith("did you mean demo?")


@pytest.mark.parametrize("name", ["a b", "--x", "what?", "[red]x[/red]", "\x1b[31mx"])
def test_a_name_that_the_hub_cannot_have_is_reported(name: str) -> None:
    error = refusal(name)
    assert repr(name) in error.message or "there is no folder" in error.message


def test_looking_at_a_folder_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys\n"
        "from srdd.model.checkpoint import check_tokenizer, find\n"
        f"check_tokenizer(find({json.dumps(str(folder))}))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_names_of_dtypes_are_torchs() -> None:
    assert all(
        name == "auto" or isinstance(getattr(torch, name), torch.dtype)
        for name in checkpoint.DTYPES
    )
