"""Gates: how they are read, and where a comparison breaches them."""

from __future__ import annotations

import math

import pytest
from made_pairs import scan_of
from made_scans import prototype

from srdd.comparison import compare_scans, gate_warning, judge, parse_gate
from srdd.documents.comparison import Gate, Outcome
from srdd.documents.prototype import read_prototype
from srdd.errors import InputError, UsageError


def parts(gate: Gate) -> tuple[object, ...]:
    return gate.scope, gate.which, gate.metric, gate.sign, gate.limit


def test_a_metric_goes_by_the_beginning_of_its_name() -> None:
    assert parse_gate("new.sqnr < 15").metric == "sqnr_db"
    assert parse_gate("dead > 1%").metric == "deadzone"


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("sqnr_db < -0.5", ("layer", "difference", "sqnr_db", "<", -0.5)),
            ("sqnr_db<-.5dB", ("layer", "difference", "sqnr_db", "<", -0.5)),
            ("sqnr_db < −0.5 dB", ("layer", "difference", "sqnr_db", "<", -0.5)),
            ("layer sqnr_db <= -1e-1", ("layer", "difference", "sqnr_db", "<=", -0.1)),
            ("overall deadzone > 2%", ("overall", "difference", "deadzone", ">", 0.02)),
            ("relative_l1 >= 0.02", ("layer", "difference", "relative_l1", ">=", 0.02)),
            ("new.sqnr_db < 15", ("layer", "new", "sqnr_db", "<", 15.0)),
            (
                "  overall  new . relative_error > 40 % ",
                ("overall", "new", "relative_error", ">", 0.4),
            ),
            ("difference.saturation > 0", ("layer", "difference", "saturation", ">", 0.0)),
        ],
    )
    def test_these_are_gates(self, text: str, wanted: tuple[object, ...]) -> None:
        assert parts(parse_gate(text)) == pytest.approx(wanted)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "sqnr_db",
            "sqnr_db <",
            "sqnr_db << 1",
            "sqnr_db == 1",
            "old.sqnr_db < 1",
            "sqnr_db < five",
            "sqnr_db < nan",
            "sqnr_db < 1 or deadzone > 2",
            "sqnr_db < 1, 2",
            "5 < sqnr_db",
            "\x1b[31m" + "x" * 5000,
        ],
    )
    def test_these_are_not(self, text: str) -> None:
        with pytest.raises(UsageError, match="not a gate") as caught:
            parse_gate(text)
        assert "'sqnr_db < -0.5'" in caught.value.hint

    @pytest.mark.parametrize(
        ("text", "message", "hint"),
        [
            ("sqrn < 1", "unknown metric 'sqrn'", "sqnr_db"),
            ("sqnr_db < 5 %", "has the unit %", "sqnr_db is in dB"),
            ("deadzone > 5 dB", "has the unit dB", "deadzone is in %"),
            ("sqnr_db < 1e999", "is too large", "'sqnr_db < -0.5'"),
            ("new.deadzone > 5", "deadzone is at most 100 %", "write 5%"),
            ("saturation > 150%", "saturation is at most 100 %", "lower the limit"),
        ],
    )
    def test_a_wrong_metric_unit_or_limit_is_refused(
        self, text: str, message: str, hint: str
    ) -> None:
        with pytest.raises(UsageError) as caught:
            parse_gate(text)
        assert message in caught.value.message
        assert hint in caught.value.hint

    @pytest.mark.parametrize("metric", ["relative_error", "relative_l1"])
    def test_an_error_above_100_percent_is_a_limit(self, metric: str) -> None:
        assert parse_gate(f"new.{metric} > 150%").limit == 1.5

    def test_a_wrong_metric_lists_the_closest_first(self) -> None:
        with pytest.raises(UsageError) as caught:
            parse_gate("rel_error > 1%")
        assert caught.value.hint.startswith("choose from: relative_error")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sqnr_db < -0.5", None),
            ("sqnr_db < 0", None),
            ("relative_error > 2%", None),
            ("new.sqnr_db < 15", None),
            ("new.deadzone > 10%", None),
            ("sqnr_db > 0.5", "is breached where NEW is good: of sqnr_db, higher is better"),
            ("deadzone < -1%", "is breached where NEW is good: of deadzone, lower is better"),
            ("new.sqnr_db > 15", "is breached where NEW is good"),
            ("saturation > 1%", None),
            ("saturation < -1%", None),
            ("sqnr_db < 0.5", "is breached where NEW is somewhat better, too"),
            ("relative_l1 > -1%", "is breached where NEW is somewhat better, too"),
        ],
    )
    def test_a_gate_in_the_wrong_direction_is_a_warning(
        self, text: str, message: str | None
    ) -> None:
        warning = gate_warning(parse_gate(text))
        assert warning is None if message is None else message in (warning or "")


