"""Region proposal network (Ren et al., NeurIPS 2015) on a feature pyramid: head, proposals and losses."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import FrozenConfigDict

from rog_jax.losses.localization import binary_cross_entropy, smooth_l1
from rog_jax.losses.normaliser import normaliser
from rog_jax.models.fpn import STRIDES
from rog_jax.models.layers import ParameterDraws, conv, normal, wide
from rog_jax.ops import boxes as box_ops
from rog_jax.ops.anchors import make_anchors
from rog_jax.ops.matching import match, sample_mask
from rog_jax.ops.nms import nms
from rog_jax.ops.topk import top_k_large

BOX_STDS = (1.0, 1.0, 1.0, 1.0)


class RPNOutputs(NamedTuple):
    """What the head says of each anchor, level by level.

    Attributes:
        logits: per level float32 [B, A_l], objectness.
        deltas: per level float32 [B, A_l, 4].
    """

    logits: list[Array]
    deltas: list[Array]


class RPNHead(nnx.Module):
    """One 3x3 convolution, then objectness and deltas for each anchor, shared by all levels."""

    def __init__(self, channels: int, anchors_per_cell: int, *, dtype: Any, rngs: ParameterDraws):
        kwargs = {"init": normal(0.01), "dtype": dtype, "rngs": rngs}
        self.conv = conv(channels, channels, 3, **kwargs)
        self.objectness = conv(channels, anchors_per_cell, 1, **kwargs)
        self.deltas = conv(channels, 4 * anchors_per_cell, 1, **kwargs)

    def __call__(self, features: Sequence[Float[Array, "B _h _w D"]]) -> RPNOutputs:
        logits, deltas = [], []
        for level in features:
            x = jax.nn.relu(self.conv(level))
            logits.append(wide(self.objectness(x)).reshape(x.shape[0], -1))
            deltas.append(wide(self.deltas(x)).reshape(x.shape[0], -1, 4))
        return RPNOutputs(logits, deltas)


def anchors_inside(
    image_size: Float[Array, "B 2"], shape: tuple[int, int], anchors_per_cell: int
) -> list[Bool[Array, "B _A"]]:
    """Which anchors stand on cells of the image itself, padded to the coarsest backbone stride, level by level.

    Cells of the padding beyond belong to no image: they neither train nor propose, however far an image is padded.
    """
    padded = 32 * jnp.ceil(image_size / 32)
    masks = []
    for stride in STRIDES:
        rows, columns = (jnp.arange(-(-side // stride)) * stride for side in shape)
        inside = (rows < padded[:, :1])[:, :, None] & (columns < padded[:, 1:])[:, None, :]  # [B, h, w]
        masks.append(jnp.repeat(inside.reshape(len(image_size), -1), anchors_per_cell, axis=1))
    return masks


def propose(
    outputs: RPNOutputs,
    image_size: Float[Array, "B 2"],
    shape: tuple[int, int],
    settings: FrozenConfigDict,
    *,
    pre_nms: int,
    proposals: int,
) -> tuple[Float[Array, "B R 4"], Bool[Array, "B R"]]:
    """The best boxes of each image after NMS within each level, best first.

    Args:
        outputs: of the head.
        image_size: (height, width) of each image inside the padding.
        shape: (H, W) of the padded images.
        settings: `config.rpn`.
        pre_nms: boxes a level that enter the NMS.
        proposals: R, boxes an image that leave it.

    Returns:
        Boxes [B, R, 4], clipped to the image, and which of them are proposals: [B, R] bool.
    """
    anchors = make_anchors(shape, STRIDES, settings.anchor_scale, settings.ratios)
    inside = anchors_inside(image_size, shape, len(settings.ratios))

    def candidates(logits, deltas, anchors, inside):
        """The best anchors of a level, filled up to `pre_nms` so that all levels go through one NMS."""
        count = min(pre_nms, len(logits))
        scores, order = top_k_large(jnp.where(inside, logits, -jnp.inf), count)
        boxes = box_ops.decode(deltas[order], jnp.asarray(anchors)[order], BOX_STDS)
        missing = pre_nms - count
        return jnp.pad(boxes, ((0, missing), (0, 0))), jnp.pad(scores, (0, missing), constant_values=-jnp.inf)

    def suppress(boxes, scores, size):
        boxes = box_ops.clip(boxes, size)  # [K, 4]
        valid = jnp.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(axis=-1)
        keep = nms(boxes, valid, settings.nms_iou, max_keep=proposals)
        return boxes, jnp.where(keep, scores, -jnp.inf)

    def one_image(logits, deltas, inside, size):
        levels = [candidates(*arrays) for arrays in zip(logits, deltas, anchors, inside, strict=True)]
        boxes, scores = (jnp.stack(arrays) for arrays in zip(*levels, strict=True))  # [L, K, 4], [L, K]
        boxes, scores = jax.vmap(suppress, in_axes=(0, 0, None))(boxes, scores, size)
        best, order = jax.lax.top_k(scores.reshape(-1), min(proposals, scores.size))
        return boxes.reshape(-1, 4)[order], jnp.isfinite(best)

    return jax.vmap(one_image)(*jax.lax.stop_gradient(tuple(outputs)), inside, image_size)


def rpn_losses(
    outputs: RPNOutputs,
    gt_boxes: Float[Array, "B G 4"],
    gt_labels: Int[Array, "B G"],
    image_size: Float[Array, "B 2"],
    image_index: Int[Array, "B"],
    shape: tuple[int, int],
    settings: FrozenConfigDict,
    keys: Array,
    axis_name: str | None = None,
) -> dict[str, Float[Array, ""]]:
    """Binary cross-entropy of sampled anchors and L1 of the positive ones, both over the number sampled.

    Args:
        outputs: of the head.
        gt_boxes: pixels of the padded image.
        gt_labels: -1 where a slot is empty.
        image_size: (height, width) of each image inside the padding.
        image_index: -1 for an image that takes part in nothing.
        shape: (H, W) of the padded images.
        settings: `config.rpn`.
        keys: one random key an image.
        axis_name: mesh axis over whose devices the number sampled is averaged.

    Returns:
        `rpn_cls` and `rpn_box`.
    """
    anchors = jnp.concatenate(make_anchors(shape, STRIDES, settings.anchor_scale, settings.ratios))  # [A, 4]
    inside = jnp.concatenate(anchors_inside(image_size, shape, len(settings.ratios)), axis=1)  # [B, A]
    logits = jnp.concatenate(outputs.logits, axis=1)  # [B, A]
    deltas = jnp.concatenate(outputs.deltas, axis=1)  # [B, A, 4]

    def targets(boxes, labels, inside, index, key):
        # An anchor without area overlaps nothing, so it can be no truth's best.
        candidates = jnp.where(inside[:, None], anchors, 0)
        matches = match(boxes, labels >= 0, candidates, settings.positive_iou, settings.negative_iou, low_quality=True)
        kind = jnp.where(inside & (index >= 0), matches.kind, -1)
        wanted = box_ops.encode(boxes[matches.index], anchors, BOX_STDS)  # [A, 4]
        return sample_mask(key, kind, settings.samples, settings.positive_fraction), wanted

    kind, wanted = jax.vmap(targets)(gt_boxes, gt_labels, inside, image_index, keys)
    positive = kind == 1
    count = normaliser((kind >= 0).sum(), axis_name)
    cross_entropy = binary_cross_entropy(logits, positive.astype(logits.dtype))
    distance = smooth_l1(deltas, wanted, beta=0.0).sum(-1)
    return {
        "rpn_cls": jnp.where(kind >= 0, cross_entropy, 0).sum() / count,
        "rpn_box": jnp.where(positive, distance, 0).sum() / count,
    }
