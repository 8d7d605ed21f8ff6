"""Second stage: box head, its training targets, and the detections that it ends in."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import FrozenConfigDict

from rog_jax.losses.localization import smooth_l1
from rog_jax.models.layers import (
    Initializer,
    NormedLinear,
    ParameterDraws,
    constant,
    linear,
    normal,
    own_set,
    uniform,
    wide,
    xavier_uniform,
)
from rog_jax.ops import boxes as box_ops
from rog_jax.ops.matching import POSITIVE, match, sample
from rog_jax.ops.nms import class_nms
from rog_jax.ops.topk import top_k_large


class SampledRoIs(NamedTuple):
    """Regions of interest chosen for the losses; positives stand first in each image.

    Attributes:
        boxes: float32 [B, R, 4].
        labels: int32 [B, R]: 0..C-1, C for background, -1 for an empty slot.
        matched: int32 [B, R], the ground truth of a positive.
        positives: the number of leading slots that can hold a positive (static).
    """

    boxes: Array
    labels: Array
    matched: Array
    positives: int


class BoxHead(nnx.Module):
    """Two shared layers, then a classifier and box deltas, one set a class or one for all.

    Args:
        inputs: values a RoI (cells x channels).
        num_classes: C.
        loss: the classification loss, which says the number of columns and their initialisation.
        settings: `config.roi`, with nothing left open (`rog_jax.models.recipe`).
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        loss: Any,
        settings: FrozenConfigDict,
        *,
        dtype: Any,
        rngs: ParameterDraws,
    ):
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.fc1 = _hidden_layer(inputs, settings.hidden, xavier_uniform, settings.init, **kwargs)
        self.fc2 = _hidden_layer(settings.hidden, settings.hidden, xavier_uniform, settings.init, **kwargs)
        self.classifier = _classifier(loss, settings, **kwargs)
        sets = 1 if settings.class_agnostic_boxes else num_classes
        self.deltas = _hidden_layer(settings.hidden, 4 * sets, normal(0.001), settings.init, **kwargs)

    @jax.named_scope("box_head")
    def embed(self, pooled: Float[Array, "*N S S D"]) -> Float[Array, "*N hidden"]:
        """The two shared layers."""
        x = pooled.reshape(*pooled.shape[:-3], -1)
        x = jax.nn.relu(self.fc1(x))
        return jax.nn.relu(self.fc2(x))

    @jax.named_scope("box_head")
    def classify(self, embedding: Float[Array, "*N hidden"]) -> Float[Array, "*N Q"]:
        """Raw logits."""
        return wide(self.classifier(embedding))

    @jax.named_scope("box_head")
    def regress(self, embedding: Float[Array, "*N hidden"]) -> Float[Array, "*N sets 4"]:
        """Deltas for each class, or one set for all."""
        return wide(self.deltas(embedding)).reshape(*embedding.shape[:-1], -1, 4)


def _hidden_layer(inputs: int, outputs: int, init: Initializer, rule: str, **kwargs: Any) -> nnx.Linear:
    """A layer that starts as MMDetection's rule says, from `init` with biases of 0, or as PyTorch's layers do."""
    if rule not in ("mmdet", "pytorch"):
        raise ValueError(f"config.roi.init={rule!r} is unknown; choose one of mmdet, pytorch")
    if rule == "mmdet":
        return linear(inputs, outputs, init=init, **kwargs)
    default = uniform(inputs**-0.5)
    return linear(inputs, outputs, init=default, bias_init=default, **kwargs)


def _classifier(loss: Any, settings: FrozenConfigDict, *, dtype: Any, rngs: ParameterDraws) -> nnx.Linear:
    """The last layer as the classification loss wants it: columns, kind, initial weights and biases."""
    distribution, value = loss.weight_init
    init = {"normal": normal, "constant": constant}[distribution](value)
    shape = settings.hidden, loss.num_outputs
    if settings.predictor == "linear":
        layer = linear(*shape, init=init, dtype=dtype, rngs=rngs)
    elif settings.predictor == "normed":
        layer = NormedLinear(*shape, temperature=settings.temperature, init=init, rngs=rngs)
    else:
        raise ValueError(f"config.roi.predictor={settings.predictor!r} is unknown; choose one of linear, normed")
    bias = np.broadcast_to(np.asarray(loss.bias_init, np.float32), loss.num_outputs)
    layer.bias = nnx.Param(bias.copy())
    return layer


