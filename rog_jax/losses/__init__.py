"""Losses: ranking (GAP, AP, Rank & Sort), object-level classification, localisation."""

from rog_jax.losses.ap import ap_loss, ap_loss_of_rows
from rog_jax.losses.classification import CLASSIFICATION_LOSSES, ClassificationLoss, classification_loss
from rog_jax.losses.counts import accumulate_counts
from rog_jax.losses.cross_entropy import binary_cross_entropy
from rog_jax.losses.gap import gap_loss
from rog_jax.losses.localization import dice_loss, giou_loss, smooth_l1
from rog_jax.losses.rank_sort import rank_sort_loss, rank_sort_loss_of_rows
from rog_jax.losses.rank_sort_head import rank_sort_head_loss, rank_sort_mask_loss

__all__ = [
    "CLASSIFICATION_LOSSES",
    "ClassificationLoss",
    "accumulate_counts",
    "ap_loss",
    "ap_loss_of_rows",
    "binary_cross_entropy",
    "classification_loss",
    "dice_loss",
    "gap_loss",
    "giou_loss",
    "rank_sort_head_loss",
    "rank_sort_loss",
    "rank_sort_loss_of_rows",
    "rank_sort_mask_loss",
    "smooth_l1",
]
