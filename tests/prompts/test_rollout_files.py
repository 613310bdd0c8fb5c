"""Rollouts as trainers log them: what is read from each, what is left out, and what is said."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from srdd.errors import InputError, SrddError, UsageError
from srdd.prompts.rollout_files import parse_columns, read_rollouts
from srdd.prompts.rollouts import Rollout, RolloutSet

CHAT = [{"role": "user", "content": "What is 2+2?"}]


def lines(path: Path, *records: Any) -> Path:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in records)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def one(tmp_path: Path, record: dict[str, Any], columns: str | None = None) -> Rollout:
    found = read_rollouts(lines(tmp_path / "one.jsonl", record), parse_columns(columns))
    assert len(found.rollouts) == 1
    return found.rollouts[0]


# As trainers log them


def test_verl_rollout_dump(tmp_path: Path) -> None:
    """trainer.rollout_data_dir: a file a step, text without special tokens."""
    dump = lines(
        tmp_path / "20.jsonl",
        {"input": "user\n2+2\nassistant\n", "output": "4", "gts": "4", "score": 1.0, "step": 20},
        {"input": "user\n3+3\nassistant\n", "output": "7", "gts": "6", "score": 0.0, "step": 20},
    )
    found = read_rollouts(dump)
    assert [each.prompt.text for each in found.rollouts if each.prompt] == [
        "user\n2+2\nassistant\n",
        "user\n3+3\nassistant\n",
    ]
    assert [each.response.text for each in found.rollouts if each.response] == ["4", "7"]
    assert found.index == (0, 1)
    assert found.rollouts[1].where.startswith("line 2 of ")


def test_verl_generation_parquet_has_several_responses_a_row(tmp_path: Path) -> None:
    table = pa.table(
        {
            "data_source": ["gsm8k", "gsm8k"],
            "prompt": [CHAT, CHAT],
            "reward_model": [{"ground_truth": "4", "style": "rule"}] * 2,
            "extra_info": [{"answer": "four", "index": 0}, {"answer": "vier", "index": 1}],
            "responses": [["4", "four"], ["5"]],
        }
    )
    pq.write_table(table, tmp_path / "gen.parquet")
    found = read_rollouts(tmp_path / "gen.parquet")
    assert [each.response.text for each in found.rollouts if each.response] == ["4", "four", "5"]
    assert all(each.prompt and each.prompt.chat() == CHAT for each in found.rollouts)
    assert found.rollouts[1].where.startswith("response 2 in row 1 of ")
    assert found.index == (0, 1, 2)
    nested = read_rollouts(tmp_path / "gen.parquet", {"response": "extra_info.answer"})
    assert [each.response.text for each in nested.rollouts if each.response] == ["four", "vier"]


def test_trl_completions_parquet(tmp_path: Path) -> None:
    answer = [{"role": "assistant", "content": "4"}]
    table = pa.table(
        {
            "step": [5, 5],
            "prompt": [CHAT, CHAT],
            "completion": [answer, answer],
            "accuracy_reward": [1.0, 0.0],
            "advantage": [0.5, -0.5],
        }
    )
    pq.write_table(table, tmp_path / "completions_00005.parquet")
    found = read_rollouts(tmp_path / "completions_00005.parquet")
    assert [each.response.messages for each in found.rollouts if each.response] == [
        tuple(answer)
    ] * 2


SLIME = {
    "group_index": 0,
    "index": 3,
    "prompt": "2+2=",
    "tokens": [11, 12, 13, 21, 22, 31, 23],
    "response": "4 tool 4",
    "response_length": 4,
    "loss_mask": [1, 1, 0, 1],
    "rollout_log_probs": [-0.1, -0.2, 0.0, -0.4],
    "status": "truncated",
    "metadata": {},
    "reward": 1.0,
}


@pytest.mark.parametrize("kind", ["jsonl", "pt"])
def test_slime_samples(tmp_path: Path, kind: str) -> None:
    if kind == "pt":
        path = tmp_path / "rollout_0.pt"
        torch.save({"rollout_id": 0, "samples": [SLIME]}, path)
    else:
        path = lines(tmp_path / "samples.jsonl", SLIME)
    rollout = read_rollouts(path).rollouts[0]
    assert rollout.prompt_ids == (11, 12, 13)
    assert rollout.response_ids == (21, 22, 31, 23)
    assert rollout.mask == (True, True, False, True)
    assert rollout.logprobs == (-0.1, -0.2, 0.0, -0.4)
    assert rollout.truncated


class Exploding:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def test_a_dump_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"samples": [Exploding()]}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="cannot be loaded as plain data"):
        read_rollouts(tmp_path / "bad.pt")


def test_openrlhf_batch_inference(tmp_path: Path) -> None:
    rollout = one(tmp_path, {"input": "2+2=", "output": "4</s>", "reward": 0.5})
    assert rollout.prompt
    assert rollout.response
    assert (rollout.prompt.text, rollout.response.text) == ("2+2=", "4</s>")


def test_nemo_rl_rows_have_values_for_the_whole_sequence(tmp_path: Path) -> None:
    record = {
        "token_ids": [11, 12, 21, 22],
        "token_loss_mask": [0, 0, 1, 1],
        "generation_logprobs": [0.0, 0.0, -0.5, -0.25],
        "rewards": 1.0,
    }
    rollout = one(tmp_path, record)
    assert (rollout.prompt_ids, rollout.response_ids) == ((11, 12), (21, 22))
    assert rollout.mask is None  # all of the response
    assert rollout.logprobs == (-0.5, -0.25)


def test_vllm_choice_keeps_ids_of_the_response_alone(tmp_path: Path) -> None:
    record = {"prompt_token_ids": [11, 12], "token_ids": [21, 22], "finish_reason": "length"}
    rollout = one(tmp_path, record)
    assert (rollout.prompt_ids, rollout.response_ids) == ((11, 12), (21, 22))
    assert rollout.truncated


def test_a_conversation_is_split_at_its_first_answer(tmp_path: Path) -> None:
    turns = ["system", "user", "assistant", "tool", "assistant"]
    messages = [{"role": role, "content": role} for role in turns]
    rollout = one(tmp_path, {"messages": messages})
    assert rollout.prompt
    assert rollout.response
    assert [m["role"] for m in rollout.prompt.messages or ()] == turns[:2]
    assert [m["role"] for m in rollout.response.messages or ()] == turns[2:]


def test_several_responses_each_with_its_own_tokens(tmp_path: Path) -> None:
    record = {
        "prompt": "x",
        "prompt_ids": [1, 2],
        "response_ids": [[3, 4], [5]],
        "logprobs": [[-1.0, -2.0], [-3.0]],
        "finish_reason": ["length", "stop"],
    }
    found = read_rollouts(lines(tmp_path / "n.jsonl", record))
    assert [each.response_ids for each in found.rollouts] == [(3, 4), (5,)]
    assert [each.prompt_ids for each in found.rollouts] == [(1, 2), (1, 2)]
    assert [each.logprobs for each in found.rollouts] == [(-1.0, -2.0), (-3.0,)]
    assert [each.truncated for each in found.rollouts] == [True, False]


# Columns


def test_columns_can_be_named(tmp_path: Path) -> None:
    record = {"frage": "2+2", "info": {"antwort": "4"}, "prompt": "another"}
    rollout = one(tmp_path, record, "prompt=frage, response=info.antwort")
    assert rollout.prompt
    assert rollout.response
    assert (rollout.prompt.text, rollout.response.text) == ("2+2", "4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt", "names no column"),
        ("prompt=", "names no column"),
        ("promt=x", "unknown part of a rollout 'promt'"),
    ],
)
def test_columns_that_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_columns(text)


def test_a_column_that_a_parquet_file_lacks_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "answer": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="'anwser'"):
        read_rollouts(tmp_path / "x.parquet", {"response": "anwser"})
    with pytest.raises(InputError, match="has no response: its keys are prompt") as caught:
        read_rollouts(tmp_path / "x.parquet")
    assert "--columns" in caught.value.hint


# Bad rows


BAD = [
    ("{not json", "is not valid JSON"),
    ([1, 2], "is a list, not a JSON object"),
    ({"prompt": "a"}, "has no response: its keys are prompt"),
    ({"response": "a"}, "has no prompt"),
    ({"prompt": "a", "response": None}, "response \\(null\\)"),
    ({"prompt": 5, "response": "a"}, "the prompt of line 2 of .* is a number"),
    ({"prompt": "a", "response": [{"role": "assistant"}]}, "has no content"),
    ({"prompt_ids": [1], "response_ids": [1, -2]}, "not a list of token ids"),
    ({"prompt_ids": [1], "response_ids": [1.5]}, "not a list of token ids"),
    ({"prompt_ids": [1], "response_ids": [True]}, "not a list of token ids"),
    ({"prompt_ids": [1], "response_ids": [1, 2], "loss_mask": [1]}, "mask of 1 tokens"),
    ({"prompt_ids": [1], "response_ids": [1, 2], "loss_mask": [1, 2]}, "not a list of 0 and 1"),
    ({"prompt_ids": [1], "response_ids": [1, 2], "logprobs": [0.0]}, "log-probabilities of 1"),
    ({"prompt_ids": [1], "response_ids": [1], "logprobs": [0.5]}, "0.5, which is above 0"),
    ({"prompt_ids": [1], "response_ids": [1], "logprobs": ["x"]}, "not a list of numbers"),
    ({"tokens": [1, 2], "response_length": 3}, "response of 3 tokens, but 2 tokens in all"),
    ({"tokens": [1, 2]}, "does not say which of its tokens are the response"),
    ({"prompt": "a", "response": "b", "loss_mask": [0, 1]}, "a mask and no token ids"),
    ({"messages": CHAT}, "without an answer of the assistant"),
    ({"prompt": "a", "response": "\ud800"}, "lone surrogate"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_row_names_its_line_and_loses_nothing_else(
    tmp_path: Path, bad: Any, message: str
) -> None:
    good = {"prompt": "a", "response": "b"}
    found = read_rollouts(lines(tmp_path / "f.jsonl", good, bad, good))
    assert len(found.rollouts) == 2
    assert found.index == (0, 2)
    assert len(found.unreadable) == 1
    assert "line 2" in found.unreadable[0]
    with pytest.raises(InputError, match=message):
        read_rollouts(lines(tmp_path / "only.jsonl", good, bad), skip=1)


def test_bytes_that_are_no_text_cost_one_line(tmp_path: Path) -> None:
    good = b'{"prompt": "a", "response": "b"}\n'
    (tmp_path / "f.jsonl").write_bytes(good + b'{"prompt": "\xff"}\n\n' + good)
    found = read_rollouts(tmp_path / "f.jsonl")
    assert found.index == (0, 2)
    assert "line 2" in found.unreadable[0]
    assert "not UTF-8" in found.unreadable[0]


def test_unknown_log_probabilities_are_nan(tmp_path: Path) -> None:
    record = {"prompt_ids": [1], "response_ids": [1, 2, 3], "logprobs": [None, -1.0, -math.inf]}
    logprobs = one(tmp_path, record).logprobs
    assert logprobs is not None
    assert [math.isnan(each) for each in logprobs] == [True, False, True]
    assert one(tmp_path, {**record, "logprobs": [None] * 3}).logprobs is None


# Parts of a file


def test_limit_and_skip_count_rollouts(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "f.jsonl", *({"prompt": str(n), "responses": ["a", "b"]} for n in range(4))
    )

    def places(found: RolloutSet) -> tuple[int, ...]:
        return found.index

    assert places(read_rollouts(path)) == tuple(range(8))
    assert places(read_rollouts(path, limit=3)) == (0, 1, 2)
    assert places(read_rollouts(path, limit=3, skip=3)) == (3, 4, 5)
    with pytest.raises(InputError, match="leaves none"):
        read_rollouts(path, skip=8)
    with pytest.raises(UsageError):
        read_rollouts(path, limit=0)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    good = b'{"prompt": "a", "response": "b"}\n'

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[: len(good)] = good
            return len(good)

    found = read_rollouts("-", limit=5, stdin=io.BufferedReader(Endless()))
    assert len(found.rollouts) == 5
    assert found.source == "stdin"


@pytest.mark.parametrize("name", ["f.csv", "missing.jsonl", "empty.jsonl", "not.parquet"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    if name != "missing.jsonl":
        (tmp_path / name).write_bytes(b"" if name == "empty.jsonl" else b"a,b\n1,2\n")
    with pytest.raises(SrddError) as caught:
        read_rollouts(tmp_path / name)
    assert caught.value.hint