@jax.named_scope("roi_sampling")
def sample_rois(
    proposals: Float[Array, "B R 4"],
    proposal_valid: Bool[Array, "B R"],
    gt_boxes: Float[Array, "B G 4"],
    gt_labels: Int[Array, "B G"],
    image_index: Int[Array, "B"],
    num_classes: int,
    settings: FrozenConfigDict,
    keys: Array,
) -> SampledRoIs:
    """Random positives and negatives among the proposals and the ground truths themselves.

    As in MMDetection, ground truths join after the proposals have been assigned, each as a positive of its own: among
    the candidates, each would be its own best overlap, and no proposal could be assigned as that. Detectron2 and
    torchvision match them like proposals, which gives the same but for truths with equal boxes.

    Args:
        proposals: boxes.
        proposal_valid: which of them are proposals.
        gt_boxes: ground truths.
        gt_labels: -1 where a slot is empty.
        image_index: -1 for an image that takes part in nothing.
        num_classes: C, the label of background.
        settings: `config.roi`.
        keys: one random key an image.
    """
    positives = int(settings.samples * settings.positive_fraction)

    def one_image(proposals, proposal_valid, boxes, labels, index, key):
        gt_valid, truths = labels >= 0, jnp.arange(len(labels), dtype=jnp.int32)
        threshold = settings.positive_iou
        # A box without area overlaps nothing, so an empty slot can be no truth's best.
        assigned = jnp.where(proposal_valid[:, None], proposals, 0)
        matches = match(boxes, gt_valid, assigned, threshold, threshold, low_quality=settings.low_quality)
        candidates = jnp.concatenate([boxes, proposals])  # [G + R, 4]
        usable = jnp.concatenate([gt_valid, proposal_valid]) & (index >= 0)
        kind = jnp.concatenate([jnp.full_like(truths, POSITIVE), matches.kind])  # [G + R]
        chosen = sample(key, jnp.where(usable, kind, -1), settings.samples, settings.positive_fraction)
        matched = jnp.concatenate([truths, matches.index])[chosen.index]
        label = jnp.where(chosen.kind == POSITIVE, labels[matched], num_classes)
        return candidates[chosen.index], jnp.where(chosen.kind >= 0, label, -1), matched

    arrays = jax.vmap(one_image)(proposals, proposal_valid, gt_boxes, gt_labels, image_index, keys)
    return SampledRoIs(*arrays, positives)


@jax.named_scope("box_loss")
def box_loss(
    deltas: Float[Array, "B P sets 4"],
    rois: SampledRoIs,
    gt_boxes: Float[Array, "B G 4"],
    num_classes: int,
    settings: FrozenConfigDict,
    rows: Float[Array, ""],
) -> Float[Array, ""]:
    """Smooth L1 of the deltas of each positive's own class, over all rows, background included.

    Args:
        deltas: of the leading P slots of each image.
        rois: what was sampled.
        gt_boxes: ground truths.
        num_classes: C, the label of background.
        settings: `config.roi`.
        rows: the number of sampled rows to divide by (its mean over devices).
    """
    deltas, positive = own_deltas(deltas, rois, num_classes)
    wanted = box_targets(rois, gt_boxes, settings)[:, : deltas.shape[1]]
    return jnp.where(positive, smooth_l1(deltas, wanted, settings.smooth_l1_beta).sum(-1), 0).sum() / rows


