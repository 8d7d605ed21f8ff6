"""Anchor boxes of the region proposal network."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32


def make_anchors(
    image_shape: tuple[int, int],
    strides: Sequence[int],
    scale: float = 8.0,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> list[Float32[np.ndarray, "anchors 4"]]:
    """Anchors of each feature level, as MMDetection lays them out.

    Args:
        image_shape: (height, width) of the padded image in pixels.
        strides: pixels per feature cell of each level; a level has ceil(height / stride) rows.
        scale: side of a square anchor in units of its level's stride.
        ratios: height / width of the anchors of a cell; all have the same area.

    Returns:
        For each level, boxes [rows * columns * ratios, 4] in pixels, ordered by row, column, ratio. The anchors of cell
        (row, column) are centred on (column * stride, row * stride), the cell's corner, and may reach over the image.
    """
    return [_level_anchors(image_shape, stride, scale, ratios) for stride in strides]


def _level_anchors(image_shape, stride, scale, ratios):
    rows, columns = (math.ceil(side / stride) for side in image_shape)
    root = np.sqrt(np.asarray(ratios, np.float32))
    side = np.float32(scale * stride)
    half_width, half_height = side * (1 / root) / 2, side * root / 2
    base = np.stack([-half_width, -half_height, half_width, half_height], axis=-1)  # [ratios, 4]
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    centres = (np.stack([x, y, x, y], axis=-1) * stride).astype(np.float32)  # [rows, columns, 4]
    return (centres[:, :, None, :] + base).reshape(-1, 4)
