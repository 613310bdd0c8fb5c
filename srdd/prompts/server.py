"""Responses from a server that speaks OpenAI's protocol for completions, as vLLM does.

Prompts go out as token ids, and token ids with their log-probabilities are asked for, which is
vLLM's extension of the protocol (`return_token_ids`; `return_tokens_as_token_ids` where a server
does not know the former). Nothing is sent anywhere but to the server that the caller named. The key
in the environment variable VLLM_API_KEY, if there is one, is sent along.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from srdd.errors import InputError, UsageError
from srdd.prompts.rollout_log import RolloutLog
from srdd.prompts.sampling import Sampling

TIMEOUT = 600.0
"""Seconds that one request may take."""

TOGETHER = 16
"""Requests at a time; the server batches what it gets."""

ATTEMPTS = 3
"""How often a request is made that the server is too busy for."""

LARGEST = 1 << 28
"""Bytes of an answer at most."""

_START = "start it, for example: vllm serve MODEL"


@dataclass(frozen=True)
class Server:
    """A server and the model that it serves; `find` asks for the latter.

    Attributes:
        url: of its API, such as http://localhost:8000/v1.
        model: the name that it serves the model by.
    """

    url: str
    model: str
    timeout: float = TIMEOUT

    @classmethod
    def find(cls, url: str, timeout: float = TIMEOUT) -> Server:
        """The server at an address, and the first model that it serves.

        Raises:
            UsageError: no address of a server.
            InputError: it cannot be reached, or serves nothing.
        """
        base = api_url(url)
        served = _ask(f"{base}/models", None, min(timeout, 30.0)).get("data")
        names = [each.get("id") for each in served or () if isinstance(each, Mapping)]
        if not names or not isinstance(names[0], str):
            raise InputError(f"{base} serves no model", _START)
        return cls(base, names[0], timeout)

    def generate(
        self,
        index: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        log: RolloutLog,
        advanced: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Ask for the responses that a log lacks, and write them to it in the prompts' order.

        Arguments:
            index: of each prompt, for the log.
            prompts: token ids of each prompt.
            advanced: called with numbers of finished responses.

        Raises:
            InputError: the server cannot be reached, refuses, or gives no token ids.
        """
        each = sampling.responses
        with ThreadPoolExecutor(TOGETHER) as pool:
            while log.count < each * len(prompts):
                first, done = divmod(log.count, each)
                part = range(first, min(first + TOGETHER, len(prompts)))
                wanted = [each - done if place == first else each for place in part]
                answers = pool.map(
                    lambda place, count: self._responses(prompts[place], count, place, sampling),
                    part,
                    wanted,
                )
                for place, count, responses in zip(part, wanted, answers, strict=True):
                    log.add(
                        [
                            {
                                "index": index[place],
                                "sample": number,
                                "prompt_ids": list(prompts[place]),
                                **response,
                            }
                            for number, response in enumerate(responses, start=each - count)
                        ]
                    )
                    advanced(count)

    def _responses(
        self, prompt: Sequence[int], count: int, place: int, sampling: Sampling
    ) -> list[dict[str, Any]]:
        """So many responses to one prompt."""
        request = {
            "model": self.model,
            "prompt": list(prompt),
            "n": count,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # Each response of a request takes the next seed.
            "seed": (sampling.seed + (place + 1) * sampling.responses - count) % (1 << 31),
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }
        answer = _ask(f"{self.url}/completions", request, self.timeout)
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != count:
            raise InputError(
                f"{self.url} gave no {count} responses to a prompt", "check the server's log"
            )
        return [_response(choice, self.url) for choice in choices]


def api_url(text: str) -> str:
    """An address with its path, `/v1` where none is given.

    Raises:
        UsageError: it is not one of http or https.
    """
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"--server {text!r} is no address of a server", "write --server http://localhost:8000"
        )
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _response(choice: Any, url: str) -> dict[str, Any]:
    """One response as a row of a log."""
    known = choice.get("logprobs") if isinstance(choice, dict) else None
    known = known if isinstance(known, dict) else {}
    ids = choice.get("token_ids") if isinstance(choice, dict) else None
    if ids is None:
        ids = _ids_of_names(known.get("tokens"))
    logprobs = known.get("token_logprobs")
    if not isinstance(ids, list) or not all(type(each) is int and each >= 0 for each in ids):
        raise InputError(
            f"{url} gives no token ids with its responses",
            "use a vLLM that knows return_token_ids, or log the rollouts there and give them with "
            "--rollouts",
        )
    if not isinstance(logprobs, list) or len(logprobs) != len(ids):
        raise InputError(
            f"{url} gives no log-probability for each token of its responses",
            "allow them on the server: vllm serve MODEL --max-logprobs 1",
        )
    text = choice.get("text")
    return {
        "response_ids": ids,
        "logprobs": [_finite(each) for each in logprobs],
        "finish_reason": str(choice.get("finish_reason")),
        "response": text if isinstance(text, str) else "",
    }


def _ids_of_names(names: Any) -> list[int] | None:
    """Ids of tokens that are written as `token_id:123`."""
    if not isinstance(names, list):
        return None
    ids = [str(name).removeprefix("token_id:") for name in names]
    return [int(each) for each in ids] if all(each.isdecimal() for each in ids) else None


def _finite(value: Any) -> float | None:
    if type(value) not in (int, float) or not math.isfinite(value):
        return None
    return min(float(value), 0.0)


def _ask(url: str, request: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
    """The answer to a request; a request of None is one without content (GET)."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if request is None else json.dumps(request).encode()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            call = urllib.request.Request(url, data, headers)
            with urllib.request.urlopen(call, timeout=timeout) as stream:
                content = stream.read(LARGEST + 1)
            break
        except urllib.error.HTTPError as error:
            if error.code in (429, 502, 503) and attempt < ATTEMPTS:
                time.sleep(attempt)
                continue
            raise _refused(url, error) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise _unreachable(url, error, timeout) from None
    if len(content) > LARGEST:
        raise InputError(f"{url} answers with more than {LARGEST:,} bytes", "check the address")
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise InputError(
            f"{url} does not answer with a JSON object", "give the address of the API, with /v1"
        )
    return answer


def _refused(url: str, error: urllib.error.HTTPError) -> InputError:
    try:
        body = json.loads(error.read(10_000))
        inner = body.get("error", body)
        said = inner.get("message") if isinstance(inner, dict) else inner
    except (ValueError, AttributeError, OSError):
        said = None
    hints = {
        401: "set the server's key in the environment variable VLLM_API_KEY",
        403: "set the server's key in the environment variable VLLM_API_KEY",
        404: "give the address of the API, such as http://localhost:8000/v1",
    }
    reason = f": {said}" if isinstance(said, str) else ""
    return InputError(
        f"{url} refuses with status {error.code}{reason}",
        hints.get(error.code, "check that the server serves this model, and its log"),
    )


def _unreachable(url: str, error: Exception, timeout: float) -> InputError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError | socket.timeout):
        return InputError(
            f"{url} did not answer within {timeout:g} s",
            "use fewer --max-new-tokens or a smaller --generate, or check the server",
        )
    said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return InputError(f"{url} cannot be reached: {said}", _START)
