"""A randomised block-Hadamard rotation: the what-if `mxfp4+hadamard32`.

An outlier sets the scale of its whole block, and its neighbours vanish. The usual remedy multiplies
a layer's inputs by an orthonormal matrix R and its weights by R's inverse: the product is the same,
but the outlier's energy is spread over the values that it is rotated with (QuaRot, Ashkboos et al.
2024). Here R takes each group of N neighbouring channels on its own,

    z = H_N D x / sqrt(N)        D: signs +-1, fixed for each column; H_N: Sylvester's +-1 matrix

and z is what gets quantized. Both factors are orthogonal, so the error has the same energy in
either basis, and so has the data: the SQNR is the model's own. Everything that is counted value by
value (deadzone, saturation, relative error, sum |e|) is counted on z, because that is what the
hardware flushes and clips; it says nothing of single channels of x.

- N is a power of two; channels must be whole groups, since a padded group would mix in zeros that
  the model does not have.
- A value that is not finite makes its whole group so, as in a real rotation: N values are counted
  as non-finite, and come back as they were.
- The transform is log2(N) steps of sums and differences in float32, not a product of matrices: a
  product's order of additions may follow the number of rows, and a row's result must not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srdd.errors import UsageError
from srdd.numerics.formats import Format
from srdd.numerics.kernels.eager import COLUMN_SALT, WORD, hash_word


def check_channels(channels: int, format: Format) -> None:
    """Accept rows of this length.

    Raises:
        UsageError: they are not whole groups.
    """
    size = format.rotation
    if size and channels % size:
        raise UsageError(
            f"rows of {channels:,} values cannot be rotated in groups of {size}",
            f"choose a power of two that divides {channels:,}, or {format.unrotated}",
        )


def rotate(x: Tensor, size: int) -> Tensor:
    """`x` (tokens, channels), channels a multiple of `size` -> z, float32, the same shape."""
    return _hadamard(x.float() * signs(x.shape[1], x.device), size)


def unrotate(z: Tensor, size: int) -> Tensor:
    """The inverse of `rotate`, up to float32's last places."""
    return _hadamard(z, size) * signs(z.shape[1], z.device)


def signs(columns: int, device: torch.device) -> Tensor:
    """A sign for each column, float32; the same in every tensor, kernel and run."""
    word = hash_word((torch.arange(columns, device=device) + COLUMN_SALT) & WORD)
    return 1.0 - 2.0 * ((word >> 13) & 1).float()


def _hadamard(x: Tensor, size: int) -> Tensor:
    """Sylvester's Hadamard matrix, orthonormal, times each group of `size` columns of `x`."""
    shape = x.shape
    half = 1
    while half < size:
        pairs = x.reshape(*shape[:1], -1, 2, half)
        first, second = pairs.unbind(2)
        x = torch.stack((first + second, first - second), 2).reshape(shape)
        half *= 2
    return x * float(size**-0.5)
