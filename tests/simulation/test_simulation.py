"""Simulation: what the linears compute, the gradients, what is kept, and how it ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import families
import pytest
import torch
import torch.nn.functional as F
from accelerate import dispatch_model
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint
from transformers.pytorch_utils import Conv1D

import srdd
from srdd.errors import SrddError, UsageError
from srdd.model.kinds import kind_of
from srdd.rin import noisy
from srdd.simulation import operand, replaced, simulator

IDS = torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))
COMBINATIONS = [("mxfp4", "mxfp4"), ("mxfp4:even", None), (None, "nvfp4"), ("nvfp4", "mxfp8_e4m3")]


def q(x: torch.Tensor, format: str | None) -> torch.Tensor:
    return x if format is None else srdd.fake_quantize(x, format)


def logits(model: nn.Module, **options: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False, **options).logits
    return found


def calls(model: nn.Module, kinds: tuple[type, ...]) -> tuple[dict[str, tuple], list[Any]]:
    """By name, what goes into and comes out of modules of some kinds; and the handles of hooks."""
    seen: dict[str, tuple] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            seen[name] = (given[0], output)

        return hook

    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    return seen, [module.register_forward_hook(watch(name)) for name, module in modules]


@pytest.mark.parametrize(("weights", "activations"), COMBINATIONS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mamba", "deepseek_v3"])
def test_every_linear_of_the_layers_multiplies_quantized_operands(
    family: str, weights: str | None, activations: str | None
) -> None:
    model = families.new(family)
    seen, handles = calls(model, (nn.Linear, Conv1D))
    with torch.no_grad(), srdd.simulate(model, weights, activations) as simulation:
        logits(model)
    for handle in handles:
        handle.remove()
    inside = [name for name in seen if name in simulation.modules]
    assert len(inside) >= families.LAYERS * 2
    for name, (x, output) in seen.items():
        module = model.get_submodule(name)
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        if name in inside:
            x, weight = q(x, activations), q(weight.contiguous(), weights)
        expected = F.linear(x, weight, module.bias)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5, msg=name)


def test_the_head_and_the_embeddings_are_left_alone() -> None:
    with srdd.simulate(families.shared("llama"), "mxfp4", "mxfp4") as simulation:
        assert {name.split(".")[1] for name in simulation.modules} == {"layers"}
        assert simulation.not_simulated == {}
        assert (simulation.weights, simulation.activations) == ("mxfp4:floor", "mxfp4:floor")


def test_a_router_quantizes_its_operands_and_keeps_its_softmax() -> None:
    model = families.new("mixtral")
    router = model.model.layers[0].mlp.gate
    x = torch.randn(5, families.HIDDEN)
    expected = F.linear(q(x, "mxfp4"), q(router.weight, "mxfp4"))
    with srdd.simulate(model, "mxfp4", "mxfp4", include=["*"]):
        scores, chosen, _ = router(x)
    torch.testing.assert_close(scores, expected)
    assert chosen.sum(-1).allclose(torch.ones(5))


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"])
def test_routers_are_spared_unless_they_are_included(family: str) -> None:
    model = families.new(family)
    routers = {name for name, _ in model.named_modules() if kind_of(name) == "router"}
    with srdd.simulate(model, "mxfp4", "mxfp4") as simulation:
        assert not routers & set(simulation.modules)
        spared = set(simulation.not_simulated)
    assert spared <= routers
    assert spared or family == "deepseek_v3"  # whose router is no linear
    for include in (["*"], [next(iter(sorted(spared)), "*")]):
        with srdd.simulate(model, "mxfp4", "mxfp4", include=include) as simulation:
            assert simulation.not_simulated == {}
            assert spared <= set(simulation.modules) or include != ["*"]


def experts_by_hand(
    experts: nn.Module,
    given: tuple[Any, ...],
    first: tuple[str | None, str | None],
    last: tuple[str | None, str | None],
) -> torch.Tensor:
    """Token by token: what the experts of mixtral and gpt_oss do, from their papers' formulas.

    The formats are those of the first and of the last product's weight and input.
    """
    x, chosen, scores = given
    transposed = hasattr(experts, "gate_up_proj_bias")
    rows = []
    for token in range(len(x)):
        total = torch.zeros(x.shape[1])
        for place, expert in enumerate(chosen[token].tolist()):
            up_w, down_w = experts.gate_up_proj[expert], experts.down_proj[expert]
            if transposed:
                up_w, down_w = up_w.T, down_w.T
            both = q(up_w.contiguous(), first[0]) @ q(x[token], first[1])
            if transposed:
                both = both + experts.gate_up_proj_bias[expert]
                gate, up = both[::2].clamp(max=experts.limit), both[1::2]
                up = up.clamp(-experts.limit, experts.limit)
                middle = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
            else:
                gate, up = both.chunk(2)
                middle = gate * torch.sigmoid(gate) * up
            out = q(down_w.contiguous(), last[0]) @ q(middle, last[1])
            if transposed:
                out = out + experts.down_proj_bias[expert]
            total = total + scores[token, place] * out
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("format", ["mxfp4", "nvfp4:tensor"])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_stacked_experts_multiply_quantized_operands(
    family: str, format: str, implementation: str
) -> None:
    model = families.new(family)
    model.config._experts_implementation = implementation
    experts = model.model.layers[1].mlp.experts
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, families.HIDDEN, generator=generator)
    chosen = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(6)])
    given = (x, chosen, torch.rand(6, 2, generator=generator))
    with torch.no_grad(), srdd.simulate(model, format, "mxfp4"):
        found = experts(*given)
        assert model.config._experts_implementation == implementation
    if format == "mxfp4":
        formats = (format, "mxfp4")
        torch.testing.assert_close(found, experts_by_hand(experts, given, formats, formats))
    else:  # a scale over a whole tensor is over one expert's weight, not over the stack's
        with torch.no_grad():
            for key in ("gate_up_proj", "down_proj"):
                stack = getattr(experts, key)
                transposed = family == "gpt_oss"
                for expert in stack:
                    rows = expert.T.contiguous() if transposed else expert
                    values = q(rows, format)
                    expert.copy_(values.T if transposed else values)
        with torch.no_grad(), srdd.simulate(model, None, "mxfp4"):
            torch.testing.assert_close(found, experts(*given))


def mixed(names: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
    """Formats of linears that differ from each to the next."""
    return dict(zip(names, itertools.cycle([*COMBINATIONS, (None, None)]), strict=False))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "deepseek_v3"])
def test_each_linear_gets_the_formats_of_its_name(family: str) -> None:
    model = families.new(family)
    modules = dict(model.named_modules())
    with srdd.simulate(model, "int8_token") as simulation:
        names = [name for name in simulation.modules if name in modules]
    own = mixed(names[::2])
    seen, handles = calls(model, (nn.Linear, Conv1D))
    with (
        torch.no_grad(),
        srdd.simulate(model, "int8_token", modules=own, exclude=[names[1]]) as simulation,
    ):
        logits(model)
    for handle in handles:
        handle.remove()
    formats = dict.fromkeys(seen, (None, None))
    formats |= dict.fromkeys(names[3::2], ("int8_token", None)) | own
    simulated = {name for name in simulation.modules if name in modules}
    assert simulated == {name for name in formats if formats[name] != (None, None)}
    for name, (weights, activations) in formats.items():
        x, output = seen[name]
        module = model.get_submodule(name)
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        expected = F.linear(q(x, activations), q(weight.contiguous(), weights), module.bias)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_stacked_experts_get_the_formats_of_their_parameters(family: str) -> None:
    model = families.new(family)
    first, other = (model.model.layers[n].mlp.experts for n in (0, 1))
    given = (torch.randn(6, families.HIDDEN), torch.randint(4, (6, 2)), torch.rand(6, 2))
    name = "model.layers.1.mlp.experts"
    own = {f"{name}.gate_up_proj": ("mxfp4", "mxfp8_e4m3"), f"{name}.down_proj": (None, "nvfp4")}
    before = first(*given)
    with torch.no_grad(), srdd.simulate(model, modules=own) as simulation:
        found = other(*given)
        torch.testing.assert_close(first(*given), before)
        assert simulation.not_simulated == {}
    assert set(simulation.modules) == set(own)
    expected = experts_by_hand(other, given, ("mxfp4", "mxfp8_e4m3"), (None, "nvfp4"))
    torch.testing.assert_close(found, expected)


def test_experts_whose_products_are_not_recognised_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replaced, "PRODUCTS", set())
    names = [f"model.layers.0.mlp.experts.{key}" for key in ("gate_up_proj", "down_proj")]
    own = {names[0]: ("mxfp4", None), names[1]: ("mxfp4", "mxfp4")}
    model = families.shared("mixtral")
    with torch.no_grad(), srdd.simulate(model, modules=own) as simulation:
        logits(model)
    assert simulation.not_simulated == {names[1]: simulator.UNSEEN}


def test_a_router_that_is_named_gets_its_formats() -> None:
    model = families.new("mixtral")
    name = "model.layers.0.mlp.gate"
    x = torch.randn(5, families.HIDDEN)
    router = model.get_submodule(name)
    with srdd.simulate(model, **W4A4, modules={name: ("mxfp8_e4m3", None)}) as simulation:
        scores, _, _ = router(x)
    torch.testing.assert_close(scores, F.linear(x, q(router.weight, "mxfp8_e4m3")))
    assert name in simulation.modules
    assert "model.layers.1.mlp.gate" in simulation.not_simulated


def test_a_shared_weight_has_a_form_for_each_format(llama: nn.Module) -> None:
    one, other = (llama.model.layers[n].mlp.up_proj for n in (0, 1))
    other.weight = one.weight
    x = torch.randn(5, families.HIDDEN)
    names = [f"model.layers.{n}.mlp.up_proj" for n in (0, 1)]
    own = {names[0]: ("mxfp4", None), names[1]: ("nvfp4", None)}
    with torch.no_grad(), srdd.simulate(llama, modules=own):
        torch.testing.assert_close(one(x), F.linear(x, q(one.weight, "mxfp4")))
        torch.testing.assert_close(other(x), F.linear(x, q(one.weight, "nvfp4")))


def test_gradients_take_the_formats_of_each_name(llama: nn.Module) -> None:
    llama.requires_grad_(True)
    names = ["model.layers.0.mlp.up_proj", "model.layers.2.mlp.down_proj"]
    own = {names[0]: ("mxfp4", None), names[1]: (None, "nvfp4")}
    seen, handles = calls(llama, (nn.Linear,))
    with srdd.simulate(llama, modules=own):
        outputs = logits(llama)
        for name in names:
            seen[name][1].retain_grad()
        outputs.square().sum().backward()
    for handle in handles:
        handle.remove()
    for name, formats in own.items():
        x, output = seen[name]
        gradient = output.grad.flatten(0, -2).T @ q(x, formats[1]).flatten(0, -2)
        found = llama.get_parameter(f"{name}.weight").grad
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"])
def test_experts_are_named_and_their_gradients_reach_the_stack(family: str) -> None:
    model = families.new(family).requires_grad_(True)
    with srdd.simulate(model, **W4A4, include=["*"]) as simulation:
        logits(model).float().sum().backward()
    assert simulation.not_simulated == {}
    stacked = [name for name in simulation.modules if name.endswith("gate_up_proj")]
    assert stacked
    for name in stacked:
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


class QuantizedLinear(torch.autograd.Function):
    """The gradients as the paper's formulas give them, without any of torch's own rules."""

    @staticmethod
    def forward(ctx, x, weight, bias, formats):
        wq, xq = (
            each if name is None else q(each.float(), name).double()
            for each, name in zip((weight, x), formats, strict=True)
        )
        ctx.save_for_backward(xq, wq)
        return xq @ wq.T + bias

    @staticmethod
    def backward(ctx, g):
        xq, wq = ctx.saved_tensors
        flat = g.flatten(0, -2)
        return g @ wq, flat.T @ xq.flatten(0, -2), flat.sum(0), None


class Net(nn.Module):
    """Two linears with a bias, as decoder layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"proj": nn.Linear(64, 64)}) for _ in range(2)
        ).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer["proj"](x))
        return x


