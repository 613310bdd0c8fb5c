"""`srdd scan --kl` and `--kl-direct`: the scan, the tables, and going on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_scan import TEXT, Command

from srdd import load_scan, merge_scans
from srdd.measurement import work as work_module


@pytest.fixture
def srdd(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text(TEXT)
    return Command(capfd)


SCAN = ("scan", "tiny", "--prompts", "p.txt", "--max-length", "12")


def test_the_estimate_is_in_the_scan_and_in_its_tables(srdd: Command) -> None:
    told = srdd(
        *SCAN, "--kl", "--kl-check", "2", "--format", "mxfp4", "--format", "nvfp4", "-o", "a.json"
    )
    assert told.code == 0, told.err
    scan = load_scan("a.json")
    assert scan.sensitivity is not None
    assert (scan.sensitivity.method, scan.sensitivity.samples) == ("estimate", 4)
    rows = scan.sensitivities("nvfp4", "weight", by="layer")
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert len(scan.sensitivity.checks) == 6  # two tensors and the whole, in two formats
    assert scan.joint_kl("mxfp4")["measured"] > 0
    noise = {cost.tensor: cost for cost in scan.sensitivity.noise}
    assert noise["model.norm"].layer is None
    assert noise["model.layers.1.input_layernorm"].parameter == "norm"
    assert noise["model.layers.2.mlp.up_proj"].value > 0
    for words in ("KL W4A4", "ratio", "all linears"):
        assert words in told.out


def test_without_it_there_is_none(srdd: Command) -> None:
    assert srdd(*SCAN, "-o", "a.json").code == 0
    scan = load_scan("a.json")
    assert scan.sensitivity is None
    with pytest.raises(Exception, match="the scan has no sensitivity") as caught:
        scan.sensitivities()
    assert "`kl=True`" in str(caught.value)


def test_weights_alone_with_the_estimate_still_run_the_prompts(srdd: Command) -> None:
    assert srdd(*SCAN, "--site", "weight", "--kl", "--kl-check", "0", "-o", "a.json").code == 0
    scan = load_scan("a.json")
    assert scan.calibration.prompts == 4
    assert scan.sensitivity is not None
    assert scan.sensitivity.checks == []


def test_a_direct_measurement_goes_on_where_it_was_killed(
    srdd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = work_module.Work._keep
    kept: list[int] = []

    def killed(self: Any, name: str, done: int, state: work_module.State) -> None:
        self._written = 0.0
        keep(self, name, done, state)
        kept.append(done)
        if (name, done) == ("direct", 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(work_module.Work, "_keep", killed)
    told = srdd(*SCAN, "--kl-direct", "-o", "direct.json")
    assert told.code == 130
    assert "kept in direct.json.partial" in told.err
    kept.clear()
    again = srdd(*SCAN, "--kl-direct", "-o", "direct.json")
    assert again.code == 0
    assert "continuing" in again.err
    assert kept[-2:] == [3 * 7, 3 * 7 + 1]
    assert 5 not in kept
    assert not Path("direct.json.partial").exists()
    scan = load_scan("direct.json")
    assert scan.sensitivity is not None
    assert scan.sensitivity.method == "direct"
    assert len(scan.sensitivities()) == 21
    assert scan.joint_kl()["measured"] > 0


def test_both_ways_agree_in_order_of_magnitude(srdd: Command) -> None:
    assert srdd(*SCAN, "--kl", "--kl-samples", "64", "--kl-check", "0", "-o", "a.json").code == 0
    assert srdd(*SCAN, "--kl-direct", "-o", "b.json").code == 0
    a, b = load_scan("a.json").sensitivities(), load_scan("b.json").sensitivities()
    assert [row["tensor"] for row in a] == [row["tensor"] for row in b]
    ratios = sorted(x["kl"] / y["kl"] for x, y in zip(a, b, strict=True))
    assert 0.8 < ratios[len(ratios) // 2] < 1.25


def test_parts_merge_into_the_whole(srdd: Command) -> None:
    some = ("--kl", "--kl-check", "0")
    assert srdd(*SCAN, *some, "-o", "all.json").code == 0
    assert srdd(*SCAN, *some, "--limit", "2", "-o", "1.json").code == 0
    assert srdd(*SCAN, *some, "--skip", "2", "-o", "2.json").code == 0
    both = merge_scans([load_scan("1.json"), load_scan("2.json")])
    whole = load_scan("all.json")
    assert both.sensitivity is not None
    assert whole.sensitivity is not None
    assert both.sensitivity.tokens == whole.sensitivity.tokens
    for one, other in zip(both.sensitivities(), whole.sensitivities(), strict=True):
        assert one["kl"] == pytest.approx(other["kl"], rel=1e-3)
        assert one["kl_interval"] == pytest.approx(other["kl_interval"], rel=1e-2, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kl", "--kl-samples", "0"), "--kl-samples is 0"),
        (("--kl", "--kl-check", "-1"), "--kl-check is -1"),
        (("--kl-samples", "4"), "--kl-samples has no effect without --kl"),
        (("--kl-direct", "--kl-check", "2"), "--kl-check has no effect without --kl"),
        (("--kl-direct", "--rounding", "stochastic"), "rounds to even"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(
    srdd: Command, options: tuple[str, ...], message: str
) -> None:
    assert message in srdd.fails("scan", "tiny", *options)[0]
