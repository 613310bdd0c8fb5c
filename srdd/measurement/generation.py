"""Rollouts that the model itself generates, with the log-probabilities that they were sampled with.

Batches go through transformers' generate with padding on the left. A token's log-probability is
that of the softmax of the logits over the temperature, from the very pass that it was sampled from
(greedily for a temperature of 0, with that of 1). The cut of top-p is not part of it: trainers do
not apply it to theirs either.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from srdd.errors import InputError, UsageError, counted
from srdd.measurement.forward import as_prompt_set, warn_of_left_out
from srdd.measurement.listener import Listener
from srdd.model.fingerprint import fingerprint
from srdd.model.running import (
    context_of,
    device_of,
    evaluating,
    is_out_of_memory,
    text_config,
    vocabulary_of,
)
from srdd.prompts.batches import LeftOut, TokenizedPrompts, tokenize
from srdd.prompts.reading import PromptSet
from srdd.prompts.rollout_files import read_rollouts
from srdd.prompts.rollout_log import RolloutLog
from srdd.prompts.rollouts import RolloutSet
from srdd.prompts.sampling import Sampling
from srdd.prompts.server import Server

ROWS = 64
"""Responses that are generated together, by default."""


def own_rollouts(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | Sequence[Any] | None,
    sampling: Sampling,
    folder: Path,
    *,
    name: str = "model",
    policy: Mapping[str, Any] | None = None,
    simulated: Callable[[], AbstractContextManager[object]] = nullcontext,
    server: Server | None = None,
    apply_chat_template: bool | None = None,
    batch_size: int | Literal["auto"] = "auto",
    listener: Listener | None = None,
) -> RolloutSet:
    """The responses of a model, or of a server of it, to prompts.

    They are kept in a file of `folder`, whose name follows from what they are of; what is in it
    already is not generated again.

    Arguments:
        prompts: as of srdd.scan_model.
        name: what the file's name says of the model.
        policy: what tells the model that generates from `model` as it is, such as its formats.
        simulated: a context in which `model` is that one.
        server: generates them in its place.

    Raises:
        UsageError: a response would not fit into the model's context.
        InputError: no prompt can be used, or the server cannot.
        OutputError: the file cannot be written.
    """
    listener = listener or Listener()
    context = context_of(model)
    if context is not None and sampling.max_new_tokens >= context:
        raise UsageError(
            f"--max-new-tokens {sampling.max_new_tokens} leaves no room for a prompt in the "
            f"model's context of {context} tokens",
            f"use --max-new-tokens {context // 2} or less",
        )
    tokenized = tokenize(
        as_prompt_set(prompts),
        tokenizer,
        context=context,
        vocab_size=vocabulary_of(model),
        apply_chat_template=apply_chat_template,
    )
    if context is not None:
        tokenized = _with_room(tokenized, context - sampling.max_new_tokens, sampling)
    warn_of_left_out(tokenized, listener)
    about = {
        "schema_version": 1,
        "model": fingerprint(model),
        "prompts": tokenized.fingerprint,
        "policy": dict(policy or {}),
        "sampling": asdict(sampling),
    }
    if server is None:
        about |= {"batch_size": batch_size, "logprobs_temperature": sampling.scored_temperature}
    else:
        # Whether a server's are of the temperature is its own setting; at 1 that is all the same.
        known = 1.0 if sampling.temperature == 1 else None
        about |= {"served_model": server.model, "logprobs_temperature": known}
    log = RolloutLog(folder, f"srdd-{name}-rollouts", about)
    wanted = len(tokenized.ids) * sampling.responses
    if log.count:
        listener.inform(
            f"{log.path} has {min(log.count, wanted):,} of {wanted:,} responses already"
        )
    if server is None:
        with simulated():
            generate(model, tokenizer, tokenized, sampling, log, listener, batch_size)
    else:
        left = wanted - log.count
        listener.started(f"asking {server.url} for {counted(left, 'response')}", left, "responses")
        server.generate(tokenized.index, tokenized.ids, sampling, log, listener.advanced)
    listener.inform(f"rollouts are in {log.path}")
    return read_rollouts(log.path)


def _with_room(tokenized: TokenizedPrompts, longest: int, sampling: Sampling) -> TokenizedPrompts:
    """The prompts of at most so many tokens.

    Raises:
        InputError: there is none.
    """
    reason = f"without room for {sampling.max_new_tokens} new tokens in the model's context"
    lengths = [len(ids) for ids in tokenized.ids]
    kept = [place for place, length in enumerate(lengths) if length <= longest]
    if not kept:
        raise InputError(
            f"every prompt is {reason}",
            "use a smaller --max-new-tokens, or shorter prompts",
        )
    lost = [
        LeftOut(tokenized.index[place], length, reason)
        for place, length in enumerate(lengths)
        if length > longest
    ]
    return replace(tokenized.chosen(kept), left_out=(*tokenized.left_out, *lost))


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: TokenizedPrompts,
    sampling: Sampling,
    log: RolloutLog,
    listener: Listener,
    batch_size: int | Literal["auto"] = "auto",
) -> None:
    """Generate the responses that a log lacks, and write them to it batch by batch.

    Samples follow from the seed and from how many were generated before, so that a run that goes
    on with a log takes the batches that an uninterrupted one would have taken.

    Raises:
        UsageError: the model cannot generate.
        InputError: a single prompt does not fit into memory.
    """
    if not hasattr(model, "generate"):
        raise UsageError(
            f"{type(model).__name__} has no generate()", "give rollouts with --rollouts instead"
        )
    rows = [
        (place, number) for place in range(len(prompts.ids)) for number in range(sampling.responses)
    ]
    left = len(rows) - log.count
    if left <= 0:
        return
    listener.started(
        f"generating {counted(left, 'response')}", left * sampling.max_new_tokens, "tokens"
    )
    size = ROWS if batch_size == "auto" else batch_size
    sampler = _Sampler(model, tokenizer, sampling, prompts.pad_id, listener)
    with evaluating(model), torch.no_grad(), sampler.configured():
        while log.count < len(rows):
            batch = rows[log.count : log.count + size]
            try:
                log.add(sampler.rollouts(prompts, batch, log.count))
                continue
            except Exception as error:  # torch says in several ways that memory ran out
                if not is_out_of_memory(error):
                    raise
            if len(batch) == 1:
                raise InputError(
                    f"out of memory at a single prompt of {len(prompts.ids[batch[0][0]])} tokens",
                    "use a smaller --max-new-tokens, or a smaller model",
                )
            if device_of(model).type == "cuda":
                torch.cuda.empty_cache()
            size = len(batch) // 2
            listener.warn(f"out of memory at {len(batch)} responses; retrying with {size}")


class _Sampler:
    """Generates batches of responses."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        pad_id: int,
        listener: Listener,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._pad_id = pad_id
        self._listener = listener
        self._ends = _end_ids(model, tokenizer)
        self._logits: Tensor | None = None
        """(batch, vocabulary), of the last position of the pass that ran last."""
        self._logprobs: list[Tensor] = []
        """(batch,) for each generated token."""

    @contextmanager
    def configured(self) -> Iterator[None]:
        """In here the model samples with these settings instead of its own generation config."""
        from transformers import GenerationConfig

        sampled = self._sampling.temperature > 0
        before = self._model.generation_config
        options = {"temperature": self._sampling.temperature, "top_p": self._sampling.top_p}
        config = GenerationConfig(
            do_sample=sampled,
            top_k=0 if sampled else None,
            max_new_tokens=self._sampling.max_new_tokens,
            eos_token_id=list(self._ends) or None,
            pad_token_id=self._pad_id,
            use_cache=True,
            **(options if sampled else {}),
        )
        self._model.generation_config = config
        handle = self._model.register_forward_hook(self._see)
        try:
            yield
        finally:
            handle.remove()
            self._model.generation_config = before

    def rollouts(
        self, prompts: TokenizedPrompts, batch: Sequence[tuple[int, int]], first: int
    ) -> list[Mapping[str, Any]]:
        """Responses to some prompts, as rows of a log.

        Arguments:
            batch: place of the prompt, and number of the response.
            first: how many responses were generated before.
        """
        from transformers import StoppingCriteriaList

        device = device_of(self._model)
        ids = [prompts.ids[place] for place, _ in batch]
        width = max(map(len, ids))
        input_ids = torch.full((len(ids), width), self._pad_id, dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for row, each in enumerate(ids):
            input_ids[row, width - len(each) :] = torch.tensor(each)
            mask[row, width - len(each) :] = 1
        self._logprobs = []
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self._sampling.seed << 32) + first)
            sequences = self._model.generate(
                input_ids=input_ids.to(device),
                attention_mask=mask.to(device),
                generation_config=copy.deepcopy(self._model.generation_config),
                stopping_criteria=StoppingCriteriaList([self._count]),
            )
        generated = sequences[:, width:].tolist()
        logprobs = torch.stack(self._logprobs, 1).tolist() if self._logprobs else []
        self._listener.advanced(len(batch) * (self._sampling.max_new_tokens - len(self._logprobs)))
        self._logits = None
        result: list[Mapping[str, Any]] = []
        for (place, number), prompt, tokens, known in zip(
            batch, ids, generated, logprobs, strict=True
        ):
            end = next((n for n, token in enumerate(tokens, 1) if token in self._ends), None)
            response = tokens[:end]
            result.append(
                {
                    "index": prompts.index[place],
                    "sample": number,
                    "prompt_ids": list(prompt),
                    "response_ids": response,
                    "logprobs": known[: len(response)],
                    "finish_reason": "length" if end is None else "stop",
                    "response": self._tokenizer.decode(response),
                }
            )
        return result

    def _see(self, module: nn.Module, given: object, output: Any) -> None:
        self._logits = output.logits[:, -1]

    def _count(self, input_ids: Tensor, scores: object, **other: object) -> Tensor:
        """Called after each token: notes its log-probability; never stops anything."""
        assert self._logits is not None
        logits = self._logits.float() / self._sampling.scored_temperature
        chosen = input_ids[:, -1:].to(logits.device)
        self._logprobs.append(logits.log_softmax(-1).gather(1, chosen)[:, 0].cpu())
        self._listener.advanced(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a response, from the model's configuration or else the tokenizer's."""
    for owner in (getattr(model, "generation_config", None), text_config(model), tokenizer):
        ends = getattr(owner, "eos_token_id", None)
        if ends is not None:
            return frozenset([ends] if isinstance(ends, int) else ends)
    return frozenset()
