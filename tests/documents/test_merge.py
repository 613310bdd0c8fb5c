"""Merging: the scans of the parts of a prompt set make the scan of the whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import families
import numpy as np
import pytest
import torch
from made_scans import made, thorough

from srdd import merge_scans
from srdd.documents.records import REPLICATES, from_record
from srdd.documents.scan import Calibration, NotMeasured, Scan
from srdd.errors import MergeError
from srdd.measurement.scanner import scan_model
from srdd.numerics.confidence import intervals
from srdd.prompts.reading import from_strings

TEXTS = [f"prompt {n}: {'word ' * (n % 5)}" for n in range(REPLICATES + 12)]
"""More than there are replicates."""

SEVERAL = {"formats": ["mxfp4:floor", "mxfp4:rceil"]}


class Scanner:
    """Scans of parts of TEXTS, each made only once."""

    def __init__(self, tokenizer: Any) -> None:
        self._model = families.shared("llama")
        self._tokenizer = tokenizer
        self._made: dict[tuple[object, ...], Scan] = {}

    def __call__(self, first: int, end: int, **options: Any) -> Scan:
        key = (first, end, str(options))
        if key not in self._made:
            prompts = from_strings(TEXTS, limit=end - first, skip=first)
            options = {"batch_size": 1, "sites": ["output"], **SEVERAL, **options}
            self._made[key] = scan_model(self._model, self._tokenizer, prompts, **options)
        return self._made[key]


@pytest.fixture(scope="module")
def scanned(tokenizer: Any) -> Scanner:
    return Scanner(tokenizer)


def assert_same(one: Scan, other: Scan, rtol: float = 0.0) -> None:
    """All that was measured is the same, figures to a relative difference."""
    assert one.model == other.model
    assert one.calibration == other.calibration
    assert one.settings == other.settings
    assert one.not_measured == other.not_measured
    assert_alike(
        [record.model_dump() for record in one.records],
        [record.model_dump() for record in other.records],
        rtol,
    )
    assert_alike(
        [ranking.model_dump() for ranking in one.rankings],
        [ranking.model_dump() for ranking in other.rankings],
        rtol,
    )


def assert_alike(one: Any, other: Any, rtol: float) -> None:
    """Equal, but for floating-point numbers that differ by `rtol` at most."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=rtol, abs=rtol)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key], rtol)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b, rtol)
    else:
        assert one == other


# The whole from its parts


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_two_halves_make_the_whole_exactly(cut: int, scanned: Scanner) -> None:
    assert_same(merge_scans([scanned(0, cut), scanned(cut, 12)]), scanned(0, 12))


def test_more_prompts_than_replicates_make_the_whole(scanned: Scanner) -> None:
    count = len(TEXTS)
    merged = merge_scans([scanned(0, 70), scanned(70, count)])
    assert_same(merged, scanned(0, count), rtol=1e-9)
    assert len(from_record(merged.records[0]).replicates) == REPLICATES


def test_all_sites_of_two_halves_make_the_whole_exactly(scanned: Scanner) -> None:
    options: dict[str, Any] = {"sites": ["output", "input", "weight"], "formats": ["mxfp4"]}
    merged = merge_scans([scanned(0, 5, **options), scanned(5, 12, **options)])
    assert_same(merged, scanned(0, 12, **options))


def test_weights_do_not_depend_on_prompts_and_count_once(scanned: Scanner) -> None:
    options: dict[str, Any] = {"sites": ["weight"], "formats": ["mxfp4"]}
    one = scanned(0, 5, **options)
    assert_same(merge_scans([one, scanned(5, 12, **options)]), one)


def test_tokens_without_an_sqnr_are_counted_together(tokenizer: Any) -> None:
    model = families.new("llama")
    model.model.embed_tokens.weight.zero_()
    prompts = [from_strings(TEXTS, limit=2, skip=skip) for skip in (0, 2)]
    parts = [scan_model(model, tokenizer, part, sites=["output"]) for part in prompts]
    counts = [part.records[0].token_sqnr_db for part in (*parts, merge_scans(parts))]
    a, b, both = (count.undefined for count in counts if count)
    assert both == a + b > 0


