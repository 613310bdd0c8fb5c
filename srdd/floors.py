"""The floors of the formats: the metrics that ideal Gaussian data gets in each.

A verdict against a fixed threshold says little, since Gaussian data in MXFP4 fails all of the
guide's; the distance from the format's floor says what the data adds to it. This is plain data, so
that readers of finished scans need no numerics.
"""

from __future__ import annotations

from dataclasses import dataclass

from srdd.formats import FormatSpec


@dataclass(frozen=True)
class Floor:
    """What independent standard normal values get in a format: its own limit, no model's fault.

    The figures depend a little on where the normal's scale falls between two powers of two: over an
    octave, the SQNR of mxfp4 moves by 0.2 dB around these values.
    """

    sqnr_db: float
    deadzone: float
    saturation: float
    clipping_share: float
    relative_error: float
    relative_l1: float


_FLOORS: dict[tuple[str, str], Floor] = {
    ("mxfp4:floor", "even"): Floor(18.788, 0.0880, 0.0234, 0.127, 0.2101, 0.1079),
    ("mxfp4:even", "even"): Floor(19.027, 0.0972, 0.0062, 0.015, 0.2214, 0.1084),
    ("mxfp4:ceil", "even"): Floor(16.821, 0.1747, 0.0, 0.0, 0.3218, 0.1502),
    ("mxfp4:rceil", "even"): Floor(18.756, 0.1068, 0.0, 0.0, 0.2341, 0.1130),
    ("mxfp4:floor", "toward-zero"): Floor(14.147, 0.1747, 0.0234, 0.044, 0.3279, 0.1913),
    ("mxfp4:even", "toward-zero"): Floor(13.988, 0.1928, 0.0062, 0.005, 0.3451, 0.1973),
    ("mxfp4:ceil", "toward-zero"): Floor(11.519, 0.3398, 0.0, 0.0, 0.4790, 0.2755),
    ("mxfp4:rceil", "toward-zero"): Floor(13.673, 0.2113, 0.0, 0.0, 0.3622, 0.2058),
    ("mxfp4:floor", "stochastic"): Floor(15.988, 0.0878, 0.0234, 0.067, 0.2931, 0.1421),
    ("mxfp4:even", "stochastic"): Floor(15.980, 0.0969, 0.0062, 0.008, 0.3104, 0.1446),
    ("mxfp4:ceil", "stochastic"): Floor(13.766, 0.1731, 0.0, 0.0, 0.4564, 0.2006),
    ("mxfp4:rceil", "stochastic"): Floor(15.670, 0.1065, 0.0, 0.0, 0.3289, 0.1510),
}


def floor_of(spec: FormatSpec, rounding: str = "even") -> Floor:
    """The Gaussian floor of a format under a rounding.

    Ties have measure zero in continuous data, so `half-away` has the floor of `even`.
    """
    return _FLOORS[str(spec), "even" if rounding == "half-away" else rounding]
