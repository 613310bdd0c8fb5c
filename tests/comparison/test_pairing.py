"""What is compared with what, what is left out, and what a reader has to know first."""

from __future__ import annotations

from typing import Any

import pytest
from made_pairs import changed, prompts, scan_of
from made_scans import prototype

from srdd.comparison import Comparison, compare_scans
from srdd.documents.prototype import read_prototype
from srdd.documents.scan import Scan
from srdd.errors import InputError, UsageError

OLD = scan_of([[1.0] * 12, [2.0] * 12])
NEW = scan_of([[1.1] * 12, [2.1] * 12], weights="b" * 64)


def warnings_of(comparison: Comparison) -> str:
    return " / ".join(remark.text for remark in comparison.remarks if remark.warning)


def notes_of(comparison: Comparison) -> str:
    return " / ".join(remark.text for remark in comparison.remarks if not remark.warning)


def joined(*scans: Scan) -> Scan:
    """One scan with the records, sites and formats of several."""
    first = scans[0]
    settings = first.settings.model_copy(
        update={
            "sites": list(dict.fromkeys(s for scan in scans for s in scan.settings.sites)),
            "formats": list(dict.fromkeys(f for scan in scans for f in scan.settings.formats)),
        }
    )
    records = [record for scan in scans for record in scan.records]
    return first.model_copy(update={"records": records, "settings": settings})


class TestFormats:
    def test_each_shared_format_is_compared_with_itself(self) -> None:
        both = ["mxfp4:floor", "nvfp4:token"]
        old = scan_of([[1.0] * 12], formats=both)
        new = scan_of([[1.0] * 12], formats=[*both, "mxfp4:even"])
        comparison = compare_scans(old, new)
        pairs = [(g.old_format, g.new_format) for g in comparison.groups]
        assert pairs == [(spec, spec) for spec in both]
        assert comparison.left_out == ("only NEW has 1 format: mxfp4:even",)

    def test_two_formats_of_one_scan(self) -> None:
        scan = joined(
            scan_of([[1.0] * 12], formats=["mxfp4:floor"]),
            scan_of([[0.5] * 12], formats=["nvfp4:token"]),
        )
        comparison = compare_scans(scan, scan, old_format="mxfp4", new_format="nvfp4:token")
        (group,) = comparison.groups
        assert group.old_format == "mxfp4:floor"
        assert group.rows[0].metrics["sqnr_db"].difference == pytest.approx(3.0103, abs=1e-4)
        assert group.intervals == "paired"
        assert comparison.left_out == ()
        assert "both have the same weights" in notes_of(comparison)
        assert "same weights" not in warnings_of(comparison)

    def test_the_only_formats_belong_together_without_being_named(self) -> None:
        old, new = (scan_of([[1.0] * 12], formats=[f"mxfp4:{r}"]) for r in ("floor", "even"))
        (group,) = compare_scans(old, new).groups
        assert (group.old_format, group.new_format) == ("mxfp4:floor", "mxfp4:even")

    def test_one_name_suffices_where_the_other_scan_has_one_format(self) -> None:
        old = scan_of([[1.0] * 12], formats=["mxfp4:floor", "mxfp4:even"])
        new = scan_of([[1.0] * 12], formats=["nvfp4:token"])
        (group,) = compare_scans(old, new, old_format="mxfp4:even").groups
        assert (group.old_format, group.new_format) == ("mxfp4:even", "nvfp4:token")
        (group,) = compare_scans(old, old, new_format="mxfp4:even").groups
        assert group.old_format == "mxfp4:even"

    @pytest.mark.parametrize(
        ("formats", "message", "hint"),
        [
            ({}, "no format is in both: OLD has mxfp4:floor, mxfp4:even", "old_format"),
            ({"old_format": "mxfp4"}, "OLD has several mxfp4", "mxfp4:floor, mxfp4:even"),
            ({"old_format": "mxfp5"}, "unknown format of OLD 'mxfp5'", "mxfp4:even, mxfp4:floor"),
            ({"new_format": "nvfp4"}, "OLD has no nvfp4:token", "old_format"),
        ],
    )
    def test_ambiguous_formats_are_asked_for(
        self, formats: dict[str, str], message: str, hint: str
    ) -> None:
        old = scan_of([[1.0] * 12], formats=["mxfp4:floor", "mxfp4:even"])
        new = scan_of([[1.0] * 12], formats=["nvfp4:token"])
        with pytest.raises(UsageError) as caught:
            compare_scans(old, new, **formats)  # type: ignore[arg-type]
        assert message in caught.value.message
        assert hint in caught.value.hint