def test_a_layer_that_ran_in_no_part_is_still_named(scanned: Scanner) -> None:
    def without(scan: Scan, *layers: int) -> Scan:
        names = [f"model.layers.{n}" for n in layers]
        return scan.model_copy(
            update={
                "records": [r for r in scan.records if r.tensor not in names],
                "not_measured": [NotMeasured(module=n, reason="did not run") for n in names],
            }
        )

    merged = merge_scans([without(scanned(0, 5), 1, 2), without(scanned(5, 12), 2)])
    assert [one.module for one in merged.not_measured] == ["model.layers.2"]
    assert {record.layer for record in merged.records} == {0, 1}


NEVER_RAN = "no forward pass went through it"


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["experts 1, 2 of 4 saw no token", None], None),
        ([None, "expert 1 of 4 saw no token"], None),
        (["experts 1, 2 of 4 saw no token", "experts 0, 3 of 4 saw no token"], None),
        (["experts 1, 2 of 4 saw no token", "experts 2, 3 of 4 saw no token"], "expert 2 of 4"),
        (["experts 1, 2, 3 of 4 saw no token"] * 3, "experts 1, 2, 3 of 4"),
        ([NEVER_RAN, "expert 3 of 4 saw no token"], "expert 3 of 4"),
        (["expert 3 of 4 saw no token", NEVER_RAN], "expert 3 of 4"),
        ([NEVER_RAN, NEVER_RAN], NEVER_RAN),
    ],
)
def test_an_expert_that_saw_a_token_in_any_part_is_measured(
    reasons: list[str | None], expected: str | None
) -> None:
    parts = [
        made([0.2]).model_copy(
            update={
                "not_measured": [NotMeasured(module="experts.up", site="input", reason=reason)]
                if reason
                else []
            }
        )
        for reason in reasons
    ]
    merged = merge_scans(parts, repeated=True).not_measured
    assert [one.reason.removesuffix(" saw no token") for one in merged] == (
        [expected] if expected else []
    )


def test_merging_many_scans_resamples_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [thorough([0.2, 0.3]) for _ in range(4)]
    calls = []
    monkeypatch.setattr(
        "srdd.documents.records.intervals",
        lambda *given, **options: calls.append(given) or intervals(*given, **options),
    )
    merge_scans(parts, repeated=True)
    assert len(calls) == 1


def test_parts_that_were_batched_make_the_whole(scanned: Scanner) -> None:
    parts = [scanned(0, 30, batch_size="auto"), scanned(30, 60, batch_size="auto")]
    merged, whole = merge_scans(parts), scanned(0, 60, batch_size="auto")
    for one, other in zip(merged.records, whole.records, strict=True):
        a, b = from_record(one).replicates, from_record(other).replicates
        np.testing.assert_allclose(a[:, -6:], b[:, -6:], rtol=1e-6)


def test_a_prompt_has_the_same_replicate_wherever_it_stands(tokenizer: Any) -> None:
    def replicates(texts: list[str]) -> np.ndarray:
        scan = scan_model(
            families.shared("llama"), tokenizer, texts, sites=["output"], batch_size=1
        )
        return from_record(scan.records[0]).replicates

    first, other = replicates(TEXTS[:5]), replicates(TEXTS[4::-1])
    np.testing.assert_array_equal(first[:, :6], other[:, :6])
    np.testing.assert_array_equal(first > 0, sum(replicates([t]) for t in TEXTS[:5]) > 0)


@pytest.mark.parametrize("version", [1, 2])
def test_scans_that_do_not_say_what_replicates_follow_from_are_refused(
    version: int, scanned: Scanner
) -> None:
    content = json.loads(scanned(0, 5).to_json())
    content["schema_version"] = version
    del content["calibration"]["replicate_rule"]
    for record in content["records"] if version == 1 else ():
        record["floor_distance_db"] = -record.pop("vs_floor_db")
    old = Scan.from_object(content, "old.json")
    assert old.calibration.replicate_rule == "order"
    assert merge_scans([old]) == old
    for scans in ([old, scanned(5, 12)], [scanned(5, 12), old], [old, old]):
        with pytest.raises(MergeError, match="order of the prompts"):
            merge_scans(scans)


