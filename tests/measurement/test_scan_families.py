"""A scan of a whole model: what the hooks see, what they leave behind, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import families
import numpy as np
import pytest
import torch
from families import FAMILIES, LAYERS, TUPLES
from torch import nn

from srdd.documents.records import from_record, replicate_of
from srdd.documents.scan import Record, Scan
from srdd.errors import InputError, SrddError, UsageError
from srdd.measurement.listener import Listener
from srdd.measurement.provenance import Origin
from srdd.measurement.scanner import scan_model as scan_every_site
from srdd.numerics.confidence import few_prompts, occupied
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import row_sums
from srdd.numerics.sums import COUNTS, INDEX
from srdd.prompts.fingerprints import prompt_fingerprint

PROMPTS = (
    "What is 12 times 12? Think step by step.",
    "Once upon a time there was a tailor.",
    "def add(a, b):",
    "Où est la bibliothèque ?",
    "Hello",
)


def scan_model(*given: Any, **options: Any) -> Scan:
    """A scan of the layers' outputs, unless other sites are named."""
    return scan_every_site(*given, **{"sites": ["output"], **options})


each_family = pytest.mark.parametrize("name", FAMILIES)

HooksOf = Callable[[nn.Module], list[str]]


def replicates(record: Record) -> np.ndarray[Any, Any]:
    """The sums of each prompt, (prompts, fields), in order of their replicates."""
    return occupied(from_record(record).replicates[:, None])[:, 0]


