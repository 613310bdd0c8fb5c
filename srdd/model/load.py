"""Loading a causal language model and its tokenizer with transformers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from srdd.errors import InputError, SrddError, UsageError, counted, unknown_name
from srdd.model.checkpoint import (
    Checkpoint,
    check_dtype,
    first_line,
    pickle_only,
    refuse_other_tasks,
)
from srdd.model.precision import refuse_quantized
from srdd.model.running import is_out_of_memory


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    Attributes:
        model: in evaluation mode, without gradients.
        commit: the commit on the Hub that was loaded, None for a folder.
        notes: what a reader of its scan should know.
    """

    model: nn.Module
    commit: str | None
    notes: tuple[str, ...]


def check_device(name: str | None) -> str:
    """The device to run on: `name` if torch has it, or the first GPU or else the CPU for None.

    Raises:
        UsageError: no such kind of device, or none on this machine.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_name("device", name, ["cpu", "cuda", "cuda:0", "mps"]) from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        usable = ", ".join(kind for kind, there in present.items() if there)
        raise UsageError(f"this machine has no device {name!r}", f"choose from: {usable}")
    return str(device)


@contextmanager
def _silenced() -> Iterator[None]:
    """Hide progress bars and log lines of transformers and its optional packages."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with quiet_imports():
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence what optional packages log and warn of while transformers tries to import them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _explain(error: Exception, checkpoint: Checkpoint) -> SrddError:
    """An error of transformers as one that a user can act on."""
    text, first = str(error), first_line(error)
    if "trust_remote_code" in text:
        return InputError(
            f"{checkpoint.name} needs code of its own, which is not run unasked",
            "add --trust-remote-code if you trust its origin",
        )
    if "safetensors" in text and ("pytorch_model" in text or "no file named" in text):
        return pickle_only(checkpoint.name, "pytorch_model.bin")
    if is_out_of_memory(error):
        return InputError(
            f"{checkpoint.name} does not fit into memory",
            "try --dtype bfloat16, or --device-map auto to spread it",
        )
    if "Unrecognized configuration class" in text:
        return InputError(
            f"{checkpoint.name} is not a causal language model that transformers knows",
            "name a decoder-only language model",
        )
    if "model type" in text and "does not recognize" in text:
        return InputError(first, "update transformers, or add --trust-remote-code if you trust it")
    return InputError(f"cannot load {checkpoint.name}: {first}", "see the whole with --debug")


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Loaded:
    """Load a causal language model, ready to run.

    Arguments:
        dtype: one of srdd.model.checkpoint.DTYPES.
        device: where to put it; not together with `device_map`.
        device_map: as accelerate understands it, such as `auto`.
        trust_remote_code: run model code that comes with the checkpoint.
        allow_pickle: take weights that are stored as pickles.

    Raises:
        UsageError: unknown dtype or device, or both `device` and `device_map`.
        InputError: it cannot be loaded, or its weights do not fill the model.
    """
    check_dtype(dtype)
    if device is not None and device_map is not None:
        raise UsageError("--device and --device-map exclude each other", "leave one of them out")
    target = check_device(device)
    with quiet_imports():
        from transformers import AutoConfig, AutoModelForCausalLM
    source = _source(checkpoint, trust_remote_code)
    try:
        with _silenced():
            # Of a model on the Hub, this is the first look at its config: before its weights.
            config = AutoConfig.from_pretrained(checkpoint.location, **source)
            refuse_quantized(checkpoint.name, config)
            refuse_other_tasks(checkpoint.name, config.to_dict())
            model, info = AutoModelForCausalLM.from_pretrained(
                checkpoint.location,
                dtype="auto" if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **source,
                **({} if device_map is None else {"device_map": device_map}),
            )
            if device_map is None:
                model = model.to(target)
    except SrddError:
        raise
    except Exception as error:  # transformers raises errors of nearly every class
        raise _explain(error, checkpoint) from error
    _check_filled(checkpoint, info)
    model.eval()
    model.requires_grad_(False)
    unused = sorted(info["unexpected_keys"])
    notes = []
    if unused:
        number = counted(len(unused), "weight")
        notes.append(f"{number} in the checkpoint that the model does not use, {unused[0]} first")
    commit = getattr(model.config, "_commit_hash", None) if checkpoint.source == "hub" else None
    return Loaded(model, commit, tuple(notes))


def load_skeleton(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> nn.Module:
    """The modules of a model without its weights, which takes no time beside loading those.

    Raises:
        InputError: its config cannot be read, or is not that of a causal language model.
    """
    with quiet_imports():
        from transformers import AutoConfig, AutoModelForCausalLM
    source = _source(checkpoint, trust_remote_code)
    try:
        with _silenced(), torch.device("meta"):
            config = AutoConfig.from_pretrained(checkpoint.location, **source)
            refuse_quantized(checkpoint.name, config)
            refuse_other_tasks(checkpoint.name, config.to_dict())
            model: nn.Module = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust_remote_code
            )
    except SrddError:
        raise
    except Exception as error:  # as above
        raise _explain(error, checkpoint) from error
    return model


def _source(checkpoint: Checkpoint, trust_remote_code: bool) -> dict[str, Any]:
    """Options of every from_pretrained for a checkpoint."""
    revision = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
    return {"trust_remote_code": trust_remote_code, **revision}


def _check_filled(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Refuse weights that the checkpoint lacks: transformers fills them with random values."""
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise InputError(
            f"{checkpoint.name} lacks {counted(len(lacking), 'weight')} of its model, {lacking[0]} "
            "first, and transformers would fill them with random values",
            "save the whole model again, or merge an adapter into it first",
        )
    differing = sorted(info.get("mismatched_keys", ()))
    if differing:
        name, stored, wanted = differing[0]
        raise InputError(
            f"{checkpoint.name} has {counted(len(differing), 'weight')} of another shape than its "
            f"config says: {name} is {tuple(stored)}, not {tuple(wanted)}",
            "use the config.json that the weights were saved with",
        )


def load_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    with quiet_imports():
        from transformers import AutoTokenizer
    try:
        with _silenced():
            return AutoTokenizer.from_pretrained(
                checkpoint.location, **_source(checkpoint, trust_remote_code)
            )
    except Exception as error:  # as above
        if "trust_remote_code" in str(error):
            raise _explain(error, checkpoint) from error
        raise InputError(
            f"cannot load the tokenizer of {checkpoint.name}: {first_line(error)}",
            "name one with --tokenizer, a folder or a Hub id",
        ) from error
