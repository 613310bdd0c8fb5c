"""Independent packages: torchao for every scale rule, compressed-tensors for `even`.

Where a package departs from the definition, the departure is asserted: should a release mend it,
the test says so.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from srdd import fake_quantize
from srdd.numerics.formats import SCALE_RULES

mx_tensor = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
mx_config = pytest.importorskip("torchao.prototype.mx_formats.config")
ct = pytest.importorskip("compressed_tensors.quantization")
ct_forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
ct_utils = pytest.importorskip("compressed_tensors.quantization.utils")


def _torchao(x: torch.Tensor, rule: str) -> torch.Tensor:
    mode = mx_config.ScaleCalculationMode[rule.upper()]
    quantized = mx_tensor.MXTensor.to_mx(x.contiguous(), torch.float4_e2m1fn_x2, 32, mode)
    return quantized.dequantize(torch.float32)


def _compressed_tensors(x: torch.Tensor) -> torch.Tensor:
    args = ct.preset_name_to_scheme("MXFP4", ["Linear"]).input_activations
    scale, zero_point = ct_utils.compute_dynamic_scales_and_zp(x, args, None)
    return ct_forward.fake_quantize(x, scale, zero_point, args)


def _every_bfloat16() -> torch.Tensor:
    """Each finite bfloat16 with 31 zeros beside it."""
    x = torch.from_numpy(oracle.all_bfloat16().view(np.int16)).view(torch.bfloat16)
    x = x[x.isfinite()]
    return torch.nn.functional.pad(x[:, None], (0, 31))


def _blocks_by_maximum() -> torch.Tensor:
    """float32 blocks whose maxima lie next to every power of two and every rule's threshold."""
    powers = oracle.around_powers_of_two()
    powers = powers[(powers > 0) & (powers < 2.0**126)]
    marks = np.concatenate([powers, powers * np.float32(1.5), powers * np.float32(1.75)])
    near = [np.nextafter(marks, np.float32(side)) for side in (0, np.inf)]
    amax = torch.from_numpy(np.concatenate([marks, *near]))
    amax = amax[amax >= 2.0**-149]
    x = amax[:, None] * torch.linspace(0, 1, 32)
    x[:, -1] = amax
    return x


def _exponent(x: torch.Tensor) -> torch.Tensor:
    """Of each row's largest magnitude, as frexp gives it."""
    return torch.frexp(x.double().abs().amax(-1))[1]


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_torchao_agrees_on_every_bfloat16(dtype: torch.dtype, rule: str) -> None:
    x = _every_bfloat16().to(dtype)
    x = x[(_exponent(x) > -123) & (_exponent(x) < 128) | (x == 0).all(-1)]
    assert len(x) > 63_000
    assert torch.equal(_torchao(x, rule), fake_quantize(x.float(), f"mxfp4:{rule}"))


@pytest.mark.parametrize("rule", ["floor", "even", "ceil"])
def test_torchao_agrees_on_blocks_next_to_every_threshold(rule: str) -> None:
    x = _blocks_by_maximum()
    x = x[_exponent(x) > -123]
    assert len(x) > 6_000
    assert torch.equal(_torchao(x, rule), fake_quantize(x, f"mxfp4:{rule}"))


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_torchao_departs_under_the_smallest_normal_scale(rule: str) -> None:
    """It divides by 2^-126 (by 1 under RCEIL) where it stores the scale 2^-127."""
    x = torch.zeros(1, 32)
    x[0, 0] = 2.0**-126  # v = 2: representable with the scale 2^-127
    assert fake_quantize(x, f"mxfp4:{rule}")[0, 0] == 2.0**-126
    assert _torchao(x, rule)[0, 0] == (0.0 if rule == "rceil" else 2.0**-127)


@pytest.mark.parametrize("power", [-90, -20, 20, 90])
def test_torchao_departs_just_above_six_scales_under_rceil(power: int) -> None:
    """It takes ceil(log2(amax / 6)) in float32, which loses one part in 2^23: its largest clips."""
    x = torch.zeros(1, 32)
    x[0, 0] = float(np.nextafter(np.float32(6 * 2.0**power), np.float32(np.inf)))
    x[0, 1] = 2.0**power / 2  # representable only with the smaller scale
    assert fake_quantize(x, "mxfp4:rceil")[0, :2].tolist() == [6 * 2.0**power, 0.0]
    assert _torchao(x, "rceil")[0, :2].tolist() == [6 * 2.0**power, 2.0**power / 2]


@pytest.mark.parametrize("rule", ["even", "ceil", "rceil"])
def test_torchao_departs_where_the_result_leaves_float32(rule: str) -> None:
    """It returns infinity, we the largest float32."""
    x = torch.zeros(1, 32)
    x[0, 0] = torch.finfo(torch.float32).max
    assert fake_quantize(x, f"mxfp4:{rule}")[0, 0] == torch.finfo(torch.float32).max
    assert _torchao(x, rule)[0, 0] == torch.inf


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compressed_tensors_agrees_on_every_bfloat16_under_even(dtype: torch.dtype) -> None:
    x = _every_bfloat16().to(dtype)
    x = x[x.abs().amax(-1) < 1.75 * 2.0**127]
    assert len(x) > 65_000
    assert torch.equal(_compressed_tensors(x), fake_quantize(x, "mxfp4:even"))


def test_compressed_tensors_agrees_on_blocks_next_to_every_threshold_under_even() -> None:
    x = _blocks_by_maximum()
    assert torch.equal(_compressed_tensors(x), fake_quantize(x, "mxfp4:even"))


def test_compressed_tensors_departs_where_the_maximum_rounds_to_infinity() -> None:
    """From 1.75 * 2^127 on, its power of two is infinite and its result NaN."""
    x = torch.zeros(1, 32)
    x[0, 0] = 1.75 * 2.0**127
    assert fake_quantize(x, "mxfp4:even").isfinite().all()
    assert _compressed_tensors(x).isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_both_agree_on_what_activations_look_like(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(256, 512, generator=generator) * 3).to(dtype)
    x[:, ::100] *= 50
    for rule in SCALE_RULES:
        assert torch.equal(_torchao(x, rule), fake_quantize(x.float(), f"mxfp4:{rule}")), rule
    assert torch.equal(_compressed_tensors(x), fake_quantize(x, "mxfp4:even"))
