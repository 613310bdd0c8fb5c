"""Whole pages as they are: `python tests/reports/test_golden.py` writes them anew."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from made_scans import PROTOTYPE, rising, scan_of, thorough

from srdd import __version__
from srdd.comparison import compare_scans
from srdd.documents.scan import load_scan
from srdd.noise import suggest
from srdd.reports.comparison_view import comparison_comment
from srdd.reports.groups import groups_of
from srdd.reports.guide import guide
from srdd.reports.scan_view import scan_blocks
from srdd.reports.suggestion_view import suggestion_blocks
from srdd.reports.terminal import plain

FOLDER = Path(__file__).parent / "golden"


@cache
def pages() -> dict[str, str]:
    """Each page by the name of its file."""
    levels = {"self_attn.o_proj": [18.7, 15.3, 18.6, 18.7], "mlp.down_proj": [17.0] * 4}
    scan = scan_of(
        {"output": {"output": [18.0] * 4}, "input": levels | {"mlp.gate_proj": [18.8] * 4}},
        formats={"mxfp4:floor": 0.0, "nvfp4:token": 1.6},
    )
    old, new = thorough(rising(6)), thorough([0.2, 0.24, 0.28, 0.5, 0.36, 0.4])
    published = guide(groups_of(load_scan(PROTOTYPE)))
    return {
        "scan.txt": plain(scan_blocks(groups_of(scan))),
        "prototype.md": published.replace(f"srdd {__version__}", "srdd VERSION"),
        "comparison.md": comparison_comment(compare_scans(old, new)),
        "suggestion.txt": plain(suggestion_blocks(suggest(old), old)),
    }


@pytest.mark.parametrize("name", ["scan.txt", "prototype.md", "comparison.md", "suggestion.txt"])
def test_the_page_is_the_one_that_was_looked_at(name: str) -> None:
    assert pages()[name] == (FOLDER / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
