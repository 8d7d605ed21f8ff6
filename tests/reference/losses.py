"""Naive NumPy twins of the losses: double loops over equations, float64."""

import numpy as np


def step(difference: float, delta: float) -> float:
    if delta == 0:
        return float(difference >= 0)
    return float(np.clip(difference / (2 * delta) + 0.5, 0, 1))


def gap(logits, labels, counts, *, delta=0.5, gamma=1.0, weight=1.0, variant="paper", exclude_foreground=True):
    """GAP value and gradient, entry by entry, from the equations of the paper or of the authors' program."""
    logits = np.asarray(logits, np.float64)
    num_rows, num_classes = logits.shape
    rows = [i for i in range(num_rows) if labels[i] >= 0]
    positives = [(i, labels[i]) for i in rows if labels[i] < num_classes]
    background = [(i, c) for i in rows for c in range(num_classes) if c != labels[i]]  # N-hat
    inverse = np.maximum(np.asarray(counts, np.float64), 1) ** -float(gamma)
    omega = num_classes * inverse / (inverse.sum() + (1e-9 if variant == "published" else 0))
    present = sorted({m for _, m in positives})

    value, gradient = 0.0, np.zeros_like(logits)
    for m in present:
        same = [entry for entry in positives if entry[1] == m]
        other = [entry for entry in positives if entry[1] != m]
        negatives = background if exclude_foreground else background + other
        for i in same:
            above = {j: step(logits[j] - logits[i], delta) for j in negatives}
            false_positives = sum(above.values())
            of_same = sum(step(logits[j] - logits[i], delta) for j in same if j != i)
            if variant == "paper":
                everything = [entry for entry in positives if entry != i] + background
                rank = 1 + sum(step(logits[j] - logits[i], delta) for j in everything)
            else:
                rank = step(0.0, delta) + of_same + false_positives
            error = false_positives / rank
            importance = weight * omega[m] / (len(same) * len(present))
            value += importance * error if variant == "paper" else error / (len(same) * len(present))
            if variant == "published" and false_positives <= 1e-10:
                continue
            gradient[i] -= importance * error
            for j, h in above.items():
                gradient[j] += importance * h / rank
    return value, gradient
