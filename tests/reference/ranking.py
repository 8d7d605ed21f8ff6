"""Naive NumPy twins of AP loss and Rank & Sort: one positive after the other, pair by pair, float64."""

import numpy as np

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