@pytest.mark.parametrize("formats", COMBINATIONS)
def test_gradients_are_those_of_the_formulas_in_float64(formats: tuple) -> None:
    net = Net()
    x = torch.randn(2, 5, 64, dtype=torch.float64).requires_grad_()
    weight_of_result = torch.randn(2, 5, 64, dtype=torch.float64)
    with srdd.simulate(net, *formats):
        (net(x) * weight_of_result).sum().backward()
    names = ["x", *(name for name, _ in net.named_parameters())]
    found = [x.grad, *(p.grad for p in net.parameters())]

    copy = x.detach().clone().requires_grad_()
    parameters = [p.detach().clone().requires_grad_() for p in net.parameters()]
    y = copy
    for n in (0, 2):
        y = torch.tanh(QuantizedLinear.apply(y, parameters[n], parameters[n + 1], formats))
    (y * weight_of_result).sum().backward()
    for name, ours, theirs in zip(
        names, found, [copy.grad, *(p.grad for p in parameters)], strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=name)


def test_a_layer_whose_values_are_on_the_grid_has_its_numerical_gradient() -> None:
    """Where quantizing changes nothing, the gradient is the true one, by finite differences."""
    linear = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(32, 4)})]).double()
    net = nn.Module()
    net.layers = linear
    with torch.no_grad():
        linear[0]["proj"].weight.copy_(torch.randint(-3, 4, (4, 32)).double())
    x = torch.randint(-3, 4, (3, 32)).double()
    x[:, 0] = 4.0
    proj = linear[0]["proj"]
    with srdd.simulate(net, "mxfp4", "mxfp4"):
        given = x.clone().requires_grad_()
        proj(given).square().sum().backward()
    expected = torch.autograd.functional.jacobian(
        lambda z: F.linear(z, proj.weight, proj.bias).square().sum(), x
    )
    torch.testing.assert_close(given.grad, expected)


