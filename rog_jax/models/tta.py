"""Test-time augmentation: each image at several sizes and mirrored, and the detections of these views put together.

The procedure is that of Detectron2's `GeneralizedRCNNWithTTA`: each view is detected by itself, its detections are
moved back into the image and pooled, and one more class-wise NMS takes the best of the pool; the masks of these are
predicted in every view and averaged. Views are made on the device from the batch, so that every shape is static and the
loader knows nothing of them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.batch import Batch
from rog_jax.ops.boxes import Array
from rog_jax.ops.nms import class_nms

_SIDE_MULTIPLE = 32  # pixels, of a padded side: the coarsest stride of the backbone


class AugmentedView(NamedTuple):
    """One way to look at an image.

    Attributes:
        scale: of its sides, relative to the batch's image.
        mirrored: left and right exchanged, inside the padding.
    """

    scale: float
    mirrored: bool


def views_of(test: ConfigDict | FrozenConfigDict) -> list[AugmentedView]:
    """The views that `config.test.scales` and `config.test.flip` ask for.

    Raises:
        ValueError: there is no scale, or one that is not positive.
    """
    scales = [float(scale) for scale in test.scales]
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"config.test.scales={tuple(scales)}: give positive factors of the size, (1.0,) for it alone")
    return [
        AugmentedView(scale, mirrored) for scale in scales for mirrored in ((False, True) if test.flip else (False,))
    ]


def view_size(image_size: Float[Array, "B 2"], view: AugmentedView) -> Float[Array, "B 2"]:
    """(height, width) in whole pixels of each image as the view shows it."""
    return image_size if view.scale == 1 else jnp.maximum(jnp.round(image_size * view.scale), 1)


def seen(batch: Batch, view: AugmentedView) -> Batch:
    """The batch's images as the view shows them, in a padded shape of their own; the rest is as it was."""
    image, size = batch.image, view_size(batch.image_size, view)
    if view.scale != 1:
        shape = tuple(math.ceil(side * view.scale / _SIDE_MULTIPLE) * _SIDE_MULTIPLE for side in image.shape[1:3])
        image = _resized(image, batch.image_size, size, shape)
    if view.mirrored:
        columns, width = jnp.arange(image.shape[2]), size[:, 1:].astype(jnp.int32)
        columns = jnp.where(columns < width, width - 1 - columns, columns)  # [B, W]
        image = jnp.take_along_axis(image, columns[:, None, :, None], axis=2)
    return batch._replace(image=image, image_size=size)


def _resized(
    image: Num[Array, "B H W 3"], size: Float[Array, "B 2"], new_size: Float[Array, "B 2"], shape: tuple[int, ...]
) -> Float[Array, "B h w 3"]:
    """Bilinear, as the loader resizes; what lies beyond `new_size` is of no meaning."""

    def one_image(image, size, new_size):
        for axis in (0, 1):
            place = (jnp.arange(shape[axis]) + 0.5) * size[axis] / new_size[axis] - 0.5
            place = jnp.clip(place, 0, size[axis] - 1)  # the border is repeated, not mixed with the padding
            before = jnp.floor(place).astype(jnp.int32)
            after = jnp.minimum(before + 1, size[axis].astype(jnp.int32) - 1)
            weight = jnp.expand_dims(place - before, (1 - axis, 2))
            image = jnp.take(image, before, axis) * (1 - weight) + jnp.take(image, after, axis) * weight
        return image

    return jax.vmap(one_image)(image.astype(jnp.float32), jnp.maximum(size, 1), new_size)


def moved(
    boxes: Float[Array, "B K 4"], size: Float[Array, "B 2"], new_size: Float[Array, "B 2"], view: AugmentedView
) -> Float[Array, "B K 4"]:
    """Boxes from images of `size` into the view of `new_size`; or back, with the sizes exchanged."""
    if view.scale != 1:
        boxes = boxes * (new_size / jnp.maximum(size, 1))[:, None, jnp.array([1, 0, 1, 0])]
    if view.mirrored:
        left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
        width = new_size[:, 1:]
        boxes = jnp.stack([width - right, top, width - left, bottom], axis=-1)
    return boxes


Found = tuple[Float[Array, "B _k 4"], Float[Array, "B _k"], Int[Array, "B _k"]]
"""Boxes, scores, and labels, -1 in empty slots."""


def pooled(found: Sequence[Found], iou_threshold: float, max_detections: int) -> Found:
    """The best detections of several views after one class-wise NMS over all of them.

    Args:
        found: of each view, in pixels of the same image.
        iou_threshold: of the NMS.
        max_detections: that are kept.
    """
    if len(found) == 1:
        return found[0]
    boxes, scores, labels = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))

    def one_image(boxes, scores, labels):
        order = jnp.argsort(jnp.where(labels >= 0, -scores, jnp.inf), stable=True)
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        keep = class_nms(boxes, labels, labels >= 0, iou_threshold, max_keep=max_detections)
        top, best = jax.lax.top_k(jnp.where(keep, scores, -jnp.inf), min(max_detections, len(scores)))
        filled = jnp.isfinite(top)
        return boxes[best] * filled[:, None], jnp.where(filled, top, 0), jnp.where(filled, labels[best], -1)

    return jax.vmap(one_image)(boxes, scores, labels)
