"""Naive NumPy twins of AP loss and Rank & Sort: one positive after the other, pair by pair, float64."""

import numpy as np

from tests.reference import ops
from tests.reference.losses import step


def ap(logits, targets, *, delta=1.0):
    """Value and gradient of AP loss; targets 1 positive, 0 negative, anything else ignored."""
    logits = np.asarray(logits, np.float64)
    positives = [int(i) for i in np.flatnonzero(np.asarray(targets) == 1)]
    negatives = [int(j) for j in np.flatnonzero(np.asarray(targets) == 0)]
    gradient = np.zeros_like(logits)
    value, best = 0.0, 0.0
    for i in sorted(positives, key=lambda i: logits[i]):
        of_positives = 1 + sum(step(logits[j] - logits[i], delta) for j in positives if j != i)
        above = {j: step(logits[j] - logits[i], delta) for j in negatives}
        rank = of_positives + sum(above.values())
        precision = of_positives / rank
        lifted = precision < best
        best = max(best, precision)
        value += (1 - best) / len(positives)
        gradient[i] = -(1 - best) / len(positives)
        for j, h in above.items():
            factor = (1 - best) / (1 - precision) if lifted else 1
            gradient[j] += factor * h / rank / len(positives)
    return value, gradient


def rank_sort(logits, targets, *, delta=0.5):
    """Ranking loss, sorting loss and their common gradient; targets IoU > 0 positive, 0 negative, below ignored."""
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    positives = [int(i) for i in np.flatnonzero(targets > 0)]
    negatives = [int(j) for j in np.flatnonzero(targets == 0)]
    gradient = np.zeros_like(logits)
    ranking, sorting = 0.0, 0.0
    for i in positives:
        of_positives = {j: step(logits[j] - logits[i], delta) for j in positives}
        above = {j: step(logits[j] - logits[i], delta) for j in negatives}
        rank = sum(of_positives.values()) + sum(above.values())
        error = sum(above.values()) / rank
        ranking += error / len(positives)
        if sum(above.values()) > 1e-10:
            gradient[i] -= error / len(positives)
            for j, h in above.items():
                gradient[j] += error * h / sum(above.values()) / len(positives)

        sorted_right = {j: h for j, h in of_positives.items() if targets[j] >= targets[i]}
        sorted_wrong = {j: h for j, h in of_positives.items() if targets[j] < targets[i]}
        error = _mean_miss(of_positives, targets) - _mean_miss(sorted_right, targets)
        sorting += error / len(positives)
        if sum(sorted_wrong.values()) > 1e-10:
            gradient[i] -= error / len(positives)
            for j, h in sorted_wrong.items():
                gradient[j] += error * h / sum(sorted_wrong.values()) / len(positives)
    return ranking, sorting, gradient


def _mean_miss(weights, targets):
    return sum(h * (1 - targets[j]) for j, h in weights.items()) / sum(weights.values())


def flat_targets(labels, num_classes, of_positives=None):
    """Targets [N, C] of a detector's rows: 1, or the row's number in `of_positives`, at (i, y_i); -1 in padding."""
    targets = np.zeros((len(labels), num_classes))
    for i, label in enumerate(labels):
        if label < 0:
            targets[i] = -1
        elif label < num_classes:
            targets[i, label] = 1 if of_positives is None else of_positives[i]
    return targets


def dice(logits, targets):
    """Dice loss of one mask, pixel by pixel."""
    overlap, squares = 0.0, 1e-5
    for logit, target in zip(np.ravel(logits), np.ravel(targets), strict=True):
        p = 1 / (1 + np.exp(-float(logit)))
        overlap += p * target
        squares += p * p + target * target
    return 1 - 2 * overlap / squares


def weighted_mean(losses, logits, labels):
    """Mean of losses [B, P] of the leading rows' positives, each weighted by its row's best score."""
    total = weights = 0.0
    for b, p in np.ndindex(losses.shape):
        if 0 <= labels[b, p] < logits.shape[-1]:
            best = max(1 / (1 + np.exp(-float(s))) for s in logits[b, p])
            total += best * losses[b, p]
            weights += best
    return total / weights


def box_loss(logits, labels, boxes, truths):
    """Weighted GIoU loss; boxes and truths [B, P, 4] of the leading rows of logits [B, R, C]."""
    losses = np.array([1 - ops.giou(*pair) for pair in zip(boxes.reshape(-1, 4), truths.reshape(-1, 4), strict=True)])
    return weighted_mean(losses.reshape(boxes.shape[:2]), logits, labels)


def mask_loss(logits, labels, mask_logits, mask_targets):
    """Weighted Dice loss; masks [B, P, M, M] of the leading rows of logits [B, R, C]."""
    losses = np.zeros(mask_logits.shape[:2])
    for at in np.ndindex(losses.shape):
        losses[at] = dice(mask_logits[at], mask_targets[at])
    return weighted_mean(losses, logits, labels)


def rank_sort_rows(logits, labels, boxes, truths):
    """Rank & Sort of all images' rows with the IoU of the leading rows' boxes as targets."""
    ious = np.zeros(labels.shape)
    for at in np.ndindex(boxes.shape[:2]):
        ious[at] = ops.iou(boxes[at], truths[at])
    rank, sort, gradient = rank_sort(
        logits.ravel(), flat_targets(labels.ravel(), logits.shape[-1], ious.ravel()).ravel()
    )
    return rank, sort, gradient.reshape(logits.shape)