class TestLeftOut:
    def test_a_site_of_one_scan_only_is_left_out_and_named(self) -> None:
        old = joined(OLD, scan_of([[1.0] * 12, [1.0] * 12], site="weight"))
        comparison = compare_scans(old, NEW)
        assert [group.site for group in comparison.groups] == ["output"]
        assert comparison.left_out == ("only OLD has 1 site: weight",)

    def test_tensors_without_a_partner_do_not_enter_the_layer(self) -> None:
        old = {"q_proj": [[1.0] * 12], "down_proj": [[50.0] * 12]}
        new = {"q_proj": [[1.0] * 12], "o_proj": [[70.0] * 12]}
        comparison = compare_scans(scan_of(old, site="input"), scan_of(new, site="input"))
        one = comparison.groups[0].rows[0].metrics["sqnr_db"]
        assert (one.old, one.new) == pytest.approx((20.0, 20.0))
        assert comparison.left_out == (
            "at site input, only OLD has 1 tensor: 0 down_proj",
            "at site input, only NEW has 1 tensor: 0 o_proj",
        )

    def test_a_wrapped_model_has_the_same_tensors(self) -> None:
        old = scan_of({"q_proj": [[1.0] * 12]}, site="input")
        text = old.to_json().decode().replace("model.layers.", "base.model.model.layers.")
        new = Scan.model_validate_json(text)
        assert new.records[0].tensor == "base.model.model.layers.0.q_proj"
        assert len(compare_scans(old, new).groups[0].rows) == 1

    def test_layers_beyond_the_shallower_model_are_left_out_with_a_warning(self) -> None:
        new = scan_of([[1.0] * 12] * 3)
        comparison = compare_scans(OLD, new)
        assert [layer.layer for layer in comparison.groups[0].rows] == [0, 1]
        assert "number of layers differs: 2 in OLD, 3 in NEW" in warnings_of(comparison)
        assert comparison.left_out == ("at site output, only NEW has 1 layer: 2",)

    def test_operands_of_products_are_separate_groups(self) -> None:
        base = scan_of({"q_proj": [[1.0] * 12]}, site="linear")
        both = [
            base.records[0].model_copy(update={"operands": operands})
            for operands in ("weight", "both")
        ]
        scan = base.model_copy(update={"records": both})
        comparison = compare_scans(scan, scan.model_copy(update={"records": both[1:]}))
        assert [group.operands for group in comparison.groups] == ["both"]

    def test_nothing_left_is_refused(self) -> None:
        with pytest.raises(InputError) as caught:
            compare_scans(OLD, scan_of([[1.0] * 12, [1.0] * 12], site="weight"))
        assert "OLD has output in mxfp4:floor; NEW has weight in" in caught.value.message

    def test_tensors_with_nothing_in_common_are_refused(self) -> None:
        old, new = (scan_of({name: [[1.0] * 12]}, site="input") for name in ("a", "b"))
        with pytest.raises(InputError, match="nothing is left to compare"):
            compare_scans(old, new)

    def test_a_scan_without_records_is_refused(self) -> None:
        with pytest.raises(InputError, match="NEW has no records"):
            compare_scans(OLD, NEW.model_copy(update={"records": []}))

    def test_a_site_that_is_asked_for_must_be_there(self) -> None:
        with pytest.raises(UsageError, match="unknown site of OLD 'input'"):
            compare_scans(OLD, NEW, sites=["input"])

    def test_an_unknown_metric_lists_the_metrics(self) -> None:
        with pytest.raises(UsageError) as caught:
            compare_scans(OLD, NEW, metric="sqnr")
        assert caught.value.hint.startswith("choose from: sqnr_db")

    def test_a_single_layer_has_no_order(self) -> None:
        group = compare_scans(scan_of([[1.0] * 12]), scan_of([[2.0] * 12])).groups[0]
        assert (group.kendall_tau, group.moved_in_rank) == (None, ())


