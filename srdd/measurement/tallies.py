"""Tallies: sums of rows by replicate, kept on the device where the rows were measured.

Nothing here waits for the device. A row that must not count (padding, a first token) is not
selected but added to a bin that nobody reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srdd.documents.records import REPLICATES
from srdd.numerics import histogram
from srdd.numerics.sums import FIELDS, INDEX

NOT_COUNTED = REPLICATES
"""The bin of rows that do not count: one past the last replicate."""


class Tally:
    """Sums and token histogram of one tensor in one format."""

    def __init__(self, device: torch.device) -> None:
        # One histogram bin more, for tokens without an SQNR; one replicate more, see NOT_COUNTED.
        self._sums = torch.zeros(REPLICATES + 1, len(FIELDS), dtype=torch.float64, device=device)
        self._tokens = torch.zeros(histogram.BINS + 1, dtype=torch.int64, device=device)

    def add(self, rows: torch.Tensor, replicate: torch.Tensor) -> None:
        """Add the sums of rows (tokens, fields), each to its replicate (tokens,)."""
        self._sums.index_add_(0, replicate, rows)
        x2, e2 = rows[:, INDEX["x2"]], rows[:, INDEX["e2"]]
        sqnr_db = 10 * torch.log10(x2 / e2)
        place = ((sqnr_db - histogram.LOWEST_DB) / histogram.BIN_DB).floor()
        place = place.clamp(0, histogram.BINS - 1)
        place = torch.where((x2 > 0) & (e2 > 0), place, histogram.BINS).to(torch.int64)
        self._tokens.index_add_(0, place, (replicate != NOT_COUNTED).to(torch.int64))

    def merge(self, other: Tally) -> None:
        """Add another tally of the same device."""
        self._sums += other._sums
        self._tokens += other._tokens

    @property
    def device(self) -> torch.device:
        """Where it is kept."""
        return self._sums.device

    @classmethod
    def of(cls, sums: NDArray[Any], tokens: NDArray[Any]) -> Tally:
        """The tally, on the CPU, that gave `arrays`."""
        tally = cls(torch.device("cpu"))
        tally._sums[:REPLICATES] = torch.from_numpy(sums)
        tally._tokens[:] = torch.from_numpy(tokens)
        return tally

    def on(self, device: torch.device) -> Tally:
        """The same on another device."""
        self._sums, self._tokens = self._sums.to(device), self._tokens.to(device)
        return self

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `of` makes a tally from; waits for the device."""
        return {
            "sums": self._sums[:REPLICATES].cpu().numpy().copy(),
            "tokens": self._tokens.cpu().numpy().copy(),
        }

    def read(self) -> dict[str, Any]:
        """The figures of a srdd.documents.records.Measured; waits for the device."""
        tokens = self._tokens.cpu().numpy()
        return {
            "replicates": self._sums[:REPLICATES].cpu().numpy(),
            "tokens_by_sqnr": tokens[: histogram.BINS].astype(np.int64),
            "undefined_tokens": int(tokens[histogram.BINS]),
        }


class Rows:
    """The replicate and key of each row of the current batch, copied to a device only once."""

    def __init__(self, replicates: torch.Tensor, keys: torch.Tensor | None) -> None:
        self._replicates = replicates.reshape(-1)
        self._keys = None if keys is None else keys.reshape(-1)
        self._copies: dict[torch.device, tuple[torch.Tensor, torch.Tensor | None]] = {}

    @property
    def count(self) -> int:
        """Rows of a tensor that has one for each token."""
        return self._replicates.numel()

    def on(
        self, device: torch.device, chosen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Replicates and keys (rows,) on a device: of all rows, or of the `chosen` ones."""
        if device not in self._copies:
            keys = None if self._keys is None else self._keys.to(device, non_blocking=True)
            self._copies[device] = (self._replicates.to(device, non_blocking=True), keys)
        replicates, keys = self._copies[device]
        if chosen is None:
            return replicates, keys
        return replicates[chosen], None if keys is None else keys[chosen]