def own_deltas(
    deltas: Float[Array, "B P sets 4"], rois: SampledRoIs, num_classes: int
) -> tuple[Float[Array, "B P 4"], Bool[Array, "B P"]]:
    """The deltas of each leading slot's own class, and which of the slots are positives."""
    labels = rois.labels[:, : deltas.shape[1]]
    positive = (labels >= 0) & (labels < num_classes)
    own = own_set(jnp.where(positive, labels, 0), deltas.shape[2])[..., None, None]
    return jnp.take_along_axis(deltas, own, axis=2)[:, :, 0], positive


def predicted_boxes(
    deltas: Float[Array, "B P sets 4"],
    rois: SampledRoIs,
    num_classes: int,
    settings: FrozenConfigDict,
    clamp: str = "both",
) -> Float[Array, "B P 4"]:
    """The box that each leading slot's own deltas give; of no meaning but for positives.

    Args:
        deltas: of the leading P slots of each image.
        rois: what was sampled.
        num_classes: C, the label of background.
        settings: `config.roi`.
        clamp: of the deltas, `config.model.box_clamp`.
    """
    own, _ = own_deltas(deltas, rois, num_classes)
    return box_ops.decode(own, rois.boxes[:, : own.shape[1]], settings.box_stds, clamp=clamp)


def matched_truths(rois: SampledRoIs, gt_boxes: Float[Array, "B G 4"]) -> Float[Array, "B R 4"]:
    """The ground truth that each slot is matched to; of no meaning for background."""
    return jnp.take_along_axis(gt_boxes, rois.matched[..., None], axis=1)


def box_targets(
    rois: SampledRoIs, gt_boxes: Float[Array, "B G 4"], settings: FrozenConfigDict
) -> Float[Array, "B R 4"]:
    """Deltas from each RoI to its ground truth, over the deltas' standard deviations; of no meaning for background."""
    return box_ops.encode(matched_truths(rois, gt_boxes), rois.boxes, settings.box_stds)


def detect(
    scores: Float[Array, "B R C"],
    deltas: Float[Array, "B R sets 4"],
    proposals: Float[Array, "B R 4"],
    proposal_valid: Bool[Array, "B R"],
    image_size: Float[Array, "B 2"],
    box_stds: tuple,
    settings: FrozenConfigDict,
    clamp: str = "both",
) -> tuple[Float[Array, "B K 4"], Float[Array, "B K"], Int[Array, "B K"]]:
    """Score threshold, class-wise NMS and the K best of each image.

    Args:
        scores: foreground scores at inference.
        deltas: for each class, or one set for all.
        proposals: the boxes that the deltas refer to.
        proposal_valid: which of them are proposals.
        image_size: (height, width) of each image inside the padding.
        box_stds: of the deltas.
        settings: `config.test`.
        clamp: of the deltas, `config.model.box_clamp`.

    Returns:
        Boxes [B, K, 4], scores [B, K] in descending order, labels [B, K] (-1 where a slot is empty).
    """

    def one_image(scores, deltas, proposals, valid, size):
        num_classes = scores.shape[1]
        flat = jnp.where(valid[:, None] & (scores > settings.score_threshold), scores, -jnp.inf).reshape(-1)
        best, order = top_k_large(flat, min(settings.pre_nms, flat.shape[0]))
        row, label = order // num_classes, order % num_classes
        own = deltas[row, own_set(label, deltas.shape[1])]
        boxes = box_ops.clip(box_ops.decode(own, proposals[row], box_stds, clamp=clamp), size)
        candidate = jnp.isfinite(best) & (boxes[:, 2:] - boxes[:, :2] > settings.min_size).all(axis=-1)
        keep = class_nms(boxes, label, candidate, settings.nms_iou, max_keep=settings.max_detections)
        top, order = jax.lax.top_k(jnp.where(keep, best, -jnp.inf), min(settings.max_detections, len(best)))
        found = jnp.isfinite(top)
        return boxes[order] * found[:, None], jnp.where(found, top, 0), jnp.where(found, label[order], -1)

    return jax.vmap(one_image)(scores, deltas, proposals, proposal_valid, image_size)
