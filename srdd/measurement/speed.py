"""How fast this machine multiplies and quantizes, for a forecast of a scan."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import row_sums

TOKENS = 512


def speed(width: int, spec: FormatSpec, dtype: str, seconds: float = 1.0) -> tuple[float, float]:
    """Floating-point operations and quantized values a second.

    A product of TOKENS rows with a square weight is repeated for `seconds`, and so is the kernel.

    Arguments:
        width: channels, a multiple of the format's block.
        dtype: of rows and weight, a name of torch's.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randn(TOKENS, width, device=device).to(getattr(torch, dtype))
    weight = torch.randn(width, width, device=device).to(x.dtype)

    def rate(amount: float, run: Callable[[], object]) -> float:
        run()
        count, started = 0, time.monotonic()
        while time.monotonic() < started + seconds:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += 1
        return amount * count / (time.monotonic() - started)

    with torch.no_grad():
        products = rate(2.0 * TOKENS * width * width, lambda: x @ weight)
        values = rate(float(TOKENS * width), lambda: row_sums(x, spec, "even", None))
    return products, values
