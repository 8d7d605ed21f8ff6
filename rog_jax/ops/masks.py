"""Ground-truth masks stored inside their boxes, and their crops for the mask loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8

from rog_jax.ops.boxes import MIN_SIDE, Array
from rog_jax.ops.manual_axes import vary_like

MASK_BATCH = 16
"""Masks of whole images that are unpacked at a time."""


def unpack_masks(packed: UInt8[Array, "*batch M packed"]) -> Float[jax.Array, "*batch M unpacked"]:
    """Masks of 0 and 1 from bits packed along x: the inverse of `numpy.packbits(masks, axis=-1)`."""
    return jnp.unpackbits(packed, axis=-1).astype(jnp.float32)


def crop_masks(
    packed: UInt8[Array, "P M packed"],
    gt_boxes: Float[Array, "P 4"],
    rois: Float[Array, "P 4"],
    size: int = 28,
    *,
    soft: bool = False,
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
        soft: the share itself, without the threshold.
    """
    masks = unpack_masks(packed)
    x1, y1, x2, y2 = (gt_boxes[:, side] for side in range(4))
    rows = _coverage(rois[:, 1], rois[:, 3], y1, y2, size, masks.shape[1])
    columns = _coverage(rois[:, 0], rois[:, 2], x1, x2, size, masks.shape[2])
    precision = jax.lax.Precision.HIGHEST  # a threshold follows
    inside = jnp.einsum("pih,phw->piw", rows, masks, precision=precision)
    inside = jnp.einsum("pjw,piw->pij", columns, inside, precision=precision)
    return inside if soft else (inside >= 0.5).astype(jnp.float32)


def roi_align_masks(
    packed: UInt8[Array, "P H packed"], rois: Float[Array, "P 4"], size: int, *, aligned: bool = True
) -> Float[jax.Array, "P {size} {size}"]:
    """RoIAlign of masks of whole images, one for each RoI, as the published detectors make their mask targets.

    One sample for each pixel that a side of a cell has or begins, at most as many as the image has; border rules are
    those of `rog_jax.ops.roi_align`.

    Args:
        packed: masks, bits packed along x, of a width that is a multiple of 8.
        rois: boxes in pixels of the masks.
        size: cells a side of the result.
        aligned: False is torchvision's older rule, without the shift by half a pixel.
    """

    def one(packed, roi):
        mask = unpack_masks(packed)  # [H, W]
        rows, columns = (
            _sample_weights(roi[side], roi[side + 2], size, pixels, aligned)
            for side, pixels in ((1, mask.shape[0]), (0, mask.shape[1]))
        )
        precision = jax.lax.Precision.HIGHEST
        return jnp.einsum("ih,hw,jw->ij", rows, mask, columns, precision=precision)

    return jax.lax.map(lambda arrays: one(*arrays), (packed, rois), batch_size=MASK_BATCH)


def _sample_weights(start, end, size, pixels, aligned):
    """Weight of each pixel in each cell of a RoI along one axis: [size, pixels]."""
    start = start - (0.5 if aligned else 0.0)
    length = end - (0.5 if aligned else 0.0) - start
    cell = (length if aligned else jnp.maximum(length, 1)) / size
    count = jnp.minimum(jnp.ceil(cell), pixels)
    cells, places = jnp.arange(size)[:, None], jnp.arange(pixels)

    def add(number, total):
        position = start + (cells + (number + 0.5) / count) * cell  # [size, 1]
        inside = (position >= -1) & (position <= pixels)
        distance = jnp.abs(jnp.clip(position, 0, pixels - 1) - places)
        return total + jnp.where(inside, jnp.maximum(1 - distance, 0), 0)

    nothing = vary_like(jnp.zeros((size, pixels), cell.dtype), cell)
    total = jax.lax.fori_loop(0, count.astype(jnp.int32), add, nothing)
    return total / jnp.maximum(count, 1)


def _coverage(roi_start, roi_end, start, end, size, squares):
    """Share of each cell of the RoI in each square of the mask, along one axis: [P, size, squares]."""
    square = jnp.maximum(end - start, MIN_SIDE) / squares  # pixels  # [P]
    cell = (roi_end - roi_start) / size
    # In pixels from the mask's corner on: large coordinates, or huge squares, would cost small cells their digits.
    centre = ((roi_start - start)[:, None] + (jnp.arange(size) + 0.5) * cell[:, None])[..., None]  # [P, size, 1]
    half = jnp.maximum(cell, 1)[:, None, None] / 2
    left = square[:, None, None] * jnp.arange(squares + 1, dtype=centre.dtype)  # [P, 1, squares + 1]
    shared = jnp.minimum(centre + half, left[..., 1:]) - jnp.maximum(centre - half, left[..., :-1])
    return jnp.maximum(shared, 0) / (2 * half)
