"""How Rank & Sort trains a detector (Oksuz et al., ICCV 2021, section 4, as its published program reads it).

Boxes and masks weigh as much as their row's best score says, and their losses are scaled to the value of the
classification loss, so that no factor between the tasks is left to be tuned (self-balancing).

Everything is a local sum over a mean over devices, as elsewhere in this folder: the mean over devices of each value and
of each gradient is that of the joined batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from rog_jax.losses.conventions import is_foreground, sum_over_devices
from rog_jax.losses.localization import dice_loss, giou_loss
from rog_jax.losses.rank_sort import rank_sort_loss_of_rows
from rog_jax.ops.boxes import paired_iou

MIN_WEIGHTS = 1e-10
"""Sum of the weights below which a weighted mean is divided by 1 (published)."""


class HeadLoss(NamedTuple):
    """Losses of a head, and what its masks are weighted by.

    Attributes:
        rank: ranking loss; the gradient of the sorting loss comes with it.
        sort: sorting loss.
        box: self-balanced GIoU loss.
        weights: [B, P] of the positives, 0 elsewhere; without gradient.
    """

    rank: Float[Array, ""]
    sort: Float[Array, ""]
    box: Float[Array, ""]
    weights: Float[Array, "B P"]


def rank_sort_head_loss(
    logits: Float[Array, "B R C"],
    labels: Int[Array, "B R"],
    boxes: Float[Array, "B P 4"],
    truths: Float[Array, "B P 4"],
    *,
    delta: float | int = 0.5,
    weight: float | int | Num[Array, ""] = 1.0,
    method: str = "auto",
    axis_name: str | None = None,
    joint_ranking: bool = True,
    max_positives: int | None = None,
) -> HeadLoss:
    """Rank & Sort of a head's scores, with the IoU of its decoded boxes as targets, and the loss of those boxes.

    Args:
        logits: raw scores of the foreground columns; C = 1 for the objectness of anchors.
        labels: class of each row; C is the background, -1 padding or ignored.
        boxes: decoded predictions of the leading P rows, among which all positives are; those of their own class.
        truths: the ground truth of each; of no meaning but for positives.
        delta: half width of the ranking step, in logits.
        weight: factor of the ranking and sorting loss and, since it is scaled to them, of the box loss (0.2 in the
            published RPN).
        method: "auto", "interval", "one_hot" or "dense".
        axis_name: mesh axis over whose devices the batch is spread.
        joint_ranking: with an axis, rank the joined batch, or each device's rows among themselves (published).
        max_positives: slots for the positives of one device, B * P by default.

    Returns:
        Losses; all 0 without positives, where the published program puts 1 in place of each.

    Raises:
        ValueError: from `rank_sort_loss_of_rows`.
    """
    images, slots = boxes.shape[:2]
    num_rows, num_classes = logits.shape[1:]
    leading = labels[:, :slots]
    positive = is_foreground(leading, num_classes)  # [B, P]
    # Not weighted by 0 later: whatever stands in an empty slot, even infinity, must not reach the gradient.
    boxes, truths = (jnp.where(positive[..., None], x, 0) for x in (boxes, truths))
    ious = jnp.where(positive, paired_iou(jax.lax.stop_gradient(boxes), truths), 0)
    rank, sort = rank_sort_loss_of_rows(
        logits.reshape(-1, num_classes),
        labels.reshape(-1),
        jnp.pad(ious, ((0, 0), (0, num_rows - slots))).reshape(-1),
        delta=delta,
        weight=weight,
        method=method,
        axis_name=axis_name if joint_ranking else None,
        max_positives=images * slots if max_positives is None else max_positives,
    )
    weights = score_weights(logits[:, :slots], positive)
    box = weighted_mean(giou_loss(boxes, truths), weights, axis_name)
    return HeadLoss(rank, sort, balance(box, rank + sort, axis_name), weights)


@jax.named_scope("mask_loss")
def rank_sort_mask_loss(
    logits: Float[Array, "*P M M"],
    targets: Float[Array, "*P M M"],
    weights: Float[Array, "*P"],
    classification: Float[Array, ""],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Dice loss of the masks, weighted like the boxes and scaled to the classification loss.

    Args:
        logits: of each positive's class.
        targets: what the masks should be, in 0..1.
        weights: of the positives, 0 elsewhere, from `rank_sort_head_loss`.
        classification: ranking plus sorting loss.
        axis_name: mesh axis over whose devices the batch is spread.
    """
    logits = jnp.where((weights > 0)[..., None, None], logits, 0)
    return balance(weighted_mean(dice_loss(logits, targets), weights, axis_name), classification, axis_name)


def score_weights(logits: Float[Array, "*P C"], positive: Bool[Array, "*P"]) -> Float[Array, "*P"]:
    """The highest score (sigmoid) of each positive's row over all classes, 0 elsewhere; without gradient."""
    return jnp.where(positive, jax.nn.sigmoid(jax.lax.stop_gradient(logits).max(axis=-1)), 0)


def weighted_mean(
    losses: Float[Array, "*P"], weights: Float[Array, "*P"], axis_name: str | None = None
) -> Float[Array, ""]:
    """Sum of weighted losses, divided by the sum of the weights or its mean over the devices of an axis."""
    total, devices = sum_over_devices((jnp.sum(weights), 1), axis_name)
    total = jnp.where(total < MIN_WEIGHTS, 1, total)
    return jnp.sum(jnp.where(weights > 0, weights * losses, 0)) / (total / devices)


def balance(loss: Float[Array, ""], reference: Float[Array, ""], axis_name: str | None = None) -> Float[Array, ""]:
    """The loss times reference / loss, a factor without gradient (self-balancing); 0 for a loss of 0.

    With an axis the factor is the quotient of the means over its devices.
    """
    value, reference = jax.lax.stop_gradient((loss, reference))
    if axis_name is not None:
        value, reference = jax.lax.pmean((value, reference), axis_name)
    return loss * jnp.where(value > 0, reference / jnp.where(value > 0, value, 1), 0)