def training(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients of all parameters after a backward pass."""
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = families.new("llama").requires_grad_(True).train()
    with srdd.simulate(model, "mxfp4", "mxfp4"):
        expected = training(model)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
        found = training(model)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_checkpointed_backward_pass_after_the_end_is_refused() -> None:
    model = families.new("llama").requires_grad_(True).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with srdd.simulate(model, "mxfp4", "mxfp4"):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    with pytest.raises(UsageError, match="compute checkpointed activations again") as caught:
        loss.backward()
    assert "inside" in caught.value.hint


class Checkpointed(nn.Module):
    """Two linears that run in a checkpoint which the code sets by hand."""

    def __init__(self, inner: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.inner = inner
        self.reentrant = reentrant

    def forward(self, *given: Any, **named: Any) -> Any:
        return checkpoint(
            lambda *inputs: self.inner(*inputs, **named), *given, use_reentrant=self.reentrant
        )


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("activations", ["mxfp4", None])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_checkpoint_set_by_hand_is_refused_after_the_end_and_right_inside(
    family: str, reentrant: bool, activations: str | None, frozen: bool
) -> None:
    model = families.new(family).requires_grad_(True).train()
    if frozen:
        for layer in model.model.layers:
            layer.requires_grad_(False)
    embedding = model.model.embed_tokens.weight

    def loss() -> torch.Tensor:
        return model(input_ids=IDS, labels=IDS, use_cache=False).loss

    with srdd.simulate(model, "mxfp4", activations):
        loss().backward()
        expected = embedding.grad.clone()
        for layer in model.model.layers:
            layer.mlp = Checkpointed(layer.mlp, reentrant)
        embedding.grad = None
        loss().backward()
        torch.testing.assert_close(embedding.grad, expected)
        after = loss()
    # Stacked experts run in another way after the end, which torch notices before srdd does.
    with pytest.raises((UsageError, CheckpointError)) as caught:
        after.backward()
    assert caught.type is UsageError or (family, reentrant) == ("mixtral", False)
    loss().backward()  # without a simulation all is as usual


def test_a_plain_backward_pass_may_follow_after_the_end() -> None:
    model = families.new("llama").requires_grad_(True)
    with srdd.simulate(model, "mxfp4", "mxfp4"):
        expected = training(model)
        model.zero_grad()
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_autocast_multiplies_what_was_quantized() -> None:
    model = families.new("llama")
    proj = model.model.layers[0].mlp.down_proj
    x = torch.randn(4, 96)
    with srdd.simulate(model, "mxfp4", "mxfp4"), torch.autocast("cpu", torch.bfloat16):
        found = proj(x)
    expected = F.linear(q(x, "mxfp4").bfloat16(), q(proj.weight, "mxfp4").bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_stay_what_they_are(dtype: torch.dtype) -> None:
    model = families.new("llama").to(dtype)
    with torch.no_grad(), srdd.simulate(model, "mxfp4", "mxfp4"):
        found = logits(model)
    assert found.dtype == dtype
    assert found.isfinite().all()


# What is kept


@pytest.fixture
def quantized_weights(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often weights have been quantized: one entry, counted up."""
    count = [0]
    inner = operand.Operand._quantize

    def counting(self: Any, *given: Any) -> Any:
        count[0] += 1
        return inner(self, *given)

    monkeypatch.setattr(operand.Operand, "_quantize", counting)
    return count


def test_weights_are_quantized_once(llama: nn.Module, quantized_weights: list[int]) -> None:
    with torch.no_grad(), srdd.simulate(llama, **W4A4) as simulation:
        for _ in range(3):
            logits(llama)
        assert quantized_weights == [21]
        simulation.refresh()
        logits(llama)
        assert quantized_weights == [42]


def _fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, fused=True)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=1e-2, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw fused": _fused,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_step_is_noticed(name: str) -> None:
    model = families.new("llama").requires_grad_(True)
    optimizer = OPTIMIZERS[name](model.parameters())
    with srdd.simulate(model, "mxfp4", "mxfp4"):
        training(model)
        optimizer.step()
        found = logits(model)
    with srdd.simulate(model, "mxfp4", "mxfp4"):
        assert torch.equal(found, logits(model))


