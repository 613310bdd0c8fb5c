"""The guide as Markdown: the published figures, sentences that figures carry, safe names."""

from __future__ import annotations

import csv
import re
from typing import Any

import pytest
import yaml
from made_scans import DATA, PROTOTYPE, made, rising, thorough, with_metric
from markdown_it import MarkdownIt

from srdd.documents.scan import NotMeasured, Scan, load_scan
from srdd.errors import InputError, UsageError
from srdd.noise import suggest
from srdd.noise.exports import export
from srdd.reports.findings import findings
from srdd.reports.groups import groups_of
from srdd.reports.markdown import guide

# What the method's guide prints. It was written from another run of the same scan, whose relative
# errors lie within 0.1 percentage points of those of the fixture.
GUIDE_BY_ERROR = [
    (15, 42.65, 28.71),
    (14, 41.94, 27.98),
    (16, 41.85, 27.98),
    (17, 40.77, 27.07),
    (12, 40.60, 26.53),
    (13, 40.36, 26.44),
    (11, 39.94, 26.04),
    (18, 39.50, 25.78),
    (19, 38.96, 25.36),
    (10, 38.57, 24.71),
]
GUIDE_ERROR_OF = {26: 28.61, 27: 32.03, 3: 33.67, 2: 33.74, 0: 30.08}
GUIDE_ZONES = {
    "First": (range(4), 32.5, 18.9),
    "Early-Mid": (range(4, 10), 35.6, 22.4),
    "Middle": (range(10, 20), 40.4, 26.4),
    "Late-Mid": (range(20, 26), 35.6, 21.9),
    "Last": (range(26, 28), 30.3, 17.1),
}
GUIDE_MULTIPLIERS = {
    **{0: 0.83, 1: 0.89, 2: 0.93, 3: 0.93, 4: 0.93, 5: 0.98, 6: 0.99, 7: 1.01, 8: 1.00, 9: 1.02},
    **{10: 1.06, 11: 1.10, 12: 1.12, 13: 1.11, 14: 1.15, 15: 1.17, 16: 1.15, 17: 1.12, 18: 1.09},
    **{19: 1.07, 20: 1.02, 21: 0.99, 22: 0.96, 23: 0.94, 24: 0.91, 25: 0.90, 26: 0.79, 27: 0.88},
}


def written(scan: Scan, *sites: str) -> str:
    return guide(groups_of(scan, sites))


@pytest.fixture(scope="module")
def text() -> str:
    return written(load_scan(PROTOTYPE))


