"""Hooks never wait for the device. On the meta device every read of a value is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from srdd.measurement.capture import Capture, Point
from srdd.measurement.plan import Plan


class Block(nn.Module):
    """Two linears that read one tensor, and one that reads another."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(64, 96), nn.Linear(64, 96)
        self.down = nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.gate(x)) * self.up(x))


def run_on_meta(extra: Any = None) -> Capture:
    block = Block().to("meta")
    points = [Point(0, "output", "block", block)]
    points += [Point(0, "input", name, module) for name, module in block.named_children()]
    capture = Capture(points, Plan.of(formats=["mxfp4:floor", "mxfp4:even"]))
    if extra is not None:
        block.register_forward_hook(extra)
    rows = torch.zeros(2, 5, dtype=torch.int64)
    with torch.no_grad(), capture.hooked(), capture.batch(rows, rows):
        block(torch.zeros(2, 5, 64, device="meta"))
    return capture


def test_a_whole_batch_is_measured_without_reading_a_single_value() -> None:
    assert run_on_meta().not_measured() == {}


def test_the_test_above_can_fail() -> None:
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
        run_on_meta(lambda module, given, output: float(output.sum()))
