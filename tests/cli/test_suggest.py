"""`srdd suggest` from the outside: streams, files, messages, speed, and what a person sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_scans import PROTOTYPE, costed, made, prototype, rising

from srdd.cli.app import run
from srdd.cli.scans import newest_scan
from srdd.documents.rin import RinConfig, load_rin
from srdd.documents.scan import load_scan
from srdd.errors import InputError
from srdd.noise import CONTROLS, STRATEGIES, suggest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def scan(here: Path) -> Path:
    return Path(shutil.copy(PROTOTYPE, here / "scan.json"))


def written(text: str) -> Any:
    return yaml.safe_load(text)["trainer"]["noise_injection"]


class TestStreams:
    def test_the_configuration_is_all_of_standard_output(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["suggest", str(scan), "--strategy", "targeted"]) == 0
        out, err = capfd.readouterr()
        assert written(out)["target_layers"] == [15, 14, 16, 17, 12, 13, 11, 18, 19, 10]
        assert "strategy targeted; recommended instead: uniform" in err
        assert "warning: " in err

    def test_the_newest_scan_is_read_and_named(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["suggest"]) == 0
        out, err = capfd.readouterr()
        assert "reading scan.json, the newest scan here" in err
        assert len(written(out)["layer_multipliers"]) == 28

    def test_a_file_is_written_and_named(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["suggest", "-o", "rin.json", "--for", "srdd"]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert "wrote rin.json" in err
        assert load_rin("rin.json") == suggest(load_scan(scan), "variable")

    def test_the_form_follows_from_the_file_s_name(self, scan: Path) -> None:
        assert run(["suggest", "-o", "a.json"]) == 0
        assert json.loads(Path("a.json").read_text())["trainer"]
        assert run(["suggest", "-o", "a.yaml", "--strategy", "uniform", "--for", "qerl"]) == 0
        assert yaml.safe_load(Path("a.yaml").read_text())["num_stages"] == 10
        assert run(["suggest", "-o", "b.json", "--as", "overrides"]) == 0
        assert Path("b.json").read_text().startswith("++trainer")

    def test_standard_input_is_read(
        self, scan: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with scan.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert run(["suggest", "-", "--as", "json", "-o", "-"]) == 0
        assert json.loads(capfd.readouterr().out)["trainer"]

    def test_options_reach_the_strategy(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        line = "suggest --cap 1.1 --sigma-start 0.01 --num-stages 5"
        assert run([*line.split(), "--for", "srdd", "--exclude", "q_norm", "--equal-energy"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["parameters"] == {
            "sigma_start": 0.01,
            "sigma_end": 0.0005,
            "num_stages": 5,
            "top_k": None,
            "direction": "proportional",
            "cap": 1.1,
            "clip": None,
            "zones": None,
            "tiers": None,
            "seed": None,
            "equal_energy": True,
            "target_kl": None,
            "match_quantization": None,
            "equal_kl": False,
        }
        assert "q_norm" in found["exclude_patterns"]
        zone = "suggest --strategy zone --tier high=0.02:0.002 --tier medium=none --for srdd"
        assert run(zone.split()) == 0
        (tier,) = json.loads(capfd.readouterr().out)["tiers"]
        assert tier["schedule"]["sigma_start"] == 0.02


class TestCosts:
    @pytest.mark.parametrize(
        ("options", "share"),
        [
            ("--match-quantization", 1.0),
            ("--match-quantization --strategy balanced", 1.0),
            ("--match-quantization 0.25", 0.25),
            ("--match-quantization=0.25", 0.25),
            ("--num-stages 4 --match-quantization 5e-1 --seed 1", 0.5),
        ],
    )
    def test_the_share_may_be_left_out(
        self, here: Path, capfd: pytest.CaptureFixture[str], options: str, share: float
    ) -> None:
        costed().save("scan.json")
        assert run(["suggest", "--for", "srdd", *options.split()]) == 0
        out, err = capfd.readouterr()
        kl = RinConfig.parse(out.encode(), "standard output").kl
        assert kl is not None
        assert kl.first == pytest.approx(0.13 * share, rel=1e-3)
        assert f"{100 * share:.3g} % of what W4A4" in " ".join(err.split())

    def test_a_trainer_that_knows_no_layers_takes_none_of_them(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        costed().save("scan.json")
        assert run(["suggest", "--strategy", "balanced", "--for", "qerl"]) == 2
        assert "QeRL puts the same noise on every layer" in capfd.readouterr().err
        assert (
            run(["suggest", "--strategy", "uniform", "--for", "qerl", "--target-kl", "0.017"]) == 0
        )
        # 42.5 nats for a variance of 1: 0.017 = 42.5 * 0.02^2.
        assert capfd.readouterr().out.startswith("--sigma-start 0.02 --sigma-end 0.0002 ")

    def test_the_table_fits_80_columns(
        self, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        costed().save("scan.json")
        monkeypatch.setenv("COLUMNS", "80")
        for strategy in STRATEGIES:
            assert run(["suggest", "--strategy", strategy]) == 0
            err = capfd.readouterr().err
            assert max(map(len, err.splitlines())) <= 80
            assert "KL of noise" in " ".join(err.split())
            assert "of W4A4" in " ".join(err.split())


class TestFolder:
    def test_all_strategies_and_controls_and_a_plan(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["suggest", "--strategy", "all", "-o", "plan", "--baseline", "0.5641"]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert "wrote 6 configurations and plan.md to plan" in err
        names = {path.name for path in Path("plan").iterdir()}
        labels = {"uniform", "targeted", "variable", "zone", "inverse", "shuffled"}
        assert names == {f"{label}.yaml" for label in labels} | {"plan.md"}
        for label in labels:
            roots = list(yaml.safe_load_all((Path("plan") / f"{label}.yaml").read_text()))
            assert all(root["trainer"]["noise_injection"]["enabled"] for root in roots)
        assert "56.41 %" in Path("plan/plan.md").read_text()

    def test_what_a_trainer_cannot_take_is_left_out_and_told(
        self, scan: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["suggest", "--strategy", "all", "-o", "plan", "--for", "verl-rin"]) == 0
        assert "left out zone, because verl-rin has one schedule" in capfd.readouterr().err
        assert not Path("plan/zone.yaml").exists()
        assert "Left out: zone" in Path("plan/plan.md").read_text()

    def test_controls_of_one_strategy(self, scan: Path) -> None:
        line = "suggest --strategy targeted --top-k 5 --controls -o plan --for srdd --seed 3"
        assert run(line.split()) == 0
        found = {path.stem: load_rin(path) for path in Path("plan").glob("*.json")}
        assert set(found) == {"uniform", "targeted", "inverse", "shuffled"}
        assert len(found["shuffled"].layers) == 5
        assert len(found["inverse"].layers) == 23
        assert found["shuffled"].parameters.seed == 3

    def test_a_scan_with_costs_has_every_strategy_at_equal_cost(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        costed().save("scan.json")
        line = "suggest --strategy all -o plan --for srdd --target-kl 0.02"
        assert run(line.split()) == 0
        found = {path.stem: load_rin(path) for path in Path("plan").glob("*.json")}
        assert set(found) == {*STRATEGIES, *CONTROLS}
        for config in found.values():
            assert config.kl is not None
            assert config.kl.first == pytest.approx(0.02, rel=1e-3)
        err = capfd.readouterr().err
        assert "What the noise costs the predictions" in err
        assert "20.00 ±" in err
        assert run([*line.split(), "--force", "--equal-kl"]) == 0
        costs = [load_rin(path).kl for path in Path("plan").glob("*.json")]
        means = [kl.mean for kl in costs if kl is not None]
        assert means == pytest.approx([means[0]] * 8, rel=1e-3)

    @pytest.mark.parametrize("strategy", ["balanced", "matched"])
    def test_controls_of_a_strategy_by_cost(self, here: Path, strategy: str) -> None:
        costed().save("scan.json")
        line = f"suggest --strategy {strategy} --controls -o plan --for verl-rin --equal-kl"
        assert run(line.split()) == 0
        names = {path.stem for path in Path("plan").glob("*.yaml")}
        assert names == {"uniform", strategy, "inverse", "shuffled"}

    def test_nothing_is_written_over(self, scan: Path, capfd: pytest.CaptureFixture[str]) -> None:
        line = ["suggest", "--strategy", "all", "-o", "plan"]
        Path("plan").mkdir()
        Path("plan/zone.yaml").write_text("mine")
        assert run(line) == 2
        assert "plan/zone.yaml exists already" in capfd.readouterr().err
        assert [path.name for path in Path("plan").iterdir()] == ["zone.yaml"]
        assert run([*line, "--force"]) == 0
        assert Path("plan/zone.yaml").read_text() != "mine"

    def test_equal_layers_leave_uniform_and_variable(self, here: Path) -> None:
        made([0.3] * 4).save("scan.json")
        assert run(["suggest", "--strategy", "all", "-o", "plan"]) == 0
        assert {path.stem for path in Path("plan").glob("*.yaml")} == {"uniform", "variable"}


def change(**layer: Any) -> bytes:
    found = prototype()
    found["report"]["per_layer"][3] |= layer
    return json.dumps(found).encode()


def newer() -> bytes:
    return made(rising(2)).to_json().replace(b'"schema_version":2', b'"schema_version":7', 1)


BAD_FILES = [
    (b'{"results": [1]}', "scan.json is not a document of kind 'srdd.scan'"),
    (newer(), "scan.json has schema version 7, and this srdd reads up to 2"),
    (PROTOTYPE.read_bytes()[:5000], "scan.json is not valid JSON"),
    (PROTOTYPE.read_bytes().replace(b"0.30078125", b"NaN"), "scan.json is not valid JSON"),
    (change(deadzone_ratio=-0.2), "deadzone_ratio: Input should be greater than or equal to 0"),
    (change(layer_id=2), "layer 2 occurs twice in output"),
    (change(layer_id=30), "a record names layer 30, which the model lacks"),
]

BAD_LINES = [
    ("suggest nowhere.json", "there is no file nowhere.json", "srdd scan"),
    ("suggest --strategy best", "unknown strategy 'best'", "all"),
    ("suggest --strategy alle", "unknown strategy 'alle'", "choose from: all"),
    ("suggest --metric error", "unknown metric 'error'", "relative_error"),
    ("suggest --site weight", "the scan holds no site 'weight'", "output"),
    ("suggest --format nvfp4", "the scan holds no format for 'nvfp4'", "mxfp4:floor"),
    ("suggest --strategy targeted --top-k 29", "top_k is 29, and the scan has 28", "1 to 28"),
    ("suggest --target-kl 0.1", "the scan does not say what noise costs", "--kl"),
    ("suggest --strategy balanced", "the scan has no sensitivity", "--kl"),
    ("suggest --target-kl 0.1 --sigma-start 1", "--sigma-start and --target-kl both", "one of"),
    ("suggest --match-quantization x", "there is no file x", "srdd scan"),
    ("suggest --match-quantization 0", "--match-quantization is 0", "above 0"),
    (
        "suggest --match-quantization 10%",
        "Invalid value for '--match-quantization': Input should be a valid",
        "--help",
    ),
    ("suggest --top-k 3", "--top-k belongs to strategy targeted", "targeted"),
    ("suggest --questions 100", "--questions has no effect without a plan", "--strategy all"),
    ("suggest --baseline 0.5", "--baseline has no effect without a plan", "--strategy all"),
    ("suggest --num-stages 2", "num_stages 2 makes trainers divide by zero", "3 stages"),
    ("suggest --num-stages 1", "num_stages 1 gives no noise at all", "3 stages"),
    ("suggest --sigma-end 0", "sigma_end 0 gives one noisy stage", "above 0"),
    ("suggest --sigma-end 0.1", "sigma_end 0.1 is above sigma_start", "swap"),
    ("suggest --strategy zone --zones 0-9,5-27", "zone 5-27 must start at layer 10", "0-3,4-9"),
    ("suggest --strategy zone --zones 0-9,12-27", "zone 12-27 must start at layer 10", "0-3,4-9"),
    ("suggest --strategy zone --tier high", "--tier 'high' is no schedule", "high=0.05"),
    ("suggest --strategy zone --tier high=a:b", "--tier 'high=a:b' is no schedule", "high="),
    ("suggest --strategy shuffled --seed -1", "Invalid value for '--seed'", "suggest --help"),
    ("suggest --for trl", "TRL has no setting", "srdd"),
    ("suggest --for qerl", "QeRL puts the same noise on every layer", "--strategy uniform"),
    ("suggest --for surogate --as overrides", "surogate takes no overrides", "yaml"),
    ("suggest --strategy all", "this writes several files", "-o FOLDER"),
    ("suggest --strategy all -o scan.json", "scan.json is a file", "folder"),
    ("suggest --strategy all -o no/such", "there is no folder no", "mkdir -p"),
    ("suggest --strategy best --controls -o p", "unknown strategy 'best'", "variable"),
    ("suggest --strategy uniform --controls -o p", "uniform is itself what others", "targeted"),
    ("suggest --strategy all -o p --baseline 56", "accuracy 56 is no fraction", "0.564"),
    ("suggest --strategy all -o p --layer-type x", "unknown layer type 'x'", "rmsnorm"),
    ("suggest -o scan.json", "scan.json exists already", "--force"),
    ("suggest -o no/such.yaml", "there is no folder no", "mkdir -p"),
    ("suggest --stratgey zone", "No such option", "suggest --help"),
]


class TestBadInput:
    @pytest.mark.parametrize(("content", "message"), BAD_FILES)
    def test_a_file_that_is_no_good_scan(
        self, here: Path, capfd: pytest.CaptureFixture[str], content: bytes, message: str
    ) -> None:
        Path("scan.json").write_bytes(content)
        assert run(["suggest", "scan.json", "-o", "rin.yaml"]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert message in err
        assert "hint: " in err
        assert "Traceback" not in err
        assert not Path("rin.yaml").exists()

    @pytest.mark.parametrize(("line", "message", "hint"), BAD_LINES)
    def test_a_command_that_cannot_be(
        self, scan: Path, capfd: pytest.CaptureFixture[str], line: str, message: str, hint: str
    ) -> None:
        assert run(line.split()) == 2
        out, err = capfd.readouterr()
        assert out == ""
        told, _, way_out = err.partition("hint: ")
        assert f"error: {message}" in told
        assert hint in way_out
        assert not Path("p").exists()

    def test_no_scan_in_the_folder(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        Path("package.json").write_text("{}")
        assert run(["suggest"]) == 2
        err = capfd.readouterr().err
        assert f"there is no scan in {here}" in err
        assert "srdd scan MODEL" in err

    def test_a_layer_without_figures(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        found = prototype()
        del found["report"]["per_layer"][5]
        Path("scan.json").write_text(json.dumps(found))
        assert run(["suggest"]) == 2
        assert "the scan has no relative_error of layer 5" in capfd.readouterr().err

    def test_one_layer_and_equal_layers(
        self, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        made([0.3]).save("one.json")
        made([0.3] * 4).save("equal.json")
        for name, message in (("one", "there is only one layer"), ("equal", "all 4 layers are")):
            assert run(["suggest", f"{name}.json", "--strategy", "targeted"]) == 2
            assert message in capfd.readouterr().err
            assert run(["suggest", f"{name}.json"]) == 0
            assert "recommended instead: uniform" in capfd.readouterr().err


class TestNewest:
    def at(self, path: Path, content: bytes, when: int) -> Path:
        path.write_bytes(content)
        os.utime(path, (when, when))
        return path

    def test_it_is_known_by_its_content(self, here: Path) -> None:
        ours = made(rising(2)).to_json()
        old = self.at(here / "z.json", ours, 100)
        self.at(here / "srdd-x.json", b'{"kind": "srdd.rin"}', 500)
        self.at(here / "broken.json", b'{"no', 600)
        (here / "folder.json").mkdir()
        assert newest_scan(here) == old
        theirs = self.at(here / "theirs.json", PROTOTYPE.read_bytes(), 200)
        assert newest_scan(here) == theirs
        mentions = b'{"notes": "about \\"srdd.scan\\" and", "x": "srdd.scan"}'
        self.at(here / "notes.json", mentions, 700)
        assert newest_scan(here) == theirs
        self.at(here / "later.txt", ours, 900)
        assert newest_scan(here) == theirs
        keys_sorted = json.dumps(json.loads(ours), sort_keys=True).encode()
        last = self.at(here / "sorted.json", keys_sorted, 800)
        assert newest_scan(here) == last

    def test_a_broken_scan_is_not_passed_over_for_an_older_one(self, here: Path) -> None:
        ours = made(rising(2)).to_json()
        self.at(here / "old.json", ours, 100)
        cut = self.at(here / "new.json", ours[:500], 200)
        assert newest_scan(here) == cut
        assert run(["suggest"]) == 2

    def test_none_is_told(self, here: Path) -> None:
        with pytest.raises(InputError, match="there is no scan in"):
            newest_scan(here)


def child(arguments: list[str], folder: Path) -> str:
    """Which heavy modules a fresh command imported."""
    code = (
        "import sys; from srdd.cli.app import run; code = run(sys.argv[1:]);"
        "heavy = [m for m in ('torch', 'transformers', 'numba', 'numpy') if m in sys.modules];"
        "print('heavy', *heavy, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


class TestWeight:
    @pytest.mark.parametrize(
        ("line", "imported"),
        [
            ("suggest", "heavy numpy"),
            ("suggest --strategy all -o plan", "heavy numpy"),
            ("suggest --help", "heavy"),
        ],
    )
    def test_reading_a_scan_imports_numpy_at_most(
        self, line: str, imported: str, scan: Path
    ) -> None:
        assert child(line.split(), scan.parent) == imported
