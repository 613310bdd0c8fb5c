"""What the runs of an experiment ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import srdd


def environment() -> dict[str, Any]:
    """The machine, and what it ran."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads_of_a_run": 1,
    }


def versions(*packages: str) -> dict[str, str]:
    """Releases of srdd and of these packages, without what was built in locally."""
    return {name: version(name).partition("+")[0] for name in packages} | {"srdd": srdd.__version__}
