"""Running a model: where it runs, what it can take, evaluation mode, and running out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from srdd.errors import InputError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In here dropout and the like are off; afterwards every module's mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def device_of(model: nn.Module) -> torch.device:
    """The device of its first weight in memory.

    Where accelerate keeps all weights elsewhere and brings each in when it is needed, the device
    that it brings them to.

    Raises:
        InputError: there are no weights to run it with.
    """
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):  # several hooks come as one
            device = getattr(each, "execution_device", None)
            if device is not None and torch.device(device).type != "meta":
                return torch.device(device)
    raise InputError("the model has no weights in memory", "load it before scanning it")


def text_config(model: nn.Module) -> Any:
    """The configuration of its text model; None where it has none."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def vocabulary_of(model: nn.Module) -> int | None:
    """Rows of its input embedding; None where that is unknown."""
    find: Any = getattr(model, "get_input_embeddings", None)
    weight = getattr(find(), "weight", None) if find is not None else None
    return int(weight.shape[0]) if isinstance(weight, torch.Tensor) else None


def context_of(model: nn.Module) -> int | None:
    """The most tokens a prompt may have, from its configuration; None where it does not say."""
    context = getattr(text_config(model), "max_position_embeddings", None)
    return context if isinstance(context, int) and context > 0 else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        phrase in text for phrase in ("DefaultCPUAllocator", "not enough memory", "out of memory")
    )
