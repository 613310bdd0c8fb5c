"""The tables of site `linear`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_scans import made, measured
from rich.console import Console

from srdd.documents.records import Measured, build
from srdd.documents.scan import Operands, Record, Scan
from srdd.numerics.sums import INDEX
from srdd.reports.operands import beyond_sum, dominant, label
from srdd.reports.tables import scan_tables

X2 = 1000.0


def one(layer: int, tensor: str, operands: Operands, e2: float) -> Measured:
    found = measured(layer, 0.3, prompts=1, tensor=tensor)
    found.replicates[0, INDEX["x2"]] = X2
    found.replicates[0, INDEX["e2"]] = e2
    return replace(found, site="linear", operands=operands)


def scan_of(energies: dict[str, tuple[float, float, float]], layers: int = 2) -> Scan:
    """A scan whose tensors have errors of these energies: of the weight, the input, and both."""
    parts = [
        one(layer, f"model.layers.{layer}.{tensor}", operands, e2)
        for layer in range(layers)
        for tensor, given in energies.items()
        for operands, e2 in zip(("weight", "input", "both"), given, strict=True)
    ]
    records, rankings = build(parts, rounding="even", prompts=1, seed=0)
    scan = made([0.3] * layers)
    settings = scan.settings.model_copy(update={"sites": ["linear"]})
    return scan.model_copy(update={"records": records, "rankings": rankings, "settings": settings})


def row_of(weight: float, given: float, both: float) -> dict[Operands, Record]:
    scan = scan_of({"mlp.up_proj": (weight, given, both)}, layers=1)
    return {record.operands: record for record in scan.records if record.operands}


def shown(scan: Scan, by: str = "layer", width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in scan_tables(scan, by):
        console.print(part)
    return console.export_text()


@pytest.mark.parametrize(
    ("spec", "operands", "name"),
    [
        ("mxfp4:floor", "weight", "W4A16"),
        ("nvfp4:token", "input", "W16A4"),
        ("mxfp4:floor", "both", "W4A4"),
        ("mxfp8_e4m3:floor", "both", "W8A8"),
        ("mxfp6_e2m3:floor", "weight", "W6A16"),
    ],
)
def test_choices_are_called_after_their_bits(spec: str, operands: Operands, name: str) -> None:
    assert label(spec, operands) == name


def test_energies_that_add_are_at_their_sum() -> None:
    assert beyond_sum(row_of(10, 30, 40)) == pytest.approx(0, abs=1e-9)


def test_errors_that_reinforce_each_other_are_below_it() -> None:
    assert beyond_sum(row_of(10, 30, 80)) == pytest.approx(-3.0103, abs=1e-3)
    assert beyond_sum(row_of(10, 30, 20)) == pytest.approx(3.0103, abs=1e-3)


def test_an_exact_product_has_no_sum() -> None:
    assert beyond_sum(row_of(0, 30, 30)) is None
    assert dominant(row_of(0, 30, 30)) == "-"


def test_the_operand_with_more_energy_is_named() -> None:
    assert dominant(row_of(10, 30, 40)) == "input"
    assert dominant(row_of(30, 10, 40)) == "weight"
    assert dominant(row_of(10, 12, 22)) == "alike"


def test_layers_show_all_three_and_their_worst_product() -> None:
    text = shown(scan_of({"mlp.up_proj": (10, 20, 30), "mlp.down_proj": (10, 60, 70)}))
    (line,) = [line for line in text.splitlines() if line.strip().startswith("0 ")]
    # 10 log10 of 2000 over 20, 80 and 100, and of 1000 over 70.
    for figure in ("20.00", "13.98", "13.01", "+0.00", "input", "down 11.5"):
        assert figure in line, line
    assert "W4A16 dB" in text
    assert "saturation" not in text


def test_kinds_and_tensors_have_rows_of_their_own() -> None:
    scan = scan_of({"mlp.up_proj": (10, 20, 30), "mlp.down_proj": (10, 60, 70)})
    lines = [line.split() for line in shown(scan, "kind").splitlines() if line.strip()]
    assert [line[0] for line in lines if line[0] in ("up", "down")] == ["up", "down"]
    tensors = [line for line in shown(scan, "tensor").splitlines() if " up " in line]
    assert len(tensors) == 2


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_is_cut(width: int) -> None:
    text = shown(scan_of({"mlp.up_proj": (10, 20, 30), "mlp.down_proj": (10, 60, 70)}), width=width)
    assert "13.01" in text
    assert "…" not in text


def test_an_empty_site_says_so() -> None:
    scan = scan_of({"mlp.up_proj": (10, 20, 30)}).model_copy(update={"records": []})
    assert "nothing was measured here" in shown(scan)