def _through_data(weight: nn.Parameter) -> None:
    weight.data.mul_(1.5)


def _one_value(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight[3, 5] = 7.0


def _other_storage(weight: nn.Parameter) -> None:
    weight.data = weight.data * 1.5


def _noise_and_back(weight: nn.Parameter) -> None:
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))
        weight.copy_(before)


@pytest.mark.parametrize("change", [_through_data, _one_value, _other_storage, _noise_and_back])
def test_a_changed_weight_is_quantized_again(change: Callable[[nn.Parameter], None]) -> None:
    model = families.new("llama")
    proj, x = model.model.layers[2].mlp.up_proj, torch.randn(4, 64)
    with torch.no_grad(), srdd.simulate(model, "mxfp4", "mxfp4"):
        proj(x)
        change(proj.weight)
        found = proj(x)
    assert torch.equal(found, F.linear(q(x, "mxfp4"), q(proj.weight, "mxfp4")))


def test_another_parameter_in_its_place_is_noticed(llama: nn.Module) -> None:
    proj, x = llama.model.layers[2].mlp.up_proj, torch.randn(4, 64)
    with torch.no_grad(), srdd.simulate(llama, **W4A4):
        proj(x)
        proj.weight = nn.Parameter(torch.randn(96, 64))
        found = proj(x)
    assert torch.equal(found, F.linear(q(x, "mxfp4"), q(proj.weight, "mxfp4")))