def test_a_warning_of_few_prompts_that_carry_most_is_that_of_the_whole(tokenizer: Any) -> None:
    model = families.new("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[67].mul_(1000)  # "a"
    quiet = from_strings([f"{n:02d} bcdefg" for n in range(40)])
    loud = from_strings([f"a {n:02d}" for n in range(1)] + [f"h {n:02d}" for n in range(14)])
    parts = [scan_model(model, tokenizer, each, sites=["output"]) for each in (quiet, loud)]
    assert not [text for text in parts[0].warnings if "carry most" in text]
    assert [text for text in parts[1].warnings if "carry most" in text]
    both = merge_scans(parts)
    (text,) = (text for text in both.warnings if "carry most" in text)
    assert "worth 1." in text


def test_three_parts_merge_in_any_grouping(scanned: Scanner) -> None:
    a, b, c = scanned(0, 3), scanned(3, 7), scanned(7, 12)
    left = merge_scans([merge_scans([a, b]), c])
    right = merge_scans([a, merge_scans([b, c])])
    assert_same(left, right)
    assert_same(left, merge_scans([a, b, c]))
    assert_same(left, scanned(0, 12))


def test_three_parts_of_more_prompts_than_replicates_merge_in_any_grouping(
    scanned: Scanner,
) -> None:
    parts = [scanned(0, 40), scanned(40, 70), scanned(70, len(TEXTS))]
    left = merge_scans([merge_scans(parts[:2]), parts[2]])
    right = merge_scans([parts[0], merge_scans(parts[1:])])
    assert_same(left, right, rtol=1e-9)


def test_one_scan_is_its_own_merger(scanned: Scanner) -> None:
    assert merge_scans([scanned(0, 5)]) == scanned(0, 5)


def test_the_order_of_the_parts_is_the_order_of_the_prompts(scanned: Scanner) -> None:
    a, b = scanned(0, 5), scanned(5, 12)
    backwards = merge_scans([b, a])
    assert backwards.calibration.prompt_fingerprints == (
        b.calibration.prompt_fingerprints + a.calibration.prompt_fingerprints
    )
    assert backwards.calibration.fingerprint != scanned(0, 12).calibration.fingerprint
    for one, other in zip(backwards.records, scanned(0, 12).records, strict=True):
        assert_alike(one.metrics.model_dump(), other.metrics.model_dump(), 1e-12)


def test_a_merged_scan_survives_the_way_through_a_file(scanned: Scanner, tmp_path: Any) -> None:
    from srdd import load_scan

    merged = merge_scans([scanned(0, 5), scanned(5, 12)])
    merged.save(tmp_path / "merged.json")
    assert load_scan(tmp_path / "merged.json") == merged


def test_elapsed_times_add(scanned: Scanner) -> None:
    parts = [scanned(0, 5), scanned(5, 12)]
    times = [part.run.elapsed_s or 0 for part in parts]
    assert merge_scans(parts).run.elapsed_s == sum(times)


def test_what_is_true_of_a_part_only_is_not_said_of_the_whole(scanned: Scanner) -> None:
    small, large = scanned(0, 5), scanned(5, 12)
    assert small.warnings
    assert merge_scans([small, large]).warnings == scanned(0, 12).warnings == []


def test_a_part_in_which_a_layer_did_not_run_adds_nothing_to_it(scanned: Scanner) -> None:
    a, b = scanned(0, 5), scanned(5, 12)
    partial = b.model_copy(update={"records": [r for r in b.records if r.layer != 1]})
    merged = merge_scans([a, partial])
    found = {record.layer: record.sums for record in merged.records if record.sums}
    assert a.calibration.tokens is not None
    assert found[1].tokens == a.calibration.tokens
    assert found[0].tokens == scanned(0, 12).calibration.tokens
    again = merge_scans([partial, a])
    layer = next(record for record in again.records if record.layer == 1)
    assert layer.replicates is not None
    assert sum(layer.replicates.tokens) == a.calibration.tokens


# What does not belong together


def changed(scan: Scan, part: str, **values: object) -> Scan:
    """The scan with other entries in one part."""
    return scan.model_copy(update={part: getattr(scan, part).model_copy(update=values)})


SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("fingerprint", "model", {"fingerprint": "0" * 64}),
    ("architecture", "model", {"architecture": "OtherForCausalLM"}),
    ("dtype", "model", {"dtype": "bfloat16"}),
    ("tokenizer", "model", {"tokenizer": "another"}),
    ("formats", "settings", {"formats": ["mxfp4:even"]}),
    ("sites", "settings", {"sites": ["input"]}),
    ("include", "settings", {"include": ["up"]}),
    ("exclude", "settings", {"exclude": ["down"]}),
    ("rounding", "settings", {"rounding": "stochastic"}),
    ("seed", "settings", {"seed": 7}),
    ("max_length", "calibration", {"max_length": 99}),
    ("chat_template", "calibration", {"chat_template": True}),
    ("skip_first_token", "calibration", {"skip_first_token": True}),
]


