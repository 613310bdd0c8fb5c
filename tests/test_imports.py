"""What is imported when: the command starts fast, and documents are read without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROTOTYPE = str(Path(__file__).parent / "data" / "prototype_scan.json")

HEAVY = ("torch", "transformers", "numba", "pyarrow")


def heavy_after(code: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has imported after `code`."""
    report = f"import sys; print('heavy', *[m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split()[1:])


LIGHT = [
    "import srdd; dir(srdd)",
    "import srdd.cli.app",
    "from srdd.cli.app import run; run(['--help']); run(['scan', '--help'])",
    "from srdd.cli.app import run; run(['eval', '--help'])",
    "from srdd.cli.app import run; assert run(['formats']) == 0",
    "from srdd.cli.app import run; assert run(['explain', 'mxfp4:even']) == 0",
    "from srdd.cli.app import run; assert run(['schema', 'scan']) == 0",
    f"from srdd.cli.app import run; s = {PROTOTYPE!r}; assert run(['compare', s, s]) == 2",
    f"import srdd.comparison as c, srdd; s = srdd.load_scan({PROTOTYPE!r}); c.compare_scans(s, s)",
    "import srdd.reports.comparison_view",
    "import srdd; srdd.load_scan; srdd.merge_scans; srdd.Scan",
    "import srdd.noise.zones, srdd.prompts.reading, srdd.model.checkpoint, srdd.reports.scan_view",
    "import srdd.reports.guide, srdd.reports.html_page, srdd.reports.delimited, srdd.cli.report",
    "import srdd.rin, srdd.rin.schedule; dir(srdd.rin)",
    "from srdd.cli.app import run; assert run(['scan', '/no/such/folder']) == 2",
    "from srdd.cli.app import run; assert run(['eval', '/no/such/folder']) == 2",
    "import srdd.documents.recipe, srdd.documents.evaluation, srdd.reports.evaluation_view",
    "from srdd.cli.app import run; assert run(['recipe', '/no/such/file']) == 2",
    "import srdd.reports.recipe_page; import srdd; srdd.recipe",
    "import srdd.recipes.exports, srdd.recipes.checking.findings, srdd.model.inventory",
]


@pytest.mark.parametrize("code", LIGHT)
def test_this_imports_nothing_heavy(code: str) -> None:
    assert heavy_after(code) == set()


def test_the_test_above_can_fail() -> None:
    assert heavy_after("import srdd; srdd.scan_model") >= {"torch"}
