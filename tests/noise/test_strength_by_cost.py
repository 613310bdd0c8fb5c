"""How strong noise is, by what it costs: strategies that follow from it, targets, and warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from made_scans import made, thorough, with_costs

from srdd import suggest
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Magnitudes
from srdd.documents.sensitivity_figures import checked
from srdd.errors import InputError, UsageError

approx = pytest.approx

QUANTIZING = [0.03, 0.09, 0.002, 0.008]
PER_SIGMA2 = [8.0, 2.0, 0.5, 32.0]
ERRORS = [0.1, 0.2, 0.3, 0.4]
SCAN = with_costs(made(ERRORS), QUANTIZING, PER_SIGMA2)
ONES = Magnitudes(dtype="bfloat16", exponents=[0], share=[1.0], powers_of_two=[0.0])
ROUNDED = with_costs(made(ERRORS), QUANTIZING, PER_SIGMA2, ONES)
EVERY: list[dict[str, Any]] = [
    {"strategy": "uniform"},
    {"strategy": "targeted", "top_k": 2},
    {"strategy": "variable"},
    {"strategy": "zone", "zones": "breaks"},
    {"strategy": "balanced"},
    {"strategy": "matched"},
    {"strategy": "variable", "control": "inverse"},
    {"strategy": "balanced", "control": "shuffled"},
    {"strategy": "matched", "control": "inverse"},
    {"strategy": "zone", "zones": "breaks", "control": "inverse"},
]


def by_hand(config: RinConfig, stage: int, per_sigma2: Sequence[float] = PER_SIGMA2) -> list[float]:
    """What the noise of a stage costs in each layer, where all of it arrives."""
    costs = [0.0] * len(per_sigma2)
    for tier in config.tiers:
        for entry in tier.layers:
            sigma = entry.multiplier * tier.sigmas[stage]
            costs[entry.layer] = per_sigma2[entry.layer] * sigma**2
    return costs


def test_balanced_noise_costs_the_same_in_every_layer() -> None:
    config = suggest(SCAN, "balanced")
    costs = by_hand(config, 1)
    assert costs == approx([costs[0]] * 4, rel=1e-3)
    assert math.fsum(entry.multiplier for entry in config.layers) == approx(4, abs=1e-3)
    assert config.source.metric == "kl_per_sigma2"
    assert [entry.value for entry in config.layers] == approx(PER_SIGMA2)


def test_matched_noise_costs_what_quantization_costs_in_every_layer() -> None:
    config = suggest(SCAN, "matched")
    assert by_hand(config, 1) == approx(QUANTIZING, rel=2e-3)
    assert config.parameters.match_quantization == 1
    assert config.parameters.sigma_end == approx(config.parameters.sigma_start / 100, rel=1e-3)
    half = suggest(SCAN, "matched", match_quantization=0.5)
    assert by_hand(half, 1) == approx([0.5 * cost for cost in QUANTIZING], rel=2e-3)
    given = suggest(SCAN, "matched", sigma_start=0.01)
    assert given.parameters.match_quantization is None
    assert given.parameters.sigma_start == 0.01


@pytest.mark.parametrize("arguments", EVERY)
def test_a_target_is_what_the_first_noisy_stage_costs(arguments: dict[str, Any]) -> None:
    config = suggest(SCAN, **arguments, target_kl=0.04)
    assert math.fsum(by_hand(config, 1)) == approx(0.04, rel=2e-3)
    assert config.kl is not None
    assert config.kl.first == approx(0.04, rel=2e-3)
    assert config.kl.stages[0] == 0
    assert config.kl.stages[3] == approx(math.fsum(by_hand(config, 3)), rel=1e-6)
    assert config.parameters.target_kl == 0.04


@pytest.mark.parametrize("arguments", EVERY)
def test_equal_kl_gives_every_arm_the_mean_cost_of_uniform_noise(arguments: dict[str, Any]) -> None:
    uniform = suggest(SCAN, "uniform", match_quantization=0.2)
    config = suggest(SCAN, **arguments, equal_kl=True, match_quantization=0.2)
    assert uniform.kl is not None
    assert config.kl is not None
    assert uniform.kl.first == approx(0.2 * 0.13, rel=1e-3)
    by_stage = [math.fsum(by_hand(config, stage)) for stage in range(10)]
    assert math.fsum(by_stage) / 10 == approx(uniform.kl.mean, rel=1e-3)
    assert config.kl.mean == approx(uniform.kl.mean, rel=1e-3)


def test_a_given_end_is_kept() -> None:
    config = suggest(SCAN, "variable", target_kl=0.04, sigma_end=0.001)
    assert config.parameters.sigma_end == 0.001
    with pytest.raises(UsageError, match="noise only decays"):
        suggest(SCAN, "uniform", target_kl=0.0004, sigma_end=0.01)


def test_what_was_measured_at_once_is_what_is_matched() -> None:
    import numpy as np

    tokens = np.array([10.0, 30.0])
    whole = checked(None, "mxfp4:floor", "both", tokens * 0.13, tokens * 0.09, tokens)
    assert SCAN.sensitivity is not None
    section = SCAN.sensitivity.model_copy(update={"checks": [whole]})
    scan = SCAN.model_copy(update={"sensitivity": section})
    config = suggest(scan, "uniform", match_quantization=0.1)
    assert config.kl is not None
    assert config.kl.quantization == approx(0.09)
    assert config.kl.quantization_measured
    assert config.kl.first == approx(0.009, rel=1e-3)
    plain = suggest(SCAN, "uniform").kl
    assert plain is not None
    assert (plain.quantization, plain.quantization_measured) == (approx(0.13), False)


def test_targets_that_rounding_or_the_prediction_rules_out() -> None:
    with pytest.raises(UsageError, match=r"cost 1e-06 nats") as caught:
        suggest(ROUNDED, "uniform", target_kl=1e-6)
    found = re.search(r"reachable are (\S+) to 1 nats", str(caught.value.hint))
    assert found is not None
    assert "rounding" in caught.value.hint
    least = float(found[1])
    # There half of the noise arrives: mostly single steps of 2^-7, beyond half of that.
    sigma = math.sqrt(least / 0.5 / 42.5)
    assert 2**-14 * math.erfc(2**-8 / sigma / 2**0.5) / sigma**2 == approx(0.5, rel=0.01)
    config = suggest(ROUNDED, "uniform", target_kl=1.01 * least, sigma_end=1e-4)
    assert config.kl is not None
    assert config.kl.arriving[1] == approx(0.5, abs=0.01)
    with pytest.raises(UsageError, match="cost 2 nats") as caught:
        suggest(SCAN, "balanced", target_kl=2.0)
    assert "second order" in caught.value.hint
    # Without rounding, next to nothing is out of reach below.
    config = suggest(SCAN, "uniform", target_kl=1e-12)
    assert config.kl is not None
    assert config.kl.first == approx(1e-12, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_kl": 0.1, "sigma_start": 0.1}, "`sigma_start` and `target_kl` both"),
        (
            {"target_kl": 0.1, "match_quantization": 0.1},
            "`target_kl` and `match_quantization` both",
        ),
        ({"equal_kl": True, "equal_energy": True}, "`equal_energy` and `equal_kl`"),
        ({"target_kl": 0.0}, "`target_kl` is 0"),
        ({"match_quantization": math.nan}, "`match_quantization` is nan"),
        ({"strategy": "zone", "tiers": {"low": None}, "target_kl": 0.1}, "`tiers` and `target_kl`"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        suggest(SCAN, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"strategy": "balanced"}, {"target_kl": 0.1}, {"equal_kl": True}]
)
def test_without_a_sensitivity_there_is_nothing_to_go_by(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"sensitivity|what noise costs") as caught:
        suggest(made(ERRORS), **arguments)
    assert "`kl=True`" in caught.value.hint


def test_a_layer_in_which_noise_costs_nothing_cannot_be_balanced() -> None:
    scan = with_costs(made(ERRORS), QUANTIZING, [1.0, 0.0, 1.0, 1.0])
    for strategy in ("balanced", "matched"):
        with pytest.raises(UsageError, match="noise in layer 1 costs nothing"):
            suggest(scan, strategy)
    with pytest.raises(UsageError, match="costs nothing in any"):
        suggest(with_costs(made(ERRORS), QUANTIZING, [0.0] * 4), "uniform", target_kl=0.1)
    with pytest.raises(InputError, match="no kl_per_sigma2 of layer 2"):
        suggest(SCAN, "balanced", exclude=["layers.2."])


def test_layers_are_ranked_by_cost_where_the_scan_has_it() -> None:
    assert suggest(SCAN, "variable").source.metric == "kl"
    assert suggest(made(ERRORS), "variable").source.metric == "relative_error"
    config = suggest(SCAN, "variable", metric="relative_error")
    assert any("ranks the layers differently" in text for text in config.warnings)
    worst = suggest(SCAN, "targeted", top_k=1)
    assert [entry.layer for entry in worst.layers] == [1]


def off(scan: Scan) -> Scan:
    """The scan with a check of a single tensor that is off by a factor of two."""
    import numpy as np

    tokens = np.array([10.0, 30.0])
    name = "model.layers.0.mlp.up_proj"
    check = checked(name, "mxfp4:floor", "both", tokens * 0.6, tokens * 0.3, tokens)
    assert scan.sensitivity is not None
    section = scan.sensitivity.model_copy(update={"checks": [check]})
    return scan.model_copy(update={"sensitivity": section})


def test_costs_that_were_found_off_rank_nothing() -> None:
    config = suggest(off(SCAN), "variable")
    assert config.source.metric == "relative_error"
    assert any("was found off" in text for text in config.warnings)
    assert suggest(off(SCAN), "variable", metric="kl").source.metric == "kl"


def warning(config: RinConfig, words: str) -> str | None:
    return next((text for text in config.warnings if words in text), None)


def test_noise_that_costs_more_than_quantization_is_warned_of() -> None:
    strong = warning(suggest(SCAN, "uniform", sigma_start=0.4), "times what quantizing")
    assert strong is not None
    # 42.5 * 0.4^2 = 6.8 nats against 0.13, which a sigma of sqrt(0.13 / 42.5) costs.
    assert "6.8 nats" in strong
    assert "52 times" in strong
    assert "about 0.055" in strong
    assert warning(suggest(SCAN, "matched"), "times what quantizing") is None


def test_stages_that_do_nothing_are_counted() -> None:
    # From 0.1063 nats, each stage divides by 10 ** 0.5: after five of them 0.0003 are left, after
    # six 0.0001, which is less than a thousandth of 0.13.
    idle = warning(suggest(SCAN, "uniform"), "do nothing")
    assert idle is not None
    assert idle.startswith("the last 3 of 10 stages do nothing: they cost less than 0.1 %")
    assert "sigma_end of 0.0028" in idle
    assert warning(suggest(SCAN, "uniform", sigma_end=0.0028), "do nothing") is None
    # Of 0.0016, 0.2 of the spacing, a third arrives; of 0.00089, next to nothing, although beside
    # quantization that costs so little, it would still count.
    cheap = with_costs(made(ERRORS), [1e-9] * 4, PER_SIGMA2, ONES)
    swallowed = warning(suggest(cheap, "uniform"), "do nothing")
    assert swallowed is not None
    assert swallowed.startswith("the last 2 of 10 stages do nothing: rounding leaves 0 %")
    assert "sigma_end of 0.0016" in swallowed


def test_noise_that_rounding_swallows_from_the_start_is_warned_of() -> None:
    config = suggest(ROUNDED, "uniform", sigma_start=0.0015)
    found = warning(config, "rounding to the weights' type lets")
    assert found is not None
    tail = math.erfc(2**-8 / 0.0015 / 2**0.5) * 2**-14 / 0.0015**2
    assert f"lets {100 * tail:.0f} % of the noise through" in found
    assert warning(suggest(SCAN, "uniform", sigma_start=0.0015), "lets") is None


def test_noise_of_unknown_cost_is_said_to_be_so() -> None:
    assert SCAN.sensitivity is not None
    noise = [cost for cost in SCAN.sensitivity.noise if cost.layer != 2]
    section = SCAN.sensitivity.model_copy(update={"noise": noise})
    config = suggest(SCAN.model_copy(update={"sensitivity": section}), "uniform")
    assert config.kl is None
    assert warning(config, "what the noise costs is unknown") is not None
    assert suggest(made(ERRORS), "uniform").kl is None


def test_layers_that_noise_costs_the_same_need_no_balance() -> None:
    scan = with_costs(thorough(ERRORS), QUANTIZING, [4.0, 4.1, 3.9, 4.0])
    advice = suggest(scan, "balanced").recommendation
    assert advice.strategy == "uniform"
    assert "kl_per_sigma2 as an amplitude" in advice.reasons[0]
    assert suggest(SCAN, "balanced").recommendation.strategy == "balanced"


def test_of_a_mixture_it_says_that_the_prediction_is_too_low() -> None:
    assert warning(suggest(SCAN, "uniform"), "the model is a mixture") is None
    assert SCAN.sensitivity is not None
    first, *others = SCAN.sensitivity.changes
    stacked = first.model_copy(update={"tensor": "model.layers.0.mlp.experts.down_proj"})
    changed = SCAN.sensitivity.model_copy(update={"changes": [stacked, *others]})
    mixture = SCAN.model_copy(update={"sensitivity": changed})
    assert warning(suggest(mixture, "uniform"), "the model is a mixture") is not None
