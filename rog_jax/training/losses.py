"""Every loss of a training step, for the images of one device of the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rog_jax.data.batch import Batch
from rog_jax.losses import accumulate_counts
from rog_jax.losses.normaliser import normaliser
from rog_jax.losses.rank_sort_head import HeadLoss, rank_sort_mask_loss
from rog_jax.models.box_head import box_loss, matched_truths
from rog_jax.models.detector import Detector, TrainOutputs, image_keys
from rog_jax.models.mask_head import mask_loss, mask_targets
from rog_jax.models.objective import uses_memory
from rog_jax.models.rpn import rpn_losses, rpn_targets
from rog_jax.training.gradient_sums import tapped
from rog_jax.training.memory import MemoryOutputs, draw_rows, memory_box_loss, remember
from rog_jax.training.ranking import rank_sort_losses, ranking_losses
from rog_jax.training.state import AXIS, LossMemory

RPN_KEY, ROI_KEY, CLASSIFICATION_KEY, MEMORY_KEY, FILL_KEY = 0, 1, 2, 3, 4
MEMORY_INPUTS = ("memory_logits", "memory_labels")
"""Inputs of a classification loss that stand for rows drawn from a feature memory."""


def compute_losses(
    model: Detector, batch: Batch, memory: LossMemory, key: Array, tap: Any = ()
) -> tuple[dict[str, Float[Array, ""]], LossMemory]:
    """Every loss of this device's images; the mean over devices is that of the global batch.

    Args:
        model: with its parameters.
        batch: this device's images.
        memory: from the step before.
        key: of the step.
        tap: [2, C], by which the losses then have the sums of `tapped` for a derivative; () for none.
    """
    config = model.config
    outputs = model.train_outputs(batch, jax.random.fold_in(key, ROI_KEY))
    labels = outputs.rois.labels.reshape(-1)  # [N]
    logits = outputs.logits.reshape(len(labels), -1)  # [N, Q]
    if len(tap):
        logits = tapped(logits, tap, labels)
        outputs = outputs._replace(logits=logits.reshape(outputs.logits.shape))
    rows = (labels >= 0).sum()

    losses = _rpn_losses(model, outputs, batch, key)
    inputs, features, drawn = classification_inputs(model, outputs, batch, key), (), None
    if uses_memory(config):
        memory_key = jax.random.fold_in(key, MEMORY_KEY)
        features = remember(model, outputs.features, batch, memory.features, memory_key)
        drawn = draw_rows(model, features, memory.loss, memory_key, AXIS)
        inputs |= dict(zip(MEMORY_INPUTS, (drawn.logits, drawn.labels), strict=True))
        rows += (drawn.labels >= 0).sum()
    with jax.named_scope("cls_loss"):
        losses["cls"], loss_state = model.loss(logits, labels, None, memory.loss, axis_name=AXIS, **inputs)

    counts_axis = AXIS if config.loss.gap.counts_scope == "global" else None
    counts = accumulate_counts(memory.class_counts, labels, axis_name=counts_axis)
    slots = len(batch.image) * outputs.rois.positives
    losses |= ranking_losses(model, model.loss.foreground_logits(logits), labels, counts, slots)
    ranked = None
    if config.loss.ranking == "rank_sort":
        ranked = rank_sort_losses(model, outputs, batch)
        losses |= {"rank": ranked.rank, "sort": ranked.sort}
    if ranked is not None and config.loss.rank_sort.balance_heads:
        losses |= _balanced_head_losses(model, outputs, batch, ranked)
    else:
        losses |= _head_losses(model, outputs, batch, drawn, normaliser(rows, AXIS))
    return losses, LossMemory(counts, loss_state, features)


def _balanced_head_losses(
    model: Detector, outputs: TrainOutputs, batch: Batch, ranked: HeadLoss
) -> dict[str, Float[Array, ""]]:
    """Rank & Sort's losses of boxes and masks, each as large as its ranking loss."""
    losses = {"box": ranked.box}
    if outputs.mask_logits is not None:
        logits, targets, _ = _mask_rows(outputs, batch, model)
        weights = ranked.weights.reshape(-1)
        losses["mask"] = rank_sort_mask_loss(logits, targets, weights, ranked.rank + ranked.sort, AXIS)
    return losses


