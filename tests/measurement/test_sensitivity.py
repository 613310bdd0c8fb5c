"""What each change costs, against Jacobians written out, enumerated labels and direct KL."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from srdd.errors import InputError, UsageError
from srdd.measurement import passes as passes_module
from srdd.measurement.calls import targets_of
from srdd.measurement.forward import logits_of, tokenize_for
from srdd.measurement.labels import Loss, Positions, predicted, uniforms
from srdd.measurement.listener import Listener
from srdd.measurement.passes import Passes, differentiable
from srdd.measurement.scores import Scores
from srdd.measurement.sensitivity import Sensitivity, measure_sensitivity
from srdd.model.selection import Selection
from srdd.model.structure import find_structure
from srdd.numerics.formats import parse_spec
from srdd.numerics.quantize import fake_quantize
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches
from srdd.simulation import predictions
from srdd.simulation.simulator import simulate

SPEC = parse_spec("mxfp4")
VOCABULARY, HIDDEN = 3, 4


class Mixing(nn.Module):
    """A layer of two linears whose second sees all tokens so far, so positions interact."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(HIDDEN, 5)
        self.second = nn.Linear(5, HIDDEN, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        middle = torch.tanh(self.first(hidden)).cumsum(1)
        return hidden + self.second(middle)


class TwoLinears(nn.Module):
    """Two linears small enough to write everything out; `times` runs of the layer share them."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList([Mixing()])
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY)
        self.times = times

    def forward(self, input_ids: Tensor, **other: Any) -> Any:
        hidden = self.embedding(input_ids)
        for _ in range(self.times):
            hidden = self.layers[0](hidden)
        return SimpleNamespace(logits=self.head(self.norm(hidden)))


def two_linears(times: int = 1, dtype: torch.dtype = torch.float64) -> TwoLinears:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = TwoLinears(times)
    return model.to(dtype)


def tokenized(*prompts: tuple[int, ...]) -> TokenizedPrompts:
    return TokenizedPrompts(
        source="test",
        index=tuple(range(len(prompts))),
        ids=prompts,
        truncated=0,
        left_out=(),
    )


def one_batch(ids: tuple[int, ...]) -> Batch:
    return Batch((0,), torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))


def changed_products(model: nn.Module, batch: Batch) -> dict[tuple[str, str], list[Tensor]]:
    """dY of each call of each linear, from products of quantized operands."""
    found: dict[tuple[str, str], list[Tensor]] = {}

    def hook(name: str) -> Any:
        def after(module: nn.Linear, args: tuple[Tensor], output: Tensor) -> None:
            x, w = args[0], module.weight
            xq = fake_quantize(x.float(), "mxfp4").to(x.dtype)
            wq = fake_quantize(w.float(), "mxfp4").to(w.dtype)
            for operands, dy in (
                ("weight", x @ wq.t() - x @ w.t()),
                ("input", xq @ w.t() - x @ w.t()),
                ("both", xq @ wq.t() - x @ w.t()),
            ):
                found.setdefault((name, operands), []).append(dy.detach())

        return after

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if name.endswith((".first", ".second"))
    ]
    with torch.no_grad():
        model(input_ids=batch.input_ids)
    for handle in handles:
        handle.remove()
    return found


def logits_when_moved(model: nn.Module, batch: Batch, name: str, changes: list[Tensor]) -> Tensor:
    """Logits when the calls of one linear are moved by `changes`."""
    waiting = list(changes)
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, args, output: output + waiting.pop(0)
    )
    try:
        return model(input_ids=batch.input_ids).logits[0, :-1]
    finally:
        handle.remove()


def second_order(model: nn.Module, batch: Batch, name: str, changes: list[Tensor]) -> float:
    """1/2 (J dY)' H (J dY) with the Jacobian and H = diag(p) - p p' written out."""
    plain = logits_when_moved(model, batch, name, [torch.zeros_like(c) for c in changes])
    _, moved = torch.func.jvp(
        lambda step: logits_when_moved(model, batch, name, [step * c for c in changes]),
        (torch.zeros((), dtype=plain.dtype),),
        (torch.ones((), dtype=plain.dtype),),
    )
    p = plain.softmax(-1)
    h = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return 0.5 * float(torch.einsum("tv,tvw,tw->", moved, h, moved).detach())


def enumerated(
    model: nn.Module, batch: Batch, *, whole: bool = False
) -> tuple[Scores, Tensor, list[Any]]:
    """Scores of every sequence of labels, and the probability of each."""
    structure = find_structure(model)
    layers, others = targets_of(model, structure, Selection())
    runner = Passes(
        model, [layer.module for layer in structure.layers], layers, others, torch.device("cpu")
    )
    positions = predicted(batch)
    sequences = list(itertools.product(range(VOCABULARY), repeat=len(positions.rows)))
    labels = torch.tensor(sequences)
    with torch.no_grad():
        p = model(input_ids=batch.input_ids).logits[0, :-1].double().softmax(-1)
    probability = torch.stack([p[range(len(p)), list(each)].prod() for each in sequences])
    scores = Scores(batch, [SPEC], len(labels), "even", ["f"] * len(batch.index), 0)
    if whole:
        runner.by_layer = False
    with differentiable(model):
        runner.run(batch, positions, labels, scores.consume)
    return scores, probability, [*layers[0], *others]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_the_mean_over_all_labels_is_the_second_order_kl(
    dtype: torch.dtype, rel: float, whole: bool, times: int
) -> None:
    """Two calls of a linear (`times`) add their s before it is squared."""
    model = two_linears(times, dtype)
    batch = one_batch((0, 2, 1, 1))
    scores, probability, _ = enumerated(model, batch, whole=whole)
    found = {
        (target.tensor, operands): 0.5 * float((probability * s[:, 0].square()).sum())
        for (target, _, operands), s in scores.changes.items()
    }
    changes = changed_products(model, batch)
    assert set(found) == set(changes)
    for (name, operands), moved in changes.items():
        expected = second_order(model, batch, name, moved)
        assert found[name, operands] == pytest.approx(expected, rel=rel), (name, operands)


def test_a_layer_that_runs_twice_takes_one_graph() -> None:
    sensitivity = measured(two_linears(times=2), (0, 1, 2, 1), (1, 1))
    assert not sensitivity.by_layer
    assert measured(two_linears(), (0, 1, 2, 1), (1, 1)).by_layer


def test_noise_costs_the_mean_squared_gradient_of_the_parameter() -> None:
    model = two_linears()
    batch = one_batch((0, 2, 1, 1))
    scores, probability, targets = enumerated(model, batch)
    names = {target.tensor for target in targets}
    assert names == {"layers.0.first", "layers.0.second", "norm"}
    logits = model(input_ids=batch.input_ids).logits[0, :-1]
    sequences = list(itertools.product(range(VOCABULARY), repeat=3))
    for target, squares in scores.noise().items():
        parameter = model.get_submodule(target.tensor).weight
        expected = 0.0
        for labels, chance in zip(sequences, probability, strict=True):
            loss = -logits.log_softmax(-1)[range(3), list(labels)].sum()
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            expected += float(chance) * float(gradient.square().sum())
        found = float((probability * squares[:, 0]).sum())
        assert found == pytest.approx(expected, rel=1e-9), target.tensor


def test_squared_gradients_of_a_gain_by_its_elements() -> None:
    model = two_linears()
    batch = one_batch((0, 2, 1, 1))
    scores, _, _ = enumerated(model, batch)
    ((target, found),) = scores.by_element().items()
    assert target.tensor == "norm"
    logits = model(input_ids=batch.input_ids).logits[0, :-1]
    squares = []
    for labels in itertools.product(range(VOCABULARY), repeat=3):
        loss = -logits.log_softmax(-1)[range(3), list(labels)].sum()
        (gradient,) = torch.autograd.grad(loss, model.norm.weight, retain_graph=True)
        squares.append(gradient.square())
    torch.testing.assert_close(found, torch.stack(squares).mean(0))


def test_binades_are_weighted_by_what_noise_costs_in_them() -> None:
    model = families.new("llama").bfloat16()
    norm = model.model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight.copy_(torch.randn(norm.weight.shape, generator=torch.manual_seed(0)))
        norm.weight[:3] = torch.tensor([0.0, 0.5, -2.0])
    sensitivity = measured(model, *PROMPTS)
    found = sensitivity.magnitudes["model.layers.0.input_layernorm"]
    assert found is not None
    assert (found.dtype, sum(found.share)) == ("bfloat16", pytest.approx(1, abs=1e-3))
    gains = norm.weight.tolist()
    expected = {math.frexp(abs(gain))[1] - 1 if gain else -40 for gain in gains}
    assert found.exponents == sorted(expected)
    powers = dict(zip(found.exponents, found.powers_of_two, strict=True))
    assert powers[-1] > 0
    assert powers[1] > 0
    counts = [
        sum(gain != 0 and math.frexp(abs(gain))[1] - 1 == e for gain in gains) / len(gains)
        for e in found.exponents
    ]
    assert found.share != pytest.approx(counts, rel=0.01)
    # Of a linear, the elements count alike.
    name = "model.layers.1.mlp.up_proj"
    linear = sensitivity.magnitudes[name]
    assert linear is not None
    values = model.get_submodule(name).weight.flatten().tolist()
    for exponent, share in zip(linear.exponents, linear.share, strict=True):
        count = sum(v != 0 and math.frexp(abs(v))[1] - 1 == exponent for v in values)
        assert share == pytest.approx(count / len(values), rel=1e-3)


def measured(model: nn.Module, *prompts: tuple[int, ...], **options: Any) -> Sensitivity:
    return measure_sensitivity(model, find_structure(model), tokenized(*prompts), [SPEC], **options)


PROMPTS = tuple(
    tuple(int(n) for n in torch.randint(3, 264, (length,), generator=torch.manual_seed(length)))
    for length in (5, 12, 9, 2, 17)
)


def assert_same(a: Sensitivity, b: Sensitivity, rel: float = 1e-4) -> None:
    assert set(a.changes) == set(b.changes)
    for key, sums in a.changes.items():
        assert b.changes[key] == pytest.approx(sums, rel=rel), key
    for name, sums in a.noise.items():
        assert b.noise[name] == pytest.approx(sums, rel=rel), name
    for scope, sums in a.joint.items():
        assert b.joint[scope] == pytest.approx(sums, rel=rel), scope


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "mixtral", "gemma3_text", "gpt_oss", "qwen2_moe", "bloom", "opt"]
)
def test_batches_do_not_change_the_figures(family: str) -> None:
    model = families.shared(family)
    together = measured(model, *PROMPTS)
    alone = measured(model, *PROMPTS, batch_size=1)
    assert_same(together, alone, rel=2e-3)
    assert not together.unusable
    assert together.tokens.sum() == sum(len(ids) - 1 for ids in PROMPTS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma3_text", "falcon"])
def test_layer_by_layer_and_one_graph_agree(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.shared(family)
    parts = measured(model, *PROMPTS)
    monkeypatch.setattr(passes_module.Passes, "_probe", lambda self, batch: False)
    whole = measured(model, *PROMPTS)
    assert (parts.by_layer, whole.by_layer) == (True, False)
    assert_same(parts, whole, rel=2e-3)


def test_labels_are_drawn_for_each_position_and_follow_from_the_prompt() -> None:
    drawn = uniforms(["a", "b"], 6, 3, seed=0)
    assert len(set(drawn.flatten().tolist())) == 36
    assert torch.equal(uniforms(["b"], 4, 2, seed=0)[:, 0], drawn[:2, 1, :4])
    assert not torch.equal(uniforms(["a", "b"], 6, 3, seed=1), drawn)


def test_labels_have_the_models_own_distribution() -> None:
    logits = torch.randn(1, 1, 4, generator=torch.manual_seed(1)).expand(1, 5000, 4).contiguous()
    positions = Positions(
        torch.zeros(5000, dtype=torch.int64), torch.arange(5000), torch.tensor([5000])
    )
    loss = Loss(logits, positions, torch.rand(2, 5000, dtype=torch.float64))
    p = logits[0, 0].double().softmax(-1)
    for sample, gradient in enumerate(loss.gradients()):
        shares = torch.bincount(loss.labels[sample], minlength=4) / 5000
        assert shares.tolist() == pytest.approx(p.tolist(), abs=0.03)
        onehot = torch.nn.functional.one_hot(loss.labels[sample], 4)
        torch.testing.assert_close(gradient[0], (p - onehot).float())


def test_scaling_a_linear_and_undoing_it_in_the_next_changes_no_kl() -> None:
    model = families.new("llama")
    before = measured(model, *PROMPTS)
    layer = model.model.layers[1]
    layer.self_attn.v_proj.weight.mul_(8.0)
    layer.self_attn.o_proj.weight.div_(8.0)
    after = measured(model, *PROMPTS)
    for key, sums in before.changes.items():
        assert after.changes[key] == pytest.approx(sums, rel=1e-3), key
    name = "model.layers.1.self_attn.v_proj"
    assert after.noise[name] == pytest.approx(before.noise[name] / 64, rel=1e-3)


@cache
def demo() -> tuple[nn.Module, Any]:
    """The demo model in float32, with its tokenizer."""
    folder = Path(passes_module.__file__).parents[1] / "model" / "demo"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


DEMO_TEXT = [
    "def read(path):\n    with open(path) as file:\n        return file.read()\n",
    "class Point:\n    # A point in the plane.\n    def __init__(self, x, y):\n",
    "import os\nimport sys\n\nif __name__ == '__main__':\n    main(sys.argv[1:])\n",
]


def test_the_estimate_is_the_direct_kl_of_a_small_change() -> None:
    """In a model that has learnt something; 8-bit operands keep the change small."""
    model, tokenizer = demo()
    spec = parse_spec("mxfp8_e4m3")
    prompts = tokenize_for(model, tokenizer, DEMO_TEXT, 48, False)
    (batch,) = make_batches(prompts)
    found = measure_sensitivity(
        model, find_structure(model), prompts, [spec], samples=400, selection=Selection(("s.5.",))
    )
    with torch.no_grad():
        plain = logits_of(model, batch, torch.device("cpu"))
        for name, _, operands in found.changes:
            if operands != "both":
                continue
            with simulate(model, str(spec), str(spec), include=[name]):
                moved = logits_of(model, batch, torch.device("cpu"))
            direct = float(predictions.sums(plain, moved, batch)[:, 2].sum())
            # The relative standard error of 3 prompts with 400 samples each is 4 %.
            expected = direct / (batch.tokens - len(batch.index))
            assert found.kl((name, spec, operands)) == pytest.approx(expected, rel=0.15), name


def test_a_tied_head_and_frozen_or_trained_parameters_are_all_the_same() -> None:
    model = families.new("llama", tie_word_embeddings=True)
    frozen = measured(model, *PROMPTS[:2])
    model.requires_grad_(True).train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)  # and with it the embedding
    trained = measured(model, *PROMPTS[:2])
    assert_same(frozen, trained)
    assert model.training
    assert not model.model.layers[0].training
    assert not model.lm_head.weight.requires_grad
    assert model.model.layers[1].mlp.up_proj.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_the_model_is_restored_after_an_error(
    error: BaseException, hooks_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.new("mixtral").train().requires_grad_(True)
    implementation = model.config._experts_implementation

    def fail(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("srdd.measurement.scores.contributions", fail)
    with pytest.raises(type(error)):
        measured(model, *PROMPTS)
    assert hooks_of(model) == []
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config._experts_implementation == implementation
    assert torch.is_grad_enabled()


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.shared("llama")
    together = measured(model, *PROMPTS)
    run = Scores.consume

    def small(self: Scores, calls: Any, gradients: Any) -> None:
        if len(self.batch.index) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        run(self, calls, gradients)

    monkeypatch.setattr(Scores, "consume", small)
    listener = Listener()
    halved = measured(model, *PROMPTS, listener=listener, batch_size=5)
    assert "out of memory at 5 prompts; retrying with 2" in listener.warnings
    assert_same(together, halved, rel=2e-3)


def test_a_compiled_model_and_one_in_inference_mode_are_refused() -> None:
    with (
        pytest.raises(UsageError, match="compiled"),
        differentiable(torch.compile(families.shared("llama"))),
    ):
        pass
    with torch.inference_mode():
        model = families.new("llama")
    with pytest.raises(UsageError, match="inference mode"), differentiable(model):
        pass


def test_it_works_inside_inference_mode_and_without_gradients() -> None:
    model = families.shared("llama")
    expected = measured(model, *PROMPTS[:2])
    with torch.inference_mode():
        assert_same(expected, measured(model, *PROMPTS[:2]))
    with torch.no_grad():
        assert_same(expected, measured(model, *PROMPTS[:2]))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(InputError, match="no logits"):
        measured(families.shared("llama").model, *PROMPTS[:2])


def test_prompts_of_a_single_token_have_nothing_to_predict() -> None:
    with pytest.raises(InputError, match="no prompt has a token to predict"):
        measured(families.shared("llama"), (5,), (7,))
    found = measured(families.shared("llama"), (5,), (7, 8))
    assert found.tokens.sum() == 1


def test_gradient_checkpointing_changes_nothing() -> None:
    model = families.new("llama")
    plain = measured(model, *PROMPTS[:2])
    model.gradient_checkpointing_enable()
    model.train()
    assert_same(plain, measured(model, *PROMPTS[:2]))
    assert model.model.layers[0].gradient_checkpointing


def test_the_first_token_can_be_left_out() -> None:
    found = measured(families.shared("llama"), *PROMPTS, skip_first_token=True)
    assert found.tokens.sum() == sum(len(ids) - 2 for ids in PROMPTS)


def test_layers_and_kinds_have_joint_figures() -> None:
    found = measured(families.shared("llama"), *PROMPTS)
    for operands in ("weight", "input", "both"):
        assert (("layer", "2"), SPEC, operands) in found.joint
        assert (("kind", "down"), SPEC, operands) in found.joint
        assert found.joint_kl(SPEC, operands) > 0


def test_injected_noise_costs_what_was_predicted() -> None:
    """Independent noise on all norms adds up: sigma^2 times the sum of their costs."""
    model, tokenizer = demo()
    prompts = tokenize_for(model, tokenizer, DEMO_TEXT, 48, False)
    (batch,) = make_batches(prompts)
    found = measure_sensitivity(
        model, find_structure(model), prompts, [SPEC], samples=32, selection=Selection(("s.5.",))
    )
    sigma, draws = 0.02, 24
    expected = sigma**2 * sum(found.kl_per_sigma2(name) for name in found.norms)
    weights = [model.get_submodule(name).weight for name in found.norms]
    before = [weight.clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    with torch.no_grad():
        plain = logits_of(model, batch, torch.device("cpu"))
        try:
            for _ in range(draws):
                for weight, original in zip(weights, before, strict=True):
                    noise = torch.randn(weight.shape, generator=generator)
                    weight.copy_(original + sigma * noise)
                moved = logits_of(model, batch, torch.device("cpu"))
                total += float(predictions.sums(plain, moved, batch)[:, 2].sum())
        finally:
            for weight, original in zip(weights, before, strict=True):
                weight.copy_(original)
    injected = total / draws / (batch.tokens - len(batch.index))
    assert expected == pytest.approx(injected, rel=0.25)
