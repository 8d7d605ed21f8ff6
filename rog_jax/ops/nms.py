"""Greedy non-maximum suppression with static shapes and bounded memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from rog_jax.ops.boxes import Array, pairwise_iou
from rog_jax.ops.manual_axes import vary_like


def nms(
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, "N"],
    iou_threshold: float,
    *,
    tile: int = 256,
    max_keep: int | None = None,
) -> Bool[jax.Array, "N"]:
    """Greedy suppression: a box goes if its IoU with a kept box of higher score exceeds the threshold.

    Args:
        boxes: sorted by descending score.
        valid: boxes that take part; the others neither suppress nor are kept.
        iou_threshold: a pair with exactly this IoU does not suppress.
        tile: boxes decided at a time; `tile` * N overlaps are looked at together.
        max_keep: keep only the first so many; the work stops when they are found.

    Returns:
        Which boxes are kept.
    """
    one_class = jnp.zeros(boxes.shape[0], jnp.int32)
    return class_nms(boxes, one_class, valid, iou_threshold, tile=tile, max_keep=max_keep)


def class_nms(
    boxes: Float[Array, "N 4"],
    labels: Int[Array, "N"],
    valid: Bool[Array, "N"],
    iou_threshold: float,
    *,
    tile: int = 256,
    max_keep: int | None = None,
) -> Bool[jax.Array, "N"]:
    """As `nms`, but boxes suppress only boxes of their own label (a category, or a feature level).

    Labels are compared: moving each class's boxes to a place of their own would cost float32 its sub-pixel digits.
    """
    size = boxes.shape[0]
    tile = min(tile, size)
    if size == 0:
        return jnp.zeros(0, bool)
    padding = -size % tile
    boxes = jax.lax.stop_gradient(jnp.pad(boxes, ((0, padding), (0, 0))))
    labels = jnp.pad(labels, (0, padding))
    valid = jnp.pad(valid, (0, padding))
    order, places = jnp.arange(tile), jnp.arange(size + padding)
    limit = size if max_keep is None else max_keep

    def decide_tile(carry):
        number, alive, kept = carry
        start = number * tile
        tile_boxes = jax.lax.dynamic_slice_in_dim(boxes, start, tile)
        tile_labels = jax.lax.dynamic_slice_in_dim(labels, start, tile)
        tile_alive = jax.lax.dynamic_slice_in_dim(alive, start, tile)

        def suppressors(other_boxes, other_labels):
            overlap = pairwise_iou(other_boxes, tile_boxes) > iou_threshold
            return overlap & (other_labels[:, None] == tile_labels[None, :])

        inside = suppressors(tile_boxes, tile_labels) & (order[:, None] < order[None, :])  # [tile, tile]
        keep = _fixed_point(inside, tile_alive)
        hit = (suppressors(boxes, labels) & keep[None, :]).any(axis=1)  # [N]
        alive = alive & ~(hit & (places >= start + tile))
        alive = jax.lax.dynamic_update_slice_in_dim(alive, keep, start, axis=0)
        return number + 1, alive, kept + keep.sum()

    tiles = (jnp.where(valid, jnp.arange(1, size + padding + 1), 0).max() + tile - 1) // tile
    start = vary_like((jnp.zeros((), tiles.dtype), valid, jnp.zeros((), jnp.int32)), (boxes, labels, valid))
    _, alive, _ = jax.lax.while_loop(lambda carry: (carry[0] < tiles) & (carry[2] < limit), decide_tile, start)
    keep = alive[:size]
    return keep & (jnp.cumsum(keep) <= limit)


def _fixed_point(suppresses: Bool[Array, "T T"], alive: Bool[Array, "T"]) -> Bool[jax.Array, "T"]:
    """The one subset of `alive` that no member of itself suppresses, where only earlier boxes suppress later ones.

    Each round settles at least one more box, the first not yet right, and usually nearly all of them.
    """

    def refine(carry):
        keep, _ = carry
        refined = alive & ~(suppresses & keep[:, None]).any(axis=0)
        return refined, (refined != keep).any()

    start = vary_like((alive, jnp.array(True)), (suppresses, alive))
    return jax.lax.while_loop(lambda carry: carry[1], refine, start)[0]
