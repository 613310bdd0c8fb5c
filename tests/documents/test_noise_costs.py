"""What the noise of a configuration costs, against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_scans import made, with_costs

from srdd import suggest
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Magnitudes
from srdd.documents.sensitivity_figures import merged
from srdd.errors import UsageError

QUANTIZING = [0.3, 0.9, 0.03]
PER_SIGMA2 = [8.0, 2.0, 0.5]
ONES = Magnitudes(dtype="bfloat16", exponents=[0], share=[1.0], powers_of_two=[0.0])


def noisy(magnitudes: Magnitudes | None = None) -> tuple[Scan, RinConfig]:
    """A scan of three layers with two norms each, and noise on two of them."""
    scan = with_costs(made([0.1, 0.11, 0.12]), QUANTIZING, PER_SIGMA2, magnitudes)
    ranked = {"metric": "relative_error", "top_k": 2}
    return scan, suggest(scan, "targeted", **ranked, num_stages=4, sigma_end=0.002)


def test_the_cost_is_the_sum_over_norms_of_sigma_squared() -> None:
    scan, config = noisy()
    assert sorted(entry.layer for entry in config.layers) == [1, 2]
    rows = scan.noise_kl(config)
    assert [row["stage"] for row in rows] == [0, 1, 2, 3]
    sigmas = (0, 0.05, 0.01, 0.002)
    assert [row["sigma"] for row in rows] == pytest.approx(sigmas)
    assert [row["kl"] for row in rows] == pytest.approx([2 * 1.25 * s**2 for s in sigmas])
    assert rows[0]["arriving"] is None
    assert rows[0]["share"] is None
    assert [row["arriving"] for row in rows[1:]] == pytest.approx([1, 1, 1])


def test_layers_and_tensors_add_up_to_their_stage() -> None:
    scan, config = noisy()
    (whole,) = scan.noise_kl(config, 2)
    layers = scan.noise_kl(config, 2, "layer")
    assert {row["layer"]: row["share"] for row in layers} == pytest.approx({1: 0.8, 2: 0.2})
    assert sum(row["kl"] for row in layers) == pytest.approx(whole["kl"])
    tensors = scan.noise_kl(config, by="tensor")
    assert len(tensors) == 4 * 4
    first = tensors[4]
    assert (first["stage"], first["layer"]) == (1, 1)
    assert first["tensor"] == "model.layers.1.input_layernorm"
    assert first["kl"] == pytest.approx(0.05**2)
    low, high = first["kl_interval"]  # groups of prompts differ by a factor of two
    assert low < first["kl"] < high


def test_what_rounding_swallows_costs_nothing() -> None:
    scan, config = noisy(ONES)
    rows = scan.noise_kl(config)
    assert rows[1]["arriving"] == pytest.approx(1 + 2**-14 / 12 / 0.05**2)
    # At 0.002, a step of 2^-7 takes noise beyond 2^-8: once and a little of three times.
    tail = sum((2 * k - 1) * math.erfc((k - 0.5) * 2**-7 / 0.002 / 2**0.5) for k in range(1, 6))
    assert rows[3]["arriving"] == pytest.approx(2**-14 * tail / 0.002**2)
    assert rows[3]["kl"] == pytest.approx(2 * 1.25 * 2**-14 * tail)


def test_binades_are_averaged_by_their_shares() -> None:
    mixed = Magnitudes(
        dtype="bfloat16", exponents=[-8, 0], share=[0.25, 0.75], powers_of_two=[0.0, 0.75]
    )
    scan, config = noisy(mixed)
    tails = [
        step**2 * (2 * k - 1) * math.erfc((k - 0.5) * step / 0.002 / 2**0.5)
        for step in (2**-7, 2**-8)
        for k in range(1, 6)
    ]
    half = sum(tails) / 2
    expected = 0.25 * (0.002**2 + 2**-30 / 12) + 0.75 * half
    assert scan.noise_kl(config, 3)[0]["kl"] == pytest.approx(2.5 * expected, rel=1e-6)


def test_a_shared_weight_carries_the_noise_of_the_first() -> None:
    scan, config = noisy()
    shared = "model.layers.2.input_layernorm"
    content = scan.model_dump()
    content["model"]["layers"][2]["norms"][0]["tied_to"] = "model.layers.1.input_layernorm"
    changed = config.model_dump()
    for entry in changed["tiers"][0]["layers"]:
        if entry["layer"] == 1:
            entry |= {"multiplier": 2.0, "sigma": 0.1}
    config = RinConfig.model_validate(changed)
    rows = Scan.model_validate(content).noise_kl(config, 1, "tensor")
    sigmas = {row["tensor"]: row["sigma"] for row in rows}
    assert sigmas[shared] == pytest.approx(0.1)
    assert sigmas["model.layers.2.post_attention_layernorm"] == pytest.approx(0.05)


def test_what_cannot_be_told_is_an_error() -> None:
    scan, config = noisy()
    with pytest.raises(UsageError, match="no stage 4") as caught:
        scan.noise_kl(config, 4)
    assert "0 to 3" in str(caught.value.hint)
    with pytest.raises(UsageError, match="grouping"):
        scan.noise_kl(config, by="norm")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no sensitivity"):
        scan.model_copy(update={"sensitivity": None}).noise_kl(config)
    assert scan.sensitivity is not None
    name = "model.layers.1.input_layernorm"
    update = {
        "noise": [cost for cost in scan.sensitivity.noise if cost.tensor != name],
        "not_measured": {name: "no forward pass went through it"},
    }
    lacking = scan.model_copy(update={"sensitivity": scan.sensitivity.model_copy(update=update)})
    with pytest.raises(UsageError, match=f"{name} costs: no forward pass"):
        lacking.noise_kl(config)


def test_shares_of_merged_parts_are_averaged_by_cost() -> None:
    def part(share: float, times: float) -> Scan:
        kinds = Magnitudes(
            dtype="bfloat16", exponents=[0, 1], share=[share, 1 - share], powers_of_two=[0, 0]
        )
        return with_costs(made([0.1, 0.2, 0.3]), QUANTIZING, [2 * times] * 3, kinds)

    sections = [part(0.2, 1.0).sensitivity, part(0.6, 3.0).sensitivity]
    both = merged([each for each in sections if each is not None])
    assert both is not None
    assert len(both.noise) == 6
    assert both.noise[0].value == pytest.approx(2.0)
    kinds = both.noise[0].magnitudes
    assert kinds is not None
    assert kinds.share == pytest.approx([0.5, 0.5])
    old = with_costs(made([0.1, 0.2, 0.3]), QUANTIZING, PER_SIGMA2).sensitivity
    assert old is not None
    assert sections[0] is not None
    mixed = merged([sections[0], old])
    assert mixed is not None
    assert mixed.noise[0].magnitudes is None
    assert np.allclose(mixed.tokens, [20, 60])
