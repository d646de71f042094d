"""Plain numpy, float64: what the originals compute outside of diffusers' networks. Arrays of pictures are (C, H, W)."""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def affine(x: Array, weight: Array, bias: Array) -> Array:
    """A linear layer on (…, F)."""
    return np.asarray(x @ weight.T + bias)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def convolved(x: Array, weight: Array, bias: Array, stride: int = 1) -> Array:
    """A 3×3 convolution, padded by zeros: (C, H, W) → (O, H / stride, W / stride)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwyx,ocyx->ohw", windows, weight) + bias[:, None, None]


def alphas_cumprod() -> Array:
    """Stable Diffusion's scaled-linear schedule."""
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def one_step(z: Array, eps: Array, t: int) -> Array:
    """Eq. (3)."""
    kept = alphas_cumprod()[t]
    return np.asarray((z - (1 - kept) ** 0.5 * eps) / kept**0.5)


# ---- enlarging


def bicubic(x: Array, scale: int) -> Array:
    """Pillow's bicubic kernel, a = −0.5, whose weights are shared among the pixels that exist."""

    def kernel(d: Array) -> Array:
        d = abs(d)
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        return np.where(d < 1, near, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0))

    return np.clip(_enlarged(x, scale, kernel), 0, 1)


def bilinear(x: Array, scale: int) -> Array:
    """Straight lines between the centres of pixels, the outermost of which go on as they are."""
    return _enlarged(x, scale, lambda d: np.maximum(0, 1 - abs(d)))


def _enlarged(x: Array, scale: int, kernel: Callable[[Array], Array]) -> Array:
    rows, columns = (_weights(side, scale, kernel) for side in x.shape[1:])
    return np.einsum("Yy,cyx,Xx->cYX", rows, x, columns)


def _weights(side: int, scale: int, kernel: Callable[[Array], Array]) -> Array:
    """(scale · side, side): what each new pixel takes of each old one."""
    places = (np.arange(scale * side) + 0.5) / scale - 0.5
    weights = kernel(places[:, None] - np.arange(side))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def mirrored(x: Array, multiple: int) -> Array:
    """Continued to the right and below by reflection, up to the next multiple."""
    down, right = (-side % multiple for side in x.shape[1:])
    return np.pad(x, ((0, 0), (0, down), (0, right)), mode="reflect")


def cut(x: Array) -> Array:
    """Clamped, and cut down to bytes / 255, as torchvision makes a Pillow picture."""
    return np.floor(255 * np.clip(x, 0, 1)) / 255


# ---- colour fix


def adain(picture: Array, reference: Array) -> Array:
    """Each channel gets mean and standard deviation of the reference's."""
    out = []
    for channel, wanted in zip(picture, reference, strict=True):
        own, other = (np.sqrt(plane.var(ddof=1) + 1e-5) for plane in (channel, wanted))
        out.append((channel - channel.mean()) / own * other + wanted.mean())
    return np.clip(out, 0, 1)


def wavelet(picture: Array, reference: Array) -> Array:
    """The picture's fine bands over the reference's coarse one: five levels of a 3×3 kernel with holes."""
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def blurred(x: Array, reach: int) -> Array:
        height, width = x.shape[1:]
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
        places = [(y, x) for y in range(3) for x in range(3)]
        parts = [
            kernel[place] * padded[:, place[0] * reach :][:, :height, place[1] * reach :][:, :, :width] for place in places
        ]
        return np.sum(parts, 0)

    fine = np.zeros_like(picture)
    for level in range(5):
        coarse = blurred(picture, 2**level)
        fine, picture = fine + picture - coarse, coarse
        reference = blurred(reference, 2**level)
    return np.clip(fine + reference, 0, 1)
