"""Where the weight of a noisy module really lies: sharded, offloaded, tied, or out of reach.

Noise is added to memory that the model reads from. What that is depends on how the model was set
up: a plain parameter, a process's own part of a sharded one (DTensor), or the copy that accelerate
keeps on the CPU while the module itself holds nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from srdd.errors import InputError, UsageError
from srdd.rin.targets import Target

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

MATERIALIZE = "load the model without offloading, onto devices that hold all of it"


def check_model(model: nn.Module) -> None:
    """Make sure that noise in the model's weights reaches what it computes.

    Raises:
        UsageError: inside a compiled function.
        InputError: the model is compiled and in training mode, was compiled with its weights as
            constants, is sharded by the older FSDP, or partitioned by DeepSpeed.
    """
    if torch.compiler.is_compiling():
        raise UsageError(
            "noise is added inside a compiled function", "enter `noisy` outside torch.compile"
        )
    if _is_compiled(model):
        if model.training:
            raise InputError(
                "the model is compiled and in training mode: what its backward pass keeps of the "
                "weights is the compiler's choice, and may not fit the noise",
                "train without torch.compile, or call model.eval() to generate or evaluate",
            )
        if _freezes():
            raise InputError(
                "the model is compiled with its weights as constants (torch._inductor.config."
                "freezing), and would not see the noise",
                "compile it without freezing",
            )
    if any("FullyShardedDataParallel" in _classes(module) for module in model.modules()):
        raise InputError(
            "the model is sharded by FullyShardedDataParallel, which flattens weights of several "
            "modules into one",
            "shard it with torch.distributed.fsdp.fully_shard (in accelerate: fsdp_version 2)",
        )
    if any(hasattr(weight, "ds_id") for weight in model.parameters()):
        raise InputError(
            "the model's weights are partitioned by DeepSpeed (ZeRO stage 3)",
            "use ZeRO stage 1 or 2, or torch.distributed.fsdp.fully_shard",
        )


def _classes(module: nn.Module) -> set[str]:
    return {parent.__name__ for parent in type(module).__mro__}


def _is_compiled(model: nn.Module) -> bool:
    return any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in model.modules()
    )


def _freezes() -> bool:
    import torch._inductor.config as inductor

    return bool(inductor.freezing)


def reshard(model: nn.Module) -> None:
    """Drop weights that FSDP has gathered from their parts: they would not see these change."""
    for module in model.modules():
        if "FSDPModule" in _classes(module):
            module.reshard()  # type: ignore[operator]


def weight_of(target: Target) -> torch.Tensor:
    """The tensor that a weight is read from; a DTensor where it is sharded.

    Raises:
        InputError: its values are not in memory, or not in a type that noise can be added to.
    """
    weight: torch.Tensor = target.parameter
    if weight.is_meta:
        weight = _offloaded(target)
    if weight.dtype not in TYPES:
        raise InputError(
            f"the weight of {target.name!r} is {str(weight.dtype).removeprefix('torch.')}, which "
            "noise cannot be added to",
            "load the model in bfloat16, float16 or float32, not quantized",
        )
    return weight


def _offloaded(target: Target) -> torch.Tensor:
    """The copy on the CPU of a weight that accelerate loads for each forward pass."""
    hook: Any = getattr(target.module, "_hf_hook", None)
    for inner in getattr(hook, "hooks", (hook,)):
        weights = getattr(inner, "weights_map", None)
        if weights is None:
            continue
        copy = weights[target.key]
        # From the disk it is another tensor each time.
        if isinstance(copy, torch.Tensor) and copy.data_ptr() == weights[target.key].data_ptr():
            return copy
        raise InputError(f"the weight of {target.name!r} is offloaded to the disk", MATERIALIZE)
    raise InputError(f"the weight of {target.name!r} holds no values (device meta)", MATERIALIZE)


def local(weight: torch.Tensor) -> torch.Tensor:
    """The part of a weight that this process holds, to be written to; all of a plain one."""
    if not is_sharded(weight):
        return weight
    with torch.no_grad():
        part: torch.Tensor = weight.to_local()  # type: ignore[attr-defined]
    return part


def is_sharded(weight: torch.Tensor) -> bool:
    return hasattr(weight, "device_mesh")


def local_part(whole: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """This process's part of `whole`, which has the shape of the sharded `weight`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    # src_data_rank None: every process takes its part of its own copy, and nothing is sent.
    return distribute_tensor(
        whole, weight.device_mesh, weight.placements, src_data_rank=None
    ).to_local()


def identity(weight: torch.Tensor) -> tuple[str, int] | None:
    """Equal for tensors that share their memory; None for an empty part."""
    part = local(weight)
    return (str(part.device), part.data_ptr()) if part.numel() else None
