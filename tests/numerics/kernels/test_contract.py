"""The signature that all kernels share: what it takes, what it refuses, what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator

import oracle
import pytest
import torch

from srdd.errors import UsageError
from srdd.numerics.formats import SCALE_RULES, parse_spec
from srdd.numerics.kernels import DTYPES, compiling, cpu, cpu_rows, kernel_name, row_sums
from srdd.numerics.sums import FIELDS

SPEC = parse_spec("mxfp4")
LARGE = (1500, 700)
"""Several of the pieces that threads take."""


@pytest.fixture
def threads() -> Iterator[None]:
    """Put torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_columns_are_the_fields_of_sums() -> None:
    assert FIELDS == oracle.FIELDS
    assert row_sums(torch.ones(2, 3), SPEC).shape == (2, len(FIELDS))


@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "gpu"), ("xpu", "eager")])
def test_the_device_chooses_the_kernel(device: str, name: str) -> None:
    assert kernel_name(torch.device(device)) == name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ["eager", "cpu"])
def test_the_result_is_float64_and_detached(kernel: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, dtype=dtype, requires_grad=True)
    sums = row_sums(x, SPEC, kernel=kernel)
    assert sums.dtype == torch.float64
    assert not sums.requires_grad


@pytest.mark.parametrize(
    ("shape", "message"), [((), "0 dimensions"), ((5,), "1 dim"), ((2, 3, 4), "shape (2, 3, 4)")]
)
def test_other_than_two_dimensions_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        row_sums(torch.zeros(shape), SPEC)
    assert message in caught.value.message
    assert "reshape" in caught.value.hint


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.complex64])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError) as caught:
        row_sums(torch.zeros(2, 3, dtype=dtype), SPEC)
    assert caught.value.message == f"x is {str(dtype)[6:]}, which has no kernel"
    assert "float32" in caught.value.hint


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown kernel 'gpuu'") as caught:
        row_sums(torch.zeros(2, 3), SPEC, kernel="gpuu")
    assert caught.value.hint.startswith("choose from: gpu,")


@pytest.mark.parametrize(
    "keys", [torch.arange(3), torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)]
)
def test_keys_that_do_not_name_the_rows_are_refused(keys: torch.Tensor) -> None:
    with pytest.raises(UsageError) as caught:
        row_sums(torch.zeros(2, 3), SPEC, "stochastic", keys)
    assert "one int64 key for each row" in caught.value.hint


def test_the_cpu_kernel_refuses_another_devices_tensor() -> None:
    with pytest.raises(UsageError) as caught:
        row_sums(torch.zeros(2, 3, device="meta"), SPEC, kernel="cpu")
    assert "meta" in caught.value.message
    assert ".cpu()" in caught.value.hint


@pytest.mark.parametrize("rounding", ["even", "stochastic"])
def test_the_number_of_threads_changes_nothing(threads: None, rounding: str) -> None:
    x = torch.randn(LARGE)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(row_sums(x, SPEC, rounding, kernel="cpu"))
    assert x.numel() > 2 * cpu_rows.CHUNK
    assert torch.equal(results[0][:, :6], row_sums(x, SPEC, rounding, kernel="eager")[:, :6])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_it_can_be_called_from_several_threads_at_once(threads: None) -> None:
    torch.set_num_threads(2)
    x = torch.randn(LARGE)
    expected = row_sums(x, SPEC, kernel="cpu")
    found: list[bool] = []

    def call() -> None:
        found.extend(torch.equal(row_sums(x, SPEC, kernel="cpu"), expected) for _ in range(5))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [True] * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_works_in_the_fork_of_a_process_that_used_it(threads: None) -> None:
    torch.set_num_threads(2)
    x = torch.randn(1500, 704)  # whole blocks: to pad, torch would start its own threads
    expected = row_sums(x, SPEC, kernel="cpu")
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = bool((row_sums(x, SPEC, kernel="cpu").numpy() == expected.numpy()).all())
        finally:
            os._exit(0 if same else 1)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child did not finish within 30 seconds")


def test_a_new_shape_compiles_nothing() -> None:
    row_sums(torch.randn(3, 40), SPEC, kernel="cpu")
    before = cpu._kernel.cache_info().misses
    for shape in ((4, 40), (1, 1), (70, 129), (2, 4096)):
        for rule in SCALE_RULES:
            row_sums(torch.randn(shape), parse_spec(f"mxfp4:{rule}"), kernel="cpu")
    assert cpu._kernel.cache_info().misses == before


def test_a_block_too_long_for_its_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="block of 256"):
        cpu._kernel(256, 0, torch.float32)


def test_without_a_place_to_cache_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, refused = compiling.compiled, []

    def refuse(*signature: object, cache: bool = False, **options: object) -> object:
        if cache:
            refused.append(signature)
            raise RuntimeError("cannot cache function 'run': no locator available")
        return compiled(*signature, **options)

    monkeypatch.setattr(compiling, "compiled", refuse)
    fresh = cpu._kernel.__wrapped__(32, 0, torch.float32)
    assert refused
    monkeypatch.setattr(cpu, "_kernel", lambda *_: fresh)
    x = torch.randn(3, 40)
    assert torch.equal(
        row_sums(x, SPEC, kernel="cpu")[:, :6], row_sums(x, SPEC, kernel="eager")[:, :6]
    )


def test_compiling_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compiling.compiled
    monkeypatch.setattr(
        compiling,
        "compiled",
        lambda *signature, cache=False, **options: compiled(*signature, **options),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cpu._kernel.__wrapped__(32, 3, torch.bfloat16)
    assert [str(each.message) for each in caught] == []


def _imports(code: str) -> bool:
    """Whether `code` imports numba."""
    script = f"import sys\n{code}\nprint('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return run.stdout.strip() == "True"


def test_numba_is_imported_only_where_it_is_used() -> None:
    measure = "import torch, srdd.numerics.kernels as k, srdd.numerics.formats as f\n"
    call = "k.row_sums(torch.ones(1, 1), f.parse_spec('mxfp4'), kernel='{}')"
    assert not _imports(measure + call.format("eager"))
    assert _imports(measure + call.format("cpu"))
