"""Warnings of noise that is too strong, and multipliers beyond reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import srdd
from srdd.errors import UsageError
from srdd.noise.exports import export
from srdd.noise.exports.schedules import one_schedule

FIXTURE = Path(__file__).parent.parent / "data" / "prototype_scan.json"


@pytest.fixture
def scan() -> srdd.Scan:
    return srdd.load_scan(FIXTURE)


def strong(warnings: list[str]) -> list[str]:
    return [text for text in warnings if "stronger than" in text]


def test_noise_below_the_quantization_error_is_no_warning(scan: srdd.Scan) -> None:
    assert strong(srdd.suggest(scan, strategy="variable").warnings) == []


def test_noise_above_the_quantization_error_is_a_warning_with_its_worst_layer(
    scan: srdd.Scan,
) -> None:
    config = srdd.suggest(scan, strategy="variable", sigma_start=0.2)
    (warning,) = strong(config.warnings)
    assert warning.startswith("in 28 layers the noise is stronger than the quantization error: ")
    assert "in layer 15 12.6 dB" in warning
    assert "stronger than the signal" not in warning


def test_noise_above_the_signal_is_a_warning(tmp_path: Path) -> None:
    content = json.loads(FIXTURE.read_text())
    content["report"]["per_layer"][3]["relative_error"] = 30.0
    file = tmp_path / "outlier.json"
    file.write_text(json.dumps(content))
    config = srdd.suggest(srdd.load_scan(file), strategy="variable")
    (warning,) = strong(config.warnings)
    assert "in 1 layer " in warning
    assert warning.endswith("the noise is stronger than the signal")


@pytest.mark.parametrize(
    "options", [{"cap": 1e308}, {"cap": 1e-300}, {"clip": (1e300, 1e308)}, {"clip": (0, 1e9)}]
)
def test_multipliers_beyond_reason_are_refused(scan: srdd.Scan, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"cap is|is no interval"):
        srdd.suggest(scan, strategy="variable", **options)  # type: ignore[arg-type]


def test_separate_experiments_name_their_shares_of_the_energy(scan: srdd.Scan) -> None:
    config = srdd.suggest(scan, strategy="zone")
    text = " ".join(export(config, "guide", "yaml").replace("#", " ").split())
    # By hand, ten layers and twelve: the squares of the nine sigmas of each schedule.
    high = 10 * sum((0.05 * (0.001 / 0.05) ** (k / 8)) ** 2 for k in range(9))
    medium = 12 * sum((0.03 * (0.0005 / 0.03) ** (k / 8)) ** 2 for k in range(9))
    share = 100 * high / (high + medium)
    assert f"high {share:.0f} %, medium {100 - share:.0f} %" in text


def test_equal_energy_of_separate_experiments_is_refused(scan: srdd.Scan) -> None:
    config = srdd.suggest(scan, strategy="zone", equal_energy=True)
    with pytest.raises(UsageError, match="none of them has the energy"):
        export(config, "guide", "yaml")
    assert export(config, "srdd", "json")


def test_tiers_of_different_shapes_share_no_schedule(scan: srdd.Scan) -> None:
    assert one_schedule(srdd.suggest(scan, strategy="zone")) is None
    assert one_schedule(srdd.suggest(scan, strategy="variable")) is not None
