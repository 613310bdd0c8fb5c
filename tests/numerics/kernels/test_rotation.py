"""The rotation of `+hadamardN`: an orthonormal change of basis, and which figures see it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import srdd
from srdd.errors import UsageError
from srdd.numerics.floors import floor_of
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import rotation, row_sums
from srdd.numerics.sums import INDEX


def _tensor(rows: int = 20, channels: int = 128) -> torch.Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("size", [2, 16, 32, 128])
def test_it_is_hadamards_matrix_after_a_sign_for_each_column(size: int) -> None:
    matrix = rotation.rotate(torch.eye(128), size).double().numpy().T
    signs = np.sign(matrix[0::size].sum(0))  # the first row of every block is all ones
    hadamard = np.kron(np.eye(128 // size), scipy.linalg.hadamard(size)) / math.sqrt(size)
    np.testing.assert_allclose(matrix, hadamard * signs, atol=1e-7)
    assert 40 < (signs > 0).sum() < 88


@pytest.mark.parametrize("size", [2, 32, 128])
def test_turning_back_gives_what_was_there(size: int) -> None:
    x = _tensor()
    there_and_back = rotation.unrotate(rotation.rotate(x, size), size)
    np.testing.assert_allclose(there_and_back.numpy(), x.numpy(), atol=2e-6)


@pytest.mark.parametrize(
    "spec", ["mxfp4+hadamard32:even", "nvfp4+hadamard16", "int8_token+hadamard128"]
)
def test_the_errors_energy_is_the_same_in_both_bases(spec: str) -> None:
    x = _tensor()
    y = srdd.fake_quantize(x, spec)
    e2 = (y.double() - x.double()).square().sum().item()
    found = srdd.measure(x, spec)
    assert found["sqnr_db"] == pytest.approx(
        10 * math.log10(x.double().square().sum().item() / e2), abs=1e-3
    )


@pytest.mark.parametrize("kernel", ["eager", "cpu"])
def test_what_is_counted_is_counted_on_the_rotated_values(kernel: str) -> None:
    x = _tensor()
    found = row_sums(x, parse_spec("mxfp4+hadamard32"), kernel=kernel)
    assert torch.equal(found, row_sums(rotation.rotate(x, 32), parse_spec("mxfp4"), kernel=kernel))


def test_an_outlier_costs_less_when_it_is_rotated() -> None:
    x = _tensor()
    x[:, ::32] *= 100
    plain, rotated = (srdd.measure(x, name) for name in ("mxfp4", "mxfp4+hadamard32"))
    assert rotated["deadzone"] < plain["deadzone"] / 2


def test_a_rows_result_does_not_depend_on_its_batch() -> None:
    x, spec = _tensor(), parse_spec("mxfp4+hadamard64")
    apart = torch.cat([row_sums(row[None], spec) for row in x])
    assert torch.equal(row_sums(x, spec), apart)


def test_a_nonfinite_value_takes_its_group_with_it_and_no_other() -> None:
    x = _tensor(1)
    x[0, 40], x[0, 41] = torch.nan, torch.inf
    sums = row_sums(x, parse_spec("mxfp4+hadamard32"))[0]
    assert (sums[INDEX["nonfinite"]], sums[INDEX["elements"]]) == (32, 96)
    y = srdd.fake_quantize(x, "mxfp4+hadamard32")
    assert torch.equal(y[0, 32:64].nan_to_num(5), x[0, 32:64].nan_to_num(5))
    assert y[0, :32].isfinite().all()


@pytest.mark.parametrize("call", [srdd.fake_quantize, srdd.measure])
def test_rows_that_are_not_whole_groups_are_refused(call) -> None:
    with pytest.raises(UsageError) as caught:
        call(_tensor(2, 100), "mxfp4+hadamard32")
    assert caught.value.message == "rows of 100 values cannot be rotated in groups of 32"
    assert caught.value.hint == "choose a power of two that divides 100, or mxfp4"


def test_a_rotated_format_has_the_floor_of_the_format() -> None:
    assert floor_of(parse_spec("mxfp4+hadamard32:even")) == floor_of(parse_spec("mxfp4:even"))
    found = srdd.measure(_tensor(500, 1024), "mxfp4+hadamard32")
    assert found["sqnr_db"] == pytest.approx(floor_of(parse_spec("mxfp4")).sqnr_db, abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mxfp4+hadamard33", "unknown rotation 'hadamard33' of mxfp4"),
        ("mxfp4+", "unknown rotation '' of mxfp4"),
        ("mxfp4+hadamard032", "unknown rotation 'hadamard032' of mxfp4"),
        ("mxfp5+hadamard32", "unknown format 'mxfp5'"),
        ("mxfp4+hadamard32:up", "unknown scale rule for mxfp4+hadamard32 'up'"),
    ],
)
def test_a_wrong_rotation_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert caught.value.message == message


def test_a_rotated_formats_name_reads_back() -> None:
    assert str(parse_spec("mxfp4+hadamard32")) == "mxfp4+hadamard32:floor"
