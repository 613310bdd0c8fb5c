"""The floors of the formats: the metrics that ideal Gaussian data gets in each.

A verdict against a fixed threshold says little, since Gaussian data in MXFP4 fails all of the
guide's; the distance from the format's floor says what the data adds to it. The figures are data,
in floors.csv, so that readers of finished scans need no kernels. They come from 7 or 21 million
values for each line, by numpy and ml_dtypes alone: `python tests/numerics/kernels/gaussian.py`
prints the file anew.

Where a power of two scales a block, the figures depend on where the normal's scale falls between
two powers of two: `swing_db` says how far the SQNR moves over such an octave. Where a row shares a
scale, they depend on the row's length: a longer row has a larger maximum and so a coarser grid.
"""

from __future__ import annotations

import csv
import functools
import math
from dataclasses import astuple, dataclass
from importlib import resources

import numpy as np

from srdd.numerics.formats import FormatSpec

WIDTH = 4096
"""The row length that a floor is for where none is given."""


@dataclass(frozen=True)
class Floor:
    """What independent standard normal values get in a format: its own limit, no model's fault.

    A rotation leaves Gaussian data Gaussian, and its format's floor as it is.

    Attributes:
        swing_db: how far the SQNR in dB moves while the scale of normal values goes through an
            octave; 0 for formats whose scales are no powers of two.
    """

    sqnr_db: float
    deadzone: float
    saturation: float
    clipping_share: float
    relative_error: float
    relative_l1: float
    swing_db: float


@functools.cache
def _table() -> dict[tuple[str, str], dict[int, Floor]]:
    """(format with its scale rule, rounding) -> row length, in rising order -> floor."""
    table: dict[tuple[str, str], dict[int, Floor]] = {}
    text = resources.files("srdd.numerics").joinpath("floors.csv").read_text("utf-8")
    for spec, rounding, width, *figures in list(csv.reader(text.splitlines()))[1:]:
        table.setdefault((spec, rounding), {})[int(width)] = Floor(*map(float, figures))
    return table


def floor_of(spec: FormatSpec, rounding: str = "even", width: float = WIDTH) -> Floor:
    """The Gaussian floor of a format under a rounding.

    Ties have measure zero in continuous data, so `half-away` has the floor of `even`.

    Arguments:
        width: values in a row; between the lengths in the table, figures are interpolated over its
            logarithm (0.07 dB at most), beyond them they are those of the nearest.
    """
    rounding = "even" if rounding == "half-away" else rounding
    floors = _table()[f"{spec.format.unrotated}:{spec.scale_rule}", rounding]
    if len(floors) == 1:
        return floors[WIDTH]
    widths, place = np.log(list(floors)), math.log(max(width, 1.0))
    figures = zip(*map(astuple, floors.values()), strict=True)
    return Floor(*(float(np.interp(place, widths, each)) for each in figures))


def product_floor_db(floor_db: float, operands: str | None) -> float:
    """The SQNR of a product of Gaussian operands, from the floor of their format, dB.

    One quantized operand passes its SQNR on to the product. Two add their errors' energies, and the
    product of both errors: 10^(-S/10) = 2 r + r^2 with r = 10^(-floor/10), if the errors are
    independent of the values, which rounding to nearest nearly achieves.

    Arguments:
        operands: `both`, or anything else for one operand.
    """
    if operands != "both":
        return floor_db
    error = 10 ** (-floor_db / 10)
    return -10 * math.log10(2 * error + error * error)
