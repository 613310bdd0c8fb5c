"""A fingerprint of a model's weights that costs little next to loading them.

For every parameter, in order of name: its name, shape and type, the sum of its bits read as whole
numbers, and a sample of up to 4,096 of its values. The sum sees every change of a single value, the
sample sees values that changed places. Hashing every byte with SHA-256 would take longer than
loading does. It distinguishes checkpoints; it is no protection against a forged one.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from srdd.errors import InputError

SAMPLE = 4096


def _sample(flat: torch.Tensor) -> bytes:
    """Up to SAMPLE values spread evenly over `flat` (n,), as bytes."""
    step = -(-flat.numel() // SAMPLE)
    return bytes(flat[::step].cpu().contiguous().view(torch.uint8).numpy())


def _sum_of_bits(flat: torch.Tensor) -> bytes:
    """The bits of `flat` (n,) read as 64-bit whole numbers and added modulo 2^64, and the rest.

    Eight bytes at a time, since adding narrower numbers into a wide sum is ten times slower.
    """
    raw = flat.view(torch.uint8)
    if raw.data_ptr() % 8 or raw.storage_offset() % 8:
        raw = raw.clone()
    whole = raw.numel() // 8 * 8
    total = int(raw[:whole].view(torch.int64).sum()) if whole else 0
    return total.to_bytes(8, "little", signed=True) + bytes(raw[whole:].cpu().numpy())


def _is_finite(flat: torch.Tensor) -> bool:
    """Whether no value of `flat` is NaN or infinite.

    Either one makes the sum NaN or infinite. The sum can also overflow (in float16 it soon does),
    so only then is every value looked at. Types of eight bits have no sum of their own.
    """
    if not flat.is_floating_point():
        return True
    if flat.element_size() == 1:
        flat = flat.to(torch.float16)
    return bool(flat.sum().isfinite()) or bool(flat.isfinite().all())


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """64 hexadecimal digits that follow from the weights of `model`.

    Parameters without data here (on the meta device, or offloaded) enter by name and shape only.

    Raises:
        InputError: weights hold NaN or infinity; the message names the first such tensors.
    """
    digest = hashlib.sha256()
    broken: list[str] = []
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}|{tuple(parameter.shape)}|{parameter.dtype}|".encode())
        if parameter.is_meta or parameter.numel() == 0:
            continue
        flat = parameter.detach().contiguous().view(-1)
        digest.update(_sum_of_bits(flat))
        digest.update(_sample(flat))
        if not _is_finite(flat):
            broken.append(name)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise InputError(
            f"the weights hold NaN or infinity: {', '.join(broken[:3])}{more}",
            "scan a checkpoint from before the training broke",
        )
    return digest.hexdigest()
