"""Errors of products, with operands quantized by the independent oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from srdd.measurement.plan import Plan
from srdd.measurement.products import product_sums
from srdd.model.linears import Weight
from srdd.numerics import sums
from srdd.numerics.formats import parse_spec


@pytest.mark.parametrize("rule", ["floor", "even", "ceil", "rceil"])
def test_operands_are_quantized_as_the_oracle_does(rule: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x, w = torch.randn(5, 80, generator=generator), torch.randn(24, 80, generator=generator)
    spec = parse_spec(f"mxfp4:{rule}")
    found = product_sums(x, Weight(0, "w", w, False), Plan.of(formats=str(spec)), None)
    plain = [t.double().numpy() for t in (x, w)]
    xq, wq = (oracle.quantize(t, rule).y for t in plain)
    y = plain[0] @ plain[1].T
    others = {"weight": plain[0] @ wq.T, "input": xq @ plain[1].T, "both": xq @ wq.T}
    for operands, other in others.items():
        total = dict(zip(sums.FIELDS, found[spec, operands].sum(0).tolist(), strict=True))
        assert total["e2"] == pytest.approx(((other - y) ** 2).sum(), rel=1e-5)
        assert total["abs_e"] == pytest.approx(np.abs(other - y).sum(), rel=1e-5)
