"""A model's folder or Hub id, looked at before anything heavy is loaded.

A wrong name, a folder without weights, an adapter or a file cut short is reported within a second,
not after the minutes that loading takes. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import orjson

from srdd.errors import InputError, unknown_name
from srdd.model.precision import refuse_quantized

DEMO = "demo"
"""The name of the model that ships with srdd."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
"""What weights can be loaded as; `auto` keeps the type that they are stored in."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_WEIGHTS = (".safetensors", *_PICKLES)
_NOT_CAUSAL = (
    "ForMaskedLM",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
"""How names of architectures end that have no head to predict the next token."""

_GGUF = "use the checkpoint that the GGUF file was made from, a folder or a Hub id"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be loaded, as far as its files show.

    Attributes:
        name: what the user called it.
        location: what transformers loads: a path or a Hub id.
        source: whether it is a folder or on the Hub.
        revision: branch, tag or commit on the Hub.
    """

    name: str
    location: str
    source: Literal["folder", "hub"]
    revision: str | None


def find(
    name: str, *, revision: str | None = None, allow_pickle: bool = False, weights: bool = True
) -> Checkpoint:
    """The checkpoint called `name`: `demo`, a folder, or a Hub id.

    Arguments:
        allow_pickle: take weights that are stored as pickles.
        weights: whether weights are needed; a tokenizer has none.

    Raises:
        InputError: there is no such model, or it cannot be loaded as it is.
    """
    if not name:
        raise InputError("the model's name is empty", _suggest(name))
    path = Path(str(files("srdd.model") / DEMO)) if name == DEMO else Path(name).expanduser()
    if _exists(path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        if revision is not None:
            raise InputError(
                f"{name} is a folder, and --revision is for the Hub", "leave out --revision"
            )
        _check_folder(path, allow_pickle, weights)
        return Checkpoint(name, str(path), "folder", None)
    _check_hub(name, revision, allow_pickle, weights)
    return Checkpoint(name, name, "hub", revision)


def check_dtype(name: str) -> str:
    """Give `name` back if it is one of DTYPES.

    Raises:
        UsageError: it is none.
    """
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return name


def _exists(path: Path) -> bool:
    """Whether there is such a path; False for a name that is too long to be looked up."""
    try:
        return path.exists()
    except OSError:
        return False


def _models_near(folder: Path) -> list[str]:
    """Folders in `folder` that hold a config.json."""
    try:
        return sorted(str(file.parent) for file in folder.glob("*/config.json"))[:50]
    except OSError:
        return []


def _suggest(name: str) -> str:
    """Models in the working folder, closest first, as a hint."""
    near = [DEMO, *_models_near(Path.cwd())]
    hint = f"models here: {', '.join(difflib.get_close_matches(name, near, n=5, cutoff=0.0))}"
    meant = difflib.get_close_matches(name.lower(), [DEMO], cutoff=0.7)
    return f"did you mean {DEMO}? {hint}" if meant else hint


def _check_folder(path: Path, allow_pickle: bool, weights: bool) -> None:
    if not _exists(path):
        raise InputError(f"there is no folder {path}", _suggest(str(path)))
    if not path.is_dir():
        raise _is_a_file(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of the folder {path} is not UTF-8, which transformers cannot read",
            "rename it, or make a link to it with another name",
        ) from None
    if not weights:
        return
    config = _read_config(path)
    if "model_type" not in config and "auto_map" not in config:
        raise InputError(
            f"{path / 'config.json'} names no model_type", "save the model with save_pretrained()"
        )
    refuse_quantized(str(path), config)
    refuse_other_tasks(str(path), config)
    _check_weights(path, allow_pickle)


def _is_a_file(path: Path) -> InputError:
    """The error for a file where a model's folder belongs."""
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return InputError(f"{path} is a GGUF file, whose weights are quantized", _GGUF)
    if suffix in (".json", ".gz", ".html", ".md"):
        hint = f"name the model: a folder or a Hub id; to show a scan: srdd report {path}"
        return InputError(f"{path} is a document, not a model", hint)
    if suffix in (".parquet", ".jsonl", ".txt", ".csv"):
        hint = f"name the model, and the prompts with --prompts {path}"
        return InputError(f"{path} is a file of prompts, not a model", hint)
    if suffix in _WEIGHTS and not (path.parent / "config.json").exists():
        hint = "save the model with save_pretrained(FOLDER) and name that folder"
        return InputError(f"{path} has weights but no config.json beside it", hint)
    return InputError(f"{path} is a file, not a model's folder", f"try its folder: {path.parent}")


def refuse_other_tasks(name: str, config: dict[str, Any]) -> None:
    """Make sure that a config.json is not of an encoder, a classifier or an encoder-decoder.

    Raises:
        InputError: it is.
    """
    architectures = [str(each) for each in config.get("architectures") or ()]
    other = architectures and all(each.endswith(_NOT_CAUSAL) for each in architectures)
    if (other and config.get("is_decoder") is not True) or config.get("is_encoder_decoder") is True:
        kind = architectures[0] if architectures else config.get("model_type", "encoder-decoder")
        raise InputError(
            f"{name} is not a causal language model (it is a {kind})",
            "name a decoder-only language model",
        )


def _is_an_adapter(name: str, base: str | None) -> InputError:
    """The error for a LoRA adapter, with the call that merges it into its model."""
    load = f'AutoModelForCausalLM.from_pretrained("{base or "BASE"}")'
    return InputError(
        f"{name} is an adapter" + (f" of {base}" if base else "") + ", not a whole model",
        f'merge it first: PeftModel.from_pretrained({load}, "{name}").merge_and_unload()'
        '.save_pretrained("merged"), and save the tokenizer there, too',
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{file} is not valid JSON ({error.msg} at line {error.lineno})", "save the model again"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}", "check its permissions") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object", "save the model again")
    return content


def _read_config(path: Path) -> dict[str, Any]:
    """The config.json of a folder that has one."""
    if (path / "config.json").exists():
        return _read_json(path / "config.json")
    names = sorted(entry.name for entry in path.iterdir())
    if "adapter_config.json" in names:
        base = _read_json(path / "adapter_config.json").get("base_model_name_or_path")
        raise _is_an_adapter(str(path), base if isinstance(base, str) else None)
    message = f"{path} has no config.json (it has: {', '.join(names[:8]) or 'nothing'})"
    if any(name.lower().endswith(".gguf") for name in names):
        raise InputError(message, _GGUF)
    inside = _models_near(path)
    hint = f"name one of: {', '.join(inside)}" if inside else "name a folder with a config.json"
    raise InputError(message, hint)


def _check_weights(path: Path, allow_pickle: bool) -> None:
    """Look at the files that transformers would read: a whole one, else those of an index."""
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.exists():
        _check_safetensors(whole)
        return
    if index.exists():
        for name in _indexed(path, index):
            _check_safetensors(path / name)
        return
    pickles = sorted(file.name for suffix in _PICKLES for file in path.glob(f"*{suffix}"))
    if not pickles:
        others = sorted(file.name for file in path.glob("*.safetensors"))
        if "adapter_model.safetensors" in others:
            raise _is_an_adapter(str(path), None)
        raise InputError(
            f"{path} has no weights" + (f" (it has {others[0]})" if others else ""),
            "it needs model.safetensors; an adapter has to be merged into its model first",
        )
    if not allow_pickle:
        raise pickle_only(str(path), pickles[0])


def safetensors_of(path: Path) -> list[str]:
    """Names of the files in a model's folder that hold its weights.

    Raises:
        InputError: they are not safetensors, or one is missing.
    """
    _check_weights(path, allow_pickle=False)
    if (path / "model.safetensors").exists():
        return ["model.safetensors"]
    return _indexed(path, path / "model.safetensors.index.json")


def _indexed(path: Path, index: Path) -> list[str]:
    """The weight files that an index names, all of which are there."""
    try:
        wanted = sorted(set(map(str, orjson.loads(index.read_bytes())["weight_map"].values())))
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        raise InputError(f"{index} is not a weight index", "download it again") from None
    missing = [name for name in wanted if not (path / name).exists()]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of {len(wanted)} weight files, {missing[0]} first",
            "download the missing files",
        )
    return wanted