@pytest.fixture(scope="module")
def published() -> list[dict[str, float]]:
    with (DATA / "qwen2.5-1.5b-instruct_mxfp4_output.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"^##+ {re.escape(heading)}.*?\n(.*?)(?=^##+ |\Z)", text, re.M | re.S)
    assert found, heading
    return found[1]


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its header."""
    lines = [line for line in section(text, heading).splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[2:]]


def blocks(text: str, heading: str) -> list[Any]:
    """The YAML documents under a heading."""
    (found,) = re.findall(r"```yaml\n(.*?)```", section(text, heading), re.S)
    return [one["trainer"]["noise_injection"] for one in yaml.safe_load_all(found)]


# The published guide


def test_the_worst_by_error_are_the_guides_in_its_order(text: str) -> None:
    rows = table(text, "Worst 10 by relative error")
    assert [int(row[1]) for row in rows] == [layer for layer, *_ in GUIDE_BY_ERROR]
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, 11)]
    assert {row[5] for row in rows} == {"Middle"}
    for row, (_, error, deadzone) in zip(rows, GUIDE_BY_ERROR, strict=True):
        assert float(row[2]) == pytest.approx(error, abs=0.1)
        assert float(row[3]) == pytest.approx(deadzone, abs=0.1)


def test_the_first_and_other_cells_are_the_guides_to_the_digit(text: str) -> None:
    rows = table(text, "Worst 10 by relative error")
    assert rows[0][2] == "42.65"
    assert rows[3][2] == "40.77"
    assert (rows[7][3], rows[8][3]) == ("25.78", "25.36")
    every = {int(row[0]): row[4] for row in table(text, "Every layer")}
    for layer, error in GUIDE_ERROR_OF.items():
        assert float(every[layer]) == pytest.approx(error, abs=0.1)
    assert (every[3], every[2], every[0]) == ("33.67", "33.74", "30.08")


def test_every_figure_is_the_published_one_to_the_guides_digits(
    text: str, published: list[dict[str, float]]
) -> None:
    by_error = sorted(published, key=lambda row: -row["relative_error"])[:10]
    assert [row[1:5] for row in table(text, "Worst 10 by relative error")] == [
        [
            f"{row['layer']:.0f}",
            f"{100 * row['relative_error']:.2f}",
            f"{100 * row['deadzone']:.2f}",
            f"{row['sqnr_db']:.1f}",
        ]
        for row in by_error
    ]
    by_sqnr = sorted(published, key=lambda row: row["sqnr_db"])[:5]
    assert [row[1:4] for row in table(text, "Worst 5 by SQNR")] == [
        [f"{r['layer']:.0f}", f"{r['sqnr_db']:.1f}", f"{100 * r['relative_error']:.2f}"]
        for r in by_sqnr
    ]


def test_overall_statistics(text: str, published: list[dict[str, float]]) -> None:
    rows = {row[0]: row[1:] for row in table(text, "Overall statistics")}
    for name, key, scale in (
        ("SQNR (dB)", "sqnr_db", 1),
        ("deadzone %", "deadzone", 100),
        ("relative error %", "relative_error", 100),
    ):
        values = [scale * row[key] for row in published]
        mean = sum(values) / 28
        spread = (sum((v - mean) ** 2 for v in values) / 28) ** 0.5
        assert rows[name][:3] == [
            f"{min(values):.1f}",
            f"{max(values):.1f}",
            f"{mean:.1f}±{spread:.1f}",
        ]
        assert rows[name][5] == "all fail"
    assert rows["relative error %"][2].startswith("36.4±")  # as the guide prints them
    assert rows["deadzone %"][1:3] == ["28.7", "22.9±3.5"]
    assert rows["SQNR (dB)"][1] == "18.1"
    assert [rows[name][3] for name in ("SQNR (dB)", "deadzone %", "relative error %")] == [
        r"\<20",
        r"\>5",
        r"\>10",
    ]
    assert rows["saturation %"] == ["-", "-", "-", r"\>1", "2.34", "undefined"]


def test_zones_are_the_guides_with_the_means_of_the_published_figures(
    text: str, published: list[dict[str, float]]
) -> None:
    rows = table(text, "Zones by depth")
    assert len(rows) == len(GUIDE_ZONES)
    for row, (name, (layers, error, deadzone)) in zip(rows, GUIDE_ZONES.items(), strict=True):
        assert row[0] == f"{name}** ({layers[0]}-{layers[-1]})"
        assert row[1] == str(len(layers))
        means = [
            sum(100 * published[layer][key] for layer in layers) / len(layers)
            for key in ("relative_error", "deadzone")
        ]
        assert row[2:4] == [f"{mean:.1f}" for mean in means]
        # The guide's own means of zones do not all follow from its own list of layers.
        assert means == pytest.approx([error, deadzone], abs=1.0)


def test_the_configurations_are_the_guides(text: str) -> None:
    (targeted,) = blocks(text, "Strategy 1: targeted")
    assert set(targeted["target_layers"]) == set(range(10, 20))
    assert targeted["target_layers"] == [layer for layer, *_ in GUIDE_BY_ERROR]
    assert (targeted["sigma_start"], targeted["sigma_end"]) == (0.05, 0.0005)
    assert targeted["num_stages"] == 10
    assert targeted["exclude_patterns"] == ["lm_head", "embed_tokens", "lora_"]

    (variable,) = blocks(text, "Strategy 2: variable")
    assert variable["use_variable_sigma"] is True
    shown = {k: round(v, 2) for k, v in variable["layer_multipliers"].items()}
    assert shown == pytest.approx(GUIDE_MULTIPLIERS, abs=0.0101)
    others = {layer for layer in shown if shown[layer] != GUIDE_MULTIPLIERS[layer]}
    assert others == {3, 12, 18, 26}  # one in the last digit, for the runs differ by 0.1 points
    assert "Multipliers to two decimals: 0: 0.83, 1: 0.89, 2: 0.93, 3: 0.92," in text

    high, medium = blocks(text, "Strategy 3: zone")
    assert high["target_layers"] == list(range(10, 20))
    assert (high["sigma_start"], high["sigma_end"]) == (0.05, 0.001)
    assert medium["target_layers"] == [*range(4, 10), *range(20, 26)]
    assert (medium["sigma_start"], medium["sigma_end"]) == (0.03, 0.0005)


@pytest.mark.parametrize("strategy", ["targeted", "variable", "zone", "uniform"])
def test_the_configurations_are_those_of_suggest(text: str, strategy: str) -> None:
    number = ["targeted", "variable", "zone", "uniform"].index(strategy) + 1
    expected = export(suggest(load_scan(PROTOTYPE), strategy), "guide", "yaml")
    found = blocks(text, f"Strategy {number}: {strategy}")
    assert found == [d["trainer"]["noise_injection"] for d in yaml.safe_load_all(expected)]


def test_the_sections_of_the_guide_are_there_in_its_order(text: str) -> None:
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [
        "Executive summary",
        "What was measured, and what was not",
        "Layers: site output, `mxfp4:floor`",
        "Noise configurations",
        "Experiment plan",
        "Caveats",
        "Provenance",
    ]


def test_no_gain_is_promised(text: str) -> None:
    assert not re.search(r"\+\d[^\n]*accuracy|improve|expected impact", text, re.I)
    assert text.count("**Expected effect**: none is promised") == 4


def test_what_was_not_measured_is_said(text: str) -> None:
    part = section(text, "What was measured, and what was not")
    assert "**Not measured**, site weight" in part
    assert "**Not measured by any scan**: accuracy" in part
    assert "Nothing says how stable these rankings are" in section(text, "Executive summary")
    assert "The scan does not say: revision" in text


# Sentences follow from figures


def said(scan: Scan) -> str:
    return " ".join(findings(groups_of(scan)[0]))


def test_the_fixture_in_sentences() -> None:
    found = said(load_scan(PROTOTYPE))
    assert "All 28 layers breach at least one threshold: mean relative error 36.4 %" in found
    assert "The 10 worst layers by relative error are one contiguous range: 10-19." in found
    assert "zone Middle (layers 10-19) has the highest mean relative error, 40.5 %" in found
    assert "Relative error is worst at 42.7 % in layer 15 and best at 28.5 % in layer 26." in found
    assert "SQNR is worst at 15.7 dB in layer 27 and best at 18.1 dB in layer 1." in found
    assert "Saturation is undefined in every layer: the prototype counts" in found


def test_scattered_layers_are_not_called_a_range() -> None:
    found = said(made([0.2 + 0.2 * (layer % 2) + 0.001 * layer for layer in range(20)]))
    assert "contiguous" not in found
    assert "The 10 worst layers by relative error are: 1, 3, 5, 7, 9, 11, 13, 15, 17, 19." in found


def test_a_model_of_ten_layers_has_no_ten_worst() -> None:
    assert "worst layers" not in said(made(rising(10)))


def test_nothing_is_flagged_where_nothing_is() -> None:
    scan = made([0.01, 0.02])
    found = said(scan)
    assert "No threshold is breached in 2 layers" in found
    assert "all 2 are within all thresholds" in found
    assert "all fail" not in found


def test_some_are_flagged_where_some_are() -> None:
    found = said(made([0.01, 0.02, 0.5]))
    assert found.startswith("1 of 3 layers breaches at least one threshold")
    assert "1 of 3 fail" in found


def test_orders_that_agree_are_said_to() -> None:
    assert "is 1.00; both count the same 6 layers as the worst." in said(made(rising(12)))


def test_orders_that_disagree_are_named() -> None:
    scan = made(rising(12))
    for layer in range(12):
        scan = with_metric(scan, layer, sqnr_db=10.0 + layer)
    found = said(scan)
    assert "is -1.00: the two disagree about the 6 worst, and layers 0-11 stand" in found
    rows = table(written(scan), "Where the two rankings disagree")
    assert rows[0][:3] == ["0", "12", "1"]
    assert len(rows) == 10


def test_broken_layers_are_named() -> None:
    scan = made([0.2, 0.3])
    sums = scan.records[0].sums
    assert sums is not None
    broken = scan.records[0].model_copy(update={"sums": sums.model_copy(update={"nonfinite": 3})})
    scan = scan.model_copy(update={"records": [broken, *scan.records[1:]]})
    assert "1 is broken: NaN or infinite values" in said(scan)


def test_stability_is_said_where_the_scan_tells() -> None:
    found = said(thorough(rising(12)))
    assert re.search(r"Kendall's tau between halves of the prompts \d\.\d\d", found)
    assert "keeps no replicates" not in found


# Scans of all kinds


def test_sites_of_several_tensors_are_pooled_and_listed() -> None:
    scan = thorough([0.2, 0.3], tensors=("model.layers.0.a.q_proj", "x.o_proj"), site="input")
    found = written(scan)
    layers, tensors = section(found, "Every layer").split("<summary>Every tensor (4)</summary>")
    assert len(re.findall(r"^\| \d", layers, re.M)) == 2
    assert len(re.findall(r"^\| \d", tensors, re.M)) == 4
    assert tensors.count("`model.layers.0.a.q_proj`") == 2


def test_a_single_layer() -> None:
    found = written(made([0.3]))
    assert "The only layer breaches at least one threshold" in found
    assert "**No configuration**: targeted has nothing to choose from" in found
    assert "### Strategy 4: uniform" in found
    assert "## Experiment plan" in found


def test_a_thousand_layers() -> None:
    found = written(made(rising(1000)))
    assert len(table(found, "Every layer")) == 1000


def test_undefined_metrics_are_dashes_with_their_reason() -> None:
    none = dict.fromkeys(("sqnr_db", "deadzone", "saturation", "relative_error", "relative_l1"))
    scan = made([0.2, 0.3, 0.4])
    scan = with_metric(scan, 1, **none)
    found = written(scan)
    row = table(found, "Every layer")[1]
    assert (row[2], row[4:]) == ("-", ["-", "-", "-", "ok"])
    assert "are undefined in layer 1: no reason is given" in found
    assert "There is nothing to plan: relative" in found
    assert not re.search(r"\bnan\b(?! or infinite)", found, re.I)


def test_all_metrics_undefined() -> None:
    none = dict.fromkeys(("sqnr_db", "deadzone", "saturation", "relative_error", "relative_l1"))
    scan = with_metric(with_metric(made([0.2, 0.3]), 0, **none), 1, **none)
    found = written(scan)
    assert "No threshold is breached in 2 layers; no metric is defined." in found
    assert "Worst" not in section(found, "Layers")


def test_a_site_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="the scan holds no site 'weight'") as caught:
        groups_of(made([0.2]), ["weight"])
    assert caught.value.hint == "it holds: output"
    with pytest.raises(UsageError, match="the scan holds no format 'nvfp4'"):
        groups_of(made([0.2]), [], ["nvfp4"])


def test_a_scan_of_nothing() -> None:
    empty = made([0.2]).model_copy(update={"records": [], "rankings": []})
    with pytest.raises(InputError, match="holds no figures"):
        groups_of(empty)


# Hostile names

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "a|b|c",
    "`code` ``two`` ```three",
    "x\n\n# heading\n\n- item",
    "[link](javascript:alert(1))",
    "![image](http://evil/x.png)",
    "https://evil.example www.evil.example",
    "a\r\nb\x1b[31m\u202e",
    "</details><h1>out</h1>",
    "&lt;b&gt; &amp;",
    " ",
]


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(text)


def tags(text: str) -> list[str]:
    """The tags of the rendered document, in order."""
    found: list[str] = re.findall(r"<(/?[a-z][a-z0-9]*)", rendered(text))
    return [tag for tag in found if tag.strip("/") != "code"]  # a name may be set as code or not


def named(name: str) -> Scan:
    """A scan with a name wherever a scan can hold one."""
    scan = made([0.2, 0.4], tensors=(name, f"{name}.q_proj"), site="input", name=name)
    run = scan.run.model_copy(update={"command": name, "started": name})
    text = scan.calibration.model_copy(update={"source": name})
    return scan.model_copy(
        update={
            "run": run,
            "calibration": text,
            "warnings": [name],
            "not_measured": [NotMeasured(module=name, reason=name)],
        }
    )


@pytest.fixture(scope="module")
def harmless() -> list[str]:
    return tags(written(named("harmless")))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_brings_no_markup(name: str, harmless: list[str]) -> None:
    text = written(named(name))
    assert tags(text) == harmless
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_model_without_a_name() -> None:
    assert written(made([0.2], name="")).startswith("# Quantization and noise guide: `unnamed`\n")


def test_that_test_can_fail() -> None:
    assert tags("a <img src=x> b") != tags("a b")
    assert tags("| a |\n|---|\n| b |") != tags("a")


def test_a_very_long_name_is_cut() -> None:
    assert len(written(named("n" * 100_000))) < 60_000
