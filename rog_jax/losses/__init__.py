"""Losses: GAP ranking, object-level classification, localisation."""

from rog_jax.losses.classification import ClassificationLoss, classification_loss
from rog_jax.losses.counts import accumulate_counts
from rog_jax.losses.gap import gap_loss
from rog_jax.losses.localization import binary_cross_entropy, smooth_l1

__all__ = [
    "ClassificationLoss",
    "accumulate_counts",
    "binary_cross_entropy",
    "classification_loss",
    "gap_loss",
    "smooth_l1",
]
