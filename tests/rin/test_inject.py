"""Noise in a model's weights: where, how much, and gone without a trace."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Iterator
from typing import Any

import families
import pytest
import torch
from made_scans import PROTOTYPE, made, rising
from scipy import stats
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as activation

import srdd
import srdd.rin
from srdd.documents.rin import RinConfig
from srdd.errors import InputError, UsageError
from srdd.rin import noisy
from srdd.rin.draws import standard_normal

STEPS = 30
"""Length of the runs here; with ten stages, steps 3 to 5 are the first noisy ones."""

QWEN3 = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")


def config_for(layers: int = 3, strategy: str = "uniform", **options: Any) -> RinConfig:
    """A configuration for a model whose layers are named as Llama's and have 64 channels."""
    about = {key: options.pop(key) for key in ("norms", "prefix", "gain") if key in options}
    return srdd.suggest(made(rising(layers), **about), strategy, **options)


UNIFORM = config_for()


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
    }


def changed(model: nn.Module, before: dict[str, bytes]) -> set[str]:
    return {name for name, held in bits(model).items() if held != before[name]}


def norm_weights(layers: range | list[int]) -> set[str]:
    return {
        f"model.layers.{layer}.{norm}.weight"
        for layer in layers
        for norm in ("input_layernorm", "post_attention_layernorm")
    }


@pytest.fixture(autouse=True)
def nothing_stays_noisy() -> Iterator[None]:
    yield
    from srdd.rin.inject import _noisy_now

    assert _noisy_now == {}


def test_these_names_are_public_and_each_says_what_it_is() -> None:
    assert set(dir(srdd.rin)) == {"ModuleNoise", "NoiseReport", "RinCallback", "noisy"}
    assert all(inspect.getdoc(getattr(srdd.rin, name)) for name in dir(srdd.rin))
    with pytest.raises(AttributeError, match="has no attribute 'noise'"):
        srdd.rin.noise  # noqa: B018


# Where


def test_noise_is_in_the_configured_norms_and_nowhere_else_and_leaves_the_same_bits(
    llama: nn.Module,
) -> None:
    before = bits(llama)
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        assert changed(llama, before) == norm_weights(range(3))
        assert {f"{m.name}.weight" for m in report.modules} == norm_weights(range(3))
    assert changed(llama, before) == set()


def test_targeted_noise_is_in_the_worst_layer_only(llama: nn.Module) -> None:
    before = bits(llama)
    with noisy(llama, config_for(strategy="targeted", top_k=1), step=4, total_steps=STEPS):
        assert changed(llama, before) == norm_weights([2])


def test_an_error_inside_leaves_the_same_bits(llama: nn.Module) -> None:
    before = bits(llama)
    with (
        pytest.raises(ZeroDivisionError),
        noisy(llama, UNIFORM, step=4, total_steps=STEPS),
    ):
        raise ZeroDivisionError
    assert changed(llama, before) == set()


