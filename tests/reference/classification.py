"""Naive NumPy twins of the classification losses: loops over rows and columns, in float64.

Each returns value, gradient and, where there is one, the next state. Rows of label -1 are padding.
"""

import numpy as np

EPS32 = float(np.finfo(np.float32).eps)


def sigmoid_entry(x, target):
    """Cross-entropy of sigmoid(x) and its derivative."""
    value = np.logaddexp(0, -x) if target else np.logaddexp(0, x)
    return value, 1 / (1 + np.exp(-x)) - target


def gumbel_entry(x, target):
    """Cross-entropy of exp(-exp(-clip(x))) and the derivative that PyTorch computes of it."""
    clipped = min(max(x, -4.0), 10.0)
    p = np.exp(-np.exp(-clipped))
    value = -max(np.log(p), -100.0) if target else -max(np.log1p(-p), -100.0)
    if x != clipped:
        return value, 0.0
    return value, (p - target) / max(p * (1 - p), 1e-12) * p * np.exp(-clipped)


def binary(logits, labels, weight, entry=sigmoid_entry):
    """Sum over all entries times weight(i, c, is target), divided by the rows."""
    logits = np.asarray(logits, np.float64)
    rows = [i for i, label in enumerate(labels) if label >= 0]
    value, gradient = 0.0, np.zeros_like(logits)
    for i in rows:
        for c, x in enumerate(logits[i]):
            target = c == labels[i]
            factor = weight(i, c, target) / len(rows)
            entry_value, derivative = entry(x, target)
            value += factor * entry_value
            gradient[i, c] = factor * derivative
    return value, gradient


def softmax(logits):
    exponentials = np.exp(logits - np.max(logits))
    return exponentials / exponentials.sum()


def log_softmax(logits):
    shifted = logits - np.max(logits)
    return shifted - np.log(np.exp(shifted).sum())


def softmax_ce(logits, labels, weights):
    normalizer = max(sum(w > 0 for w, y in zip(weights, labels, strict=True) if y >= 0), 1) + EPS32
    return _softmax_rows(logits, labels, weights, lambda i: logits[i], normalizer)


def _softmax_rows(logits, labels, weights, adjusted, normalizer):
    value, gradient = 0.0, np.zeros(np.shape(logits))
    for i, label in enumerate(labels):
        if label >= 0:
            row = np.asarray(adjusted(i), np.float64)
            value -= weights[i] * log_softmax(row)[label] / normalizer
            gradient[i] = weights[i] * (softmax(row) - (np.arange(len(row)) == label)) / normalizer
    return value, gradient


def eql(logits, labels, frequency, threshold=0.0011, entry=sigmoid_entry):
    classes = len(frequency)

    def weight(i, c, target):
        return 0.0 if labels[i] < classes and frequency[c] < threshold and not target else 1.0

    return binary(logits, labels, weight, entry)


def droploss(logits, labels, frequency, uniform, threshold=0.0011, entry=sigmoid_entry):
    classes = len(frequency)
    objects = [y for y in labels if 0 <= y < classes]
    rho = np.mean([frequency[y] < threshold for y in objects]) if objects else np.nan

    def weight(i, c, target):
        if target or frequency[c] >= threshold:
            return 1.0
        return 0.0 if labels[i] < classes or uniform[i, c] > rho else 1.0

    return binary(logits, labels, weight, entry)


def eqlv2(logits, labels, state, gamma=12.0, mu=0.8, alpha=4.0):
    """`state` is (pos_grad, neg_grad, ratio)."""
    pos_grad, neg_grad, ratio = (np.array(x, np.float64) for x in state)
    classes = len(ratio)
    f = np.append(1 / (1 + np.exp(-gamma * (ratio - mu))), 1.0)

    def weight(i, c, target):
        return 1 + alpha * (1 - f[c]) if target else f[c]

    value, gradient = binary(logits, labels, weight)
    for i, label in enumerate(labels):
        for c in range(classes):
            size = weight(i, c, c == label) * abs(sigmoid_entry(float(logits[i][c]), c == label)[1])
            if label == c:
                pos_grad[c] += size
            elif label >= 0:
                neg_grad[c] += size
    return value, gradient, (pos_grad, neg_grad, pos_grad / (neg_grad + 1e-10))


