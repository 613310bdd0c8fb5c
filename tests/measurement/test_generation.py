"""Own rollouts: tokens and log-probabilities against the model run by hand, and going on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from srdd import simulate
from srdd.errors import InputError, UsageError
from srdd.measurement.generation import own_rollouts
from srdd.measurement.listener import Listener
from srdd.prompts.rollouts import RolloutSet
from srdd.prompts.sampling import Sampling

PROMPTS = ["one two three", "x", "a somewhat longer prompt than the first"]


def spiky() -> nn.Module:
    """A tiny model whose predictions are far from uniform."""
    model = families.new("llama").float()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    return model


def logprobs_of(
    model: nn.Module, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float = 1.0
) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    logp = (logits / temperature).log_softmax(-1)
    return [float(logp[len(prompt) + n - 1, token]) for n, token in enumerate(response)]


@pytest.mark.parametrize("quantized", [False, True])
def test_log_probabilities_are_those_of_the_policy_that_sampled(
    tokenizer: Any, tmp_path: Path, quantized: bool
) -> None:
    model = spiky()

    def policy() -> Any:
        return simulate(model, "mxfp4", "mxfp4") if quantized else nullcontext()

    found = own_rollouts(
        model,
        tokenizer,
        PROMPTS,
        Sampling(responses=2, max_new_tokens=9, temperature=0.7),
        tmp_path,
        simulated=policy,
    )
    assert len(found.rollouts) == 6
    assert found.temperature == 0.7
    with policy():
        for each in found.rollouts:
            assert each.prompt_ids
            assert each.response_ids
            wanted = logprobs_of(model, each.prompt_ids, each.response_ids, 0.7)
            # A rounding error elsewhere may move a value to the next code of the format.
            assert each.logprobs == pytest.approx(wanted, abs=0.3 if quantized else 1e-3)
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in PROMPTS for _ in range(2)]
    assert [each.prompt_ids for each in found.rollouts] == prompts


def test_without_temperature_each_token_is_the_likeliest(tokenizer: Any, tmp_path: Path) -> None:
    model = spiky()
    found = own_rollouts(
        model, tokenizer, PROMPTS, Sampling(max_new_tokens=6, temperature=0), tmp_path
    )
    assert found.temperature == 1
    for each in found.rollouts:
        assert each.prompt_ids
        ids = list(each.prompt_ids)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert each.response_ids == tuple(ids[len(each.prompt_ids) :])
        wanted = logprobs_of(model, each.prompt_ids, each.response_ids)
        assert each.logprobs == pytest.approx(wanted, abs=1e-3)


def first_tokens(
    model: nn.Module, tokenizer: Any, folder: Path, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Many first tokens of responses to one prompt, and the logits that they are sampled from."""
    sampling = Sampling(responses=2000, max_new_tokens=1, **options)
    found = own_rollouts(model, tokenizer, ["ab"], sampling, folder, batch_size=500)
    tokens = torch.tensor([each.response_ids for each in found.rollouts])[:, 0]
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("ab")["input_ids"]])).logits[0, -1].double()
    return tokens, logits


def test_samples_are_of_the_whole_distribution_whatever_the_model_is_configured_to(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = spiky()
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=2, top_p=0.2, temperature=0.1, repetition_penalty=5.0
    )
    before = model.generation_config
    tokens, logits = first_tokens(model, tokenizer, tmp_path, temperature=2.0)
    assert model.generation_config is before
    p = (logits / 2).softmax(-1)
    own = p.log()[tokens]
    entropy = -(p * p.log()).sum()
    spread = ((p * p.log().square()).sum() - entropy.square()).sqrt() / math.sqrt(len(tokens))
    assert abs(float(own.mean() + entropy)) < 4 * float(spread)
    assert len(set(tokens.tolist())) > 10


def test_top_p_samples_from_the_likeliest_tokens_only(tokenizer: Any, tmp_path: Path) -> None:
    model = spiky()
    tokens, logits = first_tokens(model, tokenizer, tmp_path, top_p=0.5)
    p, order = logits.softmax(-1).sort(descending=True)
    nucleus = set(order[: int((p.cumsum(0) < 0.5).sum()) + 1].tolist())
    assert set(tokens.tolist()) == nucleus


def test_a_response_ends_with_its_end_of_text(tokenizer: Any, tmp_path: Path) -> None:
    model = families.new("llama")
    model.generation_config.eos_token_id = list(range(0, 60))
    found = own_rollouts(
        model, tokenizer, PROMPTS, Sampling(responses=8, max_new_tokens=5), tmp_path
    )
    ended = [each for each in found.rollouts if not each.truncated]
    assert 0 < len(ended) < len(found.rollouts)
    for each in found.rollouts:
        assert each.response_ids
        assert all(token >= 60 for token in each.response_ids[:-1])
        assert (each.response_ids[-1] < 60) == (not each.truncated)
        assert each.truncated == (each.response_ids[-1] >= 60 and len(each.response_ids) == 5)
        assert each.logprobs
        assert len(each.logprobs) == len(each.response_ids)


