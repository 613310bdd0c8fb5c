"""Pooling: sums of several tensors add."""

from __future__ import annotations

import numpy as np
import pytest
from made_scans import made, rising, thorough

from srdd.documents.pool import POOLED, pool, pool_groups, pool_layers
from srdd.documents.scan import Scan
from srdd.errors import InputError

HOW = {"rounding": "even"}


@pytest.fixture(scope="module")
def scan() -> Scan:
    return thorough(rising(3), tensors=("up", "down"), site="input")


def test_layers_get_one_record_each_in_order(scan: Scan) -> None:
    pooled = pool_layers(reversed(scan.records), **HOW)
    assert [(r.layer, r.tensor) for r in pooled] == [(n, POOLED) for n in range(3)]


def test_sums_and_histograms_add(scan: Scan) -> None:
    members = [record for record in scan.records if record.layer == 1]
    one = pool(members, **HOW)
    assert one.sums is not None
    assert one.replicates is not None
    assert one.sums.elements == sum(r.sums.elements for r in members if r.sums)
    assert one.replicates.x2 == pytest.approx(
        np.sum([r.replicates.x2 for r in members if r.replicates], axis=0)
    )


def test_groups_pooled_together_are_those_pooled_alone(scan: Scan) -> None:
    groups = [[r for r in scan.records if r.layer == layer] for layer in range(3)]
    for together, group in zip(pool_groups(groups, **HOW), groups, strict=True):
        alone = pool(group, **HOW)
        for name, ends in alone.intervals or ():
            assert getattr(together.intervals, name) == pytest.approx(ends, rel=1e-12)
        assert together.model_copy(update={"intervals": alone.intervals}) == alone


def test_no_groups_are_no_records() -> None:
    assert pool_groups([], **HOW) == []


def test_records_without_sums_cannot_be_pooled() -> None:
    record = made([0.2]).records[0].model_copy(update={"replicates": None})
    with pytest.raises(InputError, match="layer 0 has several tensors at site output"):
        pool([record, record], **HOW)