def seesaw(logits, labels, weights, counts, p=0.8, q=2.0, eps=0.01):
    """`counts` [C + 1]; the value is the sum of both parts."""
    logits, counts = np.asarray(logits, np.float64), np.array(counts, np.int64)
    classes = len(counts) - 1
    for label in labels:
        if label >= 0:
            counts[label] += 1
    n = np.maximum(counts[:classes], 1)
    normalizer = max(sum(w > 0 for w, y in zip(weights, labels, strict=True) if y >= 0), 1) + EPS32

    def adjusted(i):
        own, row = labels[i], logits[i, :classes].copy()
        probability = softmax(row)
        for j in range(classes):
            if j != own:
                mitigation = min(1.0, n[j] / n[own]) ** p
                compensation = max(1.0, probability[j] / max(probability[own], eps)) ** q
                row[j] += np.log(mitigation * compensation)
        return row

    objects = np.where(np.asarray(labels) < classes, labels, -1)
    value, gradient = np.zeros(2), np.zeros_like(logits)
    value[0], gradient[:, :classes] = _softmax_rows(logits[:, :classes], objects, weights, adjusted, normalizer)
    background = np.where(np.asarray(labels) < 0, -1, np.asarray(labels) == classes)
    value[1], gradient[:, classes:] = _softmax_rows(
        logits[:, classes:], background, weights, lambda i: logits[i, classes:], normalizer
    )
    return value.sum(), gradient, counts


def ecm(logits, labels, counts):
    """`counts` [C + 1], the background's included."""
    counts = np.asarray(counts, np.float64)
    odds = (counts.sum() - counts) / counts
    k = odds * np.log((1 + odds) / odds)
    shifted = 2 * np.asarray(logits, np.float64) + 0.25 * np.log(counts / (counts.sum() - counts))
    value, gradient = binary(shifted, labels, lambda i, c, target: k[c])
    return value, 2 * gradient


def gumbel_ce(logits, labels, weights):
    used = [w for w, y in zip(weights, labels, strict=True) if y >= 0 and w > 0]
    rows = sum(y >= 0 for y in labels)
    value, gradient = binary(logits, labels, lambda i, c, target: weights[i], gumbel_entry)
    scale = rows / max(len(used), 1)
    value, gradient = value * scale, gradient * scale
    return (20.0, np.zeros_like(gradient)) if value > 20 else (value, gradient)


def loce(logits, labels, weights, mean_scores):
    """Equilibrium loss with these mean scores [C + 1]."""
    normalizer = max(sum(w > 0 for w, y in zip(weights, labels, strict=True) if y >= 0), 1)
    return _softmax_rows(logits, labels, weights, lambda i: logits[i] + np.log(mean_scores), normalizer)


def loce_mean_scores(mean_scores, devices, alpha=0.9, background=0.01):
    """Mean scores after a step of several devices.

    Args:
        mean_scores: before it, [C + 1].
        devices: for each device logits, labels, gt_ids, memory_logits and memory_labels.
    """
    classes = len(mean_scores) - 1
    values = {c: [] for c in range(classes)}
    for logits, labels, gt_ids, memory_logits, memory_labels in devices:
        of_object = {}
        for row, label, gt in zip(logits, labels, gt_ids, strict=True):
            if 0 <= label < classes:
                of_object.setdefault((gt, label), []).append(softmax(row)[label])
        for (_, label), scores in of_object.items():
            values[label].append(np.mean(scores))
        for label in set(memory_labels) - {-1}:
            rows = [softmax(row)[label] for row, y in zip(memory_logits, memory_labels, strict=True) if y == label]
            values[label].append(np.mean(rows))
    after = np.array(mean_scores, np.float64)
    for c, found in values.items():
        if found:
            after[c] = alpha ** len(found) * after[c] + (1 - alpha ** len(found)) * np.mean(found)
    after[-1] = background
    return after


def federated(logits, labels, counted):
    """`counted` [N, C]: whether a class counts on a row, which its own always does."""
    return binary(logits, labels, lambda i, c, target: float(target or counted[i][c]))
