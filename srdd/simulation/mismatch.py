"""The mismatch of a quantized rollout policy, collected batch by batch.

    token figures of a batch ──► sums by response, by class of tokens ──► section `mismatch`

The training policy is the model as it is (p), the rollout policy the one that is simulated (q).
What is kept grows with the number of responses, not of tokens. Classes of tokens are kept by group
of responses, which are a scan's replicates: enough for intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from srdd.documents import mismatch as schema
from srdd.documents.records import REPLICATES, replicate_of
from srdd.numerics.confidence import mean_interval
from srdd.numerics.mismatch import (
    CLIP,
    EXPECTED_FIELDS,
    TOKEN_FIELDS,
    field,
    response_sums,
    token_sums,
)
from srdd.numerics.mismatch_metrics import MISMATCH, figures
from srdd.prompts.batches import Batch, TokenizedPrompts
from srdd.simulation import predictions
from srdd.simulation.token_figures import TokenFigures, token_figures

Values = NDArray[np.float64]
Places = NDArray[np.int64]
Decode = Callable[[Sequence[int]], str]
Writer = Literal["training", "rollout"]

FIRST_BIN = 32
"""Tokens of the first stretch of a response; each further one is as long as all before it."""
POSITIONS = 20
"""Stretches: the last one begins at 8 million tokens."""
RANKS = (1, 2, 5, 20)
"""Largest ranks of the classes of sampled tokens; a last class has the rest."""
ENTROPIES = np.concatenate([[0.0], np.geomspace(1e-4, 16.0, 255)])
"""Lower edges in nats of the fine classes that deciles of entropy are put together from."""
WORST = 5
BEFORE, AFTER = 16, 4
"""Tokens shown before and after the worst token of a response."""

BY_CLASS = ("kl_reversed", "token_mult_prob_error")


class Collector:
    """Adds up what a run of one variant gives, and makes the section of it.

    Arguments:
        tokenized: the rollouts.
        own_clip: a second range of ratios.
    """

    def __init__(
        self, tokenized: TokenizedPrompts, own_clip: tuple[float, float] | None = None
    ) -> None:
        count = len(tokenized.ids)
        self._tokenized, self._own_clip = tokenized, own_clip
        counts = tokenized.rollouts
        self._temperature = (counts.temperature if counts else None) or 1.0
        self._groups = np.array([replicate_of(name) for name in tokenized.fingerprints])
        self._by_response: dict[Writer, Values] = {
            "training": np.zeros((count, len(TOKEN_FIELDS))),
            "rollout": np.zeros((count, len(TOKEN_FIELDS))),
        }
        # Log-ratios of the two policies to the engine's log-probabilities: p's, and q's.
        self._to_engine = np.zeros((2, count, len(TOKEN_FIELDS)))
        self._stretches = np.zeros((count, POSITIONS))
        self._classes = {
            name: np.zeros((REPLICATES, size, len(TOKEN_FIELDS)))
            for name, size in (
                ("position", POSITIONS),
                ("rank", len(RANKS) + 1),
                ("entropy", len(ENTROPIES)),
            )
        }
        self._worst_token = np.zeros((count, 2))

    def arrays(self) -> dict[str, Values]:
        """What has been added up, by name; the arrays themselves, all of which add."""
        named = {f"by {writer}": sums for writer, sums in self._by_response.items()}
        named |= {f"class {name}": sums for name, sums in self._classes.items()}
        return named | {
            "engine": self._to_engine,
            "stretches": self._stretches,
            "worst": self._worst_token,
        }

    def add(self, plain: Tensor, logits: Tensor, batch: Batch) -> Values:
        """Count the tokens of one batch, of whole responses.

        Arguments:
            plain, logits: of the model as it is, and as it is simulated.

        Returns:
            What srdd.simulation.predictions.sums gives, (prompts, 3).
        """
        tokens = token_figures(plain, logits, batch, self._own_clip, self._temperature)
        self._count(batch, tokens)
        if self._temperature == 1.0:
            return tokens.sums(len(batch.index))
        return predictions.sums(plain, logits, batch).numpy()

    def _count(self, batch: Batch, tokens: TokenFigures) -> None:
        where: Places = np.searchsorted(self._tokenized.index, batch.index)[tokens.prompts]
        p, q = tokens.values["train"], tokens.values["rollout"]
        expected = np.stack([tokens.values[name] for name in EXPECTED_FIELDS], axis=-1)
        as_rollout = token_sums(p, q, self._own_clip, expected)
        np.add.at(self._by_response["rollout"], where, as_rollout)
        np.add.at(self._by_response["training"], where, token_sums(q, p, self._own_clip, expected))
        position = _positions(tokens.prompts)
        stretch = np.maximum(0, np.log2(np.maximum(position, 1) / FIRST_BIN) + 1).astype(int)
        np.add.at(self._stretches, (where, stretch), p - q)
        groups = self._groups[where]
        for name, places in (
            ("position", stretch),
            ("rank", np.searchsorted(RANKS, tokens.values["rank"])),
            (
                "entropy",
                np.searchsorted(ENTROPIES, np.maximum(tokens.values["entropy"], 0), "right") - 1,
            ),
        ):
            np.add.at(self._classes[name], (groups, places), as_rollout)
        self._keep_worst(where, position, p - q)
        if batch.logprobs is not None:
            engine = batch.logprobs[tokens.prompts, tokens.places + 1].numpy()
            known = np.isfinite(engine)
            for side, policy in enumerate((p, q)):
                added = token_sums(policy[known], engine[known], self._own_clip)
                np.add.at(self._to_engine[side], where[known], added)

    def _keep_worst(self, where: Places, position: Places, log_ratio: Values) -> None:
        order = np.argsort(np.abs(log_ratio), kind="stable")  # the last one of a response stays
        furthest = np.zeros(len(self._worst_token), dtype=int)
        furthest[where[order]] = order
        for response in np.unique(where):
            token = furthest[response]
            self._worst_token[response] = position[token], log_ratio[token]

    def writer(self) -> Writer:
        """Which policy wrote the text: that whose log-probabilities are closer to those logged.

        Without logged ones the training policy: text comes from runs in full precision.
        """
        to_training, to_rollout = field(self._to_engine, "apart_squared").sum(axis=1)
        return "rollout" if to_rollout < to_training else "training"

    def section(self, decode: Decode, writer: Writer | None = None) -> schema.Mismatch:
        """The section.

        Arguments:
            decode: token ids to text, for the worst responses.
            writer: which policy wrote the text; found out for None.
        """
        writer = writer or self.writer()
        responses = response_sums(self._by_response[writer])
        names = tuple(n for n in MISMATCH if n != "own_clipped" or self._own_clip is not None)
        return schema.Mismatch(
            written_by=writer,
            responses=len(responses),
            tokens=int(field(responses, "tokens").sum()),
            clip=CLIP,
            own_clip=self._own_clip,
            figures=_figures(responses, names),
            by_position=self._by_position(writer),
            by_rank=self._by_class("rank", _rank_names()),
            by_entropy=self._by_entropy(),
            worst=self._worst(decode),
            measured=self._measured(names),
        )

    def _by_class(self, name: str, labels: Sequence[str]) -> list[schema.TokenClass]:
        return _token_classes(self._classes[name], labels)

    def _by_entropy(self) -> list[schema.TokenClass]:
        """Deciles of the tokens by entropy, as far as the fine classes can tell them apart."""
        fine = self._classes["entropy"]
        counts = field(fine.sum(axis=0), "tokens")
        before = np.cumsum(counts) - counts
        decile = np.floor(10 * (before + counts / 2) / max(counts.sum(), 1)).astype(int)
        decile = np.minimum(decile, 9)
        deciles = np.stack([fine[:, decile == n].sum(axis=1) for n in range(10)], axis=1)
        upper = [*ENTROPIES[1:], np.inf]
        labels = []
        for number in range(10):
            members = np.flatnonzero((decile == number) & (counts > 0))
            ends = (ENTROPIES[members[0]], upper[members[-1]]) if len(members) else (0, 0)
            labels.append(f"{ends[0]:.2g} to {ends[1]:.2g}")
        return _token_classes(deciles, labels)

    def _by_position(self, writer: Writer) -> list[schema.TokenClass]:
        ends = [FIRST_BIN << number for number in range(POSITIONS)]
        labels = [
            f"{0 if number == 0 else ends[number - 1]} to {end - 1}"
            for number, end in enumerate(ends)
        ]
        lengths = field(self._by_response["rollout"], "tokens")
        sign = 1.0 if writer == "rollout" else -1.0
        until = np.cumsum(sign * self._stretches, axis=1)
        more: list[dict[str, Any]] = []
        for number in range(POSITIONS):
            reach = lengths > (0 if number == 0 else ends[number - 1])
            weights = np.exp(np.clip(until[reach, number], -20, 20))
            ess = (
                weights.sum() ** 2 / (len(weights) * np.square(weights).sum()) if any(reach) else 0
            )
            more.append({"responses": int(reach.sum()), "ess_seq": float(ess)})
        return _token_classes(self._classes["position"], labels, more)

    def _worst(self, decode: Decode) -> list[schema.WorstResponse]:
        sums = self._by_response["rollout"]
        kl, tokens = field(sums, "kl_reversed"), field(sums, "tokens")
        finite = np.flatnonzero(np.isfinite(kl) & np.isfinite(self._worst_token).all(axis=1))
        result = []
        for place in finite[np.argsort(-kl[finite], kind="stable")][:WORST]:
            position, log_ratio = self._worst_token[place]
            ids = self._tokenized.ids[place]
            at = _place_of(self._tokenized, int(place), int(position))
            result.append(
                schema.WorstResponse(
                    index=self._tokenized.index[place],
                    tokens=int(tokens[place]),
                    kl=float(kl[place]),
                    log_weight=float(-field(sums, "k1")[place]),
                    position=int(position),
                    log_ratio=float(log_ratio),
                    before=decode(ids[max(0, at - BEFORE) : at]),
                    token=decode(ids[at : at + 1]),
                    after=decode(ids[at + 1 : at + 1 + AFTER]),
                )
            )
        return result

    def _measured(self, names: tuple[str, ...]) -> schema.Measured | None:
        known = field(self._to_engine[0], "tokens") > 0
        if not known.any():
            return None
        training, rollout = (response_sums(sums[known]) for sums in self._to_engine)
        sampled = tuple(name for name in names if not MISMATCH[name].expected)
        all_of_it, left = (field(sums, "apart_squared") for sums in (training, rollout))
        total = all_of_it.sum()
        interval = mean_interval(left, all_of_it) if total > 0 else None
        return schema.Measured(
            responses=int(known.sum()),
            tokens=int(field(training, "tokens").sum()),
            figures=_figures(training, sampled),
            left=_figures(rollout, sampled),
            explained=schema.Figure(
                value=float(1 - left.sum() / total) if total > 0 else None,
                interval=None if interval is None else (1 - interval[1], 1 - interval[0]),
            ),
        )


def _figures(responses: Values, names: tuple[str, ...]) -> dict[str, schema.Figure]:
    found = figures(responses, names)
    return {name: schema.Figure(value=v, interval=ends) for name, (v, ends) in found.items()}


def _token_classes(
    sums: Values, labels: Sequence[str], more: Sequence[dict[str, Any]] | None = None
) -> list[schema.TokenClass]:
    """Of sums (groups, classes, fields), the classes that have a token."""
    whole = field(sums, "kl_reversed").sum()
    result = []
    for number, label in enumerate(labels):
        groups = sums[:, number][field(sums[:, number], "tokens") > 0]
        if not len(groups):
            continue
        kl, error = (_figures(groups, BY_CLASS)[name] for name in BY_CLASS)
        share = field(groups, "kl_reversed").sum() / whole if whole > 0 else 0.0
        result.append(
            schema.TokenClass(
                name=label,
                tokens=int(field(groups, "tokens").sum()),
                share=float(np.clip(np.nan_to_num(share), 0, 1)),
                kl=kl,
                prob_error=error,
                **(more[number] if more else {}),
            )
        )
    return result


def _rank_names() -> list[str]:
    first = [1, *(rank + 1 for rank in RANKS)]
    ranges = zip(first, RANKS, strict=False)
    names = [f"{low}" if low == high else f"{low} to {high}" for low, high in ranges]
    return [*names, f"above {RANKS[-1]}"]


def _positions(prompts: Places) -> Places:
    """How many tokens of the same prompt stand before each, for prompts in ascending order."""
    first = np.searchsorted(prompts, prompts)
    return np.arange(len(prompts)) - first


def _place_of(tokenized: TokenizedPrompts, response: int, position: int) -> int:
    """The place in a prompt's ids of its predicted scored token number `position`."""
    if tokenized.scored is None:
        return position + 1
    places = np.flatnonzero(np.array(tokenized.scored[response])[1:]) + 1
    return int(places[position])
