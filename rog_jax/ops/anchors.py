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
    *,
    rounding: bool = False,
    offset: float = 0.0,
    strides_from: str = "level",
) -> list[Float32[np.ndarray, "anchors 4"]]:
    """Anchors of each feature level; by default as MMDetection and Detectron2 lay them out.

    Args:
        image_shape: (height, width) of the padded image in pixels.
        strides: pixels per feature cell of each level; a level has ceil(height / stride) rows.
        scale: side of a square anchor in units of its level's stride.
        ratios: height / width of the anchors of a cell; all have the same area.
        rounding: the corners of a cell's anchors are rounded to whole pixels around its centre (torchvision).
        offset: of an anchor's centre from its cell's upper left corner, in strides (Detectron2's setting of that name).
        strides_from: distance of two cells' anchors: `level`, the level's stride; `image`, the sides of the image
            divided by those of the level and rounded down (torchvision), which differs where they do not divide.

    Returns:
        For each level, boxes [rows * columns * ratios, 4] in pixels, ordered by row, column, ratio. They may reach over
        the image.

    Raises:
        ValueError: unknown strides_from.
    """
    if strides_from not in ("level", "image"):
        raise ValueError(f"strides_from={strides_from!r} is unknown; choose one of level, image")
    levels = []
    for stride in strides:
        base = _cell_anchors(scale * stride, ratios)
        sides = tuple(math.ceil(side / stride) for side in image_shape)
        steps = (stride, stride)
        if strides_from == "image":
            steps = tuple(image // level for image, level in zip(image_shape, sides, strict=True))
        levels.append(_level_anchors(np.round(base) if rounding else base, sides, steps, offset))
    return levels


def _cell_anchors(side, ratios):
    root = np.sqrt(np.asarray(ratios, np.float32))
    side = np.float32(side)
    half_width, half_height = side * (1 / root) / 2, side * root / 2
    return np.stack([-half_width, -half_height, half_width, half_height], axis=-1)  # [ratios, 4]


def _level_anchors(base, sides, steps, offset):
    y, x = (((np.arange(count) + offset) * step).astype(np.float32) for count, step in zip(sides, steps, strict=True))
    y, x = np.meshgrid(y, x, indexing="ij")
    centres = np.stack([x, y, x, y], axis=-1)  # [rows, columns, 4]
    return (centres[:, :, None, :] + base).reshape(-1, 4)
