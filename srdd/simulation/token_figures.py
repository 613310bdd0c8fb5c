"""Figures of every predicted token from the logits of two models, for what sums a prompt hide.

With p the next-token distribution of the model as it is, q that of the model in question, and t the
token that follows:

    train, rollout         log p(t), log q(t)
    kl, kl_reversed        KL(p || q), KL(q || p)
    expected_chi2          sum over v of p(v)^2 / q(v), minus 1
    expected_apart_exp     sum over v of q(v) exp(|log p(v) - log q(v)|)
    expected_outside       probability under q of tokens with p(v) / q(v) beyond a range
    entropy                of p, nats
    rank                   of t in p, from 1: one more than the tokens that are more probable

Both distributions are softmax(logits / temperature). Logarithms are natural, in float64 where the
device has it, a chunk of positions at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srdd.numerics.mismatch import BOUND, CLIP
from srdd.prompts.batches import Batch
from srdd.simulation.predictions import CHUNK, working_dtype

NAMES = (
    "train",
    "rollout",
    "kl",
    "kl_reversed",
    "expected_chi2",
    "expected_apart_exp",
    "expected_outside",
    "expected_own_outside",
    "entropy",
    "rank",
)


@dataclass(frozen=True)
class TokenFigures:
    """The predicted tokens of a batch, prompt by prompt in order.

    Attributes:
        prompts: (tokens,) which prompt of the batch.
        places: (tokens,) the place that predicts the token: the one before it.
        values: for each of NAMES, float64 (tokens,).
    """

    prompts: NDArray[np.int64]
    places: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]

    def sums(self, prompts: int) -> NDArray[np.float64]:
        """What srdd.simulation.predictions.sums gives at a temperature of 1, (prompts, 3)."""
        totals = np.zeros((prompts, 3))
        columns = (-self.values["train"], -self.values["rollout"], self.values["kl"])
        np.add.at(totals, self.prompts, np.stack(columns, axis=-1))
        return totals


def token_figures(
    plain: Tensor,
    logits: Tensor,
    batch: Batch,
    own_clip: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> TokenFigures:
    """The figures of every scored token that has one before it.

    Arguments:
        plain, logits: of the model as it is, and of the one in question, (prompts, tokens,
            vocabulary).
        own_clip: a second range of ratios beside CLIP; (0, infinity) for None.
    """
    device = logits.device
    prompts, places = batch.scored_mask[:, 1:].nonzero(as_tuple=True)
    following = batch.input_ids[prompts, places + 1].to(device)
    ranges = (CLIP, own_clip or (0.0, float("inf")))
    step = max(1, CHUNK // logits.shape[-1])
    rows = [torch.empty(0, len(NAMES), dtype=torch.float64)]
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        where = (prompts[part].to(device), places[part].to(device))
        p = _log_softmax(plain.to(device)[where], temperature)
        q = _log_softmax(logits[where], temperature)
        rows.append(_figures(p, q, following[part, None], ranges).cpu().double())
    table = torch.cat(rows).numpy()
    values = {name: table[:, place] for place, name in enumerate(NAMES)}
    return TokenFigures(prompts.numpy(), places.numpy(), values)


def _figures(
    p: Tensor, q: Tensor, target: Tensor, ranges: tuple[tuple[float, float], ...]
) -> Tensor:
    """(tokens, NAMES) from log-probabilities (tokens, vocabulary)."""
    apart = p - q
    # Where a token has no probability, its logarithm is minus infinity and its term 0.
    p_terms, q_terms = p == -torch.inf, q == -torch.inf
    both = p_terms & q_terms
    apart = apart.masked_fill(both, 0.0)
    from_p, from_q = p.exp(), q.exp()
    safe = apart.clamp(-BOUND, BOUND)
    rho = safe.exp()
    columns = [
        p.gather(1, target)[:, 0],
        q.gather(1, target)[:, 0],
        (from_p * apart).masked_fill(p_terms, 0.0).sum(-1),
        (from_q * -apart).masked_fill(q_terms, 0.0).sum(-1),
        (from_p * rho).sum(-1) - 1,
        (from_q * safe.abs().exp()).sum(-1),
        *((from_q * ((rho < low) | (rho > high))).sum(-1) for low, high in ranges),
        -(from_p * p).masked_fill(p_terms, 0.0).sum(-1),
        1.0 + (p > p.gather(1, target)).sum(-1),
    ]
    return torch.stack([column.to(p.dtype) for column in columns], dim=1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    scaled = logits.to(working_dtype(logits.device))
    return (scaled if temperature == 1.0 else scaled / temperature).log_softmax(-1)
