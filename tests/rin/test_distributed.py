"""Two processes on the CPU: noise in a model that is spread over them is that in a whole one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import two_processes

Found = dict[str, Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, two_processes.__file__, str(folder)],
            env=os.environ
            | where
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        try:
            _, said = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == 0, said[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> Found:
    """The same in this process, with a whole model."""
    return two_processes.what_happens(two_processes.model())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in a if not torch.equal(a[name], b[name])}


SPREAD = ("sharded", "accelerated")


@pytest.mark.parametrize("how", SPREAD)
@pytest.mark.parametrize("what", ["norms", "linears"])
def test_every_part_of_the_noise_is_that_of_the_whole_model(
    both: list[Found], alone: Found, how: str, what: str
) -> None:
    config = two_processes.norms() if what == "norms" else two_processes.linears()
    names = {m.name for entry in config.layers for m in entry.modules}
    assert different(alone[what], alone["clean"]) == names
    for found in both:
        assert equal(found[how][what], alone[what])
        assert found[how][f"{what} energy"] == alone[f"{what} energy"]


@pytest.mark.parametrize("how", SPREAD)
@pytest.mark.parametrize("what", ["norms", "linears"])
def test_the_model_computes_with_the_noise_and_afterwards_without(
    both: list[Found], alone: Found, how: str, what: str
) -> None:
    noisy, clean = alone[f"{what} logits"], alone["clean logits"]
    assert not torch.allclose(noisy, clean, atol=1e-3)
    for found in both:
        assert torch.allclose(found[how]["clean logits"], clean, atol=1e-5)
        assert torch.allclose(found[how][f"{what} logits"], noisy, atol=1e-5)
        assert torch.equal(found[how][f"after {what} logits"], found[how]["clean logits"])
        assert equal(found[how][f"after {what}"], alone["clean"])


@pytest.mark.parametrize("how", SPREAD)
def test_training_under_noise_comes_out_as_with_the_whole_model(
    both: list[Found], alone: Found, how: str
) -> None:
    assert different(alone["trained"], alone["clean"])
    for found in both:
        for name, weight in found[how]["trained"].items():
            assert torch.allclose(weight, alone["trained"][name], atol=1e-5), name


@pytest.mark.parametrize("how", SPREAD)
def test_an_update_inside_is_an_error_and_undone(both: list[Found], alone: Found, how: str) -> None:
    for found in (alone, *(each[how] for each in both)):
        assert "was changed while it carried noise" in found["update inside"]
        norms = {m.name for e in two_processes.norms().layers for m in e.modules}
        assert not different(found["after update inside"], found["trained"]) & norms


def test_each_process_adds_its_part_and_the_parts_make_the_whole(
    both: list[Found], alone: Found
) -> None:
    for what in ("norms", "linears"):
        parts = [found["sharded"][f"{what} realised"] for found in both]
        assert sum(parts) == pytest.approx(alone[f"{what} realised"], rel=1e-6)
        assert all(0.1 < part / sum(parts) < 0.9 for part in parts)


def test_a_linear_that_is_cut_by_columns_gets_the_same_noise(
    both: list[Found], alone: Found
) -> None:
    for found in both:
        assert equal(found["by columns"]["linears"], alone["linears"])


def test_the_trainers_processes_train_one_model_under_one_noise(both: list[Found]) -> None:
    first, second = (found["trained"] for found in both)
    assert equal(first["weights"], second["weights"])
    assert first["energies"] == second["energies"]
    assert first["energies"][0] > 0
    logged = [entry["rin/energy"] for entry in first["log"] if "rin/energy" in entry]
    assert len(logged) == 4


def test_the_older_fsdp_is_refused_with_the_way_out(both: list[Found]) -> None:
    for found in both:
        assert "FullyShardedDataParallel, which flattens weights" in found["flattened"]
