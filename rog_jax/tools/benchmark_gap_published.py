"""The GAP loss as the authors' program computes it, written anew in PyTorch: the yardstick of `benchmark_gap`.

It visits class by class, keeps the negatives that lie above the class's lowest positive less delta, and then compares
them with one positive after another, in ascending order (ROG, ICCV 2023, section 3.3 and the published loss).
"""

import os

import numpy as np
import torch

FLOOR = 1e-10
"""Positives with no more weight of negatives above them get no gradient."""


def published_gap(
    logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, gamma: float, weight: float, delta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient of GAP, variant "published" of `rog_jax.losses.gap_loss`.

    Args:
        logits: [N, C] float.
        labels: [N] int64, C for the background.
        counts: [C] positives so far.
        gamma: exponent of omega.
        weight: lambda_gap.
        delta: half width of the step, in logits, above 0.
    """
    num_classes = logits.shape[1]
    scores = logits.reshape(-1)
    rows = torch.nonzero(labels < num_classes)[:, 0]
    entries = rows * num_classes + labels[rows]  # [P] places of the positives in the scores
    is_negative = torch.ones_like(scores, dtype=torch.bool)
    is_negative[entries] = False
    inverse = counts.clamp(min=1).to(scores.dtype) ** -gamma
    omega = num_classes * inverse / (inverse.sum() + 1e-9)

    present = torch.unique(labels[rows])
    value, gradient = scores.new_zeros(()), torch.zeros_like(scores)
    for label in present:
        own = entries[labels[rows] == label]
        positives = torch.sort(scores[own])
        relevant = torch.nonzero(is_negative & (scores >= positives.values[0] - delta))[:, 0]
        negatives, pushed = scores[relevant], scores.new_zeros(len(relevant))
        share = 1 / (len(own) * len(present))
        for place, score in zip(positives.indices, positives.values, strict=True):
            same = ((positives.values - score) / (2 * delta) + 0.5).clamp(0, 1).sum()
            steps = ((negatives - score) / (2 * delta) + 0.5).clamp(0, 1)
            above = steps.sum()
            rank = same + above
            value += share * above / rank
            if above > FLOOR:
                gradient[own[place]] -= weight * omega[label] * share * above / rank
                pushed += steps * (weight * omega[label] * share / rank)
        gradient[relevant] += pushed
    return value, gradient.reshape(logits.shape)


def prepare(logits: np.ndarray, labels: np.ndarray, counts: np.ndarray, delta: float = 0.5):
    """A function without arguments that runs the loop on all cores and returns value and gradient as NumPy arrays."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tensors = (torch.from_numpy(logits), torch.from_numpy(labels).long(), torch.from_numpy(counts))

    def run() -> tuple[np.ndarray, np.ndarray]:
        value, gradient = published_gap(*tensors, gamma=1.0, weight=1.0, delta=delta)
        return value.numpy(), gradient.numpy()

    return run
