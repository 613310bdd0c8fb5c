"""Predictions: how well a model predicts each next token, and how far from another model.

For a prompt's tokens t_1 ... t_n and the distributions p of the model as it is and q of the model
in question, both given t_1 ... t_i, the figures are sums over i = 1 ... n - 1, of a rollout over
those i for which t_(i+1) is a token of the response:

    plain = -log p(t_(i+1))
    nll   = -log q(t_(i+1))
    kl    = KL(p || q) = sum over tokens v of p(v) (log p(v) - log q(v))

Logarithms are natural and in float64, where the device has it. Logits of a large vocabulary take
more memory than the rest of the model's activations: a batch is cut so that they stay below LOGITS
values, and what is computed from them goes through CHUNK values at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from srdd.prompts.batches import Batch, split

LOGITS = 1 << 26
"""Logits of a batch at most, where it can be cut: 128 MiB in bfloat16, for each of two models."""

CHUNK = 1 << 21
"""Logits that figures are computed from at a time: 16 MiB in float64."""


def cut(batch: Batch, vocabulary: int) -> Iterator[Batch]:
    """Parts of a batch with at most LOGITS logits each, or of one prompt."""
    if len(batch.index) > 1 and batch.input_ids.numel() * vocabulary > LOGITS:
        for half in split(batch):
            yield from cut(half, vocabulary)
    else:
        yield batch


def sums(plain: Tensor, logits: Tensor, batch: Batch) -> Tensor:
    """The three figures of each prompt, summed over its predicted tokens.

    Arguments:
        plain: logits of the model as it is, (prompts, tokens, vocabulary).
        logits: those of the model in question.

    Returns:
        float64 (prompts, 3) on the CPU: plain, nll, kl.
    """
    device = logits.device
    totals = torch.zeros(len(batch.index), 3, dtype=torch.float64)
    # A scored token is predicted at the position before it, which is no padding either.
    prompts, places = batch.scored_mask[:, 1:].nonzero(as_tuple=True)
    following = batch.input_ids[prompts, places + 1].to(device)
    step = max(1, CHUNK // logits.shape[-1])
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        where = (prompts[part].to(device), places[part].to(device))
        p, q = _log_softmax(plain.to(device)[where]), _log_softmax(logits[where])
        target = following[part, None]
        # p log p is 0 where p is 0, though its logarithm may be minus infinity.
        kl = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(-1)
        rows = torch.stack([-p.gather(1, target)[:, 0], -q.gather(1, target)[:, 0], kl], dim=1)
        totals.index_add_(0, prompts[part], rows.cpu().double())
    return totals


def working_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(working_dtype(logits.device)).log_softmax(-1)