class TestRemarks:
    def test_two_checkpoints_with_the_same_weights_are_a_warning(self) -> None:
        other = changed(OLD, "model", name="other/name")
        text = warnings_of(compare_scans(OLD, other))
        assert "OLD and NEW have the same weights (aaaaaaaaaaaa)" in text
        assert "under two names, made/up and other/name" in text
        comparison = compare_scans(OLD, NEW)
        assert "same weights" not in warnings_of(comparison)
        assert "the weights differ: aaaaaaaaaaaa in OLD, bbbbbbbbbbbb in NEW" in notes_of(
            comparison
        )

    @pytest.mark.parametrize(
        ("part", "values", "message"),
        [
            ("model", {"dtype": "float32"}, "dtype differs: bfloat16 in OLD, float32 in NEW"),
            ("model", {"architecture": "Other"}, "architecture differs: MadeForCausalLM in"),
            ("settings", {"rounding": "toward-zero"}, "rounding differs: even in OLD, toward"),
            ("settings", {"exclude": ["a", "b"]}, "exclude patterns differs: none in OLD, a, b in"),
            ("calibration", {"max_length": 64}, "max_length differs: none in OLD, 64 in NEW"),
            (
                "calibration",
                {"chat_template": True},
                "chat template differs: off in OLD, on in",
            ),
        ],
    )
    def test_what_else_differs_is_a_warning(
        self, part: str, values: dict[str, Any], message: str
    ) -> None:
        assert message in warnings_of(compare_scans(OLD, changed(NEW, part, **values)))
        assert message not in warnings_of(compare_scans(OLD, NEW))

    def test_the_seed_matters_to_stochastic_rounding_only(self) -> None:
        assert "seed" not in warnings_of(compare_scans(OLD, changed(NEW, "settings", seed=1)))
        old = changed(OLD, "settings", rounding="stochastic")
        new = changed(NEW, "settings", rounding="stochastic", seed=1)
        assert "seed of stochastic rounding differs: 0 in OLD, 1" in warnings_of(
            compare_scans(old, new)
        )

    def test_prompts_do_not_matter_to_weights(self) -> None:
        old = scan_of([[1.0]], site="weight")
        new = scan_of([[1.0]], site="weight", texts=[], weights="b" * 64)
        assert warnings_of(compare_scans(old, new)) == ""

    def test_prompts_that_overlap_are_counted(self) -> None:
        new = scan_of([[1.0] * 12, [1.0] * 12], texts=prompts(12, first=8))
        text = warnings_of(compare_scans(OLD, new))
        assert "the prompts differ: 12 prompts (120 tokens) in OLD" in text
        assert "4 in both" in text

    def test_few_prompts_are_a_warning(self) -> None:
        few = scan_of([[1.0] * 4, [1.0] * 4])
        assert "OLD has only 4 prompts: intervals may be too narrow" in warnings_of(
            compare_scans(few, NEW)
        )

    def test_what_holds_for_both_is_said_once(self) -> None:
        few = scan_of([[1.0] * 4, [1.0] * 4])
        text = warnings_of(compare_scans(few, few))
        assert text.count("only 4 prompts") == 1
        assert "OLD and NEW have only 4 prompts" in text

    def test_the_same_prompts_are_no_warning(self) -> None:
        comparison = compare_scans(OLD, NEW)
        assert "the same prompts in both, intervals are paired: 12 prompts" in notes_of(comparison)
        assert warnings_of(comparison) == ""

    def test_nonfinite_values_in_new_are_a_warning(self) -> None:
        records = list(NEW.records)
        assert records[1].sums is not None
        sums = records[1].sums.model_copy(update={"nonfinite": 3})
        records[1] = records[1].model_copy(update={"sums": sums})
        text = warnings_of(compare_scans(OLD, NEW.model_copy(update={"records": records})))
        assert "NEW has NaN or infinite values, which no figure counts, in 1 layer: 1" in text

    def test_a_scale_over_the_batch_needs_the_same_batches(self) -> None:
        old, new = (
            changed(scan_of([[1.0] * 12], formats=["nvfp4:tensor"]), "run", batch_size=size)
            for size in ("auto", "4")
        )
        assert "batch size differs: auto in OLD, 4 in NEW" in warnings_of(compare_scans(old, new))

    def test_a_prototype_against_a_scan_of_ours(self) -> None:
        old = read_prototype(prototype(), "old")
        new = scan_of([[1.0] * 12] * 28)
        comparison = compare_scans(old, new)
        assert "OLD was made by the prototype: no sums" in warnings_of(comparison)
        assert "rounding differs: half-away in OLD, even in NEW" in warnings_of(comparison)
        assert "the prompts of OLD are unknown" in warnings_of(comparison)
        assert "OLD does not record: architecture, dtype" in notes_of(comparison)
