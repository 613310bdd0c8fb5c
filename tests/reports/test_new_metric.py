"""A metric is declared once: an entry in METRICS alone brings it into every output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from srdd.numerics import metrics

old = metrics.METRICS["relative_l1"]
metrics.METRICS["mean_size"] = metrics.Metric(
    **{
        **vars(old),
        "name": "mean_size",
        "title": "mean size of values",
        "label": "size of x",
        "compute": metrics._quotient("abs_x", "elements"),
        "priority": 0,
        "summary": "How large values are.",
    }
)

from made_scans import rising, thorough

from srdd.comparison import compare_scans
from srdd.documents.scan import Scan
from srdd.reports.comparison_view import comparison_blocks, comparison_comment, comparison_csv
from srdd.reports.delimited import delimited
from srdd.reports.explanations import explain
from srdd.reports.groups import groups_of
from srdd.reports.guide import guide
from srdd.reports.html_page import page
from srdd.reports.scan_view import scan_blocks
from srdd.reports.terminal import plain


scan = Scan.parse(thorough(rising(3)).to_json(), "scan")
assert 0 < scan.records[0].metrics.mean_size <= 1
groups = groups_of(scan)
outputs = {
    "terminal": plain(scan_blocks(groups)),
    "guide": guide(groups),
    "page": page([("scan", groups)]),
    "comparison": plain(comparison_blocks(compare_scans(scan, scan))),
    "comment": comparison_comment(compare_scans(scan, scan)),
}
for name, text in outputs.items():
    assert "size of x" in text, name
for text in (delimited([("scan", groups[0])], "csv"), comparison_csv(compare_scans(scan, scan))):
    assert "mean_size" in text
assert explain("mean_size")[0].summary == explain("size of x")[0].summary == "How large values are."
"""


def test_a_metric_that_is_declared_is_in_every_output() -> None:
    tests = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