@pytest.mark.parametrize(("name", "part", "values"), SETTINGS, ids=[name for name, *_ in SETTINGS])
def test_scans_made_differently_are_refused_with_the_setting_named(
    name: str, part: str, values: dict[str, Any], scanned: Scanner
) -> None:
    with pytest.raises(MergeError) as caught:
        merge_scans([scanned(0, 5), changed(scanned(5, 12), part, **values)])
    assert caught.value.message.startswith(f"the scans differ in {part}.{name}: ")
    assert str(next(iter(values.values()))) in caught.value.message
    assert caught.value.hint == "merge scans of one model that were made with the same settings"


def test_other_thresholds_are_refused(scanned: Scanner) -> None:
    scan = scanned(5, 12)
    limits = scan.settings.thresholds.model_copy(update={"sqnr_db": 17.0})
    with pytest.raises(MergeError, match=r"differ in settings\.thresholds"):
        merge_scans([scanned(0, 5), changed(scan, "settings", thresholds=limits)])


def test_the_order_of_formats_does_not_matter(scanned: Scanner) -> None:
    formats = list(reversed(SEVERAL["formats"]))
    merged = merge_scans([scanned(0, 5), scanned(5, 12, formats=formats)])
    assert_same(merged, scanned(0, 12))


def test_prompts_that_would_count_twice_are_refused(scanned: Scanner) -> None:
    with pytest.raises(MergeError) as caught:
        merge_scans([scanned(0, 7), scanned(5, 12)])
    assert caught.value.message == (
        "the scans have 2 prompts in common, which would count twice; "
        "they overlap: the last prompts of one part are the first of the other"
    )
    assert "`skip`" in caught.value.hint


def test_scans_are_called_by_their_names(scanned: Scanner) -> None:
    parts = [scanned(0, 5), scanned(5, 7), scanned(6, 12)]
    with pytest.raises(MergeError, match=r"^b and c have 1 prompt in common"):
        merge_scans(parts, names=["a", "b", "c"])
    other = changed(scanned(7, 12), "settings", seed=7)
    with pytest.raises(MergeError, match=r"^a and c differ in settings.seed: 0 and 7"):
        merge_scans([*parts[:2], other], names=["a", "b", "c"])


def test_a_prompt_that_repeats_is_told_from_an_overlap(scanned: Scanner, tokenizer: Any) -> None:
    texts = ["one", "two", "three", "two", "four"]
    model = families.shared("llama")
    parts = [
        scan_model(model, tokenizer, from_strings(texts, limit=limit, skip=skip), batch_size=1)
        for skip, limit in ((0, 3), (3, 2))
    ]
    with pytest.raises(MergeError) as caught:
        merge_scans(parts)
    assert caught.value.message.endswith("such as number 1 of one and number 0 of the other")
    assert "`repeated`" in caught.value.hint
    whole = scan_model(model, tokenizer, from_strings(texts), batch_size=1)
    assert_same(merge_scans(parts, repeated=True), whole)


def test_a_part_that_is_there_twice_is_told(scanned: Scanner) -> None:
    with pytest.raises(MergeError, match="2 prompts in common"):
        merge_scans([scanned(0, 12), scanned(5, 7)])


def test_a_third_scan_is_checked_against_both_others(scanned: Scanner) -> None:
    with pytest.raises(MergeError, match="1 prompt in common"):
        merge_scans([scanned(0, 5), scanned(5, 12), scanned(0, 1)])


def test_no_scan_at_all_is_refused() -> None:
    empty: Sequence[Scan] = []
    with pytest.raises(MergeError, match="there is no scan to merge"):
        merge_scans(empty)


def test_scans_of_another_program_hold_nothing_to_merge() -> None:
    bare = []
    for number in range(2):
        scan = made([0.2, 0.3])
        records = [
            record.model_copy(update={"sums": None, "replicates": None}) for record in scan.records
        ]
        text: Calibration = scan.calibration.model_copy(
            update={"prompt_fingerprints": [str(number)]}
        )
        bare.append(scan.model_copy(update={"records": records, "calibration": text}))
    with pytest.raises(MergeError) as caught:
        merge_scans(bare)
    assert caught.value.message == "the record of layer 0 has no sums, so it cannot be merged"
