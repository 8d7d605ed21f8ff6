"""Ground-truth masks stored inside their boxes, and their crops for the mask loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8

from rog_jax.ops.boxes import MIN_SIDE, Array


def unpack_masks(packed: UInt8[Array, "*batch M packed"]) -> Float[jax.Array, "*batch M unpacked"]:
    """Masks of 0 and 1 from bits packed along x: the inverse of `numpy.packbits(masks, axis=-1)`."""
    return jnp.unpackbits(packed, axis=-1).astype(jnp.float32)


def crop_masks(
    packed: UInt8[Array, "P M packed"], gt_boxes: Float[Array, "P 4"], rois: Float[Array, "P 4"], size: int = 28
) -> Float[jax.Array, "P {size} {size}"]:
    """The mask of each object inside a RoI: 1 where the object covers at least half of the cell.

    MMDetection averages bilinear samples of the full-size mask in each cell. A bilinear sample is itself the mean of
    the mask over one pixel around it, so this is nearly the mean over the cell. Here that mean is taken exactly, over
    the squares of the stored mask, and over one pixel where the cell is smaller. Outside of its box the object is
    nowhere.

    Args:
        packed: masks inside `gt_boxes`, M x M squares each, bits packed along x.
        gt_boxes: boxes that the masks fill, in pixels.
        rois: boxes to crop, in pixels.
        size: cells a side of the crop.
    """
    masks = unpack_masks(packed)
    x1, y1, x2, y2 = (gt_boxes[:, side] for side in range(4))
    rows = _coverage(rois[:, 1], rois[:, 3], y1, y2, size, masks.shape[1])
    columns = _coverage(rois[:, 0], rois[:, 2], x1, x2, size, masks.shape[2])
    precision = jax.lax.Precision.HIGHEST  # a threshold follows
    inside = jnp.einsum("pih,phw->piw", rows, masks, precision=precision)
    inside = jnp.einsum("pjw,piw->pij", columns, inside, precision=precision)
    return (inside >= 0.5).astype(jnp.float32)


def _coverage(roi_start, roi_end, start, end, size, squares):
    """Share of each cell of the RoI in each square of the mask, along one axis: [P, size, squares]."""
    square = jnp.maximum(end - start, MIN_SIDE) / squares  # pixels  # [P]
    cell = (roi_end - roi_start) / size
    centre = roi_start[:, None] + (jnp.arange(size) + 0.5) * cell[:, None]  # [P, size]
    half = jnp.maximum(cell, 1)[:, None] / 2
    low = ((centre - half - start[:, None]) / square[:, None])[..., None]  # in squares  # [P, size, 1]
    high = ((centre + half - start[:, None]) / square[:, None])[..., None]
    left = jnp.arange(squares, dtype=low.dtype)
    shared = jnp.minimum(high, left + 1) - jnp.maximum(low, left)
    return jnp.maximum(shared, 0) / (high - low)
