"""One row of a file as rollouts: its columns found by name, its values checked.

NAMES lists the columns of verl, TRL, slime, OpenRLHF, NeMo-RL and vLLM. Others are named by the
caller, a field of a nested column as `column.field`. A row may hold several responses to one
prompt, as lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srdd.errors import InputError
from srdd.prompts.reading import Prompt, prompt_from
from srdd.prompts.rollouts import Rollout
from srdd.prompts.sources import listed

NAMES = {
    "prompt": ("prompt", "input", "raw_prompt", "prompts", "query", "question"),
    "response": ("response", "completion", "output", "responses", "completions"),
    "messages": ("messages", "conversation"),
    "prompt_ids": ("prompt_ids", "prompt_token_ids"),
    "response_ids": (
        "response_ids",
        "response_token_ids",
        "completion_ids",
        "completion_token_ids",
        "output_ids",
        "output_token_ids",
    ),
    "tokens": ("tokens", "token_ids", "input_ids", "sequences"),
    "response_length": ("response_length",),
    "mask": ("loss_mask", "response_mask", "action_mask", "completion_mask", "token_loss_mask"),
    "logprobs": (
        "rollout_log_probs",
        "rollout_logprobs",
        "sampling_per_token_logps",
        "generation_logprobs",
        "logprobs",
    ),
    "truncated": ("truncated", "finish_reason", "status"),
}
"""What a rollout has, and the columns that it is looked for in, in order of preference.

