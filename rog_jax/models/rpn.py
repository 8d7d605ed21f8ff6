"""Region proposal network (Ren et al., NeurIPS 2015) on a feature pyramid: head, proposals and losses."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import FrozenConfigDict

from rog_jax.losses.cross_entropy import binary_cross_entropy
from rog_jax.losses.localization import smooth_l1
from rog_jax.losses.normaliser import normaliser
from rog_jax.models.fpn import STRIDES
from rog_jax.models.layers import ParameterDraws, conv, normal, wide
from rog_jax.ops import boxes as box_ops
from rog_jax.ops.anchors import make_anchors
from rog_jax.ops.matching import match, sample_mask
from rog_jax.ops.nms import nms
from rog_jax.ops.topk import top_k_large


class RPNOutputs(NamedTuple):
    """What the head says of each anchor, level by level.

    Attributes:
        logits: per level float32 [B, A_l], objectness.
        deltas: per level float32 [B, A_l, 4].
    """

    logits: list[Array]
    deltas: list[Array]


class Proposals(NamedTuple):
    """The best boxes of each image, best first.

    Attributes:
        boxes: float32 [B, R, 4], clipped to the image.
        logits: float32 [B, R], the objectness of the anchor that each came from; -inf in an empty slot.
        valid: bool [B, R], which of the slots hold a proposal.
    """

    boxes: Array
    logits: Array
    valid: Array


class RPNHead(nnx.Module):
    """One 3x3 convolution, then objectness and deltas for each anchor, shared by all levels."""

    def __init__(self, channels: int, anchors_per_cell: int, *, dtype: Any, rngs: ParameterDraws):
        kwargs = {"init": normal(0.01), "dtype": dtype, "rngs": rngs}
        self.conv = conv(channels, channels, 3, **kwargs)
        self.objectness = conv(channels, anchors_per_cell, 1, **kwargs)
        self.deltas = conv(channels, 4 * anchors_per_cell, 1, **kwargs)

    @jax.named_scope("rpn_head")
    def __call__(self, features: Sequence[Float[Array, "B _h _w D"]]) -> RPNOutputs:
        logits, deltas = [], []
        for level in features:
            x = jax.nn.relu(self.conv(level))
            logits.append(wide(self.objectness(x)).reshape(x.shape[0], -1))
            deltas.append(wide(self.deltas(x)).reshape(x.shape[0], -1, 4))
        return RPNOutputs(logits, deltas)


def level_anchors(shape: tuple[int, int], settings: FrozenConfigDict) -> list[Float[np.ndarray, "_A 4"]]:
    """Anchors of each level on padded images of `shape` (height, width), by the settings of `config.rpn`."""
    return make_anchors(
        shape,
        STRIDES,
        settings.anchor_scale,
        settings.ratios,
        rounding=settings.anchor_rounding,
        offset=settings.anchor_offset,
        strides_from=settings.anchor_strides,
    )


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
    clamp: str = "both",
) -> Proposals:
    """The best boxes of each image after NMS within each level.

    Args:
        outputs: of the head.
        image_size: (height, width) of each image inside the padding.
        shape: (H, W) of the padded images.
        settings: `config.rpn`.
        pre_nms: boxes a level that enter the NMS.
        proposals: R, boxes an image that leave it.
        clamp: of the deltas, `config.model.box_clamp`.
    """
    anchors = level_anchors(shape, settings)
    inside = anchors_inside(image_size, shape, len(settings.ratios))
    max_keep = min(settings.proposals_per_level or proposals, proposals)

    def candidates(logits, deltas, anchors, inside):
        """The best anchors of a level, filled up to `pre_nms` so that all levels go through one NMS."""
        count = min(pre_nms, len(logits))
        scores, order = top_k_large(jnp.where(inside, logits, -jnp.inf), count)
        boxes = box_ops.decode(deltas[order], jnp.asarray(anchors)[order], settings.box_stds, clamp=clamp)
        missing = pre_nms - count
        return jnp.pad(boxes, ((0, missing), (0, 0))), jnp.pad(scores, (0, missing), constant_values=-jnp.inf)

    def suppress(boxes, scores, size):
        boxes = box_ops.clip(boxes, size)  # [K, 4]
        valid = jnp.isfinite(scores) & (boxes[:, 2:] - boxes[:, :2] > settings.min_size).all(axis=-1)
        keep = nms(boxes, valid, settings.nms_iou, max_keep=max_keep)
        return boxes, jnp.where(keep, scores, -jnp.inf)

    def one_image(logits, deltas, inside, size):
        levels = [candidates(*arrays) for arrays in zip(logits, deltas, anchors, inside, strict=True)]
        boxes, scores = (jnp.stack(arrays) for arrays in zip(*levels, strict=True))  # [L, K, 4], [L, K]
        boxes, scores = jax.vmap(suppress, in_axes=(0, 0, None))(boxes, scores, size)
        best, order = jax.lax.top_k(scores.reshape(-1), min(proposals, scores.size))
        return Proposals(boxes.reshape(-1, 4)[order], best, jnp.isfinite(best))

    return jax.vmap(one_image)(*jax.lax.stop_gradient(tuple(outputs)), inside, image_size)


class RPNTargets(NamedTuple):
    """What the head should have said of the anchors that were drawn.

    Attributes:
        kind: int32 [B, A], 1 positive, 0 negative, -1 not drawn.
        deltas: float32 [B, A, 4], to the ground truth of the anchor; of no meaning but for positives.
    """

    kind: Array
    deltas: Array


def rpn_targets(
    gt_boxes: Float[Array, "B G 4"],
    gt_labels: Int[Array, "B G"],
    image_size: Float[Array, "B 2"],
    image_index: Int[Array, "B"],
    shape: tuple[int, int],
    settings: FrozenConfigDict,
    keys: Array,
) -> RPNTargets:
    """Anchors matched with the ground truths and drawn for the losses.

    Args:
        gt_boxes: pixels of the padded image.
        gt_labels: -1 where a slot is empty.
        image_size: (height, width) of each image inside the padding.
        image_index: -1 for an image that takes part in nothing.
        shape: (H, W) of the padded images.
        settings: `config.rpn`.
        keys: one random key an image.
    """
    anchors = jnp.concatenate(level_anchors(shape, settings))  # [A, 4]
    inside = jnp.concatenate(anchors_inside(image_size, shape, len(settings.ratios)), axis=1)  # [B, A]

    def one_image(boxes, labels, inside, index, key):
        # An anchor without area overlaps nothing, so it can be no truth's best.
        candidates = jnp.where(inside[:, None], anchors, 0)
        matches = match(
            boxes,
            labels >= 0,
            candidates,
            settings.positive_iou,
            settings.negative_iou,
            low_quality=settings.low_quality,
            min_positive_iou=settings.min_positive_iou,
        )
        kind = jnp.where(inside & (index >= 0), matches.kind, -1)
        wanted = box_ops.encode(boxes[matches.index], anchors, settings.box_stds)  # [A, 4]
        return RPNTargets(sample_mask(key, kind, settings.samples, settings.positive_fraction), wanted)

    return jax.vmap(one_image)(gt_boxes, gt_labels, inside, image_index, keys)


def rpn_losses(
    outputs: RPNOutputs,
    targets: RPNTargets,
    image_index: Int[Array, "B"],
    settings: FrozenConfigDict,
    axis_name: str | None = None,
) -> dict[str, Float[Array, ""]]:
    """Binary cross-entropy of the anchors drawn and smooth L1 of the positive ones, both over the number drawn.

    Args:
        outputs: of the head.
        targets: from `rpn_targets`.
        image_index: -1 for an image that takes part in nothing.
        settings: `config.rpn`.
        axis_name: mesh axis over whose devices the number drawn is averaged.

    Returns:
        `rpn_cls` and `rpn_box`.
    """
    logits = jnp.concatenate(outputs.logits, axis=1)  # [B, A]
    deltas = jnp.concatenate(outputs.deltas, axis=1)  # [B, A, 4]
    drawn, positive = targets.kind >= 0, targets.kind == 1
    planned = settings.samples * (image_index >= 0).sum()
    count = normaliser(drawn.sum() if settings.loss_divisor == "sampled" else planned, axis_name)
    cross_entropy = binary_cross_entropy(logits, positive.astype(logits.dtype))
    distance = smooth_l1(deltas, targets.deltas, settings.smooth_l1_beta).sum(-1)
    return {
        "rpn_cls": jnp.where(drawn, cross_entropy, 0).sum() / count,
        "rpn_box": jnp.where(positive, distance, 0).sum() / count,
    }
