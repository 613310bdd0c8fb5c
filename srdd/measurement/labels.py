"""Labels drawn from a model's own predictions, and the gradient of their loss at the logits.

For the logits z_t of position t and p_t = softmax(z_t), the loss is

    L = - sum over predicted positions t of log p_t(y_t),        y_t ~ p_t

and dL/dz_t = p_t - onehot(y_t). Each position draws a label of its own; one label for a whole
prompt would bias what is estimated. Draws follow from a seed and the prompt's tokens alone, not
from the batch that the prompt is in.

The softmax runs in float64 over a few positions at a time. One buffer of the logits' size and type
holds p; a sample changes single entries of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srdd.errors import InputError
from srdd.prompts.batches import Batch, TokenizedPrompts

CHUNK = 1 << 21
"""Logits in a softmax at a time: 16 MiB in float64."""


@dataclass(frozen=True)
class Positions:
    """The positions of a batch that predict a scored token of their prompt, the next one.

    Attributes:
        rows, columns: (positions,) prompt in the batch, and place in it.
        counts: (prompts,) how many of them each prompt has.
    """

    rows: Tensor
    columns: Tensor
    counts: Tensor


def predicted(batch: Batch, skip_first: bool = False) -> Positions:
    """Positions that predict a scored token of their prompt.

    Arguments:
        skip_first: leave out what is predicted from each prompt's first token.
    """
    mask = batch.scored_mask[:, 1:].bool()  # a copy: the masks are integers
    if skip_first:
        mask[:, :1] = False
    rows, columns = mask.nonzero(as_tuple=True)
    return Positions(rows, columns, mask.sum(1))


def check_predicted(tokenized: TokenizedPrompts, skip_first: bool) -> None:
    """Refuse prompts none of which has a token to predict.

    Raises:
        InputError: there is nothing to predict.
    """
    if tokenized.scored is None:
        if not any(count > skip_first for count in tokenized.predicted):
            raise InputError(
                "no prompt has a token to predict: each is a single token",
                "give prompts of two tokens or more",
            )
    elif not any(any(each[1 + skip_first :]) for each in tokenized.scored):
        raise InputError(
            "no rollout has a response token to predict",
            "give rollouts with a response, or a larger --max-length",
        )


def uniforms(fingerprints: Sequence[str], length: int, samples: int, seed: int) -> Tensor:
    """Numbers in [0, 1) for each sample, prompt and position: float64 (samples, prompts, length).

    A prompt's follow from its fingerprint and the seed; further samples or a longer batch do not
    change them.
    """
    drawn = torch.empty(samples, len(fingerprints), length, dtype=torch.float64)
    for place, fingerprint in enumerate(fingerprints):
        for sample in range(samples):
            name = f"{fingerprint}/{sample}/{seed}".encode()
            key = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1
            generator = torch.Generator().manual_seed(key)
            drawn[sample, place] = torch.rand(length, generator=generator, dtype=torch.float64)
    return drawn


class Loss:
    """The loss of labels at some logits, by its gradient.

    Arguments:
        logits: (prompts, tokens, vocabulary).
        labels: int64 (samples, positions) or, to draw them, float64 (samples, positions) in [0, 1).
    """

    def __init__(self, logits: Tensor, positions: Positions, labels: Tensor) -> None:
        device = logits.device
        self._rows, self._columns = positions.rows.to(device), positions.columns.to(device)
        self._gradient = torch.zeros_like(logits)
        chosen, at_labels = [], []
        step = max(1, CHUNK // logits.shape[-1])
        wide = torch.float32 if device.type == "mps" else torch.float64
        for start in range(0, len(self._rows), step):
            part = slice(start, start + step)
            where = (self._rows[part], self._columns[part])
            p = logits.detach()[where].to(wide).softmax(-1)
            given = labels[:, part].to(device)
            ids = given if labels.dtype == torch.int64 else _drawn(p, given.to(wide))
            self._gradient[where] = p.to(logits.dtype)
            chosen.append(ids)
            at_labels.append(p.gather(1, ids.t()).t())
        empty = torch.zeros(len(labels), 0, device=device)
        self.labels = torch.cat(chosen, 1) if chosen else empty.long()
        self._at_labels = torch.cat(at_labels, 1) if at_labels else empty

    def gradients(self) -> Iterator[Tensor]:
        """dL/dz of each sample, in the logits' shape and type; it is overwritten by the next."""
        for ids, p in zip(self.labels, self._at_labels, strict=True):
            where = (self._rows, self._columns, ids)
            before = self._gradient[where]
            self._gradient[where] = (p - 1).to(self._gradient.dtype)
            yield self._gradient
            self._gradient[where] = before


def _drawn(p: Tensor, uniform: Tensor) -> Tensor:
    """Labels (samples, positions) where the cumulated p (positions, vocabulary) passes a number."""
    cumulated = p.cumsum(-1)
    wanted = (uniform.t() * cumulated[:, -1:]).contiguous()
    ids = torch.searchsorted(cumulated, wanted, right=True).t()
    return ids.clamp_(max=p.shape[1] - 1)
