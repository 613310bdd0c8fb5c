"""Direct measurement of changes: replaying from a layer on gives what whole passes give."""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn

from srdd.documents.records import REPLICATES, replicate_of
from srdd.measurement import forward
from srdd.model.selection import Selection, matches, only
from srdd.model.structure import find_structure
from srdd.prompts.batches import TokenizedPrompts, make_batches
from srdd.simulation import predictions
from srdd.simulation.direct import Change, measure_directly
from srdd.simulation.replay import Replay
from srdd.simulation.simulator import simulate

IDS = tuple(
    tuple(int(n) for n in torch.randint(3, 264, (length,), generator=torch.manual_seed(length)))
    for length in (5, 12, 9, 2, 17)
)
PROMPTS = TokenizedPrompts(
    source="test",
    index=tuple(range(len(IDS))),
    ids=IDS,
    truncated=0,
    left_out=(),
)


def whole_passes(model: nn.Module, change: Change) -> np.ndarray:
    """KL of each group of prompts, from runs of the whole model."""
    sums = np.zeros(REPLICATES)
    groups = [replicate_of(name) for name in PROMPTS.fingerprints]
    with torch.no_grad():
        for batch in make_batches(PROMPTS):
            plain = forward.logits_of(model, batch, torch.device("cpu"))
            with simulate(
                model,
                change.format if change.operands != "input" else None,
                change.format if change.operands != "weight" else None,
                include=[change.tensor or "*"],
            ):
                moved = forward.logits_of(model, batch, torch.device("cpu"))
            kl = predictions.sums(plain, moved, batch)[:, 2].numpy()
            np.add.at(sums, [groups[number] for number in batch.index], kl)
    return sums


def changes_of(model: nn.Module) -> list[Change]:
    structure = find_structure(model)
    last = structure.layers[-1]
    names = [(0, structure.layers[0].linears[0].name), (2, last.linears[-1].name)]
    if last.stacked:
        names.append((2, f"{last.stacked[0]}.down_proj"))
    some = [Change(name, layer, "mxfp4:floor", "both") for layer, name in reversed(names)]
    return [
        *some,
        Change(names[1][1], 2, "nvfp4:token", "weight"),
        Change(names[1][1], 2, "mxfp4:floor", "input"),
        Change(None, 0, "mxfp4:floor", "both"),
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "falcon", "bloom", "gemma3_text"])
def test_replaying_gives_what_whole_passes_give(family: str, hooks_of: Any) -> None:
    model = families.shared(family)
    changes = changes_of(model)
    found = measure_directly(model, find_structure(model), PROMPTS, changes)
    for change in changes:
        assert found[change] == pytest.approx(whole_passes(model, change), rel=1e-3, abs=1e-9)
    assert hooks_of(model) == []
    assert not any("forward" in module.__dict__ for module in model.modules())


class Twice(nn.Module):
    """A model that runs its layers twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.layers = inner.model.layers

    def forward(self, input_ids: torch.Tensor, **named: Any) -> Any:
        first = self.inner(input_ids=input_ids, **named).logits
        return self.inner(input_ids=first.argmax(-1), **named)


def test_a_model_that_runs_its_layers_twice_takes_whole_passes() -> None:
    model = Twice(families.shared("llama"))
    change = Change("inner.model.layers.2.mlp.up_proj", 2, "mxfp4:floor", "both")
    structure = find_structure(model)
    replay = Replay(model, [layer.module for layer in structure.layers], torch.device("cpu"))
    assert not replay.works(make_batches(PROMPTS)[0])
    found = measure_directly(model, structure, PROMPTS, [change])
    assert found[change] == pytest.approx(whole_passes(model, change), rel=1e-3)


def test_all_selected_linears_change_where_no_tensor_is_named() -> None:
    model = families.shared("llama")
    change = Change(None, 0, "mxfp4:floor", "both")
    part = measure_directly(
        model, find_structure(model), PROMPTS, [change], selection=Selection(("down_proj",))
    )
    whole = measure_directly(model, find_structure(model), PROMPTS, [change])
    assert 0 < part[change].sum() < whole[change].sum()


def test_a_pattern_for_one_name_fits_no_longer_one() -> None:
    assert matches("layers.1.mlp.gate", only("layers.1.mlp.gate"))
    assert not matches("layers.1.mlp.gate_proj", only("layers.1.mlp.gate"))