class TestJudging:
    """Layer 0 loses 3 dB, layer 1 nothing, layer 2 1.4 dB that come from one prompt in thirty."""

    old = scan_of([[1.0] * 30, [1.0] * 30, [1.0] * 30])
    new = scan_of([[2.0] * 30, [1.0] * 30, [0.9] * 29 + [15.0]], weights="b" * 64)
    comparison = compare_scans(old, new)

    def layers(self, text: str, **options: bool) -> list[int | None]:
        return [
            breach.layer for breach in judge(self.comparison, parse_gate(text), **options).breaches
        ]

    def test_the_third_layer_is_as_described(self) -> None:
        one = self.comparison.groups[0].rows[2].metrics["sqnr_db"]
        assert one.difference == pytest.approx(-10 * math.log10((29 * 0.9 + 15) / 30))
        assert one.verdict == "no difference seen"

    def test_only_what_is_significant_counts(self) -> None:
        outcome = judge(self.comparison, parse_gate("sqnr_db < -0.5"))
        assert [breach.layer for breach in outcome.breaches] == [0]
        assert outcome.breaches[0].value == pytest.approx(-3.0103, abs=1e-4)
        assert (outcome.unsure, outcome.looked_at, outcome.unknown) == (1, 3, 0)
        assert not outcome.passed

    def test_count_unsure_counts_the_rest(self) -> None:
        assert self.layers("sqnr_db < -0.5", count_unsure=True) == [0, 2]

    def test_the_limit_is_a_limit(self) -> None:
        assert self.layers("sqnr_db < -3.01") == [0]
        assert self.layers("sqnr_db < -3.02") == []
        assert self.layers("deadzone > 0.99%") == [0]
        assert self.layers("deadzone > 1.01%") == []

    def test_an_improvement_does_not_breach(self) -> None:
        back = compare_scans(self.new, self.old)
        assert judge(back, parse_gate("sqnr_db < -0.5")).passed
        assert [b.layer for b in judge(back, parse_gate("sqnr_db > 0.5")).breaches] == [0]

    def test_overall_looks_at_all_layers_together(self) -> None:
        outcome = judge(self.comparison, parse_gate("overall sqnr_db < -0.5"), count_unsure=True)
        assert [breach.layer for breach in outcome.breaches] == [None]
        assert outcome.looked_at == 1
        assert outcome.breaches[0].value == pytest.approx(
            10
            * math.log10(sum(map(sum, self.noise(self.old))) / sum(map(sum, self.noise(self.new))))
        )

    def noise(self, scan: object) -> list[list[float]]:
        return [list(r.replicates.e2) for r in scan.records]  # type: ignore[attr-defined]

    def test_a_fixed_limit_on_new(self) -> None:
        # Layers 0 and 1 of NEW have exactly 16.99 and 20 dB. The third has 18.6 dB, with one bad
        # prompt of 30, so that its interval reaches far up.
        assert self.layers("new.sqnr_db < 17.5") == [0]
        assert self.layers("new.sqnr_db < 16.9") == []
        assert self.layers("new.sqnr_db < 19.5") == [0]
        assert self.layers("new.sqnr_db < 19.5", count_unsure=True) == [0, 2]
        interval = self.comparison.groups[0].rows[2].metrics["sqnr_db"].new_interval
        assert interval is not None
        assert interval[1] > 20.46  # what it has without the bad prompt
        assert self.layers(f"new.sqnr_db < {interval[1] - 0.001}") == [0, 1]
        assert self.layers(f"new.sqnr_db < {interval[1] + 0.001}") == [0, 1, 2]

    def test_weights_are_always_significant(self) -> None:
        old, new = scan_of([[1.0]], site="weight"), scan_of([[1.2]], site="weight")
        comparison = compare_scans(old, new)
        assert not judge(comparison, parse_gate("sqnr_db < -0.5")).passed
        assert not judge(comparison, parse_gate("new.sqnr_db < 19.5")).passed

    def test_exactness_that_is_lost_breaches_any_difference(self) -> None:
        old, new = scan_of([[0.0]], site="weight"), scan_of([[1e-6]], site="weight")
        outcome = judge(compare_scans(old, new), parse_gate("sqnr_db < -50"))
        assert [breach.value for breach in outcome.breaches] == [None]
        assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
        assert judge(compare_scans(old, old), parse_gate("sqnr_db < -0.5")).passed
        assert judge(compare_scans(new, old), parse_gate("new.sqnr_db < 15")).passed

    def test_a_gate_that_has_nothing_to_judge_never_passes(self) -> None:
        scan = read_prototype(prototype(), "it")
        comparison = compare_scans(scan, scan)
        with pytest.raises(InputError) as caught:
            judge(comparison, parse_gate("sqnr_db < -0.5"))
        assert "has nothing to judge: 28 figures without an interval" in caught.value.message
        assert "count_unsure" in caught.value.hint
        assert judge(comparison, parse_gate("sqnr_db < -0.5"), count_unsure=True).passed
        for text in ("saturation > 1%", "overall sqnr_db < -0.5"):
            with pytest.raises(InputError, match="has nothing to judge"):
                judge(comparison, parse_gate(text), count_unsure=True)