def test_a_shared_weight_is_quantized_once(llama: nn.Module, quantized_weights: list[int]) -> None:
    first, second = llama.model.layers[0].mlp, llama.model.layers[1].mlp
    second.up_proj.weight = first.up_proj.weight
    with torch.no_grad(), srdd.simulate(llama, **W4A4):
        logits(llama)
    assert quantized_weights == [20]


def test_training_follows_inference_mode(llama: nn.Module) -> None:
    llama.requires_grad_(True)
    with srdd.simulate(llama, **W4A4):
        with torch.inference_mode():
            logits(llama)
        assert training(llama)


def test_what_is_quantized_is_given_free_at_the_end(llama: nn.Module) -> None:
    with torch.no_grad(), srdd.simulate(llama, **W4A4) as simulation:
        logits(llama)
    assert all(
        operand._kept is None
        for each in simulation._replaced
        for operand in each._operands.values()
    )


def test_noise_on_norms_leaves_the_quantized_weights_alone(
    llama: nn.Module, tokenizer: Any, quantized_weights: list[int]
) -> None:
    scan = srdd.scan_model(llama, tokenizer, ["some text to scan"])
    config = srdd.suggest(scan, strategy="uniform")
    with torch.no_grad(), srdd.simulate(llama, **W4A4):
        before = logits(llama)
        with noisy(llama, config, step=50, total_steps=100):
            assert not torch.equal(before, logits(llama))
        assert torch.equal(before, logits(llama))
    assert quantized_weights == [21]


