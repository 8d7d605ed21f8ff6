"""Losses of single deltas, boxes and masks; the caller masks, sums and normalises."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from rog_jax.ops.boxes import paired_giou

DICE_EPS = 1e-5
"""Added to the denominator of Dice, in pixels."""


def smooth_l1(
    prediction: Float[Array, "*shape"], target: Float[Array, "*shape"], beta: float | int
) -> Float[Array, "*shape"]:
    """Smooth L1 of each element (Fast R-CNN, eq. 3): d² / (2 beta) where |d| < beta, |d| - beta / 2 beyond.

    Args:
        prediction: predicted deltas.
        target: deltas to be predicted.
        beta: where the parabola ends, in units of the deltas; 0 is plain L1.
    """
    error = jnp.abs(prediction - target)
    if beta == 0:
        return error
    return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def giou_loss(boxes: Float[Array, "*batch 4"], targets: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """1 - GIoU of each box with its target, in [0, 2) (Rezatofighi et al., CVPR 2019).

    Args:
        boxes: decoded predictions, [x1, y1, x2, y2].
        targets: boxes to be predicted.
    """
    return 1 - paired_giou(boxes, targets)


def dice_loss(logits: Float[Array, "*batch M M"], targets: Num[Array, "*batch M M"]) -> Float[Array, "*batch"]:
    """1 - 2 sum(p t) / (sum(p²) + sum(t²) + 1e-5) of each mask, p = sigmoid(logits) (Milletari et al., 3DV 2016).

    The small term is that of Rank & Sort's program.

    Args:
        logits: raw scores of the pixels.
        targets: shares of the pixels that the object covers, in 0..1.
    """
    mask, pixels = jax.nn.sigmoid(logits), (-2, -1)
    targets = targets.astype(mask.dtype)
    squares = jnp.sum(mask**2, axis=pixels) + jnp.sum(targets**2, axis=pixels)
    return 1 - 2 * jnp.sum(mask * targets, axis=pixels) / (squares + DICE_EPS)
