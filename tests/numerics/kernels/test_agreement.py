"""Every kernel against the reference, with one battery of tensors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from srdd.numerics.formats import ROUNDINGS, SCALE_RULES, parse_spec
from srdd.numerics.kernels import DTYPES, eager, gpu, row_sums

CAN_COMPILE = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(
    not CAN_COMPILE, reason="torch.compile's CPU back end needs a C++ compiler, g++ or clang++"
)


def battery(dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Shapes with and without a ragged end, heavy tails, every scale, strides, odd values."""
    generator = torch.Generator().manual_seed(7)
    for shape in ((1, 1), (1, 32), (3, 33), (17, 96), (5, 1000), (300, 31)):
        x = torch.randn(shape, generator=generator)
        yield x.to(dtype)
        yield x.pow(5).to(dtype)
        yield (x * 2.0 ** torch.randint(-24, 15, shape, generator=generator)).to(dtype)
    wide = torch.randn(40, 3, 200, generator=generator).to(dtype)
    yield wide[:, 1]  # rows apart
    yield wide[0].T  # columns first
    yield wide[::2, 0, 1::2]  # both
    yield wide[0, :1].expand(6, 200)  # the same row again and again
    strange = torch.randn(8, 70, generator=generator)
    strange[torch.rand(8, 70, generator=generator) < 0.2] = 0.0
    strange[0, 3], strange[1, 40], strange[2, 69], strange[3] = (
        torch.nan,
        torch.inf,
        -torch.inf,
        -0.0,
    )
    yield strange.to(dtype)
    yield (torch.randn(4, 64, generator=generator) * torch.finfo(dtype).tiny).to(dtype)


def _assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found[:, :6], expected[:, :6]), "counts differ"
    np.testing.assert_allclose(found[:, 6:].numpy(), expected[:, 6:].numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rule", SCALE_RULES)
def test_the_cpu_kernel_agrees_with_the_reference(
    rule: str, rounding: str, dtype: torch.dtype
) -> None:
    spec = parse_spec(f"mxfp4:{rule}")
    for x in battery(dtype):
        keys = torch.arange(len(x)) * 7_919_000_011 - 3
        expected = row_sums(x, spec, rounding, keys, kernel="eager")
        _assert_same(row_sums(x, spec, rounding, keys, kernel="cpu"), expected)


def _gpu_agrees(rule: str, rounding: str, dtype: torch.dtype) -> None:
    spec = parse_spec(f"mxfp4:{rule}")
    for x in battery(dtype):
        _assert_same(
            row_sums(x, spec, rounding, kernel="gpu"), row_sums(x, spec, rounding, kernel="eager")
        )
    assert not gpu._given_up, "the reference stood in for the compiled kernel"


@needs_compiler
def test_the_gpu_kernel_agrees_on_the_compilers_cpu_back_end() -> None:
    x = torch.randn(33, 100, generator=torch.Generator().manual_seed(3)).bfloat16()
    x[3, 5], x[4, 6] = torch.nan, -torch.inf
    spec = parse_spec("mxfp4:rceil")
    for part in (x, x[:20, :70]):
        expected = row_sums(part, spec, "stochastic", kernel="eager")
        _assert_same(row_sums(part, spec, "stochastic", kernel="gpu"), expected)
    assert not gpu._given_up, "the reference stood in for the compiled kernel"


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rule", SCALE_RULES)
def test_the_gpu_kernel_agrees_on_the_whole_battery(
    rule: str, rounding: str, dtype: torch.dtype
) -> None:
    _gpu_agrees(rule, rounding, dtype)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_what_the_gpu_kernel_compiles_is_one_graph(
    rounding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step of the reference waits for the device or depends on the data: traced in one piece."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda run, **_: compile_(run, backend="eager", fullgraph=True)
    )
    gpu._compiled.cache_clear()
    try:
        for rule in SCALE_RULES:
            spec = parse_spec(f"mxfp4:{rule}")
            x = torch.randn(5, 70)
            expected = row_sums(x, spec, rounding, kernel="eager")
            with torch.no_grad():
                found = gpu._compiled(spec, rounding)(x, torch.arange(5))
            _assert_same(found, expected)
    finally:
        gpu._compiled.cache_clear()
        torch.compiler.reset()


def test_where_compiling_fails_the_reference_takes_over_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> object:
        raise RuntimeError("no Triton here\nand more lines")

    monkeypatch.setattr(gpu, "_compiled", lambda *_: fail)
    monkeypatch.setattr(gpu, "_given_up", False)
    x, spec = torch.randn(3, 40), parse_spec("mxfp4")
    with pytest.warns(RuntimeWarning, match="eager kernel measures instead: no Triton here$"):
        found = row_sums(x, spec, kernel="gpu")
    assert torch.equal(found, row_sums(x, spec, kernel="eager"))


def test_running_out_of_memory_is_not_taken_for_a_failed_compilation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> object:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "_compiled", lambda *_: fail)
    monkeypatch.setattr(gpu, "_given_up", False)
    with pytest.raises(torch.OutOfMemoryError):
        row_sums(torch.randn(3, 40), parse_spec("mxfp4"), kernel="gpu")
    assert not gpu._given_up


def test_the_reference_quantizes_every_dtype_alike() -> None:
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(5)).bfloat16()
    x = x.half().bfloat16()  # now every value is the same in all three
    keys = torch.arange(20)
    outcomes = [eager.quantize(x.to(each), parse_spec("mxfp4"), "even", keys) for each in DTYPES]
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])