def test_noise_on_linears_is_quantized_with_them(llama: nn.Module, tokenizer: Any) -> None:
    scan = srdd.scan_model(llama, tokenizer, ["some text to scan"])
    config = srdd.suggest(scan, strategy="uniform", layer_type="linear")
    with torch.no_grad(), srdd.simulate(llama, **W4A4):
        before = logits(llama)
        with noisy(llama, config, step=50, total_steps=100):
            during = logits(llama)
        assert torch.equal(before, logits(llama))
    with (
        torch.no_grad(),
        noisy(llama, config, step=50, total_steps=100),
        srdd.simulate(llama, **W4A4),
    ):
        assert torch.equal(during, logits(llama))
    assert not torch.equal(before, during)


# The end of it


def test_the_model_is_as_before(llama: nn.Module) -> None:
    before, state = logits(llama), {k: v.clone() for k, v in llama.state_dict().items()}
    with srdd.simulate(llama, **W4A4):
        during = logits(llama)
    assert not torch.equal(before, during)
    assert torch.equal(before, logits(llama))
    assert all(torch.equal(value, state[key]) for key, value in llama.state_dict().items())
    assert not any("forward" in module.__dict__ for module in llama.modules())
    assert all(
        isinstance(p, nn.Parameter)
        for m in llama.modules()
        for p in m._parameters.values()
        if p is not None
    )


def test_an_error_inside_leaves_nothing_behind(llama: nn.Module) -> None:
    before = logits(llama)
    with pytest.raises(RuntimeError), srdd.simulate(llama, **W4A4):
        llama.model.layers[0].mlp.up_proj(torch.randn(3, 65))  # a wrong width
    assert isinstance(llama.model.layers[0].mlp.up_proj.weight, nn.Parameter)
    assert torch.equal(before, logits(llama))
    with srdd.simulate(llama, **W4A4):
        pass


def test_an_own_forward_of_a_module_comes_back(llama: nn.Module) -> None:
    proj = llama.model.layers[0].mlp.up_proj
    own = proj.forward = lambda x: F.linear(x, proj.weight) + 1
    with srdd.simulate(llama, **W4A4):
        x = torch.randn(2, 64)
        assert torch.equal(proj(x), F.linear(q(x, "mxfp4"), q(proj.weight, "mxfp4")) + 1)
    assert proj.forward is own


def test_a_pause_computes_in_full_precision(llama: nn.Module, quantized_weights: list[int]) -> None:
    before = logits(llama)
    with torch.no_grad(), srdd.simulate(llama, **W4A4) as simulation:
        during = logits(llama)
        with simulation.paused():
            assert torch.equal(logits(llama), before)
        assert torch.equal(logits(llama), during)
    assert quantized_weights == [21]


def test_generation_runs_simulated() -> None:
    model = families.new("llama")
    with srdd.simulate(model, "mxfp4", "mxfp4"):
        found = model.generate(IDS, max_new_tokens=4, do_sample=False)
    assert found.shape == (2, 15)


# Selection and refusals


def test_patterns_select_linears(llama: nn.Module) -> None:
    with srdd.simulate(llama, **W4A4, include=["mlp"], exclude=["*.2.*"]) as simulation:
        assert set(simulation.modules) == {
            f"model.layers.{n}.mlp.{name}_proj" for n in (0, 1) for name in ("gate", "up", "down")
        }


def test_what_is_not_called_is_named(llama: nn.Module) -> None:
    with torch.no_grad(), srdd.simulate(llama, **W4A4) as simulation:
        assert simulation.not_simulated == {}
        llama.model.layers[0](
            torch.randn(1, 4, 64), position_embeddings=(torch.ones(1, 4, 16),) * 2
        )
        assert len(simulation.not_simulated) == 14
        assert set(simulation.not_simulated.values()) == {"it was not called"}