def test_an_error_while_noise_is_added_leaves_the_same_bits(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bits(llama)
    calls = []

    def fails_later(*given: Any) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 4:
            raise MemoryError
        return standard_normal(*given)

    monkeypatch.setattr("srdd.rin.inject.standard_normal", fails_later)
    with pytest.raises(MemoryError), noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        pass
    assert len(calls) == 4
    assert changed(llama, before) == set()


def test_bits_that_arithmetic_would_not_bring_back_come_back(llama: nn.Module) -> None:
    """Minus zero, NaN with a payload, infinity, a subnormal, and values far above the noise."""
    patterns = torch.tensor([-(2**31), 0x7FC12345, 0x7F800000, 1, 0x7F000000], dtype=torch.int32)
    with torch.no_grad():
        llama.model.layers[1].input_layernorm.weight[:5] = patterns.view(torch.float32)
    before = bits(llama)
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        pass
    assert changed(llama, before) == set()


@pytest.mark.parametrize("name", ["llama", "gpt2", "deepseek_v3"])
def test_linears_get_noise_instead_if_the_configuration_says_so(name: str) -> None:
    model = families.new(name)
    config = srdd.suggest(
        _scan_of(model), "uniform", layer_type="linear", sigma_start=0.001, sigma_end=0.001
    )
    before = bits(model)
    names = {name for name, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    with noisy(model, config, step=4, total_steps=STEPS) as report:
        found = {key.removesuffix(".weight") for key in changed(model, before)}
    configured = {m.name for entry in config.layers for m in entry.modules}
    assert found == configured == {module.name for module in report.modules}
    assert names - {"lm_head"} <= found
    one = report.modules[0]
    rms = model.get_submodule(one.name).weight.double().square().mean().sqrt().item()
    assert one.signal_to_noise_db == pytest.approx(20 * math.log10(rms / 0.001), abs=1e-6)
    assert changed(model, before) == set()


def _scan_of(model: nn.Module) -> srdd.Scan:
    """A made-up scan that names the modules of this model."""
    from srdd.model.structure import find_structure

    found = made(rising(families.LAYERS)).model_dump()
    for entry, layer in zip(found["model"]["layers"], find_structure(model).layers, strict=True):
        entry["name"] = layer.name
        entry["norms"] = [vars(norm) for norm in layer.norms]
        entry["linears"] = [vars(linear) for linear in layer.linears]
    return srdd.Scan.model_validate(found)


@pytest.mark.parametrize(
    "name", [n for n, f in families.FAMILIES.items() if families.RMS in f.norms.values()]
)
def test_every_family_with_rms_norms_takes_noise_on_them(name: str) -> None:
    family = families.FAMILIES[name]
    model = families.new(name)
    before = bits(model)
    with noisy(
        model, srdd.suggest(_scan_of(model), "uniform"), step=4, total_steps=STEPS
    ) as report:
        expected = {
            f"{family.decoder}.{layer}.{norm}.weight"
            for layer in range(families.LAYERS)
            for norm in family.norms
        }
        assert changed(model, before) == expected
    for module in report.modules:
        # Gains are 1, also where the stored weight is 0.
        assert module.signal_to_noise_db == pytest.approx(26.02, abs=0.01)
    assert changed(model, before) == set()


# By layer index, for scans that name no modules


def test_a_prototypes_configuration_resolves_by_layer() -> None:
    model = families.new("llama", num_hidden_layers=28)
    config = srdd.suggest(srdd.load_scan(PROTOTYPE), "targeted", top_k=10)
    assert not any(entry.modules for entry in config.layers)
    before = bits(model)
    with noisy(model, config, step=4, total_steps=STEPS) as report:
        assert changed(model, before) == norm_weights([15, 14, 16, 17, 12, 13, 11, 18, 19, 10])
    assert [m.layer for m in report.modules] == sorted(2 * list(range(10, 20)))


def test_exclusions_hold_there_too() -> None:
    model = families.new("qwen3", num_hidden_layers=28)
    config = srdd.suggest(srdd.load_scan(PROTOTYPE), "uniform", exclude=["q_norm", "layers.1."])
    # Layer 1 has nothing left.
    with (
        pytest.raises(InputError, match="layer 1 is to get noise and has no rmsnorm that may"),
        noisy(model, config, step=4, total_steps=STEPS),
    ):
        pass
    config = srdd.suggest(srdd.load_scan(PROTOTYPE), "uniform", exclude=["q_norm"])
    with noisy(model, config, step=4, total_steps=STEPS) as report:
        endings = {m.name.split(".", 3)[3] for m in report.modules}
    assert endings == set(QWEN3) - {"self_attn.q_norm"}


def test_named_and_found_by_index_the_noise_is_the_same() -> None:
    model = families.new("llama", num_hidden_layers=28)
    named = config_for(28)
    bare = srdd.suggest(srdd.load_scan(PROTOTYPE), "uniform")
    with noisy(model, named, step=4, total_steps=STEPS):
        expected = bits(model)
    with noisy(model, bare, step=4, total_steps=STEPS):
        assert changed(model, expected) == set()


# How much


def test_it_is_the_draw_times_sigma_in_the_weights_type_added_in_it(llama: nn.Module) -> None:
    name = "model.layers.2.post_attention_layernorm"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = copy.deepcopy(llama).to(dtype)
        weight = model.get_submodule(name).weight
        weight.data.uniform_(0.1, 3.0)
        clean = weight.detach().clone()
        with noisy(model, UNIFORM, step=4, total_steps=STEPS, seed=9):
            found = weight.detach().clone()
        drawn = standard_normal(9, 4, name, 0, 64) * torch.tensor(0.05)
        assert torch.equal(found, clean + drawn.to(dtype)), dtype


def test_sigma_follows_the_published_sequence(llama: nn.Module) -> None:
    # Stages change at multiples of 2.9 steps: after 2, 5, 8, 11, ... of 29 steps.
    sequence = [0.0, 0.05, 0.0281, 0.0158, 0.0089, 0.005, 0.0028, 0.0016, 0.00089, 0.0005]
    for step in range(29):
        with noisy(llama, UNIFORM, step=step, total_steps=29) as report:
            assert {m.sigma for m in report.modules} == {report.modules[0].sigma}
            expected = sequence[int(step // 2.9)]
            assert report.modules[0].sigma == pytest.approx(expected, rel=0.02)
            assert report.sigma == pytest.approx(report.modules[0].sigma)


def test_multipliers_scale_each_layers_sigma(llama: nn.Module) -> None:
    config = config_for(strategy="variable")
    wanted = {entry.layer: entry.multiplier * 0.05 for entry in config.layers}
    assert len(set(wanted.values())) == 3
    with noisy(llama, config, step=4, total_steps=STEPS) as report:
        for module in report.modules:
            assert module.sigma == pytest.approx(wanted[module.layer])
    assert report.energy == pytest.approx(sum(128 * s * s for s in wanted.values()))
    assert report.energy == pytest.approx(config.energy.first_stage)


def test_tiers_have_schedules_of_their_own(llama: nn.Module) -> None:
    config = config_for(strategy="zone", zones="0-0,1-1,2-2")
    with noisy(llama, config, step=29, total_steps=STEPS) as report:
        ends = {entry.layer: tier.sigmas[-1] for tier in config.tiers for entry in tier.layers}
        assert {m.layer: m.sigma for m in report.modules} == pytest.approx(ends)
    assert len(set(ends.values())) > 1


def test_the_first_stage_changes_nothing_and_reports(llama: nn.Module) -> None:
    before = bits(llama)
    with noisy(llama, UNIFORM, step=2, total_steps=STEPS) as report:
        assert changed(llama, before) == set()
    assert len(report.modules) == 6
    for module in report.modules:
        assert (module.sigma, module.std, module.unchanged) == (0, 0, 1)
        assert module.signal_to_noise_db is None
    assert (report.sigma, report.energy, report.realised_energy, report.unchanged) == (0, 0, 0, 1)


def test_the_report_holds_what_was_really_added(llama: nn.Module) -> None:
    before = {n: p.detach().double().clone() for n, p in llama.named_parameters()}
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        total = 0.0
        for module in report.modules:
            weight = llama.get_parameter(f"{module.name}.weight").double()
            added = (weight - before[f"{module.name}.weight"]).numpy()
            assert module.std == pytest.approx(math.sqrt((added**2).mean()), rel=1e-6)
            # Chi-squared with 64 degrees of freedom, beyond which lies one in a million.
            low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], 64)
            assert low < (added**2).sum() / 0.05**2 < high
            assert module.signal_to_noise_db == pytest.approx(20 * math.log10(1 / 0.05))
            total += (added**2).sum()
    assert report.realised_energy == pytest.approx(total)
    assert report.energy == pytest.approx(6 * 64 * 0.05**2)


@pytest.mark.parametrize("sigma", [0.0005, 0.002, 0.05])
def test_the_report_holds_what_bfloat16_rounds_away(sigma: float) -> None:
    model = families.new("llama").to(torch.bfloat16)
    config = config_for(sigma_start=sigma, sigma_end=sigma)
    shares = []
    for step in range(3, 30):
        with noisy(model, config, step=step, total_steps=STEPS) as report:
            shares.append(report.unchanged)
    # Neighbours of 1 are 1 - 2^-8 and 1 + 2^-7; 1 stays if the noise is within half of that.
    expected = stats.norm.cdf(2**-8 / sigma) - stats.norm.cdf(-(2**-9) / sigma)
    weights = 27 * 6 * 64
    spread = math.sqrt(expected * (1 - expected) / weights)
    assert sum(shares) / len(shares) == pytest.approx(expected, abs=5 * spread + 1e-3)
    assert report.modules[0].signal_to_noise_db == pytest.approx(-20 * math.log10(sigma))


def test_a_gain_from_the_configuration_enters_the_ratio(llama: nn.Module) -> None:
    with noisy(llama, config_for(gain=0.5), step=4, total_steps=STEPS) as report:
        assert report.modules[0].signal_to_noise_db == pytest.approx(20.0)


# The same noise for whoever draws it


def test_seed_and_step_decide_and_nothing_else_does(llama: nn.Module) -> None:
    def drawn(model: nn.Module, step: int = 4, seed: int = 0) -> dict[str, bytes]:
        torch.manual_seed(step + seed)
        with noisy(model, UNIFORM, step=step, total_steps=STEPS, seed=seed):
            return bits(model)

    once = drawn(llama)
    assert drawn(llama) == once
    assert drawn(copy.deepcopy(llama)) == once
    assert drawn(llama, seed=1) != once
    # The same sigma at another step.
    assert drawn(llama, step=5) != once


def test_it_leaves_the_global_generators_alone(llama: nn.Module) -> None:
    state = torch.get_rng_state()
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        pass
    assert torch.equal(torch.get_rng_state(), state)


def test_the_order_of_modules_does_not_matter(llama: nn.Module) -> None:
    found = json.loads(UNIFORM.to_json())
    for tier in found["tiers"]:
        tier["layers"].reverse()
        for layer in tier["layers"]:
            layer["modules"].reverse()
    reversed_config = RinConfig.model_validate(found)
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        expected = bits(llama)
    with noisy(llama, reversed_config, step=4, total_steps=STEPS) as other:
        assert changed(llama, expected) == set()
    assert report == other


def test_fewer_layers_have_the_noise_that_they_have_among_all(llama: nn.Module) -> None:
    name = "model.layers.2.input_layernorm"
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        expected = llama.get_submodule(name).weight.clone()
    with noisy(llama, config_for(strategy="targeted", top_k=1), step=4, total_steps=STEPS):
        assert torch.equal(llama.get_submodule(name).weight, expected)


# Twice


def test_noise_on_noise_is_refused_and_the_first_stays_as_it_is(llama: nn.Module) -> None:
    before = bits(llama)
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        held = bits(llama)
        with (
            pytest.raises(UsageError, match=r"layers.2.input_layernorm' carries noise already"),
            noisy(llama, config_for(strategy="targeted", top_k=1), step=4, total_steps=STEPS),
        ):
            pass
        assert changed(llama, held) == set()
    assert changed(llama, before) == set()
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        pass


def test_it_is_refused_in_the_clean_stage_too(llama: nn.Module) -> None:
    with (
        noisy(llama, UNIFORM, step=0, total_steps=STEPS),
        pytest.raises(UsageError, match="carries noise already"),
        noisy(llama, UNIFORM, step=0, total_steps=STEPS),
    ):
        pass


def test_another_model_with_the_same_weights_is_refused(llama: nn.Module) -> None:
    other = families.new("llama")
    for name, weight in llama.named_parameters():
        module, _, key = name.rpartition(".")
        setattr(other.get_submodule(module), key, nn.Parameter(weight.data, requires_grad=False))
    with (
        noisy(llama, UNIFORM, step=4, total_steps=STEPS),
        pytest.raises(UsageError, match="carries noise already"),
        noisy(other, UNIFORM, step=4, total_steps=STEPS),
    ):
        pass


def test_two_models_can_be_noisy_at_once(llama: nn.Module) -> None:
    other = families.new("llama")
    before = bits(llama)
    with (
        noisy(llama, UNIFORM, step=4, total_steps=STEPS),
        noisy(other, UNIFORM, step=4, total_steps=STEPS),
    ):
        assert bits(llama) == bits(other)
    assert bits(llama) == bits(other) == before


# Tied


def test_tied_weights_get_noise_once_and_the_report_names_them(llama: nn.Module) -> None:
    layers = llama.model.layers
    layers[2].input_layernorm.weight = layers[0].input_layernorm.weight
    before = bits(llama)
    name = "model.layers.0.input_layernorm"
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        drawn = standard_normal(0, 4, name, 0, 64)
        assert torch.equal(layers[2].input_layernorm.weight, 1 + drawn * torch.tensor(0.05))
    assert changed(llama, before) == set()
    assert len(report.modules) == 5
    (tied,) = [m for m in report.modules if m.tied]
    assert (tied.name, tied.tied) == (name, ("model.layers.2.input_layernorm",))
    assert report.energy == pytest.approx(5 * 64 * 0.05**2)


def test_a_weight_tied_to_one_outside_the_configuration_is_in_the_report(llama: nn.Module) -> None:
    llama.model.norm.weight = llama.model.layers[1].input_layernorm.weight
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        pass
    assert [m.tied for m in report.modules if m.tied] == [("model.norm",)]


# Gradients


def ids() -> torch.Tensor:
    return torch.arange(3, 23).reshape(2, 10)


def loss_of(model: nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids(), labels=ids()).loss
    return found


def test_gradients_are_those_at_the_noisy_weights(llama: nn.Module) -> None:
    llama.requires_grad_(True)
    twin = copy.deepcopy(llama)
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        twin.load_state_dict(llama.state_dict())
        loss_of(llama).backward()
    loss_of(twin).backward()
    for (name, ours), theirs in zip(llama.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name


def test_a_backward_pass_over_weights_that_changed_meanwhile_is_an_error(llama: nn.Module) -> None:
    llama.requires_grad_(True)
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        loss = loss_of(llama)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("step", [0, 4])
def test_an_update_inside_would_be_lost_and_is_an_error(llama: nn.Module, step: int) -> None:
    llama.requires_grad_(True)
    before = bits(llama)
    optimizer = torch.optim.AdamW(llama.model.layers[1].input_layernorm.parameters())

    def update() -> None:
        with noisy(llama, UNIFORM, step=step, total_steps=STEPS):
            loss_of(llama).backward()
            optimizer.step()

    with pytest.raises(UsageError, match=r"1.input_layernorm' was changed while it carried noise"):
        update()
    assert changed(llama, before) == set()


def replace_weight(module: Any) -> None:
    module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)


@pytest.mark.parametrize("step", [0, 4])
def test_a_parameter_that_is_replaced_inside_is_put_back_with_an_error(
    llama: nn.Module, step: int
) -> None:
    layers = llama.model.layers
    layers[2].input_layernorm.weight = layers[0].input_layernorm.weight
    before, parameters = bits(llama), dict(llama.named_parameters())

    def replaces() -> None:
        with noisy(llama, UNIFORM, step=step, total_steps=STEPS):
            replace_weight(layers[1].input_layernorm)
            replace_weight(layers[2].input_layernorm)  # the second of two that are tied

    with pytest.raises(UsageError, match="was replaced by another parameter"):
        replaces()
    assert changed(llama, before) == set()
    assert all(parameters[name] is now for name, now in llama.named_parameters())


def test_an_error_inside_comes_before_that_of_a_replaced_parameter(llama: nn.Module) -> None:
    before = bits(llama)

    def fails() -> None:
        with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
            replace_weight(llama.model.layers[1].input_layernorm)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert changed(llama, before) == set()


def test_weights_in_inference_mode_take_noise_too() -> None:
    with torch.inference_mode():
        model = families.new("llama")
        before = bits(model)
        with noisy(model, UNIFORM, step=4, total_steps=STEPS):
            assert changed(model, before) == norm_weights(range(3))
        assert changed(model, before) == set()


# Wrapped, compiled, offloaded


def test_checkpointed_layers_get_the_same_noise(llama: nn.Module) -> None:
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
        expected = llama(input_ids=ids()).logits
    layers = llama.model.layers
    for index, layer in enumerate(layers):
        layers[index] = activation.checkpoint_wrapper(layer)
    assert "_checkpoint_wrapped_module" in next(n for n, _ in llama.model.layers.named_parameters())
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        assert torch.equal(llama(input_ids=ids()).logits, expected)
    assert report.modules[0].name == "model.layers.0.input_layernorm"


class _Adapted(nn.Module):
    """A linear as PEFT's LoRA holds it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight


class _Peft(nn.Module):
    """A model as PEFT wraps it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model


def test_names_with_adapters_around_them_are_found(llama: nn.Module) -> None:
    linear = config_for(layer_type="linear", sigma_start=0.001, sigma_end=0.001)
    # The made-up scan has linears of 64 to 128, which this model's are not.
    found = json.loads(linear.to_json())
    for entry in found["tiers"][0]["layers"]:
        entry["modules"][0]["size"] = 64 * 96
    linear = RinConfig.model_validate(found)
    expected = []
    for config in (UNIFORM, linear):
        with noisy(llama, config, step=4, total_steps=STEPS):
            expected.append(bits(llama))
    before = bits(llama)
    for layer in llama.model.layers:
        layer.mlp.up_proj = _Adapted(layer.mlp.up_proj)
    adapted = _Peft(llama)
    for config, wanted in zip((UNIFORM, linear), expected, strict=True):
        with noisy(adapted, config, step=4, total_steps=STEPS):
            held = {n.replace(".base_layer", ""): b for n, b in bits(llama).items()}
            assert {n: b for n, b in held.items() if "lora_A" not in n} == wanted
            assert wanted != before


def test_a_compiled_model_sees_noise_and_its_end(llama: nn.Module) -> None:
    compiled = torch.compile(llama, backend="eager")
    with torch.no_grad():
        clean = compiled(input_ids=ids()).logits
        for _ in range(2):
            with noisy(compiled, UNIFORM, step=4, total_steps=STEPS) as report:
                found, expected = compiled(input_ids=ids()).logits, llama(input_ids=ids()).logits
            assert torch.allclose(found, expected, atol=1e-5)
            assert not torch.allclose(found, clean, atol=1e-3)
            assert torch.equal(compiled(input_ids=ids()).logits, clean)
    assert report.modules[0].name == "model.layers.0.input_layernorm"


@pytest.mark.slow
def test_a_model_compiled_by_inductor_sees_noise_and_its_end(llama: nn.Module) -> None:
    compiled = torch.compile(llama)
    with torch.no_grad():
        clean = compiled(input_ids=ids()).logits
        with noisy(compiled, UNIFORM, step=4, total_steps=STEPS):
            found, expected = compiled(input_ids=ids()).logits, llama(input_ids=ids()).logits
        assert torch.allclose(found, expected, atol=1e-4)
        assert not torch.allclose(found, clean, atol=1e-3)
        assert torch.equal(compiled(input_ids=ids()).logits, clean)


@pytest.mark.parametrize("inside", [False, True])
def test_a_model_in_training_mode_under_a_compile_is_refused(
    llama: nn.Module, inside: bool
) -> None:
    llama.train()
    if inside:
        llama.model.layers[0].compile()
        model: Any = llama
    else:
        model = torch.compile(llama)
    with (
        pytest.raises(InputError, match="is compiled and in training mode") as caught,
        noisy(model, UNIFORM, step=4, total_steps=STEPS),
    ):
        pass
    assert "train without torch.compile" in caught.value.hint


def test_noise_inside_a_compiled_function_is_refused(llama: nn.Module) -> None:
    @torch.compile(backend="eager")
    def run(given: torch.Tensor) -> torch.Tensor:
        with noisy(llama, UNIFORM, step=4, total_steps=STEPS):
            return given + 1

    with pytest.raises(UsageError, match="inside a compiled function"):
        run(ids())


def test_a_model_compiled_with_constant_weights_is_refused(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor, "freezing", True)
    with (
        pytest.raises(InputError, match="compiled with its weights as constants"),
        noisy(torch.compile(llama), UNIFORM, step=4, total_steps=STEPS),
    ):
        pass


def test_weights_offloaded_to_the_cpu_get_the_same_noise(llama: nn.Module) -> None:
    from accelerate import cpu_offload

    clean = llama(input_ids=ids()).logits
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as expected_report:
        expected = llama(input_ids=ids()).logits
    cpu_offload(llama, execution_device="cpu")
    assert llama.model.layers[0].input_layernorm.weight.is_meta
    with noisy(llama, UNIFORM, step=4, total_steps=STEPS) as report:
        assert torch.equal(llama(input_ids=ids()).logits, expected)
    assert torch.equal(llama(input_ids=ids()).logits, clean)
    assert report == expected_report


def test_weights_offloaded_to_the_disk_are_refused(llama: nn.Module, tmp_path: Any) -> None:
    from accelerate import disk_offload

    disk_offload(llama, str(tmp_path), execution_device="cpu")
    with (
        pytest.raises(InputError, match="is offloaded to the disk"),
        noisy(llama, UNIFORM, step=4, total_steps=STEPS),
    ):
        pass


# Refused


@pytest.mark.parametrize(
    ("step", "total", "message"),
    [
        (30, 30, "step is 30, and the run has 30 steps"),
        (-1, 30, "step is -1, and the run has 30 steps"),
        (0, 0, "the run has 0 steps"),
    ],
)
def test_a_step_outside_the_run_is_refused(
    llama: nn.Module, step: int, total: int, message: str
) -> None:
    with (
        pytest.raises(UsageError, match=message),
        noisy(llama, UNIFORM, step=step, total_steps=total),
    ):
        pass


def refused(model: nn.Module, config: RinConfig, message: str) -> str:
    before = bits(model) if not any(p.is_meta for p in model.parameters()) else None
    with (
        pytest.raises(InputError, match=message) as caught,
        noisy(model, config, step=4, total_steps=STEPS),
    ):
        pass
    if before is not None:
        assert changed(model, before) == set()
    return caught.value.hint


def test_a_configuration_for_more_layers_is_refused(llama: nn.Module) -> None:
    for config in (config_for(4), config_for(4, "targeted", top_k=1)):
        hint = refused(llama, config, "for a model of 4 layers, and this one has 3")
        assert "scan this model" in hint


def test_modules_that_are_not_there_are_refused_with_the_closest(llama: nn.Module) -> None:
    config = config_for(norms=("input_norm",))
    hint = refused(
        llama,
        config,
        r"no module 'model.layers.0.input_norm', .* \(and 2 more of its modules\)",
    )
    assert hint.startswith("closest are: 'model.layers.0.input_layernorm'")


def test_another_kind_of_norm_is_refused() -> None:
    model = families.new("stablelm") if "stablelm" in families.FAMILIES else _with_layer_norms()
    refused(
        model, UNIFORM, r"noise on rmsnorm, and .*input_layernorm' is a LayerNorm \(layernorm\)"
    )


def _with_layer_norms() -> nn.Module:
    """Llama's names on layer norms, as in StableLM."""
    model = families.new("llama")
    for layer in model.model.layers:
        for name in families.NORMS:
            setattr(layer, name, nn.LayerNorm(64))
    return model


def test_a_layer_norm_by_behaviour_is_refused() -> None:
    model = families.new("cohere")
    refused(model, config_for(norms=("input_layernorm",)), "is a CohereLayerNorm")


def test_a_linear_where_a_norm_was_is_refused(llama: nn.Module) -> None:
    refused(
        llama, config_for(norms=("mlp.up_proj",)), "and 'model.layers.0.mlp.up_proj' is a Linear"
    )


def test_a_norm_where_a_linear_was_is_refused(llama: nn.Module) -> None:
    for layer in llama.model.layers:
        layer.mlp.up_proj = nn.RMSNorm(64)
    refused(llama, config_for(layer_type="linear"), "noise on linear, and .* is a RMSNorm")


def test_another_width_is_refused() -> None:
    model = families.new("llama", hidden_size=32)
    refused(model, UNIFORM, "has 32 weights, and the configuration is for 64")


def test_a_module_without_a_weight_is_refused(llama: nn.Module) -> None:
    refused(llama, config_for(norms=("mlp",)), r"'model.layers.0.mlp' \(LlamaMLP\) holds no weight")


def test_weights_without_values_are_refused(llama: nn.Module) -> None:
    refused(llama.to("meta"), UNIFORM, r"holds no values \(device meta\)")


def test_quantized_weights_are_refused(llama: nn.Module) -> None:
    norm = llama.model.layers[1].input_layernorm
    norm.weight = nn.Parameter(norm.weight.to(torch.float8_e4m3fn), requires_grad=False)
    refused(llama, UNIFORM, "is float8_e4m3fn, which noise cannot be added to")


def test_a_layer_norm_model_has_nothing_for_a_prototypes_configuration() -> None:
    model = families.new("gpt2", n_layer=28)
    config = srdd.suggest(srdd.load_scan(PROTOTYPE), "uniform")
    refused(model, config, r"has no rmsnorm that may; its norms are: LayerNorm \(layernorm\)")


def test_weights_partitioned_by_deepspeed_are_refused(llama: nn.Module) -> None:
    for weight in llama.parameters():
        weight.ds_id = 0  # what ZeRO stage 3 puts on every parameter
    refused(llama, UNIFORM, "partitioned by DeepSpeed")
