"""The processes of a torchrun command, which share the work of one scan or evaluation."""

from __future__ import annotations

import contextlib
import datetime
import os
from dataclasses import dataclass

from srdd.measurement.work import Alone, Part, Processes

PATIENCE = datetime.timedelta(days=30)
"""How long one process waits for another: as long as any scan takes. When one fails, torchrun ends
the others."""


@dataclass
class Torchrun:
    """The processes of torchrun, which talk over gloo.

    Attributes:
        rank, count: which process this is, and how many there are.
    """

    rank: int
    count: int

    def gather(self, part: Part) -> list[Part]:
        """The parts of all processes, in order of their ranks, in each of them."""
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        parts: list[Part | None] = [None] * self.count
        dist.all_gather_object(parts, part)
        return [each for each in parts if each is not None]


def processes() -> Processes:
    """Those that torchrun started; this one alone without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" not in os.environ or count < 2:
        return Alone()
    return Torchrun(int(os.environ["RANK"]), count)


def own_device() -> str | None:
    """The GPU of this process among those that torchrun started here; None without GPUs."""
    import torch

    place = int(os.environ.get("LOCAL_RANK", "0"))
    return f"cuda:{place % torch.cuda.device_count()}" if torch.cuda.is_available() else None


def is_first_to_fail() -> bool:
    """Whether no other process has failed before this one; also true where that is unknown.

    It asks the store of torchrun itself, which is there before the processes know each other.
    """
    with contextlib.suppress(Exception):  # whatever it is, the message is worth more
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = datetime.timedelta(seconds=20)
        store = TCPStore(address, port, is_master=False, timeout=patience)
        return int(store.add("srdd/failed", 1)) == 1
    return True
