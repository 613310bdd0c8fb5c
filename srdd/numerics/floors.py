"""The floors of the formats: the metrics that ideal Gaussian data gets in each.

A verdict against a fixed threshold says little, since Gaussian data in MXFP4 fails all of the
guide's; the distance from the format's floor says what the data adds to it. This is plain data, so
that readers of finished scans need no numerics. It comes from 7 or 21 million values for each line,
by numpy and ml_dtypes alone: `python tests/numerics/kernels/gaussian.py` prints it anew.

Where a power of two scales a block, the figures depend on where the normal's scale falls between
two powers of two: SWING_DB says how far the SQNR moves over such an octave. Where a row shares a
scale, they depend on the row's length: a longer row has a larger maximum and so a coarser grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from srdd.numerics.formats import FormatSpec


@dataclass(frozen=True)
class Floor:
    """What independent standard normal values get in a format: its own limit, no model's fault.

    A rotation leaves Gaussian data Gaussian, and its format's floor as it is.
    """

    sqnr_db: float
    deadzone: float
    saturation: float
    clipping_share: float
    relative_error: float
    relative_l1: float


WIDTH = 4096
"""The row length that a floor is for where none is given."""

SWING_DB: dict[str, float] = {
    "mxfp4:floor": 0.36,
    "mxfp4:even": 0.12,
    "mxfp4:ceil": 0.53,
    "mxfp4:rceil": 0.25,
    "mxfp6_e2m3:floor": 0.16,
    "mxfp6_e2m3:even": 0.13,
    "mxfp6_e2m3:ceil": 0.53,
    "mxfp6_e2m3:rceil": 0.12,
    "mxfp6_e3m2:floor": 0.15,
    "mxfp6_e3m2:even": 0.05,
    "mxfp6_e3m2:ceil": 0.05,
    "mxfp6_e3m2:rceil": 0.05,
    "mxfp8_e4m3:floor": 0.75,
    "mxfp8_e4m3:even": 0.35,
    "mxfp8_e4m3:ceil": 0.04,
    "mxfp8_e4m3:rceil": 0.04,
    "mxfp8_e5m2:floor": 0.15,
    "mxfp8_e5m2:even": 0.05,
    "mxfp8_e5m2:ceil": 0.05,
    "mxfp8_e5m2:rceil": 0.05,
    "mxint8:floor": 0.82,
    "mxint8:even": 0.82,
    "mxint8:ceil": 0.83,
    "mxint8:rceil": 0.83,
}
"""How far the SQNR in dB moves while the scale of normal values goes through an octave; 0 for
formats that are not listed, whose scales are no powers of two."""

_FLOORS: dict[tuple[str, str], Floor] = {
    ("mxfp4:floor", "even"): Floor(18.788, 0.08793, 0.02338, 0.1263, 0.2101, 0.1079),
    ("mxfp4:floor", "toward-zero"): Floor(14.148, 0.1747, 0.02338, 0.04339, 0.3279, 0.1913),
    ("mxfp4:floor", "stochastic"): Floor(15.986, 0.08773, 0.02338, 0.06625, 0.2929, 0.1421),
    ("mxfp4:even", "even"): Floor(19.027, 0.09705, 0.006271, 0.01542, 0.2214, 0.1084),
    ("mxfp4:even", "toward-zero"): Floor(13.991, 0.1927, 0.006271, 0.004837, 0.345, 0.1972),
    ("mxfp4:even", "stochastic"): Floor(15.979, 0.09684, 0.006271, 0.007645, 0.3101, 0.1445),
    ("mxfp4:ceil", "even"): Floor(16.818, 0.1747, 0, 0, 0.3219, 0.1503),
    ("mxfp4:ceil", "toward-zero"): Floor(11.519, 0.3398, 0, 0, 0.479, 0.2755),
    ("mxfp4:ceil", "stochastic"): Floor(13.763, 0.1731, 0, 0, 0.4565, 0.2007),
    ("mxfp4:rceil", "even"): Floor(18.755, 0.1068, 0, 0, 0.2341, 0.113),
    ("mxfp4:rceil", "toward-zero"): Floor(13.675, 0.2112, 0, 0, 0.3622, 0.2058),
    ("mxfp4:rceil", "stochastic"): Floor(15.668, 0.1064, 0, 0, 0.3287, 0.151),
    ("mxfp6_e2m3:floor", "even"): Floor(30.940, 0.02205, 0.003713, 0.02424, 0.06788, 0.02684),
    ("mxfp6_e2m3:floor", "toward-zero"): Floor(
        25.277, 0.04402, 0.003713, 0.006581, 0.1147, 0.05201
    ),
    ("mxfp6_e2m3:floor", "stochastic"): Floor(27.978, 0.02204, 0.003713, 0.01226, 0.09375, 0.03569),
    ("mxfp6_e2m3:even", "even"): Floor(30.987, 0.02269, 0.001565, 0.002752, 0.06914, 0.02691),
    ("mxfp6_e2m3:even", "toward-zero"): Floor(
        25.244, 0.04533, 0.001565, 0.0007334, 0.1167, 0.05242
    ),
    ("mxfp6_e2m3:even", "stochastic"): Floor(27.978, 0.02269, 0.001565, 0.001376, 0.09558, 0.03586),
    ("mxfp6_e2m3:ceil", "even"): Floor(28.765, 0.04402, 0, 0, 0.1112, 0.03785),
    ("mxfp6_e2m3:ceil", "toward-zero"): Floor(22.939, 0.08793, 0, 0, 0.1817, 0.07402),
    ("mxfp6_e2m3:ceil", "stochastic"): Floor(25.751, 0.044, 0, 0, 0.1549, 0.05048),
    ("mxfp6_e2m3:rceil", "even"): Floor(30.957, 0.02328, 0, 0, 0.07034, 0.0271),
    ("mxfp6_e2m3:rceil", "toward-zero"): Floor(25.213, 0.04651, 0, 0, 0.1186, 0.0528),
    ("mxfp6_e2m3:rceil", "stochastic"): Floor(27.942, 0.02327, 0, 0, 0.09729, 0.03613),
    ("mxfp6_e3m2:floor", "even"): Floor(25.359, 0.002757, 0.008511, 0.0583, 0.04985, 0.04549),
    ("mxfp6_e3m2:floor", "toward-zero"): Floor(
        20.131, 0.005512, 0.008511, 0.01749, 0.0917, 0.08461
    ),
    ("mxfp6_e3m2:floor", "stochastic"): Floor(
        22.453, 0.002751, 0.008511, 0.02986, 0.06682, 0.06029
    ),
    ("mxfp6_e3m2:even", "even"): Floor(25.542, 0.00291, 0.00301, 0.006408, 0.04989, 0.04492),
    ("mxfp6_e3m2:even", "toward-zero"): Floor(20.131, 0.005821, 0.00301, 0.001843, 0.0921, 0.08462),
    ("mxfp6_e3m2:even", "stochastic"): Floor(22.522, 0.002903, 0.00301, 0.003197, 0.06703, 0.05987),
    ("mxfp6_e3m2:ceil", "even"): Floor(25.541, 0.005512, 0, 0, 0.05437, 0.04502),
    ("mxfp6_e3m2:ceil", "toward-zero"): Floor(20.130, 0.011, 0, 0, 0.09883, 0.08481),
    ("mxfp6_e3m2:ceil", "stochastic"): Floor(22.506, 0.0055, 0, 0, 0.0734, 0.06008),
    ("mxfp6_e3m2:rceil", "even"): Floor(25.542, 0.003047, 0, 0, 0.05012, 0.04493),
    ("mxfp6_e3m2:rceil", "toward-zero"): Floor(20.131, 0.006076, 0, 0, 0.09244, 0.08462),
    ("mxfp6_e3m2:rceil", "stochastic"): Floor(22.507, 0.003037, 0, 0, 0.06738, 0.05996),
    ("mxfp8_e4m3:floor", "even"): Floor(30.647, 4.568e-06, 0.008511, 0.197, 0.02289, 0.02343),
    ("mxfp8_e4m3:floor", "toward-zero"): Floor(
        25.613, 1.008e-05, 0.008511, 0.06182, 0.04393, 0.04427
    ),
    ("mxfp8_e4m3:floor", "stochastic"): Floor(28.082, 4.71e-06, 0.008511, 0.1091, 0.03036, 0.03082),
    ("mxfp8_e4m3:even", "even"): Floor(31.183, 4.804e-06, 0.005405, 0.08573, 0.02268, 0.02291),
    ("mxfp8_e4m3:even", "toward-zero"): Floor(
        25.745, 1.041e-05, 0.005405, 0.02451, 0.04379, 0.04393
    ),
    ("mxfp8_e4m3:even", "stochastic"): Floor(
        28.358, 4.992e-06, 0.005405, 0.04473, 0.03017, 0.03035
    ),
    ("mxfp8_e4m3:ceil", "even"): Floor(31.521, 1.008e-05, 0, 0, 0.02253, 0.02251),
    ("mxfp8_e4m3:ceil", "toward-zero"): Floor(25.813, 2.091e-05, 0, 0, 0.04371, 0.04367),
    ("mxfp8_e4m3:ceil", "stochastic"): Floor(28.505, 1.013e-05, 0, 0, 0.03005, 0.03002),
    ("mxfp8_e4m3:rceil", "even"): Floor(31.521, 5.228e-06, 0, 0, 0.02252, 0.02251),
    ("mxfp8_e4m3:rceil", "toward-zero"): Floor(25.813, 1.116e-05, 0, 0, 0.04369, 0.04367),
    ("mxfp8_e4m3:rceil", "stochastic"): Floor(28.505, 5.228e-06, 0, 0, 0.03004, 0.03002),
    ("mxfp8_e5m2:floor", "even"): Floor(25.359, 0, 0.008511, 0.05831, 0.04511, 0.04546),
    ("mxfp8_e5m2:floor", "toward-zero"): Floor(20.131, 0, 0.008511, 0.0175, 0.08455, 0.08454),
    ("mxfp8_e5m2:floor", "stochastic"): Floor(22.453, 0, 0.008511, 0.02986, 0.06003, 0.06024),
    ("mxfp8_e5m2:even", "even"): Floor(25.542, 0, 0.00301, 0.006408, 0.04488, 0.04489),
    ("mxfp8_e5m2:even", "toward-zero"): Floor(20.131, 0, 0.00301, 0.001843, 0.08455, 0.08454),
    ("mxfp8_e5m2:even", "stochastic"): Floor(22.523, 0, 0.00301, 0.003197, 0.05986, 0.05982),
    ("mxfp8_e5m2:ceil", "even"): Floor(25.542, 0, 0, 0, 0.04488, 0.04489),
    ("mxfp8_e5m2:ceil", "toward-zero"): Floor(20.131, 0, 0, 0, 0.08455, 0.08454),
    ("mxfp8_e5m2:ceil", "stochastic"): Floor(22.507, 0, 0, 0, 0.0599, 0.0599),
    ("mxfp8_e5m2:rceil", "even"): Floor(25.542, 0, 0, 0, 0.04488, 0.04489),
    ("mxfp8_e5m2:rceil", "toward-zero"): Floor(20.131, 0, 0, 0, 0.08455, 0.08454),
    ("mxfp8_e5m2:rceil", "stochastic"): Floor(22.507, 0, 0, 0, 0.0599, 0.0599),
    ("mxint8:floor", "even"): Floor(41.663, 0.011, 0.000412, 0.000524, 0.0351, 0.008714),
    ("mxint8:floor", "toward-zero"): Floor(35.670, 0.02205, 0.000412, 0.0001319, 0.0601, 0.01735),
    ("mxint8:floor", "stochastic"): Floor(38.653, 0.011, 0.000412, 0.000262, 0.04858, 0.01162),
    ("mxint8:even", "even"): Floor(41.638, 0.01104, 0.0001991, 6.592e-05, 0.03521, 0.008743),
    ("mxint8:even", "toward-zero"): Floor(35.642, 0.02213, 0.0001991, 1.658e-05, 0.0603, 0.01742),
    ("mxint8:even", "stochastic"): Floor(38.627, 0.01104, 0.0001991, 3.296e-05, 0.04874, 0.01166),
    ("mxint8:ceil", "even"): Floor(35.643, 0.02205, 0, 0, 0.0626, 0.01743),
    ("mxint8:ceil", "toward-zero"): Floor(29.678, 0.04402, 0, 0, 0.1049, 0.03456),
    ("mxint8:ceil", "stochastic"): Floor(32.634, 0.02204, 0, 0, 0.08675, 0.02323),
    ("mxint8:rceil", "even"): Floor(41.611, 0.01108, 0, 0, 0.03533, 0.008776),
    ("mxint8:rceil", "toward-zero"): Floor(35.616, 0.02221, 0, 0, 0.06049, 0.01749),
    ("mxint8:rceil", "stochastic"): Floor(38.600, 0.01108, 0, 0, 0.04889, 0.0117),
    ("nvfp4:token", "even"): Floor(20.429, 0.068, 0.03453, 0.01202, 0.1787, 0.08957),
    ("nvfp4:token", "toward-zero"): Floor(13.682, 0.1355, 0.03453, 0.002543, 0.2928, 0.1843),
    ("nvfp4:token", "stochastic"): Floor(17.244, 0.06788, 0.03453, 0.005776, 0.2489, 0.1197),
    ("nvfp4:tensor", "even"): Floor(20.433, 0.06802, 0.03455, 0.01123, 0.1787, 0.08952),
    ("nvfp4:tensor", "toward-zero"): Floor(13.666, 0.1355, 0.03455, 0.002364, 0.293, 0.1844),
    ("nvfp4:tensor", "stochastic"): Floor(17.248, 0.0679, 0.03455, 0.005393, 0.2489, 0.1196),
    ("int4_g32:absmax", "even"): Floor(20.263, 0.1324, 0, 0, 0.258, 0.1018),
    ("int4_g32:absmax", "toward-zero"): Floor(14.517, 0.2608, 0, 0, 0.3948, 0.1958),
    ("int4_g32:absmax", "stochastic"): Floor(17.252, 0.1317, 0, 0, 0.3643, 0.1358),
    ("int4_g128:absmax", "even"): Floor(18.615, 0.1599, 0, 0, 0.2983, 0.1256),
    ("int4_g128:absmax", "toward-zero"): Floor(12.965, 0.3132, 0, 0, 0.4496, 0.2379),
    ("int4_g128:absmax", "stochastic"): Floor(15.603, 0.1587, 0, 0, 0.4225, 0.1675),
    ("int8_token:absmax", "even"): Floor(41.227, 0.01194, 0, 0, 0.03776, 0.009392),
    ("int8_token:absmax", "toward-zero"): Floor(35.234, 0.0239, 0, 0, 0.06457, 0.01871),
    ("int8_token:absmax", "stochastic"): Floor(38.218, 0.01196, 0, 0, 0.05226, 0.01252),
    ("fp8_e4m3_token:absmax", "even"): Floor(31.545, 5.698e-06, 0, 0, 0.02252, 0.02249),
    ("fp8_e4m3_token:absmax", "toward-zero"): Floor(25.832, 1.267e-05, 0, 0, 0.04368, 0.04362),
    ("fp8_e4m3_token:absmax", "stochastic"): Floor(28.525, 5.84e-06, 0, 0, 0.03004, 0.02999),
}


_BY_WIDTH: dict[tuple[str, str, int], Floor] = {
    ("int8_token:absmax", "even", 64): Floor(44.537, 0.008151, 0, 0, 0.02718, 0.006306),
    ("int8_token:absmax", "toward-zero", 64): Floor(38.503, 0.01626, 0, 0, 0.04696, 0.01264),
    ("int8_token:absmax", "stochastic", 64): Floor(41.523, 0.008117, 0, 0, 0.03775, 0.008411),
    ("int8_token:absmax", "even", 128): Floor(43.784, 0.008889, 0, 0, 0.02929, 0.006927),
    ("int8_token:absmax", "toward-zero", 128): Floor(37.769, 0.01773, 0, 0, 0.0505, 0.01384),
    ("int8_token:absmax", "stochastic", 128): Floor(40.773, 0.008847, 0, 0, 0.04078, 0.009237),
    ("int8_token:absmax", "even", 256): Floor(43.142, 0.009566, 0, 0, 0.03122, 0.007489),
    ("int8_token:absmax", "toward-zero", 256): Floor(37.137, 0.01912, 0, 0, 0.05376, 0.01494),
    ("int8_token:absmax", "stochastic", 256): Floor(40.132, 0.009528, 0, 0, 0.04347, 0.009986),
    ("int8_token:absmax", "even", 1024): Floor(42.076, 0.01081, 0, 0, 0.03472, 0.008503),
    ("int8_token:absmax", "toward-zero", 1024): Floor(36.080, 0.02164, 0, 0, 0.05955, 0.01694),
    ("int8_token:absmax", "stochastic", 1024): Floor(39.067, 0.01081, 0, 0, 0.04829, 0.01134),
    ("int8_token:absmax", "even", 16384): Floor(40.464, 0.01304, 0, 0, 0.04069, 0.01027),
    ("int8_token:absmax", "toward-zero", 16384): Floor(34.470, 0.02611, 0, 0, 0.06942, 0.02045),
    ("int8_token:absmax", "stochastic", 16384): Floor(37.454, 0.01304, 0, 0, 0.05659, 0.01369),
    ("fp8_e4m3_token:absmax", "even", 64): Floor(32.021, 2.684e-06, 0, 0, 0.02219, 0.02142),
    ("fp8_e4m3_token:absmax", "toward-zero", 64): Floor(26.174, 6.782e-06, 0, 0, 0.04322, 0.04202),
    ("fp8_e4m3_token:absmax", "stochastic", 64): Floor(29.011, 2.402e-06, 0, 0, 0.02959, 0.02855),
    ("fp8_e4m3_token:absmax", "even", 128): Floor(31.796, 3.25e-06, 0, 0, 0.02236, 0.02194),
    ("fp8_e4m3_token:absmax", "toward-zero", 128): Floor(26.020, 7.912e-06, 0, 0, 0.04344, 0.04276),
    ("fp8_e4m3_token:absmax", "stochastic", 128): Floor(28.789, 2.826e-06, 0, 0, 0.02982, 0.02925),
    ("fp8_e4m3_token:absmax", "even", 256): Floor(31.665, 3.532e-06, 0, 0, 0.02245, 0.02223),
    ("fp8_e4m3_token:absmax", "toward-zero", 256): Floor(25.925, 8.618e-06, 0, 0, 0.04357, 0.04319),
    ("fp8_e4m3_token:absmax", "stochastic", 256): Floor(28.656, 3.391e-06, 0, 0, 0.02994, 0.02964),
    ("fp8_e4m3_token:absmax", "even", 1024): Floor(31.561, 3.956e-06, 0, 0, 0.02251, 0.02245),
    ("fp8_e4m3_token:absmax", "toward-zero", 1024): Floor(
        25.841, 1.003e-05, 0, 0, 0.04366, 0.04355
    ),
    ("fp8_e4m3_token:absmax", "stochastic", 1024): Floor(28.548, 4.097e-06, 0, 0, 0.03003, 0.02993),
    ("fp8_e4m3_token:absmax", "even", 16384): Floor(31.553, 5.51e-06, 0, 0, 0.02252, 0.02249),
    ("fp8_e4m3_token:absmax", "toward-zero", 16384): Floor(
        25.840, 1.272e-05, 0, 0, 0.0437, 0.04364
    ),
    ("fp8_e4m3_token:absmax", "stochastic", 16384): Floor(
        28.535, 5.228e-06, 0, 0, 0.03004, 0.02999
    ),
}
"""The same for rows of other lengths, where a row shares a scale."""

_WIDTHS = sorted({width for _, _, width in _BY_WIDTH} | {WIDTH})


def floor_of(spec: FormatSpec, rounding: str = "even", width: float = WIDTH) -> Floor:
    """The Gaussian floor of a format under a rounding.

    Ties have measure zero in continuous data, so `half-away` has the floor of `even`.

    Arguments:
        width: values in a row; between the lengths in the table, figures are interpolated over its
            logarithm (0.07 dB at most), beyond them they are those of the nearest.
    """
    name = f"{spec.format.unrotated}:{spec.scale_rule}"
    rounding = "even" if rounding == "half-away" else rounding
    floor = _FLOORS[name, rounding]
    if (name, rounding, _WIDTHS[0]) not in _BY_WIDTH:
        return floor
    width = min(max(width, _WIDTHS[0]), _WIDTHS[-1])
    upper = next(n for n in _WIDTHS[1:] if width <= n)
    lower = _WIDTHS[_WIDTHS.index(upper) - 1]
    share = math.log(width / lower) / math.log(upper / lower)
    first, second = (vars(_BY_WIDTH.get((name, rounding, n), floor)) for n in (lower, upper))
    return Floor(**{key: (1 - share) * first[key] + share * second[key] for key in first})


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
