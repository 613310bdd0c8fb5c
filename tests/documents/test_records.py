"""Records: the floor that they are compared with, and warnings of few prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srdd.documents.records import REPLICATES, Measured, prompt_warnings, records_of, replicate_of
from srdd.numerics import histogram, sums
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import row_sums


def measured(x: torch.Tensor, spec: str, site: str = "input", operands: str | None = None):  # type: ignore[no-untyped-def]
    """What is measured of `x` (rows, channels), one row a prompt."""
    rows = row_sums(x, parse_spec(spec)).numpy()
    replicates = sums.new(REPLICATES)
    for place, row in enumerate(rows):
        replicates[place % REPLICATES] += row
    tokens = np.zeros(histogram.BINS, dtype=np.int64)
    return Measured(0, site, "proj", (), parse_spec(spec), replicates, tokens, 0, operands)


@pytest.mark.parametrize("width", [64, 896, 4096])
@pytest.mark.parametrize("spec", ["int8_token", "fp8_e4m3_token", "mxfp4"])
def test_normal_values_are_at_the_floor_whatever_the_width(spec: str, width: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(400_000 // width, width, generator=random)
    (record,) = records_of([measured(x, spec)], rounding="even")
    assert record.vs_floor_db == pytest.approx(0, abs=0.12)


def test_a_prompt_s_replicate_follows_from_its_fingerprint() -> None:
    assert replicate_of("00000000ff" + "a" * 54) == 0xFF % REPLICATES
    random = np.random.default_rng(0)
    places = [replicate_of(random.bytes(32).hex()) for _ in range(6400)]
    assert set(places) == set(range(REPLICATES))


def test_a_few_loud_prompts_are_a_warning() -> None:
    x = torch.ones(40, 32).mul(torch.rand(40, 1, generator=torch.Generator().manual_seed(0)) + 1)
    assert prompt_warnings([measured(x, "mxfp4")], 40) == []
    x[3] *= 1000
    (sentence,) = prompt_warnings([measured(x, "mxfp4")], 40)
    assert "worth 1.0 equal prompts" in sentence
    assert prompt_warnings([measured(x, "mxfp4", "weight")], 40) == []
    (sentence,) = prompt_warnings([measured(x[:8], "mxfp4")], 8)
    assert sentence.startswith("only 8 prompts")