`messages` is a whole conversation, `tokens` the ids of prompt and response together."""

CUT_SHORT = ("length", "truncated", "max_tokens")
"""Values of `truncated` that say that sampling ended at a limit of tokens."""

ABOVE_ZERO = 1e-3
"""A log-probability above this is none; a little above 0 is rounding."""

HINT = (
    "name the columns, such as --columns prompt=question,response=answer; prompts without "
    "responses are for --prompts"
)


def rollouts_of(
    record: Mapping[str, Any], where: str, columns: Mapping[str, str]
) -> Iterator[Rollout]:
    """The rollouts of one row: as many as it has responses, usually one.

    Raises:
        InputError: it has no response, or something of it cannot be used.
    """
    values = {field: _value(record, field, columns.get(field), where) for field in NAMES}
    several = _several(values)
    if several is None:
        yield _rollout(values, where, record)
        return
    for place in range(several):
        own = {
            field: value[place] if _is_of_each(field, value, several) else value
            for field, value in values.items()
        }
        name = where if several == 1 else f"response {place + 1} in {where}"
        yield _rollout(own, name, record)


def _is_of_each(field: str, value: Any, several: int) -> bool:
    """Whether a value of a row is a list with something for each of its responses."""
    if not isinstance(value, list) or len(value) != several:
        return False
    if field in ("mask", "logprobs", "response_ids", "tokens"):
        return all(each is None or isinstance(each, list) for each in value)
    return field in ("response", "response_length", "truncated")


def _several(values: Mapping[str, Any]) -> int | None:
    """How many responses a row has, where it has a list of them."""
    for field in ("response", "response_ids", "tokens"):
        value = values[field]
        kinds = str | list if field == "response" else list
        if isinstance(value, list) and value and all(isinstance(each, kinds) for each in value):
            return len(value)
    return None


def _value(record: Mapping[str, Any], field: str, column: str | None, where: str) -> Any:
    """What a row has of a rollout, tensors as lists; None where it has nothing."""
    if column is None:
        names = NAMES[field]
        value = next((record[name] for name in names if record.get(name) is not None), None)
    elif column in record:
        value = record[column]
    else:
        value = record
        for part in column.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise InputError(
                    f"{where} has no {column}: it has {listed(record)}", "check --columns"
                )
            value = value[part]
    convert: Any = getattr(value, "tolist", None)  # of a tensor
    return value if convert is None else convert()


def _rollout(values: Mapping[str, Any], where: str, record: Mapping[str, Any]) -> Rollout:
    mask = _mask(values["mask"], where)
    logprobs = _logprobs(values["logprobs"], where)
    prompt_ids = _ids(values["prompt_ids"], "prompt", where)
    response_ids = _ids(values["response_ids"], "response", where)
    tokens = _ids(values["tokens"], "tokens", where)
    if tokens is not None and response_ids is None:
        if prompt_ids is not None and tokens[: len(prompt_ids)] != prompt_ids:
            response_ids = tokens  # of the response alone, as vLLM names them
        else:
            length = _response_length(values, prompt_ids, mask, logprobs, len(tokens), where)
            if not 0 <= (start := len(tokens) - length) <= len(tokens):
                raise InputError(
                    f"{where} has a response of {length} tokens, but {len(tokens)} tokens in all",
                    "check the lengths",
                )
            prompt_ids, response_ids = tokens[:start], tokens[start:]
    prompt, response = _texts(values, where)
    if response is None and response_ids is None:
        raise InputError(f"{where} has no response: its keys are {_keys(record)}", HINT)
    if prompt is None and prompt_ids is None:
        raise InputError(f"{where} has no prompt: its keys are {_keys(record)}", HINT)
    if response_ids is not None:
        whole = len(prompt_ids or ()) + len(response_ids)
        mask = _of_response(mask, "mask", len(response_ids), whole, where)
        logprobs = _of_response(logprobs, "log-probabilities", len(response_ids), whole, where)
    elif mask is not None and not all(mask):
        raise InputError(
            f"{where} has a mask and no token ids that it belongs to",
            "name their column, such as --columns response_ids=NAME",
        )
    truncated = values["truncated"]
    return Rollout(
        prompt=prompt,
        response=response,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        mask=None if mask is None or response_ids is None or all(mask) else mask,
        logprobs=logprobs,
        truncated=truncated is True or (isinstance(truncated, str) and truncated in CUT_SHORT),
        where=where,
    )


def _texts(values: Mapping[str, Any], where: str) -> tuple[Prompt | None, Prompt | None]:
    """Prompt and response as text or messages, as far as they are there."""
    given, answer = values["prompt"], values["response"]
    if answer is None and values["messages"] is not None:
        messages = prompt_from(values["messages"], where).messages or ()
        roles = [message["role"] for message in messages]
        if "assistant" not in roles[1:]:
            raise InputError(
                f"{where} has messages without an answer of the assistant",
                "give conversations that begin with a prompt and have one",
            )
        start = roles.index("assistant", 1)
        return Prompt(messages=messages[:start]), Prompt(messages=messages[start:])
    prompt = None if given is None else prompt_from(given, f"the prompt of {where}")
    if isinstance(answer, Mapping):
        answer = [answer]
    response = None
    if answer == []:
        response = Prompt(text="")
    elif answer is not None:
        response = prompt_from(answer, f"the response of {where}")
    return prompt, response


def _response_length(
    values: Mapping[str, Any],
    prompt_ids: Sequence[int] | None,
    mask: Sequence[bool] | None,
    logprobs: Sequence[float] | None,
    whole: int,
    where: str,
) -> int:
    """How many of a sequence's tokens are its response's: the last ones.

    As said, or what is left of the prompt's; else from the first token that the mask names on, or
    as many as there are values of a mask or of log-probabilities.
    """
    given = values["response_length"]
    if type(given) is int:
        return given
    if prompt_ids is not None:
        return whole - len(prompt_ids)
    for known in (mask, logprobs):
        if known is not None and len(known) != whole:
            return len(known)
    if mask is not None:
        return whole - mask.index(True) if True in mask else 0
    raise InputError(
        f"{where} does not say which of its tokens are the response",
        "name a column: --columns response_length=NAME, or mask=NAME",
    )


def _ids(value: Any, what: str, where: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
        raise InputError(
            f"the {what} of {where}: not a list of token ids", "write token ids as whole numbers"
        )
    return tuple(value)


def _mask(value: Any, where: str) -> tuple[bool, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(each in (0, 1) for each in value):
        raise InputError(f"the mask of {where} is not a list of 0 and 1", "check --columns")
    return tuple(map(bool, value))


def _logprobs(value: Any, where: str) -> tuple[float, ...] | None:
    """Log-probabilities, NaN where one is unknown; None where all are."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        each is None or type(each) in (int, float) for each in value
    ):
        raise InputError(
            f"the log-probabilities of {where} are not a list of numbers", "check --columns"
        )
    numbers = tuple(
        float(each) if each is not None and math.isfinite(each) else math.nan for each in value
    )
    high = [number for number in numbers if number > ABOVE_ZERO]
    if high:
        raise InputError(
            f"{where} has the log-probability {high[0]:g}, which is above 0", "check --columns"
        )
    return None if all(map(math.isnan, numbers)) else numbers


def _of_response(
    values: tuple[Any, ...] | None, what: str, length: int, whole: int, where: str
) -> tuple[Any, ...] | None:
    """The values of the response's tokens, of which there are `length`."""
    if values is None or len(values) == length:
        return values
    if len(values) == whole:
        return values[whole - length :]
    raise InputError(
        f"{where} has {what} of {len(values)} tokens for a response of {length}",
        "give one for each token of the response, or of prompt and response together",
    )


def _keys(record: Mapping[str, Any]) -> str:
    return listed(f"{key} (null)" if value is None else key for key, value in record.items())
