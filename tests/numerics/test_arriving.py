"""What arrives of noise after rounding, against torch's own additions."""

from __future__ import annotations

import math

import pytest
import torch

from srdd.numerics.arriving import arriving, spacing

DRAWS = 1 << 21


def drawn(values: torch.Tensor, sigma: float) -> float:
    """The mean square of what really arrives, as the injector adds it."""
    noise = torch.randn(len(values), generator=torch.Generator().manual_seed(1)) * sigma
    after = values.clone().add_(noise.to(values.dtype))
    return float((after.double() - values.double()).square().mean())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("times", [0.2, 0.3, 0.5, 0.8, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("exponent", [-3, 0])
def test_what_arrives_is_what_torch_adds(dtype: str, times: float, exponent: int) -> None:
    step = spacing(exponent, dtype)
    assert torch.finfo(getattr(torch, dtype)).eps * 2.0**exponent == step
    sigma = times * step
    bits = {"bfloat16": 7, "float16": 10}[dtype]
    # Every value of the binade that lies further than five sigma from its ends.
    inner = torch.arange(1, 2**bits) * step + 2.0**exponent
    far = min(5 * sigma, 0.4 * 2.0**exponent)
    inner = inner[(inner - 2.0**exponent > far) & (2.0 ** (exponent + 1) - inner > far)]
    values = inner.repeat(DRAWS // len(inner)).to(getattr(torch, dtype))
    # Twenty times the spacing crosses into other binades, where rounding matters little.
    assert arriving(sigma, exponent, dtype) == pytest.approx(
        drawn(values, sigma), rel=0.03 if times == 0.2 else 0.01
    )


@pytest.mark.parametrize("times", [0.2, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_power_of_two_has_half_the_spacing_inside(times: float, sign: int) -> None:
    sigma = times * spacing(0, "bfloat16")
    ones = torch.full((DRAWS,), float(sign)).bfloat16()
    assert arriving(sigma, 0, "bfloat16", power_of_two=True) == pytest.approx(
        drawn(ones, sigma), rel=0.015
    )


@pytest.mark.parametrize("sigma", [1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 0.02, 0.1])
def test_gains_of_a_trained_norm_by_their_binades(sigma: float) -> None:
    """Gains spread over many binades, ends of which are crossed: the mean over the binades."""
    generator = torch.Generator().manual_seed(0)
    gains = (1 + 0.4 * torch.randn(4096, generator=generator)).bfloat16()
    exponents = (torch.frexp(gains.float()).exponent - 1).tolist()
    found = [
        arriving(sigma, exponent, "bfloat16", power_of_two=math.frexp(abs(gain))[0] == 0.5)
        for gain, exponent in zip(gains.tolist(), exponents, strict=True)
    ]
    expected = drawn(gains.repeat(DRAWS // 4096), sigma)
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.03)


def test_float32_takes_it_all_and_tiny_noise_is_lost() -> None:
    assert arriving(0.001, 0, "float32") == pytest.approx(1e-6, rel=1e-9)
    assert arriving(0.0, 0, "bfloat16") == 0
    assert arriving(1e-5, 0, "bfloat16") == 0
    assert arriving(1e-5, -40, "bfloat16") == pytest.approx(1e-10)
    # Subnormal values of float16 all lie 2^-24 apart.
    assert spacing(-20, "float16") == spacing(-14, "float16") == 2.0**-24


def test_the_two_branches_meet() -> None:
    step = spacing(0, "bfloat16")
    below = arriving(step * (1 - 1e-12), 0, "bfloat16")
    assert below == pytest.approx(arriving(step, 0, "bfloat16"), rel=1e-8)
