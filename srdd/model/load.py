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
from srdd.model.checkpoint import Checkpoint, check_dtype, pickle_only, refuse_other_tasks
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
    """Progress bars and log lines of transformers and its optional parts are not ours to show."""
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
    """While transformers is imported, optional packages that it tries keep their troubles to
    themselves: they concern nothing that a scan uses.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _explain(error: Exception, checkpoint: Checkpoint) -> SrddError:
    """What transformers raised, as something a person can act on."""
    text = str(error).strip()
    first = text.splitlines()[0][:300] if text else type(error).__name__
    if "trust_remote_code" in text:
        return InputError(
            f"{checkpoint.name} brings code of its own, which was not asked for",
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
    options: dict[str, Any] = {
        "dtype": "auto" if dtype == "auto" else getattr(torch, dtype),
        "trust_remote_code": trust_remote_code,
        "use_safetensors": None if allow_pickle else True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are refused below, by name
    }
    if device_map is not None:
        options["device_map"] = device_map
    if checkpoint.revision is not None:
        options["revision"] = checkpoint.revision
    try:
        with _silenced():
            # Of a model on the Hub, this is the first look at its config: before its weights.
            config = AutoConfig.from_pretrained(
                checkpoint.location,
                revision=checkpoint.revision,
                trust_remote_code=trust_remote_code,
            )
            refuse_quantized(checkpoint.name, config)
            refuse_other_tasks(checkpoint.name, config.to_dict())
            model, info = AutoModelForCausalLM.from_pretrained(checkpoint.location, **options)
            if device_map is None:
                model = model.to(target)
    except SrddError:
        raise
    except Exception as error:  # transformers raises nearly every kind; each has to become a hint
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


def _check_filled(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Weights that the checkpoint lacks are random: figures measured on them would be false."""
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise InputError(
            f"{checkpoint.name} lacks {counted(len(lacking), 'weight')} of its model, {lacking[0]} "
            "first, and transformers would fill such at random",
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
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if checkpoint.revision is not None:
        options["revision"] = checkpoint.revision
    try:
        with _silenced():
            return AutoTokenizer.from_pretrained(checkpoint.location, **options)
    except Exception as error:  # as above
        text = str(error).strip()
        if "trust_remote_code" in text:
            raise _explain(error, checkpoint) from error
        first = text.splitlines()[0][:300] if text else type(error).__name__
        raise InputError(
            f"cannot load the tokenizer of {checkpoint.name}: {first}",
            "name one with --tokenizer, a folder or a Hub id",
        ) from error
