"""The sensitivity in a scan: figures by tensor, layer and kind, joint figures, checks, merging."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from srdd.documents import sensitivity_figures as section
from srdd.documents.sensitivity import Changed, Joint, Sensitivity
from srdd.documents.sensitivity_figures import checked, figure
from srdd.errors import UsageError

TOKENS = np.array([10.0, 20.0, 0.0, 30.0])
FORMAT = "mxfp4:floor"


def changed(tensor: str, layer: int, nats: list[float]) -> Changed:
    return Changed(
        **figure(np.array(nats), TOKENS),
        layer=layer,
        tensor=tensor,
        format=FORMAT,
        operands="both",
    )


def made(**changes: Any) -> Sensitivity:
    fields: dict[str, Any] = {
        "method": "estimate",
        "samples": 4,
        "tokens": [10, 20, 0, 30],
        "changes": [
            changed("layers.0.q_proj", 0, [1, 2, 0, 3]),
            changed("layers.0.up_proj", 0, [1, 1, 0, 4]),
            changed("layers.1.q_proj", 1, [3, 6, 0, 9]),
        ],
        "joint": [
            Joint(
                **figure(np.array([4.0, 8.0, 0.0, 12.0]), TOKENS),
                scope="all",
                name="",
                format=FORMAT,
                operands="both",
            )
        ],
        "noise": [],
        "checks": [],
        "not_measured": {},
    }
    return Sensitivity(**(fields | changes))


def test_a_figure_is_nats_over_tokens_with_an_interval_over_groups() -> None:
    one = changed("layers.0.q_proj", 0, [1, 2, 0, 3])
    assert one.value == pytest.approx(0.1)
    assert one.interval == pytest.approx((0.1, 0.1))  # the same in each group
    uneven = changed("layers.0.up_proj", 0, [1, 1, 0, 4])
    assert uneven.interval is not None
    assert 0 <= uneven.interval[0] < uneven.value < uneven.interval[1]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("tensor", {(0, "q"): 0.1, (0, "up"): 0.1, (1, "q"): 0.3}),
        ("layer", {(0, None): 0.2, (1, "q"): 0.3}),
        ("kind", {(None, "q"): 0.4, (0, "up"): 0.1}),
    ],
)
def test_rows_add_up(by: str, expected: dict[tuple[int | None, str | None], float]) -> None:
    rows = section.rows_of(made(), FORMAT, "both", by)
    assert {(r["layer"], r["kind"]): r["kl"] for r in rows} == pytest.approx(expected)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all((row["tensor"] is None) == (by != "tensor") for row in rows)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no sensitivity for nvfp4"):
        section.rows_of(made(), "nvfp4:token")
    with pytest.raises(UsageError, match="unknown grouping"):
        section.rows_of(made(), FORMAT, by="tensors")


def test_the_joint_figure_is_the_sum_and_what_was_measured() -> None:
    whole = checked(
        None, FORMAT, "both", np.array([5.0, 9, 0, 16]), np.array([4.0, 8, 0, 8]), TOKENS
    )
    joint = section.joint_of(made(checks=[whole]), FORMAT)
    assert joint["predicted"] == pytest.approx(0.5)
    assert joint["with_interactions"] == pytest.approx(0.4)
    assert joint["measured"] == pytest.approx(20 / 60)
    assert section.joint_of(made(), FORMAT)["measured"] is None


def checks(ratios: list[float], whole: float = 1.0, noise: float = 0.0) -> list[Any]:
    """Checks of tensors and of the whole with these ratios, which vary between groups."""
    found = []
    for place, ratio in enumerate([*ratios, whole]):
        measured = np.array([1.0, 2.0, 0.0, 3.0]) * (place + 1)
        estimate = measured * ratio * np.array([1 + noise, 1 + noise, 1, 1 - noise])  # same sum
        tensor = None if place == len(ratios) else f"layers.{place}.up_proj"
        found.append(checked(tensor, FORMAT, "both", estimate, measured, TOKENS))
    return found


def test_the_verdict_counts_what_is_off_beyond_its_interval() -> None:
    assert section.verdict(made(), FORMAT)[0] is None
    assert section.verdict(made(checks=checks([1.0, 1.1, 0.9, 1.0])), FORMAT)[0] is True
    assert section.verdict(made(checks=checks([1.0, 1.6, 0.9, 1.0])), FORMAT)[0] is True
    assert section.verdict(made(checks=checks([1.0, 1.6, 0.5, 1.0])), FORMAT)[0] is False
    assert section.verdict(made(checks=checks([1.0, 1.1, 0.9], whole=1.5)), FORMAT)[0] is False
    off = section.verdict(made(checks=checks([1.0, 1.6, 0.5, 0.5])), FORMAT)
    assert "use --kl-direct" in off[1]
    few = section.verdict(made(checks=checks([1.0, 1.6])), FORMAT)
    assert few[0] is None
    assert few[1].startswith("too few tensors were checked to judge the estimate (2 tensors: ")
    wide = made(checks=checks([1.0, 1.6, 0.5, 1.0], noise=0.9))
    assert section.verdict(wide, FORMAT)[0] is True


def test_wide_intervals_do_not_hide_that_most_are_off_alike() -> None:
    low = made(checks=checks([0.6, 0.5, 0.7, 0.6], noise=0.9))
    assert section.ranks_tensors(low, FORMAT) is True
    holds, words = section.verdict(low, FORMAT)
    assert holds is False
    assert words.startswith("the estimates of single tensors are about 0.6 times what they cost")
    assert section.verdict(made(checks=checks([0.9, 0.85, 1.1, 0.9], noise=0.9)), FORMAT)[0] is True


def test_ranks_of_equal_values_are_shared() -> None:
    assert section._ranks([3.0, 1.0, 3.0]).tolist() == [1.5, 0, 1.5]
    rising = checks([1.0, 1.1, 0.9, 1.0])[:4]
    assert section.spearman(rising) == pytest.approx(1)


def test_parts_add_up() -> None:
    first, second = made(), made(tokens=[0, 20, 10, 30])
    both = section.merged([first, second])
    assert both is not None
    assert both.tokens == [10, 40, 10, 60]
    assert both.changes[2].nats == [6, 12, 0, 18]
    assert both.changes[2].value == pytest.approx(36 / 120)
    assert section.merged([first, made(samples=8)]) is None


def test_every_figure_has_a_value_for_each_group() -> None:
    with pytest.raises(ValueError, match="a value for each group"):
        made(tokens=[10, 20])
