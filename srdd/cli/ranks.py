"""The processes of `torchrun -m srdd ...`: the first one speaks for all, unless another fails."""

from __future__ import annotations

import os

RANK = int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0
"""Which process this is; 0 without torchrun."""

SHARED = bool(RANK) or (
    "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
)
"""Whether there are others."""

SHARING = ("scan", "eval")
"""The commands whose work several processes share; any other runs in the first one only."""
