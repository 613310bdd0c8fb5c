"""MXFP6, MXFP8, NVFP4 and the per-token formats against torchao and compressed-tensors.

As in test_packages: a departure is asserted as a departure.
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
nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
ao = pytest.importorskip("torchao.quantization")
ao_utils = pytest.importorskip("torchao.quantization.utils")
ct = pytest.importorskip("compressed_tensors.quantization")
ct_forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
ct_utils = pytest.importorskip("compressed_tensors.quantization.utils")

ELEMENTS = {
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
}
EMAX = {"mxfp6_e2m3": 2, "mxfp6_e3m2": 4, "mxfp8_e4m3": 8, "mxfp8_e5m2": 15}


def _torchao(x: torch.Tensor, name: str, rule: str) -> torch.Tensor:
    mode = mx_config.ScaleCalculationMode[rule.upper()]
    quantized = mx_tensor.MXTensor.to_mx(x.contiguous(), ELEMENTS[name], 32, mode)
    return quantized.dequantize(torch.float32)


def _torchao_nvfp4(x: torch.Tensor) -> torch.Tensor:
    g = nvfp4.per_tensor_amax_to_scale(x.abs().max())
    quantized = nvfp4.NVFP4Tensor.to_nvfp4(x.contiguous(), per_tensor_scale=g)
    return quantized.dequantize(torch.float32)


def _every_bfloat16() -> torch.Tensor:
    """Each finite bfloat16 above zero with 31 zeros beside it."""
    x = torch.from_numpy(oracle.all_bfloat16().view(np.int16)).view(torch.bfloat16)
    x = x[x.isfinite() & (x > 0)]
    return torch.nn.functional.pad(x[:, None], (0, 31))


def _activations() -> torch.Tensor:
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(4)) * 3
    x[:, ::100] *= 50
    return x


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", ELEMENTS)
def test_torchao_agrees_on_every_bfloat16_in_its_range(name: str, rule: str) -> None:
    x = _every_bfloat16()
    exponent = torch.frexp(x[:, 0].double())[1]
    x = x[(exponent > EMAX[name] - 124) & (exponent < 128)]
    assert len(x) > 29_000
    assert torch.equal(_torchao(x, name, rule), fake_quantize(x.float(), f"{name}:{rule}"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ELEMENTS)
def test_torchao_agrees_on_what_activations_look_like(name: str, dtype: torch.dtype) -> None:
    x = _activations().to(dtype)
    for rule in SCALE_RULES:
        found = fake_quantize(x.float(), f"{name}:{rule}")
        assert torch.equal(_torchao(x, name, rule), found), rule


@pytest.mark.parametrize("name", ELEMENTS)
def test_torchao_departs_under_the_smallest_normal_scale_and_over_the_largest(name: str) -> None:
    x = torch.zeros(2, 32)
    x[0, 0], x[1, 0] = 2.0 ** (EMAX[name] - 127), torch.finfo(torch.float32).max
    ours, theirs = fake_quantize(x, f"{name}:even"), _torchao(x, name, "even")
    assert ours[:, 0].tolist() == x[:, 0].tolist()
    assert theirs[:, 0].tolist() == [2.0 ** (EMAX[name] - 128), torch.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_torchao_agrees_on_nvfp4_for_a_tensor_and_for_a_token(dtype: torch.dtype) -> None:
    x = _activations().to(dtype)
    x[7] *= 2.0**-12  # blocks whose scale would be under the smallest normal E4M3
    assert torch.equal(_torchao_nvfp4(x), fake_quantize(x.float(), "nvfp4:tensor"))
    by_row = torch.cat([_torchao_nvfp4(row[None]) for row in x])
    assert torch.equal(by_row, fake_quantize(x.float(), "nvfp4:token"))


def test_torchao_departs_on_nvfp4_where_everything_is_zero() -> None:
    """Its global scale is 0 then, and 0 / 0 is NaN."""
    x = torch.zeros(1, 32)
    assert fake_quantize(x, "nvfp4:tensor").count_nonzero() == 0
    assert _torchao_nvfp4(x).isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_torchao_agrees_on_nvfp4_for_each_of_stacked_weights(dtype: torch.dtype) -> None:
    """One global scale for every expert: each is a tensor of its own."""
    x = _activations().reshape(4, 64, 512) * torch.tensor([1, 2, 0.01, 100]).reshape(4, 1, 1)
    x = x.to(dtype)
    g = nvfp4.per_tensor_amax_to_scale(x.abs().amax((1, 2), keepdim=True))
    y = nvfp4.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=g).dequantize(torch.float32)
    for expert, found in zip(x, y, strict=True):
        assert torch.equal(found, fake_quantize(expert.float(), "nvfp4:tensor"))


def test_torchaos_nvfp4_without_a_global_scale_is_ours_only_where_that_would_be_1() -> None:
    """Which no rule here leaves out."""
    x = _activations().clamp(-448 * 6, 448 * 6)
    alone = nvfp4.NVFP4Tensor.to_nvfp4(x).dequantize(torch.float32)
    for rule in ("token", "tensor"):
        assert not torch.allclose(alone, fake_quantize(x, f"nvfp4:{rule}"), rtol=1e-3, atol=0)
    x[:, 0] = 448 * 6
    alone = nvfp4.NVFP4Tensor.to_nvfp4(x).dequantize(torch.float32)
    for rule in ("token", "tensor"):
        assert torch.equal(alone, fake_quantize(x, f"nvfp4:{rule}"))


def test_torchao_agrees_on_fp8_for_each_token() -> None:
    x = _activations()
    found = ao.Float8Tensor.from_hp(x, granularity=ao.PerRow())
    assert torch.equal(found.dequantize(), fake_quantize(x, "fp8_e4m3_token"))


def test_torchao_departs_on_fp8_in_bfloat16_and_where_a_token_is_zero() -> None:
    """It finds the scale in the input's type, and divides zeros by a scale of 0."""
    x = _activations().bfloat16()
    found = ao.Float8Tensor.from_hp(x, granularity=ao.PerRow())
    amax = x.abs().amax(-1, keepdim=True)
    assert torch.equal(found.scale, (amax / 448).float())
    off = found.scale / (amax.float() / 448) - 1
    assert 0.5 < (off != 0).double().mean().item() < 1  # of the tokens
    assert off.abs().max().item() <= 2**-8
    zeros = torch.zeros(2, 32)
    assert ao.Float8Tensor.from_hp(zeros, granularity=ao.PerRow()).dequantize().isnan().all()
    assert fake_quantize(zeros, "fp8_e4m3_token").count_nonzero() == 0


