"""Which scan a document follows from: a fingerprint of what was measured."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from srdd.documents.scan import Scan


def fingerprint(scan: Scan) -> str:
    """SHA-256 of what was measured, as 64 hexadecimal digits.

    It covers the names and fingerprints of model and text, the settings and every metric, and
    leaves out when, where and how fast the scan ran. So a scan made twice, or saved and read again,
    keeps its fingerprint.
    """
    content: dict[str, Any] = {
        "model": [scan.model.name, scan.model.fingerprint],
        "calibration": scan.calibration.fingerprint,
        "settings": scan.settings.model_dump(mode="json"),
        "records": [
            [
                *(r.layer, r.site, r.tensor, r.format, r.scale_rule),
                *([r.operands] if r.operands else []),
                r.metrics.model_dump(),
            ]
            for r in scan.records
        ],
    }
    if scan.sensitivity is not None:
        content["sensitivity"] = [
            [c.tensor, c.format, c.operands, c.value] for c in scan.sensitivity.changes
        ]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
