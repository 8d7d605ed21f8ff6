"""Which part of an image an example shows, at what size, and whether mirrored; boxes between file and example."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from rog_jax.data.images import cv2


class View(NamedTuple):
    """A part of an image, resized into the upper left corner of a padded example.

    Attributes:
        window: (left, top, right, bottom) in whole pixels of the file.
        size: (height, width) of that part in the example.
        flip: whether it is mirrored.
    """

    window: tuple[int, int, int, int]
    size: tuple[int, int]
    flip: bool

    @property
    def scale(self) -> np.ndarray:
        """Pixels of the example for a pixel of the file, along x and y, [2]."""
        left, top, right, bottom = self.window
        return np.array([self.size[1] / (right - left), self.size[0] / (bottom - top)])

    def to_example(self, boxes: Float[np.ndarray, "*G 4"]) -> Float[np.ndarray, "*G 4"]:
        """Boxes in pixels of the file, as they lie in the example, uncut."""
        origin, scale = np.tile(self.window[:2], 2), np.tile(self.scale, 2)
        return self._mirrored((boxes - origin) * scale)

    def to_file(self, boxes: Float[np.ndarray, "*G 4"]) -> Float[np.ndarray, "*G 4"]:
        """Boxes in pixels of the example, as they lie in the file."""
        origin, scale = np.tile(self.window[:2], 2), np.tile(self.scale, 2)
        return self._mirrored(boxes) / scale + origin

    def clip(self, boxes: Float[np.ndarray, "*G 4"]) -> Float[np.ndarray, "*G 4"]:
        """Boxes in pixels of the example, cut to the part that the view shows."""
        return np.clip(boxes, 0, [self.size[1], self.size[0]] * 2)

    def _mirrored(self, boxes: np.ndarray) -> np.ndarray:
        if not self.flip:
            return boxes
        width = self.size[1]
        return np.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1)


def resized_size(
    size: Sequence[int] | np.ndarray, short_side: float | int, max_long_side: float | int
) -> tuple[int, int]:
    """(height, width) after scaling the short side to `short_side`, or to less where the long side is at its limit."""
    height, width = int(size[0]), int(size[1])
    scale = min(short_side / min(height, width), max_long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def whole_view(size: tuple[int, int], short_side: int, max_long_side: int, flip: bool) -> View:
    """All of an image of `size` (height, width), scaled as `resized_size` says."""
    return View((0, 0, size[1], size[0]), resized_size(size, short_side, max_long_side), flip)


def jittered_view(
    size: tuple[int, int], shape: tuple[int, int], scales: Sequence[float], flip: bool, rng: np.random.Generator
) -> View:
    """Large-scale jitter (Ghiasi et al. 2021, Simple copy-paste, section 3): a random scale, then a random crop.

    Args:
        size: (height, width) of the file.
        shape: (height, width) of the padded example.
        scales: smallest and largest scale; 1 is that at which the image just fits into the shape.
        flip: whether it is mirrored.
        rng: decides.
    """
    fit = min(shape[0] / size[0], shape[1] / size[1])
    scale = fit * rng.uniform(scales[0], scales[-1])
    starts, stops, lengths = [], [], []
    for side, limit in zip(size, shape, strict=True):
        shown = min(side, max(1, int(limit / scale)))  # whole pixels of the file that fit
        start = int(rng.integers(side - shown + 1))
        starts.append(start)
        stops.append(start + shown)
        lengths.append(min(limit, max(1, int(shown * scale + 0.5))))
    return View((starts[1], starts[0], stops[1], stops[0]), (lengths[0], lengths[1]), flip)


def cropped_view(
    view: View,
    shape: tuple[int, int],
    shares: Sequence[float],
    anchor: Float[np.ndarray, "4"] | None,
    limits: tuple[int, int],
    rng: np.random.Generator,
) -> View:
    """A random part of a whole view, scaled as the whole would be if it were an image of its own.

    Args:
        view: of a whole image.
        shape: (height, width) of the padded example, which limits the scale.
        shares: smallest and largest share of each side that stays.
        anchor: box in pixels of the file whose centre has to stay in; None for any part.
        limits: short side and longest side in pixels of the example.
        rng: decides.
    """
    right, bottom = view.window[2:]
    window = []
    for axis, side in enumerate((right, bottom)):
        kept = max(1, round(side * rng.uniform(shares[0], shares[-1])))
        low, high = 0, side - kept
        if anchor is not None:
            centre = (anchor[axis] + anchor[axis + 2]) / 2
            low, high = max(low, int(np.ceil(centre)) - kept), min(high, int(centre))
        start = int(rng.integers(min(low, high), high + 1))
        window.append((start, start + kept))
    (left, right), (top, bottom) = window
    height, width = bottom - top, right - left
    fit = min(shape[0] / height, shape[1] / width)
    size = resized_size((height, width), min(limits[0], fit * min(height, width)), limits[1])
    size = (min(size[0], shape[0]), min(size[1], shape[1]))
    return View((left, top, right, bottom), size, view.flip)


def place_view(canvas: UInt8[np.ndarray, "H W 3"], pixels: UInt8[np.ndarray, "h w 3"], view: View, whole: bool) -> None:
    """Writes what a view shows of an image to the upper left corner of the canvas.

    Args:
        canvas: of the padded example.
        pixels: of the file, or, for a view of the whole, the file at a part of its size.
        view: what is shown.
        whole: whether it shows the whole image.
    """
    left, top, right, bottom = view.window
    part = pixels if whole else pixels[top:bottom, left:right]
    part = cv2.flip(part, 1) if view.flip else part
    target = canvas[: view.size[0], : view.size[1]]
    if part.shape[:2] == view.size:
        target[:] = part
    else:
        cv2.resize(part, view.size[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