def pickle_only(name: str, file: str) -> InputError:
    """The error for weights that only exist as pickles, which can run code when they are read."""
    return InputError(
        f"{name} has its weights as a pickle only ({file}), which can run code when it is read",
        "convert it with save_pretrained(), or add --allow-pickle if you trust its origin",
    )


def _check_safetensors(file: Path) -> None:
    """Header and length of a file; reading them also detects a file that was cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy"):
            pass
    except SafetensorError as error:
        size = file.stat().st_size
        raise InputError(
            f"{file} is cut short or damaged ({size:,} bytes: {error})",
            "download or save it again",
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error}", "check its permissions") from None


def _check_hub(name: str, revision: str | None, allow_pickle: bool, weights: bool) -> None:
    import huggingface_hub
    from huggingface_hub import constants, errors

    probe = "config.json" if weights else "tokenizer_config.json"
    hint = _suggest(name)
    try:
        cached = huggingface_hub.try_to_load_from_cache(name, probe, revision=revision)
    except errors.HFValidationError:
        raise InputError(f"{name!r} is neither a folder nor a Hub id", hint) from None
    if isinstance(cached, str):
        return
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"there is no folder {name!r}, no copy in the Hub's cache, and HF_HUB_OFFLINE is set",
            hint + _cached_models(constants.HF_HUB_CACHE),
        )
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=15)
    except errors.GatedRepoError:
        raise InputError(
            f"{name} is gated: access has to be requested on the Hub",
            "request it, then run: hf auth login",
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{name} has no revision {revision!r}", "name a branch, a tag or a commit of it"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"there is no folder {name!r}, and the Hub has no model of that name", hint
        ) from None
    except Exception as error:  # the network's client raises errors of many kinds
        raise InputError(
            f"there is no folder {name!r}, and the Hub could not be asked ({first_line(error)})",
            hint + _cached_models(constants.HF_HUB_CACHE),
        ) from None
    if weights:
        _check_hub_files(name, [file.rfilename for file in info.siblings or []], allow_pickle)


def _check_hub_files(name: str, files: list[str], allow_pickle: bool) -> None:
    """Refuse a repository by the names of its files, before anything is downloaded."""
    if "adapter_config.json" in files and "config.json" not in files:
        raise _is_an_adapter(name, None)
    if any(file.endswith(".safetensors") for file in files):
        return
    if any(file.lower().endswith(".gguf") for file in files):
        raise InputError(f"{name} has GGUF files, whose weights are quantized", _GGUF)
    pickles = [file for file in files if file.endswith(_PICKLES)]
    if pickles and not allow_pickle:
        raise pickle_only(name, pickles[0])


def _cached_models(cache: str) -> str:
    """Models in the Hub's cache, at most eight, as the end of a hint."""
    folders = sorted(Path(cache).glob("models--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    return f"; in the cache: {', '.join(names[:8])}" if names else ""


def first_line(error: Exception) -> str:
    """Of an error's message, at most 300 characters; its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Make sure that a folder has a tokenizer.

    Raises:
        InputError: none of the files is there that tokenizers are stored in.
    """
    if checkpoint.source != "folder":
        return
    folder = Path(checkpoint.location)
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise InputError(
            f"{folder} has no tokenizer", "name one with --tokenizer, a folder or a Hub id"
        )