def test_the_model_and_the_random_numbers_of_others_are_as_before(
    tokenizer: Any, tmp_path: Path, hooks_of: Callable[[nn.Module], list[str]]
) -> None:
    model = families.new("llama").train()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    own_rollouts(model, tokenizer, PROMPTS, Sampling(max_new_tokens=2), tmp_path)
    assert torch.rand(3).equal(wanted)
    assert hooks_of(model) == []
    assert model.training


def rows(folder: Path) -> list[str]:
    (file,) = folder.glob("*.jsonl")
    return file.read_text().splitlines()


def test_nothing_is_generated_twice(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampling = families.new("llama"), Sampling(responses=2, max_new_tokens=3)

    def run(folder: Path, **other: Any) -> RolloutSet:
        folder.mkdir(exist_ok=True)
        return own_rollouts(model, tokenizer, PROMPTS, sampling, folder, batch_size=2, **other)

    run(tmp_path / "whole")
    whole = rows(tmp_path / "whole")
    assert len(whole) == 7

    class Stop(Exception):
        pass

    def advanced(amount: int) -> None:
        if len(list((tmp_path / "cut").glob("*.jsonl"))):
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "cut", listener=Listener(advanced=advanced))
    assert rows(tmp_path / "cut") == whole[:3]
    (file,) = (tmp_path / "cut").glob("*.jsonl")
    with file.open("a") as stream:
        stream.write(whole[3][:20])  # as a kill leaves it
    run(tmp_path / "cut")
    assert rows(tmp_path / "cut") == whole

    def never(*given: object, **named: object) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr(type(model), "generate", never)
    assert len(run(tmp_path / "whole").rollouts) == 6
    with pytest.raises(AssertionError):
        run(tmp_path / "whole", policy={"operands": ["mxfp4:floor", None]})


def test_memory_that_runs_out_halves_the_batch(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.new("llama")
    plain, sizes = type(model).generate, []

    def limited(self: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return plain(self, input_ids=input_ids, **given)

    monkeypatch.setattr(type(model), "generate", limited)
    heard: list[str] = []
    most = 2
    found = own_rollouts(
        model,
        tokenizer,
        PROMPTS,
        Sampling(responses=2, max_new_tokens=2),
        tmp_path,
        listener=Listener(warned=heard.append),
    )
    assert len(found.rollouts) == 6
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert heard[0] == "out of memory at 6 responses; retrying with 3"
    most = 0
    with pytest.raises(InputError, match="out of memory at a single prompt"):
        own_rollouts(model, tokenizer, PROMPTS, Sampling(seed=1, max_new_tokens=2), tmp_path)


def test_a_prompt_without_room_for_a_response_is_left_out(tokenizer: Any, tmp_path: Path) -> None:
    model = families.new("llama")
    context = model.config.max_position_embeddings
    heard: list[str] = []
    prompts = ["short", "l" * (context - 4)]
    listener = Listener(warned=heard.append)
    found = own_rollouts(
        model, tokenizer, prompts, Sampling(max_new_tokens=5), tmp_path, listener=listener
    )
    assert len(found.rollouts) == 1
    assert heard[0] == "left out 1 prompt: without room for 5 new tokens in the model's context"
    with pytest.raises(InputError, match="every prompt is without room"):
        own_rollouts(model, tokenizer, prompts[1:], Sampling(max_new_tokens=5), tmp_path)
    with pytest.raises(UsageError, match="leaves no room for a prompt"):
        own_rollouts(model, tokenizer, prompts, Sampling(max_new_tokens=context), tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"responses": 0},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
    ],
)
def test_sampling_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampling(**wrong)


def test_a_file_that_is_not_what_its_name_says_is_kept(tokenizer: Any, tmp_path: Path) -> None:
    model, sampling = families.new("llama"), Sampling(max_new_tokens=2)
    own_rollouts(model, tokenizer, PROMPTS, sampling, tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    header = json.loads(file.read_text().splitlines()[0])
    assert header["sampling"]["max_new_tokens"] == 2
    file.write_text("something else\n")
    with pytest.raises(Exception, match="not the file of rollouts that its name says"):
        own_rollouts(model, tokenizer, PROMPTS, sampling, tmp_path)
    assert file.read_text() == "something else\n"
