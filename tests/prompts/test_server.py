"""A server of completions: what is asked of it, and what its answers, good and bad, come to.

The server here speaks the protocol on its own: it knows nothing of the client but its requests.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from srdd.errors import InputError, SrddError, UsageError
from srdd.prompts import server as module
from srdd.prompts.rollout_files import read_rollouts
from srdd.prompts.rollout_log import RolloutLog
from srdd.prompts.sampling import Sampling
from srdd.prompts.server import Server, api_url


class Speaking(ThreadingHTTPServer):
    """Answers each prompt with the ids of the prompt plus 100, reversed, one for each token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.style = "token_ids"
        self.busy = 0
        self.delay = 0.0
        self.raw: tuple[int, bytes] | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of a test."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Speaking

    def log_message(self, *given: object) -> None:
        pass

    def say(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self.say(404, b'{"detail": "Not Found"}')
            return
        self.say(200, json.dumps({"data": [{"id": "policy"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body, dict(self.headers)))
        if self.server.busy:
            self.server.busy -= 1
            self.say(503, b"busy")
            return
        if self.server.raw:
            self.say(*self.server.raw)
            return
        time.sleep(self.server.delay)
        ids = [each + 100 for each in reversed(body["prompt"])][: body["max_tokens"]]
        choice: dict[str, Any] = {
            "text": f"text of {ids}",
            "finish_reason": "length" if len(ids) == body["max_tokens"] else "stop",
            "logprobs": {
                "tokens": [f"token_id:{each}" for each in ids],
                "token_logprobs": [-0.5 - n for n in range(len(ids))],
            },
        }
        if self.server.style == "token_ids":
            choice["token_ids"] = ids
        elif self.server.style == "words":
            choice["logprobs"]["tokens"] = ["a"] * len(ids)
        elif self.server.style == "no logprobs":
            choice |= {"token_ids": ids, "logprobs": None}
        choices = [{**choice, "index": n} for n in range(body["n"])]
        self.say(200, json.dumps({"choices": choices}).encode())


@pytest.fixture
def speaking() -> Iterator[Speaking]:
    server = Speaking()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


PROMPTS = ((1, 2, 3), (4,), (5, 6))


def ask(server: Server, folder: Path, **options: Any) -> RolloutLog:
    log = RolloutLog(folder, "r", {})
    server.generate((0, 1, 7), PROMPTS, Sampling(**options), log)
    return log


@pytest.mark.parametrize("style", ["token_ids", "token_id: names"])
def test_token_ids_and_log_probabilities_arrive(
    speaking: Speaking, tmp_path: Path, style: str
) -> None:
    speaking.style = style
    server = Server.find(speaking.url)
    assert (server.url, server.model) == (f"{speaking.url}/v1", "policy")
    log = ask(server, tmp_path, responses=2, max_new_tokens=3, temperature=0.5, top_p=0.9, seed=4)
    found = read_rollouts(log.path).rollouts
    assert [each.prompt_ids for each in found] == [PROMPTS[n // 2] for n in range(6)]
    assert [each.response_ids for each in found[::2]] == [(103, 102, 101), (104,), (106, 105)]
    assert found[0].logprobs == (-0.5, -1.5, -2.5)
    assert [each.truncated for each in found] == [True, True, False, False, False, False]
    for path, body, _ in speaking.requests:
        assert path == "/v1/completions"
        assert body["return_token_ids"] is True
        assert body["logprobs"] >= 0
        asked = (body["model"], body["n"], body["max_tokens"], body["temperature"], body["top_p"])
        assert asked == ("policy", 2, 3, 0.5, 0.9)
    assert sorted(body["prompt"] for _, body, _ in speaking.requests) == [[1, 2, 3], [4], [5, 6]]
    seeds = sorted(body["seed"] for _, body, _ in speaking.requests)
    assert all(b - a >= 2 for a, b in itertools.pairwise(seeds))


def test_what_is_there_is_not_asked_for_again(speaking: Speaking, tmp_path: Path) -> None:
    server = Server.find(speaking.url)
    log = ask(server, tmp_path, responses=3, max_new_tokens=9)
    whole = log.path.read_text()
    seeds = {tuple(body["prompt"]): body["seed"] for _, body, _ in speaking.requests}
    lines = whole.splitlines(keepends=True)
    log.path.write_text("".join(lines[:6]) + lines[6][:10])  # header, 5 responses, half of one
    speaking.requests.clear()
    assert ask(server, tmp_path, responses=3, max_new_tokens=9).path.read_text() == whole
    asked = {tuple(body["prompt"]): body for _, body, _ in speaking.requests}
    assert {prompt: body["n"] for prompt, body in asked.items()} == {(4,): 1, (5, 6): 3}
    assert asked[4,]["seed"] == seeds[4,] + 2  # the third of its seeds
    speaking.requests.clear()
    ask(server, tmp_path, responses=3, max_new_tokens=9)
    assert not speaking.requests


def test_a_busy_server_is_asked_again(
    speaking: Speaking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    speaking.busy = 2
    assert ask(Server.find(speaking.url), tmp_path).count == 3
    speaking.busy = 100
    with pytest.raises(InputError, match="refuses with status 503"):
        ask(Server.find(speaking.url), tmp_path, seed=1, responses=2)


def test_a_key_is_sent_where_there_is_one(
    speaking: Speaking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    ask(Server.find(speaking.url), tmp_path)
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    (tmp_path / "other").mkdir()
    log = ask(Server.find(speaking.url), tmp_path / "other")
    keys = [headers.get("Authorization") for *_, headers in speaking.requests]
    assert keys == [None] * 3 + ["Bearer secret"] * 3
    assert "secret" not in log.path.read_text()


BAD = [
    ("words", None, "gives no token ids", "--rollouts"),
    ("no logprobs", None, "no log-probability for each token", "--max-logprobs"),
    ("", (400, b'{"error": {"message": "too long"}}'), "status 400: too long", "log"),
    ("", (401, b"{}"), "status 401", "VLLM_API_KEY"),
    ("", (404, b"<html>"), "status 404", "/v1"),
    ("", (200, b"<html>"), "does not answer with a JSON object", "/v1"),
    ("", (200, b"[" * 100_000), "does not answer with a JSON object", "/v1"),
    ("", (200, b'{"choices": []}'), "gave no 1 responses", "log"),
    ("", (200, b'{"choices": [5]}'), "gives no token ids", "vLLM"),
    ("", (200, b'{"choices": [{"token_ids": [-1]}]}'), "gives no token ids", "vLLM"),
    ("", (200, b'{"choices": [{"token_ids": [1], "logprobs": 3}]}'), "no log-probability", "vllm"),
]


@pytest.mark.parametrize(("style", "raw", "message", "hint"), BAD)
def test_bad_answers_say_what_to_do(
    speaking: Speaking,
    tmp_path: Path,
    style: str,
    raw: tuple[int, bytes] | None,
    message: str,
    hint: str,
) -> None:
    speaking.style, speaking.raw = style, raw
    with pytest.raises(InputError, match=message) as caught:
        ask(Server.find(speaking.url), tmp_path)
    assert hint in caught.value.hint


def test_log_probabilities_that_are_none_are_unknown(speaking: Speaking, tmp_path: Path) -> None:
    choice = {"token_ids": [1, 2, 3], "logprobs": {"token_logprobs": [None, 1e-7, -1e999]}}
    speaking.raw = (200, json.dumps({"choices": [choice]}).encode())
    log = ask(Server.find(speaking.url), tmp_path)
    logprobs = read_rollouts(log.path).rollouts[0].logprobs
    assert logprobs is not None
    assert math.isnan(logprobs[0])
    assert logprobs[1] == 0
    assert math.isnan(logprobs[2])


def test_a_server_that_is_slow_or_gone(speaking: Speaking, tmp_path: Path) -> None:
    server = Server.find(speaking.url, timeout=0.2)
    speaking.delay = 1.0
    with pytest.raises(InputError, match=r"did not answer within 0.2 s"):
        ask(server, tmp_path)
    with pytest.raises(InputError, match="cannot be reached") as caught:
        Server.find("http://127.0.0.1:9")
    assert "vllm serve" in caught.value.hint
    with pytest.raises(SrddError, match="status 404"):
        Server.find(f"{speaking.url}/other")


@pytest.mark.parametrize(
    "text",
    ["localhost:8000", "file:///etc/passwd", "ftp://x", "http://", "http://x:y", "http://u:p@x"],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        api_url(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("http://host/proxy/v1", "http://host/proxy/v1"),
    ],
)
def test_addresses_get_the_path_of_the_api(text: str, url: str) -> None:
    assert api_url(text) == url