def test_what_cannot_be_quantized_is_named(llama: nn.Module) -> None:
    llama.model.layers[0].mlp.up_proj.to("meta")
    with srdd.simulate(llama, **W4A4) as simulation:
        assert list(simulation.not_simulated) == ["model.layers.0.mlp.up_proj"]
        assert "meta" in simulation.not_simulated["model.layers.0.mlp.up_proj"]


def test_a_sharded_weight_is_named_and_left_alone(llama: nn.Module) -> None:
    llama.model.layers[0].mlp.up_proj.weight.placements = ()  # as a DTensor has them
    with srdd.simulate(llama, **W4A4) as simulation:
        assert "sharded" in simulation.not_simulated["model.layers.0.mlp.up_proj"]


def test_a_model_that_accelerate_spreads_is_simulated_as_a_whole(llama: nn.Module) -> None:
    with torch.no_grad(), srdd.simulate(llama, **W4A4):
        expected = logits(llama)
    spread = dispatch_model(llama, {"": "cpu"}, force_hooks=True)
    own = spread.model.layers[0].mlp.up_proj.forward
    with torch.no_grad(), srdd.simulate(spread, **W4A4):
        assert torch.equal(logits(spread), expected)
    assert spread.model.layers[0].mlp.up_proj.forward is own


def refused(model: nn.Module, *given: Any, **named: Any) -> tuple[str, str]:
    asked = dict(zip(("weights", "activations"), given, strict=False)) if given else W4A4
    with pytest.raises(SrddError) as caught, srdd.simulate(model, **(asked | named)):
        pass
    return caught.value.message, caught.value.hint


def test_nothing_to_quantize_is_refused(llama: nn.Module) -> None:
    message, hint = refused(llama, None, None)
    assert "nothing to quantize" in message
    assert "weights=" in hint
    own = {"model.layers.0.mlp.up_proj": (None, None)}
    assert "nothing to quantize" in refused(llama, None, None, modules=own)[0]
    message, hint = refused(llama.to("meta"))
    assert message.startswith("no linear can be simulated (model.layers.0.self_attn.q_proj: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "mxfp3"}, "unknown format 'mxfp3'"),
        ({"activations": "mxfp4:odd"}, "unknown scale rule"),
        ({"include": ["no_such"]}, "`include` 'no_such' fits no linear"),
        ({"exclude": ["*"]}, "leave no linear"),
        ({"modules": {"model.layers.0.mlp.up": ("mxfp4", None)}}, "1 name of no linear of this"),
        ({"modules": {"model.layers.0.mlp.up_proj": ("mxfp3", None)}}, "unknown format 'mxfp3'"),
        ({"weights": "mxfp4+hadamard64"}, "cannot be rotated in groups of 64"),
    ],
)
def test_wrong_names_are_refused(options: dict[str, Any], message: str) -> None:
    assert message in refused(families.shared("llama"), **options)[0]


def test_a_second_simulation_of_the_same_linears_is_refused(llama: nn.Module) -> None:
    with srdd.simulate(llama, **W4A4):
        during = logits(llama)
        with (
            pytest.raises(UsageError, match="is being simulated already"),
            srdd.simulate(llama, **W4A4),
        ):
            pass
        assert torch.equal(during, logits(llama))


def test_a_compiled_model_is_refused(llama: nn.Module) -> None:
    assert "compiled" in refused(torch.compile(llama))[0]
    llama.compile()
    assert "compiled" in refused(llama)[0]


def test_a_rotated_format_multiplies_in_the_rotated_basis(llama: nn.Module) -> None:
    proj, x = llama.model.layers[0].mlp.down_proj, torch.randn(5, 96)
    name = "mxfp4+hadamard32"
    with torch.no_grad(), srdd.simulate(llama, name, name):
        found = proj(x)
    torch.testing.assert_close(found, F.linear(q(x, name), q(proj.weight, name)))


W4A4 = {"weights": "mxfp4", "activations": "mxfp4"}
