"""Capture: inputs that cannot be matched with tokens, rows that do not count, random draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn

from srdd.measurement.capture import Capture, Point
from srdd.measurement.plan import Plan
from srdd.measurement.scanner import scan_model
from srdd.measurement.tallies import NOT_COUNTED
from srdd.numerics.sums import INDEX

PROMPTS = ["one two three", "a somewhat longer prompt than the first", "x = 1"]


class Routed(nn.Module):
    """Two linears that read the same routed rows: the first `rows` tokens of the batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.gate, self.up = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = x.reshape(-1, 32)[: self.rows]
        return self.gate(chosen) * self.up(chosen)


def captured(module: nn.Module, site: str, *batches: torch.Tensor) -> Capture:
    points = [Point(0, site, name, inner) for name, inner in module.named_children()]
    capture = Capture(points, Plan.of())
    with torch.no_grad(), capture.hooked():
        for x in batches:
            with capture.batch(torch.zeros(x.shape[:2], dtype=torch.int64)):
                module(x)
    return capture


def test_all_readers_of_an_input_that_cannot_be_matched_are_named() -> None:
    capture = captured(Routed(rows=3), "input", torch.randn(2, 5, 32))
    assert capture.measured() == []
    reasons = capture.not_measured()
    assert set(reasons) == {("gate", "input"), ("up", "input")}
    assert len(set(reasons.values())) == 1
    assert "cannot be matched with tokens" in reasons["up", "input"]


@pytest.mark.parametrize("site", ["input", "linear"])
def test_what_fits_by_chance_in_some_batches_has_no_figures(site: str) -> None:
    capture = captured(Routed(rows=5), site, torch.randn(1, 5, 32), torch.randn(2, 5, 32))
    assert capture.measured() == []
    assert set(capture.not_measured()) == {("gate", site), ("up", site)}


@pytest.mark.parametrize("site", ["output", "input", "linear"])
def test_a_scale_over_the_tensor_is_not_taken_from_rows_that_do_not_count(site: str) -> None:
    linear = nn.Linear(64, 64, bias=False)
    x = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(3))
    figures = []
    for padding in (1.0, 1e9, float("nan")):
        x[:, -1] = padding
        capture = Capture([Point(0, site, "linear", linear)], Plan.of(formats="nvfp4:tensor"))
        replicates = torch.tensor([[0, 0, 0, 0, 0, NOT_COUNTED]])
        with torch.no_grad(), capture.hooked(), capture.batch(replicates):
            linear(x)
        figures.append(np.stack([one.replicates for one in capture.measured()]))
    np.testing.assert_array_equal(figures[1], figures[0])
    np.testing.assert_array_equal(figures[2], figures[0])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_padding_token_of_huge_embedding_changes_no_figure(
    batch_size: int, tokenizer: Any
) -> None:
    model = families.new("llama")
    embedding = model.get_input_embeddings()
    figures = []
    for scale in (1.0, 1e9):
        with torch.no_grad():
            embedding.weight[tokenizer.pad_token_id] = scale
        scan = scan_model(model, tokenizer, PROMPTS, formats="nvfp4:tensor", batch_size=batch_size)
        figures.append([record.metrics.sqnr_db for record in scan.records])
    assert figures[1] == pytest.approx(figures[0], abs=0.01)


def errors_of(capture_x: Callable[[Capture], None], points: list[Point]) -> list[np.ndarray]:
    capture = Capture(points, Plan.of(rounding="stochastic"))
    capture_x(capture)
    return [one.replicates[:, INDEX["e2"]] for one in capture.measured()]


def test_stochastic_rounding_draws_differ_between_tensors_of_a_layer() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 4), nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) + self.second(x.clone())

    module = Copies()
    points = [Point(0, "input", name, inner) for name, inner in module.named_children()]
    tokens = 64
    replicates = torch.arange(tokens).reshape(1, tokens)
    keys = torch.arange(tokens).reshape(1, tokens) * 7919

    def run(capture: Capture) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad(), capture.hooked(), capture.batch(replicates, keys):
            module(torch.randn(1, tokens, 64, generator=generator))

    first, second = errors_of(run, points)
    assert (first != second).all()
    again = errors_of(run, points)
    np.testing.assert_array_equal(again[0], first)  # a tensor's own draws repeat


def test_rows_that_do_not_count_do_not_count() -> None:
    module = nn.Sequential(nn.Linear(32, 32))
    capture = Capture([Point(0, "input", "0", module[0])], Plan.of())
    with torch.no_grad(), capture.hooked(), capture.batch(torch.tensor([[0, NOT_COUNTED]])):
        module(torch.randn(1, 2, 32))
    (one,) = capture.measured()
    assert one.replicates[:, INDEX["tokens"]].sum() == 1


def test_an_input_changed_in_place_is_measured_again() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            x.mul_(3)
            return y + self.second(x)

    capture = captured(InPlace(), "input", torch.randn(1, 5, 32))
    first, second = capture.measured()
    assert (first.tensor, first.shared_with) == ("first", ())
    energies = [one.replicates[:, INDEX["x2"]].sum() for one in (first, second)]
    assert energies[1] == pytest.approx(9 * energies[0], rel=1e-6)


def test_inputs_are_shared_in_inference_mode_too() -> None:
    with torch.inference_mode():
        capture = captured(Routed(rows=5), "input", torch.randn(1, 5, 32))
    (one,) = capture.measured()
    assert (one.tensor, one.shared_with) == ("gate", ("up",))
