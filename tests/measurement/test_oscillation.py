"""Flipped codes of two checkpoints against loops over values, and closed forms."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from cli.test_eval import Command, srdd  # noqa: F401
from safetensors.torch import load_file, save_file

from srdd.documents.oscillation import Oscillation, rows_of, shares
from srdd.errors import InputError
from srdd.measurement import oscillation
from srdd.measurement.oscillation import measure_oscillation
from srdd.numerics import kernels
from srdd.numerics.formats import parse_spec

GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def nudged(folder: Path, to: Path, size: float, seed: int = 0) -> Path:
    """A copy of a checkpoint with all weights moved at random."""
    shutil.copytree(folder, to)
    file = to / "model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: value + size * torch.randn(value.shape, generator=generator)
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return to


def code(value: float, scale: float) -> float:
    """The nearest element, ties to the even one, by looking at all of them."""
    v = abs(value) / scale
    best = min(range(len(GRID)), key=lambda n: (abs(GRID[n] - v), n % 2))
    return math.copysign(GRID[best], value)


def by_hand(old: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """FIELDS of two matrices in mxfp4:floor, value by value."""
    sums = dict.fromkeys(oscillation.FIELDS, 0.0)
    for before, after in zip(old, new, strict=True):
        for start in range(0, len(before), 32):
            one, other = before[start : start + 32], after[start : start + 32]
            scales = [
                2.0 ** (math.floor(math.log2(max(map(abs, block)))) - 2) for block in (one, other)
            ]
            sums["blocks"] += 1
            sums["rescaled"] += scales[0] != scales[1]
            for a, b in zip(map(float, one), map(float, other), strict=True):
                codes = code(a, scales[0]), code(b, scales[1])
                sums["values"] += 1
                sums["flipped"] += codes[0] != codes[1]
                sums["changed"] += codes[0] * scales[0] != codes[1] * scales[1]
                v = abs(a) / scales[0]
                distance = scales[0] * (0.5 if v < 2 else 1.0 if v < 4 else 2.0)
                sums["expected"] += min(1.0, abs(b - a) / distance)
                sums["moved2"] += (b - a) ** 2
                sums["norm2"] += a**2
    return sums


@pytest.fixture(scope="module")
def pair(saved_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return saved_once, nudged(saved_once, tmp_path_factory.mktemp("new") / "new", 0.003)


def test_counts_are_those_of_loops_over_values(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oscillation, "SLICE", 32 * 5)  # several slices a tensor
    found = measure_oscillation(*map(str, pair))
    old, new = (load_file(folder / "model.safetensors") for folder in pair)
    names = {w.tensor for w in found.weights}
    assert names == {n.removesuffix(".weight") for n in old if "layers" in n and old[n].ndim == 2}
    for weight in found.weights[:4]:
        name = f"{weight.tensor}.weight"
        expected = by_hand(old[name].numpy(), new[name].numpy())
        for field, value in expected.items():
            assert getattr(weight, field) == pytest.approx(value, rel=1e-6), (name, field)
        assert 0 < weight.flipped < weight.values
    whole = shares(found.weights)
    for by in ("layer", "kind", "tensor"):
        rows = rows_of(found, by)
        assert sum(row["values"] * row["flipped"] for row in rows) == pytest.approx(
            whole["values"] * whole["flipped"]
        )


def test_values_anywhere_between_codes_flip_as_expected_and_those_at_boundaries_more() -> None:
    spec = parse_spec("mxfp4:floor")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 32, generator=generator) * 4 - 2
    x[:, 0] = 4.0  # keeps the scale at 1
    move = 0.05 * torch.randn(x.shape, generator=generator)
    move[:, 0] = 0
    sums = dict(zip(oscillation.FIELDS, oscillation._sums(x, x + move, spec).tolist(), strict=True))
    assert sums["rescaled"] == 0
    assert sums["flipped"] / sums["expected"] == pytest.approx(1, abs=0.05)
    near = x.clone()
    near[:, 1:] = 0.25 + 0.01 * torch.randn(2000, 31, generator=generator)  # a boundary
    sums = dict(
        zip(oscillation.FIELDS, oscillation._sums(near, near + move, spec).tolist(), strict=True)
    )
    assert sums["flipped"] / sums["expected"] > 3


def test_weights_stored_by_input_are_cut_along_their_inputs(tmp_path: Path) -> None:
    old = tmp_path / "old"
    families.new("gpt2").save_pretrained(old)
    new = nudged(old, tmp_path / "new", 0.003)
    found = measure_oscillation(str(old), str(new))
    weight = next(w for w in found.weights if w.tensor.endswith("c_attn"))
    a, b = (load_file(f / "model.safetensors")[f"{weight.tensor}.weight"] for f in (old, new))
    expected = by_hand(a.t().numpy(), b.t().numpy())
    assert weight.flipped == expected["flipped"] != by_hand(a.numpy(), b.numpy())["flipped"]


def test_codes_give_the_values_that_a_tensor_is_read_back_as() -> None:
    x = torch.randn(7, 70)
    for name in ("mxfp4:even", "nvfp4:token", "int4_g32", "mxfp8_e4m3"):
        spec = parse_spec(name)
        scale, _, q, _ = kernels.codes(x, spec)
        y = (q * scale).flatten(1)[:, :70].float()
        torch.testing.assert_close(y, kernels.quantize(x, spec, "even", torch.arange(7)))


def test_a_checkpoint_beside_itself_and_what_cannot_be_compared(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    same = measure_oscillation(str(pair[0]), str(pair[0]))
    assert shares(same.weights)["flipped"] == 0
    assert shares(same.weights)["ratio"] is None
    other = tmp_path / "other"
    shutil.copytree(pair[1], other)
    tensors = load_file(other / "model.safetensors")
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    tensors[name] = tensors[name][:8].clone()
    del tensors[name.replace("q_proj", "k_proj")]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    found = measure_oscillation(str(pair[0]), str(other))
    reasons = {each.tensor: each.reason for each in found.left_out}
    assert reasons[name].startswith("of shape")
    assert reasons[name.replace("q_proj", "k_proj")] == "only in OLD"
    save_file({"lm_head.weight": torch.zeros(2, 2)}, other / "model.safetensors")
    with pytest.raises(InputError, match="no weight of a linear to compare"):
        measure_oscillation(str(pair[0]), str(other))


def test_the_command(
    srdd: Command,  # noqa: F811
    pair: tuple[Path, Path],
) -> None:
    told = srdd("compare", *pair)
    assert told.code == 0, told.err
    assert "weights have another code in mxfp4:floor" in " ".join(told.out.split())
    assert "Codes of weights that flipped" in told.out
    told = srdd("compare", *pair, "--by", "kind", "--format", "nvfp4", "-o", "flips.json")
    assert told.code == 0, told.err
    assert Oscillation.load("flips.json").format == "nvfp4:token"
    told = srdd("compare", *pair, "--as", "csv", "--by", "tensor")
    assert told.out.startswith("layer,tensor,values,flipped,expected,ratio")
    assert srdd("compare", *pair, "--as", "markdown").out.count("|") > 20
    message, _ = srdd.fails("compare", *pair, "--fail-on", "sqnr_db < 1")
    assert message == "of two model folders only codes of weights are compared"
    message, _ = srdd.fails("compare", pair[0], pair[0])
    assert "are the same folder" in message
    assert json.loads(srdd("schema", "oscillation").out)["title"] == "Oscillation"
