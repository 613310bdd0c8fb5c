"""How rows reach the compiled kernels: shared by threads, searched, and rotated to the last bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import DTYPES, cpu_rotation, cpu_rows, rotation, row_sums, threads
from srdd.numerics.kernels.compiling import as_words

CHANNELS = 2048


def _strange(dtype: torch.dtype, rows: int = 24, channels: int = CHANNELS) -> torch.Tensor:
    """Every magnitude up to overflow when added up, subnormals, zeros, and what is not finite."""
    generator = torch.Generator().manual_seed(11)
    most = torch.finfo(dtype).max
    x = torch.randn(rows, channels, generator=generator)
    x[1] *= torch.finfo(dtype).tiny
    x[2] *= torch.finfo(dtype).smallest_normal * 2.0**-5
    x[3] = most
    x[4] = torch.where(x[4] < 0, -most, most)
    x[5, ::3] = -0.0
    x[6] *= 2.0 ** torch.randint(-14, 14, (channels,), generator=generator)
    x[7, 5], x[7, 700], x[8, 900] = torch.nan, torch.inf, -torch.inf
    x[9, 40], x[9, 41] = torch.inf, torch.inf
    return x.to(dtype)


def _fused_rotation(x: torch.Tensor, size: int) -> torch.Tensor:
    rows, channels = x.shape
    z = np.zeros((rows, -(-channels // 16) * 16), np.float32)
    turn = cpu_rotation.kernel(size, x.dtype)
    turn(as_words(x), 0, x.stride(0), channels, cpu_rotation.flips(channels), z)
    assert not z[:, channels:].any()
    return torch.from_numpy(z[:, :channels].copy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 8, 16, 32, 256])
def test_the_fused_rotation_is_the_reference_to_the_last_bit(size: int, dtype: torch.dtype) -> None:
    for channels in (CHANNELS, 256 + size):
        if channels % size:
            continue
        x = _strange(dtype, channels=CHANNELS)[:, :channels]
        expected, found = rotation.rotate(x, size), _fused_rotation(x, size)
        assert torch.equal(found.isfinite(), expected.isfinite())
        finite = expected.isfinite()
        assert finite.any()
        assert not finite.all()
        assert torch.equal(
            found[finite].abs().view(torch.int32), expected[finite].abs().view(torch.int32)
        )
        assert torch.equal(found[finite], expected[finite])


@pytest.mark.parametrize(
    "spec",
    [
        "mxfp4+hadamard2",
        "mxfp4+hadamard32:rceil",
        "nvfp4+hadamard8:tensor",
        "nvfp4+hadamard32",
        "int4_g128+hadamard32",
        "int8_token+hadamard256",
    ],
)
def test_rotated_formats_agree_with_the_reference(spec: str) -> None:
    """Rows in several chunks, the last a short one, of lengths that are no whole blocks."""
    wide = _strange(torch.bfloat16, 700, 1024)
    parsed = parse_spec(spec)
    for x in (wide, wide[:300, :256], wide[::3, :768], wide[3:4].expand(6, 1024), wide[:1]):
        expected = row_sums(x, parsed, kernel="eager")
        found = row_sums(x, parsed, kernel="cpu")
        assert torch.equal(found[:, :6], expected[:, :6])
        np.testing.assert_allclose(found[:, 6:].numpy(), expected[:, 6:].numpy(), rtol=1e-6)
    if parsed.format.rotation == 32:
        x = torch.cat([wide[:, 100:260]] * 2)
        expected = row_sums(x, parsed, "stochastic", kernel="eager")
        found = row_sums(x, parsed, "stochastic", kernel="cpu")
        assert torch.equal(found[:, :6], expected[:, :6])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_is_that_of_the_finite_values(dtype: torch.dtype) -> None:
    x = _strange(dtype)
    for part in (x, x[:1], x[2:3], x[5:6, ::3], x[:0], x[:, :0]):
        part = part.contiguous()
        finite = torch.where(part.isfinite(), part.abs(), 0).float()
        assert cpu_rows.largest(part) == (finite.max().item() if part.numel() else 0)
    z = rotation.rotate(x, 32)
    assert cpu_rows.largest(x, 32) == z.where(z.isfinite(), 0).abs().max().item()


def test_the_largest_magnitude_is_found_in_any_chunk() -> None:
    for row in (0, 511, 700, 999):
        x = torch.full((1000, 512), -0.25)
        x[row, 511] = -3
        assert cpu_rows.largest(x) == 3


def test_every_start_is_taken_once_and_the_calls_are_spread_over_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    taken: list[int] = []
    together = threading.Barrier(3)

    def work(mine: Iterator[int]) -> None:
        for place, start in enumerate(mine):
            taken.append(start)
            if place == 0:
                together.wait(timeout=30)  # until three calls have something to do

    try:
        threads.share(work, range(0, 1000, 7))
    finally:
        torch.set_num_threads(before)
    assert sorted(taken) == list(range(0, 1000, 7))


def test_what_a_thread_raises_is_raised() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    here = threading.get_ident()
    begun = threading.Event()

    def work(mine: Iterator[int]) -> None:
        for _ in mine:
            if threading.get_ident() != here:
                begun.set()
                raise MemoryError("in a helper")
            assert begun.wait(timeout=30)

    try:
        with pytest.raises(MemoryError, match="in a helper"):
            threads.share(work, range(4))
    finally:
        torch.set_num_threads(before)
