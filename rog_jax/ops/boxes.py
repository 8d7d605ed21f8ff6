"""Arithmetic of boxes: areas, overlaps, and the regression targets of R-CNN.

A box is [x1, y1, x2, y2] in pixels with continuous edges, so its width is x2 - x1. A box whose second corner lies
before its first has no area. Nothing here gives NaN or infinity, in values or in gradients, while areas are finite.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Array = jax.Array | np.ndarray
Stds = tuple[float, float, float, float]

MIN_SIDE = 1e-3
"""Sides shorter than this count as this long when boxes are encoded, in pixels."""
MIN_UNION = 1e-6
"""Lower bound of the union in an IoU, in square pixels."""
MAX_RATIO = 1000 / 16
"""Largest change of a side in one decoding (R-CNN's convention: the exponential of a regressed delta is bounded)."""


def area(boxes: Float[Array, "*batch 4"]) -> Float[jax.Array, "*batch"]:
    """Area in square pixels; 0 for a box with a negative side."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.maximum(x2 - x1, 0) * jnp.maximum(y2 - y1, 0)


def pairwise_iou(a: Float[Array, "N 4"], b: Float[Array, "M 4"]) -> Float[jax.Array, "N M"]:
    """Intersection over union of every box of `a` with every box of `b`; 0 where both are empty."""
    intersection, union = _overlap(a[:, None], b[None, :])  # [N, M]
    return intersection / jnp.maximum(union, MIN_UNION)


def paired_iou(a: Float[Array, "*batch 4"], b: Float[Array, "*batch 4"]) -> Float[jax.Array, "*batch"]:
    """Intersection over union of each box of `a` with the box of `b` in the same place; 0 where both are empty."""
    intersection, union = _overlap(a, b)
    return intersection / jnp.maximum(union, MIN_UNION)


def paired_giou(a: Float[Array, "*batch 4"], b: Float[Array, "*batch 4"]) -> Float[jax.Array, "*batch"]:
    """Generalised IoU of pairs of boxes, in (-1, 1] (Rezatofighi et al., CVPR 2019, algorithm 1).

    It is the IoU less the share of the smallest enclosing box that neither covers, so it tells far boxes from near ones
    where the IoU is 0. 0 where both boxes are the same point.
    """
    intersection, union = _overlap(a, b)
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = jnp.maximum(jnp.maximum(ax2, bx2) - jnp.minimum(ax1, bx1), 0)
    height = jnp.maximum(jnp.maximum(ay2, by2) - jnp.minimum(ay1, by1), 0)
    enclosing = width * height
    return intersection / jnp.maximum(union, MIN_UNION) - (enclosing - union) / jnp.maximum(enclosing, MIN_UNION)


def encode(
    boxes: Float[Array, "*batch 4"], references: Float[Array, "*batch 4"], stds: Stds = (1.0, 1.0, 1.0, 1.0)
) -> Float[jax.Array, "*batch 4"]:
    """Deltas (dx, dy, dw, dh) that turn `references` into `boxes`, each divided by its standard deviation.

    dx, dy are moves of the centre in units of the reference's sides, dw, dh logarithms of the ratios of the sides
    (R-CNN, appendix C).
    """
    x, y, width, height = _centre_and_sides(boxes)
    ref_x, ref_y, ref_width, ref_height = _centre_and_sides(references)
    width, height, ref_width, ref_height = (
        jnp.maximum(side, MIN_SIDE) for side in (width, height, ref_width, ref_height)
    )
    moves = (x - ref_x) / ref_width, (y - ref_y) / ref_height
    scales = jnp.log(width / ref_width), jnp.log(height / ref_height)
    deltas = jnp.stack([*moves, *scales], axis=-1)
    return deltas / jnp.asarray(stds, deltas.dtype)


def decode(
    deltas: Float[Array, "*batch 4"],
    references: Float[Array, "*batch 4"],
    stds: Stds = (1.0, 1.0, 1.0, 1.0),
    max_ratio: float = MAX_RATIO,
    clamp: str = "both",
) -> Float[jax.Array, "*batch 4"]:
    """The inverse of `encode`; a side grows by a factor of at most `max_ratio`.

    Args:
        deltas: (dx, dy, dw, dh), in units of their standard deviations.
        references: boxes that the deltas refer to.
        stds: of the deltas.
        max_ratio: largest factor of a side.
        clamp: `both`: a side shrinks by at most that factor as well (MMDetection); `above`: by any (Detectron2,
            torchvision).

    Raises:
        ValueError: unknown clamp.
    """
    if clamp not in ("both", "above"):
        raise ValueError(f"clamp={clamp!r} is unknown; choose one of both, above")
    dx, dy, dw, dh = _corners(deltas * jnp.asarray(stds, deltas.dtype))
    limit = math.log(max_ratio)
    least = -limit if clamp == "both" else -jnp.inf
    dw, dh = jnp.clip(dw, least, limit), jnp.clip(dh, least, limit)
    x, y, width, height = _centre_and_sides(references)
    x, y = x + dx * width, y + dy * height
    half_width, half_height = width * jnp.exp(dw) / 2, height * jnp.exp(dh) / 2
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def clip(boxes: Float[Array, "*batch 4"], size: Float[Array, "2"]) -> Float[jax.Array, "*batch 4"]:
    """Boxes cut to an image of `size` (height, width) pixels."""
    x1, y1, x2, y2 = _corners(boxes)
    height, width = size[0], size[1]
    cut = jnp.clip(x1, 0, width), jnp.clip(y1, 0, height), jnp.clip(x2, 0, width), jnp.clip(y2, 0, height)
    return jnp.stack(cut, axis=-1)


def _overlap(a, b):
    """Areas of intersection and union of boxes that broadcast."""
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0)
    intersection = width * height
    return intersection, area(a) + area(b) - intersection


def _corners(boxes):
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _centre_and_sides(boxes):
    x1, y1, x2, y2 = _corners(boxes)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
