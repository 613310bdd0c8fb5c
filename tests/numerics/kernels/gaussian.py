"""What standard normal values get in a format, by the oracle: where floors.csv has its data from.

    python tests/numerics/kernels/gaussian.py [SPEC ...] > srdd/numerics/floors.csv

prints the table for these specs (`mxfp4:floor`), or for all, from VALUES values for each line. Rows
have CHANNELS values and tensors ROWS rows, which matters where a whole row or tensor shares a
scale: the longer it is, the larger its largest value and the coarser its grid. For formats with a
scale for each row there are lines for rows of WIDTHS values, too. The last column, for scales that
are powers of two, is how far the SQNR moves while the normal's scale goes through an octave.
"""

from __future__ import annotations

import csv
import sys

import numpy as np
import oracle

VALUES = 21_000_000
ROWS, CHANNELS = 64, 4096
ROUNDINGS = ("even", "toward-zero", "stochastic")
WIDTHS = (64, 128, 256, 1024, CHANNELS, 16384)
BY_ROW = ("int8_token:absmax", "fp8_e4m3_token:absmax")
SWING_VALUES = 400_000
RULES = {"nvfp4": ("token", "tensor"), "nvfp4_46": ("token", "tensor")}
METRICS = (
    "sqnr_db",
    "deadzone",
    "saturation",
    "clipping_share",
    "relative_error",
    "relative_l1",
)


def rules_of(name: str) -> tuple[str, ...]:
    """A format's scale rules."""
    usual = ("floor", "even", "ceil", "rceil") if name.startswith("mx") else ("absmax",)
    return RULES.get(name, usual)


def rounded(
    v: oracle.Array, grid: oracle.Grid, rounding: str, rng: np.random.Generator
) -> oracle.Array:
    """Scaled magnitudes on the grid."""
    if rounding == "even":
        return oracle.cast(v, grid)
    values = oracle.magnitudes(grid)
    below = np.searchsorted(values, v, side="right") - 1
    above = np.minimum(below + 1, len(values) - 1)
    if rounding == "toward-zero":
        return values[below]
    gap = values[above] - values[below]
    return values[below] + gap * (rng.random(v.shape) * gap < v - values[below])


def floors(
    spec: str, values: int, seed: int, *, width: int = CHANNELS, sigma: float = 1.0
) -> dict[str, dict[str, float]]:
    """For each of ROUNDINGS the metrics of at least this many values, in rows of `width`."""
    name, _, rule = spec.partition(":")
    element, block = oracle.FORMATS[name]
    grid = oracle.GRIDS[element]
    rng = np.random.default_rng(seed)
    totals = {rounding: np.zeros(8) for rounding in ROUNDINGS}
    rows = ROWS * CHANNELS // width
    for _ in range(-(-values // (rows * width))):
        # Drawn in float64: among so many, float32 would draw exact zeros.
        drawn = sigma * rng.standard_normal((rows, width))
        a = np.abs(drawn.astype(np.float32)).astype(np.float64)
        blocks = a.reshape(rows, -1, block or width)
        v, scale, clips_above = oracle.scaled(blocks, rule, grid)
        over = v > clips_above
        for rounding, total in totals.items():
            q = rounded(v, grid, rounding, rng)
            e = np.abs(q * scale - blocks)
            total += [
                *(a.size, np.square(a).sum(), np.square(e).sum(), (q == 0).sum(), over.sum()),
                *(np.square(e[over]).sum(), (e / blocks).sum(), e.sum() / a.sum() * a.size),
            ]
    return {
        rounding: dict(zip(METRICS, _metrics(t), strict=True)) for rounding, t in totals.items()
    }


def _metrics(total: np.ndarray) -> list[float]:
    count, x2, e2, flushed, over, clipped, relative, l1 = total.tolist()
    sqnr = 10 * np.log10(x2 / e2)
    return [sqnr, flushed / count, over / count, clipped / e2, relative / count, l1 / count]


def swing_db(spec: str, values: int = SWING_VALUES) -> float:
    """How far the SQNR moves while the normal's scale goes through an octave."""
    scales = [2 ** (n / 8) for n in range(8)]
    sqnr = [floors(spec, values, 1, sigma=s)["even"]["sqnr_db"] for s in scales]
    return max(sqnr) - min(sqnr)


def main() -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["spec", "rounding", "width", *METRICS, "swing_db"])
    every = [f"{name}:{rule}" for name in oracle.FORMATS for rule in rules_of(name)]
    for spec in sys.argv[1:] or every:
        swing = swing_db(spec) if spec.startswith("mx") else 0.0
        for width in WIDTHS if spec in BY_ROW else (CHANNELS,):
            for rounding, floor in floors(spec, VALUES, seed=1, width=width).items():
                sqnr, *shares = floor.values()
                figures = [f"{sqnr:.3f}", *(f"{share:.4g}" for share in shares), f"{swing:.2f}"]
                table.writerow([spec, rounding, width, *figures])


if __name__ == "__main__":
    main()
