"""`srdd recipe SCAN`: the document, tables, pages, and what is refused before anything is done."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from recipes.made_costs import scan_with_costs

import srdd
from srdd.cli.app import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    scan_with_costs(7, prompts=30).save(tmp_path / "scan.json")
    return tmp_path


def recipe(*arguments: str) -> int:
    return run(["recipe", *arguments])


def test_document_and_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe("scan.json", "--bits", "5", "-o", "recipe.json") == 0
    out, err = capsys.readouterr()
    document = srdd.load_recipe(folder / "recipe.json")
    assert document == srdd.recipe(srdd.load_scan(folder / "scan.json"), bits=5)
    assert (
        f"{document.bits:.2f} bits a weight: predicted KL {1e3 * document.predicted_kl:.2f}" in out
    )
    assert "srdd eval made/up --recipe recipe.json" in out
    assert max(map(len, out.splitlines())) <= 80
    assert err.strip() == "wrote recipe.json"


def test_without_names_it_takes_the_newest_scan_and_names_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe("--max-kl", "30%") == 0
    (written,) = folder.glob("srdd-up-recipe-*bits-*.json")
    document = srdd.load_recipe(written)
    assert document.predicted_kl <= 0.3 * document.all_low_kl * (1 + 1e-9)
    assert "reading scan.json" in capsys.readouterr().err


def test_an_existing_file_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.json").write_text("mine")
    assert recipe("scan.json", "--bits", "5", "-o", "recipe.json") == 2
    assert "exists already" in capsys.readouterr().err
    assert (folder / "recipe.json").read_text() == "mine"
    assert recipe("scan.json", "--bits", "5", "-o", "recipe.json", "--force") == 0


def test_standard_output_has_the_document_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert recipe("scan.json", "--bits", "5", "-o", "-") == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["kind"] == "srdd.recipe"
    assert "Linears by kind and format" in err


def test_an_export_goes_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert recipe("scan.json", "--bits", "6", "--formats", "nvfp4", "--for", "vllm") == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "Linears by kind and format" in err


def test_budgets_are_shown_where_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe("scan.json") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(" 4.")][:1] == ["4.25"]
    assert "100.0" in out
    assert "attention, MLPs at both ends in bf16" in out
    assert max(map(len, out.splitlines())) <= 80


def test_rows_of_the_trade_off(folder: Path) -> None:
    assert recipe("scan.json", "--bits", "5", "-o", "curve.csv") == 0
    rows = list(csv.DictReader((folder / "curve.csv").open()))
    curve = [(float(r["bits"]), float(r["kl"])) for r in rows if r["kind"] == "recipe"]
    assert 10 < len(curve) <= 41
    assert curve == sorted(curve)
    assert [kl for _, kl in curve] == sorted((kl for _, kl in curve), reverse=True)
    assert curve[0][0] == pytest.approx(4.25)
    assert curve[-1] == (16.0, 0.0)
    rules = {r["rule"]: r for r in rows if r["kind"] == "rule"}
    one = rules["all in nvfp4"]
    assert float(one["bits"]) == pytest.approx(4.5)
    assert float(one["difference"]) == pytest.approx(float(one["cross_fit"]) - float(one["kl"]))
    assert any("layers in" in name for name in rules)


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.circles = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.circles += tag == "circle"

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_has_a_mark_for_each_rule_and_the_recipe(folder: Path) -> None:
    assert recipe("scan.json", "--bits", "5", "-o", "page.html") == 0
    page = _Texts()
    page.feed((folder / "page.html").read_text())
    assert {"recipes", "this recipe", "all in nvfp4", "Format of every linear"} <= set(page.texts)
    document = srdd.recipe(srdd.load_scan(folder / "scan.json"), bits=5)
    assert page.circles >= len(document.comparisons) + 1


def test_a_recipe_is_shown_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe("scan.json", "--bits", "5", "-o", "recipe.json") == 0
    first = capsys.readouterr().out
    assert recipe("recipe.json") == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scan.json --bits 3", "no recipe has 3 bits"),
        ("scan.json --bits 5 --max-kl 1", "only one"),
        ("scan.json --for vllm", "needs a budget"),
        ("scan.json -o recipe.json", "needs a budget"),
        ("scan.json --bits 5 --for nobody", "nobody"),
        ("scan.json --bits 5 --granularity row", "unknown granularity 'row'"),
        ("scan.json --bits 5 --pattern nothing=bf16", "fits no linear"),
        ("scan.json --bits 5 --formats mxfp6_e2m3", "no cost of mxfp6_e2m3"),
        ("scan.json --bits 5 --all", "--all needs --check"),
        ("nowhere.json --bits 5", "there is no file nowhere.json"),
        ("--check demo --for vllm", "--check needs a file"),
    ],
)
def test_refused(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.split())
    assert err.startswith("error: ")
    assert "hint: " in err