def by_hand(model: nn.Module, layers: Sequence[str], tokenizer: Any) -> np.ndarray[Any, Any]:
    """The same, (layers, prompts, fields), from hooks of our own, the whole model, one prompt at a
    time without padding, and the reference kernel."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            kept[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in layers]
    result, places = [], []
    try:
        for prompt in PROMPTS:
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            with torch.no_grad():
                model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            rows = [kept[name][0] for name in layers]
            places.append(replicate_of(prompt_fingerprint(ids[0].tolist())))
            result.append(
                [row_sums(x, parse_spec("mxfp4"), kernel="eager").sum(0).numpy() for x in rows]
            )
    finally:
        for handle in handles:
            handle.remove()
    assert len(set(places)) == len(PROMPTS)
    return np.array(result)[np.argsort(places)].swapaxes(0, 1)


# Every family


@each_family
def test_the_sums_are_those_of_hooks_set_by_hand(
    name: str, tokenizer: Any, hooks_of: HooksOf
) -> None:
    model = families.shared(name)
    scan = scan_model(model, tokenizer, PROMPTS, batch_size=1)
    layers = [f"{FAMILIES[name].decoder}.{n}" for n in range(LAYERS)]
    assert [record.tensor for record in scan.records] == layers
    assert [record.layer for record in scan.records] == list(range(LAYERS))
    result = np.array([replicates(record) for record in scan.records])
    expected = by_hand(model, layers, tokenizer)
    assert np.array_equal(result[..., : len(COUNTS)], expected[..., : len(COUNTS)])
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert expected[..., INDEX["tokens"]].min() >= len("Hello")
    assert expected[..., INDEX["e2"]].min() > 0
    assert scan.not_measured == []
    assert hooks_of(model) == []


@each_family
def test_any_batching_gives_the_same_sums(name: str, tokenizer: Any) -> None:
    model = families.shared(name)
    alone = scan_model(model, tokenizer, PROMPTS, batch_size=1)
    for size in (2, len(PROMPTS)):
        batched = scan_model(model, tokenizer, PROMPTS, batch_size=size)
        for one, other in zip(alone.records, batched.records, strict=True):
            a, b = replicates(one), replicates(other)
            assert np.array_equal(a[:, :3], b[:, :3])  # tokens, elements, nonfinite
            np.testing.assert_allclose(b.sum(axis=0), a.sum(axis=0), rtol=1e-6)
        assert batched.calibration == alone.calibration


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt", "falcon"])
def test_beyond_the_model_s_own_rounding_batching_changes_nothing(
    name: str, tokenizer: Any
) -> None:
    # In double precision, padding no longer shows in the last digit of what a layer computes.
    model = families.new(name).double()
    alone, batched = (scan_model(model, tokenizer, PROMPTS, batch_size=n) for n in (1, 5))
    for one, other in zip(alone.records, batched.records, strict=True):
        np.testing.assert_allclose(replicates(other), replicates(one), rtol=1e-12)
        assert one.token_sqnr_db == other.token_sqnr_db


@pytest.mark.parametrize("name", TUPLES)
def test_layers_that_return_a_tuple_are_measured(name: str) -> None:
    model = families.shared(name)
    kinds = []
    layer = model.get_submodule(f"{FAMILIES[name].decoder}.0")
    handle = layer.register_forward_hook(lambda module, args, output: kinds.append(type(output)))
    ids = torch.ones(1, 4, dtype=torch.int64)
    model(input_ids=ids, use_cache=False)
    handle.remove()
    assert kinds == [tuple]


@each_family
def test_the_head_is_not_computed(name: str, tokenizer: Any) -> None:
    model = families.shared(name)
    calls = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: calls.append("head"))
    try:
        scan_model(model, tokenizer, PROMPTS[:1])
        assert calls == []
        model(input_ids=torch.ones(1, 2, dtype=torch.int64))
        assert calls == ["head"]  # the hook works
    finally:
        handle.remove()


# What a scan leaves behind


@contextmanager
def failing(module: nn.Module, failure: BaseException, at_call: int) -> Iterator[None]:
    """From its `at_call`-th call on, the module fails; its layer's hook does not get to run."""
    forward = module.forward
    calls = 0

    def fail(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= at_call:
            raise failure
        return forward(*args, **options)

    module.forward = fail
    try:
        yield
    finally:
        module.forward = forward


@pytest.mark.parametrize("failure", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("at_call", [1, 3])
def test_after_a_failure_no_hook_is_left(
    failure: BaseException, at_call: int, llama: nn.Module, tokenizer: Any, hooks_of: HooksOf
) -> None:
    llama.train()
    with (
        failing(llama.model.layers[1].mlp, failure, at_call),
        pytest.raises(type(failure)) as caught,
    ):
        scan_model(llama, tokenizer, PROMPTS, batch_size=1)
    assert caught.value is failure
    assert hooks_of(llama) == []
    assert all(module.training for module in llama.modules())


def test_hooks_that_were_there_before_stay(
    llama: nn.Module, tokenizer: Any, hooks_of: HooksOf
) -> None:
    calls = []
    llama.model.layers[0].register_forward_hook(lambda *args: calls.append("own"))
    scan_model(llama, tokenizer, PROMPTS[:2], batch_size=1)
    assert calls == ["own", "own"]
    assert hooks_of(llama) == ["model.layers.0"]


def test_a_wrong_name_is_reported_before_any_hook_is_set(
    llama: nn.Module, tokenizer: Any, hooks_of: HooksOf
) -> None:
    for options in ({"formats": ["mxfp5"]}, {"sites": ["inputs"]}, {"rounding": "up"}):
        with pytest.raises(UsageError):
            scan_model(llama, tokenizer, PROMPTS, **options)
    assert hooks_of(llama) == []


def test_every_modules_mode_is_restored(llama: nn.Module, tokenizer: Any) -> None:
    llama.train()
    llama.model.layers[1].eval()
    before = {name: module.training for name, module in llama.named_modules()}
    assert set(before.values()) == {True, False}
    scan_model(llama, tokenizer, PROMPTS)
    assert {name: module.training for name, module in llama.named_modules()} == before


def test_dropout_is_off_while_it_is_measured(tokenizer: Any) -> None:
    model = families.new("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    expected = scan_model(model, tokenizer, PROMPTS)
    model.train()
    assert scan_model(model, tokenizer, PROMPTS).records == expected.records


def test_weights_and_gradients_are_left_alone(llama: nn.Module, tokenizer: Any) -> None:
    llama.requires_grad_(True)
    before = {key: value.clone() for key, value in llama.state_dict().items()}
    scan_model(llama, tokenizer, PROMPTS)
    assert all(torch.equal(before[key], value) for key, value in llama.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in llama.parameters())


def test_a_scan_repeats(llama: nn.Module, tokenizer: Any) -> None:
    def figures(scan: Scan) -> object:
        return scan.records, scan.rankings, scan.model, scan.calibration, scan.settings

    first, second = (scan_model(llama, tokenizer, PROMPTS) for _ in range(2))
    assert figures(first) == figures(second)


# What was not measured


def test_a_layer_that_never_ran_is_named(llama: nn.Module, tokenizer: Any) -> None:
    llama.config.num_hidden_layers = 2  # the model then leaves its last layer out
    scan = scan_model(llama, tokenizer, PROMPTS)
    assert [record.layer for record in scan.records] == [0, 1]
    (missing,) = scan.not_measured
    assert missing.module == "model.layers.2"
    assert missing.reason == "no forward pass went through it"
    assert len(scan.model.layers) == 3


def test_skipping_first_tokens_leaves_out_one_a_prompt(llama: nn.Module, tokenizer: Any) -> None:
    whole = scan_model(llama, tokenizer, PROMPTS)
    rest = scan_model(llama, tokenizer, PROMPTS, skip_first_token=True)
    firsts = [prompt.encode()[:1].decode() for prompt in PROMPTS]
    first = scan_model(llama, tokenizer, firsts)
    for a, b, c in zip(whole.records, rest.records, first.records, strict=True):
        rest_of_a = replicates(a).sum(axis=0) - replicates(c).sum(axis=0)
        np.testing.assert_allclose(replicates(b).sum(axis=0), rest_of_a, rtol=1e-5)
    assert (whole.calibration.skip_first_token, rest.calibration.skip_first_token) == (False, True)


def test_a_prompt_of_one_token_has_none_left_when_first_tokens_are_skipped(
    llama: nn.Module, tokenizer: Any
) -> None:
    scan = scan_model(llama, tokenizer, ["ab", "c"], skip_first_token=True)
    assert [record.sums.tokens for record in scan.records if record.sums] == [1] * LAYERS
    assert [len(replicates(record)) for record in scan.records] == [1] * LAYERS


def test_when_nothing_is_left_to_measure_every_metric_is_undefined(
    llama: nn.Module, tokenizer: Any
) -> None:
    scan = scan_model(llama, tokenizer, ["a", "b"], skip_first_token=True)
    for record in scan.records:
        assert set(record.metrics.model_dump().values()) == {None}
        assert set(record.undefined.values()) == {"no finite value was measured"}


# Memory


ALLOCATION = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


def tight(module: nn.Module, largest: int, hidden: bool) -> None:
    """Let the module fail for lack of memory with more than `largest` prompts at once."""
    forward = module.forward

    def limited(*args: Any, **options: Any) -> Any:
        x = args[0] if hidden else options["input_ids"]
        if x.shape[0] > largest:
            raise RuntimeError(ALLOCATION)
        return forward(*args, **options)

    module.forward = limited


@pytest.mark.parametrize("where", ["model", "model.layers.2"])
@pytest.mark.parametrize("largest", [1, 2])
def test_a_batch_too_large_for_memory_is_halved_and_counts_once(
    where: str, largest: int, llama: nn.Module, tokenizer: Any
) -> None:
    expected = scan_model(llama, tokenizer, PROMPTS, batch_size=5)
    tight(llama.get_submodule(where), largest, hidden=where != "model")
    heard: list[str] = []
    steps: list[int] = []
    listener = Listener(advanced=steps.append, warned=heard.append)
    scan = scan_model(llama, tokenizer, PROMPTS, batch_size=5, listener=listener)
    for one, other in zip(expected.records, scan.records, strict=True):
        a, b = replicates(one), replicates(other)
        np.testing.assert_allclose(b, a, rtol=1e-6)
    assert "out of memory at 5 prompts; retrying with 2" in scan.warnings
    assert heard == scan.warnings
    assert sum(steps) == scan.calibration.tokens
    assert len(steps) >= len(PROMPTS) / largest


def test_the_same_lack_of_memory_is_reported_once(llama: nn.Module, tokenizer: Any) -> None:
    tight(llama.model, 2, hidden=False)
    prompts = [f"prompt number {n}" for n in range(12)]
    scan = scan_model(llama, tokenizer, prompts, batch_size=4)
    assert scan.warnings == ["out of memory at 4 prompts; retrying with 2"]


def test_too_little_memory_for_a_single_prompt_is_reported(
    llama: nn.Module, tokenizer: Any, hooks_of: HooksOf
) -> None:
    tight(llama.model, 0, hidden=False)
    with pytest.raises(InputError) as caught:
        scan_model(llama, tokenizer, PROMPTS)
    longest = max(len(prompt.encode()) for prompt in PROMPTS)
    assert caught.value.message == (f"out of memory at a single prompt of {longest} tokens")
    assert f"max_length={longest // 2}" in caught.value.hint
    assert hooks_of(llama) == []


def test_other_errors_are_not_taken_for_lack_of_memory(llama: nn.Module, tokenizer: Any) -> None:
    with failing(llama.model, RuntimeError("shapes differ"), 1), pytest.raises(RuntimeError):
        scan_model(llama, tokenizer, PROMPTS, batch_size=5)


# Broken values


def spoil(module: nn.Module, value: float, channel: int) -> None:
    """Put a value into one channel of each prompt's second token."""
    forward = module.forward

    def spoiled(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options).clone()
        output[:, 1, channel] = value
        return output

    module.forward = spoiled


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_activations_are_counted_and_left_out(
    value: float, llama: nn.Module, tokenizer: Any
) -> None:
    last = llama.model.layers[2]
    spoil(last, 0.0, channel=5)
    expected = scan_model(llama, tokenizer, PROMPTS).records
    spoil(last, value, channel=5)
    heard: list[str] = []
    scan = scan_model(llama, tokenizer, PROMPTS, listener=Listener(warned=heard.append))
    assert scan.records[:2] == expected[:2]
    result, zeroed = replicates(scan.records[2]), replicates(expected[2])
    assert (result[:, INDEX["nonfinite"]] == 1).all()
    assert (result[:, INDEX["elements"]] == zeroed[:, INDEX["elements"]] - 1).all()
    assert np.array_equal(result[:, INDEX["nonzero"] :], zeroed[:, INDEX["nonzero"] :])
    assert heard[0] == (
        "NON-FINITE VALUES: 5 NaN or infinite values in 1 of the measured tensors, "
        "model.layers.2 first; they are left out of every figure"
    )
    assert heard == scan.warnings


def test_a_layer_of_nothing_but_nan_has_no_figures(llama: nn.Module, tokenizer: Any) -> None:
    norm = llama.model.layers[1].input_layernorm
    norm.forward = lambda x: x * float("nan")
    scan = scan_model(llama, tokenizer, PROMPTS)
    assert scan.records[0].metrics.sqnr_db is not None
    for record in scan.records[1:]:
        assert record.metrics.sqnr_db is None
        assert set(record.undefined.values()) == {"no finite value was measured"}
    assert scan.warnings[0].startswith("NON-FINITE VALUES: ")
    assert "in 2 of the measured tensors, model.layers.1 first" in scan.warnings[0]


def test_non_finite_weights_are_refused(llama: nn.Module, tokenizer: Any) -> None:
    llama.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"hold NaN or infinity: model\.layers\.1\.mlp\.up_proj"):
        scan_model(llama, tokenizer, PROMPTS)


# The rest of the document


def test_the_document_says_what_was_measured(llama: nn.Module, tokenizer: Any) -> None:
    origin = Origin("some/model", "hub", "abc", "srdd scan some/model", ("a note",))
    scan = scan_model(
        llama, tokenizer, PROMPTS, formats=["mxfp4", "mxfp4:even"], max_length=20, origin=origin
    )
    model, text = scan.model, scan.calibration
    assert (model.name, model.source, model.revision) == ("some/model", "hub", "abc")
    assert (model.architecture, model.model_type) == ("LlamaForCausalLM", "llama")
    assert (model.dtype, model.hidden_size) == ("float32", families.HIDDEN)
    assert model.parameters == sum(p.numel() for p in llama.parameters())
    assert [layer.type for layer in model.layers] == ["LlamaDecoderLayer"] * LAYERS
    assert [norm.name for norm in model.other_norms] == ["model.norm"]
    lengths = [min(20, len(prompt.encode())) for prompt in PROMPTS]
    assert (text.source, text.prompts, text.tokens) == ("python", len(PROMPTS), sum(lengths))
    assert (text.truncated, text.left_out, text.max_length) == (3, 0, 20)
    assert scan.settings.formats == ["mxfp4:floor", "mxfp4:even"]
    assert scan.run.command == "srdd scan some/model"
    assert scan.run.elapsed_s is not None
    assert scan.run.elapsed_s > 0
    assert scan.warnings == [
        "a note",
        few_prompts(5, 5),
    ]
    assert len(scan.records) == 2 * LAYERS


def test_a_listener_hears_how_it_goes(llama: nn.Module, tokenizer: Any) -> None:
    begun: list[tuple[str, int, str]] = []
    steps: list[int] = []
    listener = Listener(started=lambda *phase: begun.append(phase), advanced=steps.append)
    scan = scan_model(llama, tokenizer, PROMPTS, batch_size=2, listener=listener)
    assert begun == [("measuring 5 prompts", scan.calibration.tokens, "tokens")]
    assert len(steps) == 3
    assert sum(steps) == scan.calibration.tokens


def test_prompts_longer_than_the_context_are_left_out_and_noted(tokenizer: Any) -> None:
    model = families.new("llama", max_position_embeddings=24)
    scan = scan_model(model, tokenizer, PROMPTS)
    assert (scan.calibration.prompts, scan.calibration.left_out) == (2, 3)
    assert scan.warnings[0] == ("left out 3 prompts: longer than the model's context of 24 tokens")


def test_a_seed_that_cannot_be_drawn_from_is_refused_at_once(
    llama: nn.Module, tokenizer: Any
) -> None:
    for seed in (-1, 2**63):
        with pytest.raises(SrddError) as caught:
            scan_model(llama, tokenizer, PROMPTS, seed=seed)
        assert caught.value.message == f"seed {seed} is out of range"


def test_stochastic_rounding_is_the_same_in_any_batching(llama: nn.Module, tokenizer: Any) -> None:
    options: dict[str, Any] = {"rounding": "stochastic", "seed": 3}
    alone, batched = (
        scan_model(llama, tokenizer, PROMPTS, batch_size=size, **options) for size in (1, 5)
    )
    for one, other in zip(alone.records, batched.records, strict=True):
        np.testing.assert_allclose(replicates(other), replicates(one), rtol=1e-4)
    reseeded = scan_model(llama, tokenizer, PROMPTS, rounding="stochastic", seed=4)
    assert reseeded.records != batched.records


def test_layers_round_stochastically_each_in_its_own_way(llama: nn.Module, tokenizer: Any) -> None:
    for layer in llama.model.layers:  # every layer then passes on what it gets
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    even = scan_model(llama, tokenizer, PROMPTS, sites=["output"]).records
    assert even[0].sums == even[1].sums == even[2].sums
    drawn = scan_model(llama, tokenizer, PROMPTS, sites=["output"], rounding="stochastic").records
    assert len({record.sums.e2 for record in drawn if record.sums}) == LAYERS