def _head_losses(
    model: Detector, outputs: TrainOutputs, batch: Batch, drawn: MemoryOutputs | None, rows: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Smooth L1 of the boxes, those drawn from a memory included, and cross-entropy of the masks."""
    config = model.config
    losses = {"box": box_loss(outputs.deltas, outputs.rois, batch.boxes, model.num_classes, config.roi, rows)}
    if drawn is not None:
        losses["box"] += memory_box_loss(drawn, config.roi, rows)
    if outputs.mask_logits is not None:
        logits, targets, positive = _mask_rows(outputs, batch, model)
        losses["mask"] = mask_loss(logits, targets, positive, normaliser(positive.sum(), AXIS))
    return losses


@jax.named_scope("rpn_loss")
def _rpn_losses(model: Detector, outputs: TrainOutputs, batch: Batch, key: Array) -> dict[str, Float[Array, ""]]:
    targets = rpn_targets(
        batch.boxes,
        batch.labels,
        batch.image_size,
        batch.index,
        batch.image.shape[1:3],
        model.config.rpn,
        image_keys(jax.random.fold_in(key, RPN_KEY), batch.index),
    )
    return rpn_losses(outputs.rpn, targets, batch.index, model.config.rpn, AXIS)


def classification_inputs(model: Detector, outputs: TrainOutputs, batch: Batch, key: Array) -> dict[str, Any]:
    """What the classification loss asks for besides logits and labels, but for a memory's rows.

    Raises:
        ValueError: it asks for what nobody makes here (`ClassificationLoss.extra_inputs`).
    """
    key = jax.random.fold_in(key, CLASSIFICATION_KEY)
    makers = {
        "key": lambda: key,
        "image_keys": lambda: image_keys(key, batch.index),
        "gt_ids": lambda: _gt_ids(outputs.rois.matched, batch.boxes.shape[1]),
        "verified": lambda: batch.verified,
    }
    wanted = [name for name in model.loss.extra_inputs if name not in MEMORY_INPUTS]
    unknown = ", ".join(name for name in wanted if name not in makers)
    if unknown:
        raise ValueError(
            f"config.loss.classification={model.config.loss.classification!r} asks for {unknown}, which training does "
            f"not make: add it to rog_jax/training/losses.py; there are {', '.join((*makers, *MEMORY_INPUTS))}"
        )
    return {name: makers[name]() for name in wanted}


def _gt_ids(matched: Int[Array, "B R"], slots: int) -> Int[Array, " N"]:
    """A number for each ground truth of this device's images, at each row that is assigned to it."""
    return (matched + slots * jnp.arange(len(matched))[:, None]).reshape(-1)


@jax.named_scope("mask_loss")
def _mask_rows(
    outputs: TrainOutputs, batch: Batch, model: Detector
) -> tuple[Float[Array, "P M M"], Float[Array, "P M M"], Bool[Array, " P"]]:
    """Mask logits and targets of all leading slots of all images, and which of them are positives."""
    count = outputs.rois.positives
    labels = outputs.rois.labels[:, :count]
    matched = outputs.rois.matched[:, :count]
    positive = ((labels >= 0) & (labels < model.num_classes)).reshape(-1)
    masks = jax.vmap(lambda masks, index: masks[index])(batch.masks, matched)  # [B, P, 112, 14]
    boxes = matched_truths(outputs.rois, batch.boxes)[:, :count].reshape(-1, 4)
    logits = outputs.mask_logits.reshape(-1, *outputs.mask_logits.shape[2:])
    rois = outputs.rois.boxes[:, :count].reshape(-1, 4)
    kind = model.config.roi.mask_targets
    return logits, mask_targets(masks.reshape(-1, *masks.shape[2:]), boxes, rois, logits.shape[-1], kind), positive