def test_torchaos_older_int8_agrees_for_each_token() -> None:
    """Its -127 ... 127, as SmoothQuant has them."""
    x = _activations()
    codes, scale = ao_utils._quantize_activation_per_token_absmax(x)
    assert torch.equal(codes * scale[:, None], fake_quantize(x, "int8_token"))


def test_torchaos_int8_tensor_departs_by_half_a_code_and_flushes_tiny_tokens() -> None:
    """It uses -128 ... 127 with the scale amax / 127.5, which it holds to at least 2^-23."""
    x = _activations()
    found = ao.Int8Tensor.from_hp(x, granularity=ao.PerRow())
    amax = x.abs().amax(-1, keepdim=True)
    assert torch.equal(found.scale, amax / 127.5)
    assert found.qdata.min() == -128
    y = found.dequantize()
    assert not torch.allclose(y, fake_quantize(x, "int8_token"), rtol=1e-3, atol=0)
    assert (y - x).abs().le(found.scale * 0.501).all()  # the largest clips, by half a code at most
    tiny = torch.full((1, 32), 2.0**-30)
    assert ao.Int8Tensor.from_hp(tiny, granularity=ao.PerRow()).dequantize().count_nonzero() == 0
    assert torch.allclose(fake_quantize(tiny, "int8_token"), tiny)


def _compressed_tensors_nvfp4(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dequantized values, and block scales."""
    args = ct.preset_name_to_scheme("NVFP4", ["Linear"]).input_activations
    g = ct_utils.generate_gparam(x.min(), x.max())
    scale, zero = ct_utils.compute_dynamic_scales_and_zp(x, args, None, global_scale=g)
    return ct_forward.fake_quantize(x, scale, zero, args, global_scale=g), scale.float()


def _block_scales(x: torch.Tensor) -> torch.Tensor:
    """As the definition has them, in float32."""
    amax = x.float().abs().reshape(len(x), -1, 16).amax(-1)
    wanted = amax / 6 / (amax.max() / (448 * 6))
    return wanted.clamp(2.0**-6, 448).to(torch.float8_e4m3fn).float()


def test_compressed_tensors_agrees_on_nvfp4_in_float32_up_to_the_last_places() -> None:
    x = _activations()
    y, scales = _compressed_tensors_nvfp4(x)
    assert torch.equal(scales, _block_scales(x))
    assert torch.allclose(y, fake_quantize(x, "nvfp4:tensor"), rtol=1e-6, atol=0)


def test_compressed_tensors_departs_in_a_few_percent_of_nvfp4_scales_in_bfloat16() -> None:
    """It divides the block's largest value by 6 in the input's type."""
    x = _activations().bfloat16()
    _, scales = _compressed_tensors_nvfp4(x)
    share = (scales != _block_scales(x)).double().mean().item()
    assert 0.005 < share < 0.10


def _compressed_tensors(x: torch.Tensor, **args: object) -> torch.Tensor:
    """Per token, of a batch of one."""
    args = ct.QuantizationArgs(dynamic=True, symmetric=True, strategy="token", **args)
    scale, zero = ct_utils.compute_dynamic_scales_and_zp(x[None], args, None)
    return ct_forward.fake_quantize(x[None], scale, zero, args)[0]


def test_compressed_tensors_agrees_on_fp8_for_each_token() -> None:
    x = _activations()
    y = _compressed_tensors(x, num_bits=8, type="float")
    assert torch.equal(y, fake_quantize(x, "fp8_e4m3_token"))


def test_compressed_tensors_departs_on_int8_by_half_a_code() -> None:
    """It uses -128 ... 127 with the scale amax / 127.5, so the largest positive value clips."""
    x = _activations()
    y = _compressed_tensors(x, num_bits=8, type="int")
    amax = x.abs().amax(-1, keepdim=True)
    by_their_rule = (x / (amax / 127.5)).round().clamp(-128, 127) * (amax / 127.5)
    assert torch.allclose(y, by_their_rule, rtol=1e-6, atol=0)
    assert not torch.allclose(y, fake_quantize(x, "int8_token"), rtol=1e-3, atol=0)
