"""Naive NumPy twins of `rog_jax.models`: one loop per definition, float64, no thought of speed."""

import numpy as np

from tests.reference import ops

UNIT_STDS = (1.0, 1.0, 1.0, 1.0)


def relu(x):
    return np.maximum(x, 0)


def conv2d(x, kernel, bias=0.0, stride=1):
    """x [B, H, W, D], kernel [k, k, D, E], padded by k // 2 zeros on all four sides."""
    size = kernel.shape[0]
    pad = size // 2
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((side + 2 * pad - size) // stride + 1 for side in x.shape[1:3])
    result = np.zeros((len(x), height, width, kernel.shape[-1]))
    for b, i, j in np.ndindex(result.shape[:3]):
        window = padded[b, i * stride : i * stride + size, j * stride : j * stride + size]
        result[b, i, j] = np.tensordot(window, kernel, axes=3) + bias
    return result


def max_pool(x):
    """3x3 pixels, stride 2, padded by one pixel that never wins."""
    batch, height, width, depth = x.shape
    result = np.zeros((batch, (height + 1) // 2, (width + 1) // 2, depth))
    for b, i, j in np.ndindex(result.shape[:3]):
        rows, columns = (slice(max(2 * place - 1, 0), 2 * place + 2) for place in (i, j))
        result[b, i, j] = x[b, rows, columns].max(axis=(0, 1))
    return result


def group_norm(x, groups, scale, bias, epsilon=1e-5):
    x = np.asarray(x, np.float64)
    result = np.zeros_like(x)
    size = x.shape[-1] // groups
    for b, g in np.ndindex(len(x), groups):
        members = slice(g * size, (g + 1) * size)
        values = x[b, :, :, members]
        result[b, :, :, members] = (values - values.mean()) / np.sqrt(values.var() + epsilon)
    return result * scale + bias


def fpn(features, laterals, outputs):
    """laterals and outputs: (kernel, bias) of each level's convolutions."""
    merged = [conv2d(x, *layer) for x, layer in zip(features, laterals, strict=True)]
    for level in (2, 1, 0):
        _, height, width, _ = merged[level].shape
        for i, j in np.ndindex(height, width):
            merged[level][:, i, j] += merged[level + 1][:, i // 2, j // 2]
    levels = [conv2d(x, *layer) for x, layer in zip(merged, outputs, strict=True)]
    return [*levels, levels[-1][:, ::2, ::2]]


def clip(box, size):
    height, width = size
    return np.array([min(max(side, 0), limit) for side, limit in zip(box, (width, height) * 2, strict=True)])


def anchors_inside(size, shape, strides, per_cell):
    """One image: a cell counts where its corner lies in the image padded to whole cells of 32 pixels."""
    height, width = (32 * np.ceil(side / 32) for side in size)
    levels = []
    for stride in strides:
        rows, columns = (range(0, side, stride) for side in shape)
        levels.append(np.array([y < height and x < width for y in rows for x in columns for _ in range(per_cell)]))
    return levels


def propose(logits, deltas, anchors, inside, size, pre_nms, nms_iou, proposals, per_level=0, min_size=0.0):
    """One image; lists of levels. Boxes, best first."""
    found = []
    for level_logits, level_deltas, level_anchors, level_inside in zip(logits, deltas, anchors, inside, strict=True):
        usable = np.flatnonzero(level_inside)
        order = usable[np.argsort(-level_logits[usable], kind="stable")][:pre_nms]
        boxes = [clip(ops.decode(level_deltas[a], level_anchors[a], UNIT_STDS), size) for a in order]
        valid = np.array([box[2] - box[0] > min_size and box[3] - box[1] > min_size for box in boxes], bool)
        kept = np.flatnonzero(ops.nms(boxes, np.zeros(len(boxes)), valid, nms_iou))[: per_level or proposals]
        found += [(level_logits[order[k]], boxes[k]) for k in kept]
    found.sort(key=lambda entry: -entry[0])
    return np.array([box for _, box in found[:proposals]]).reshape(-1, 4)


def cross_entropy(logit, target):
    return np.logaddexp(0, -logit) if target else np.logaddexp(0, logit)


def smooth_l1(difference, beta):
    """Sum over the deltas; 0 is plain L1."""
    size = np.abs(difference)
    return sum(0.5 * d * d / beta if d < beta else d - 0.5 * beta for d in size)


def rpn_losses(logits, deltas, anchors, inside, boxes, labels, index, positive_iou, negative_iou, beta=0.0):
    """All images, levels joined: [B, A], [B, A, 4], [A, 4]; every anchor that is positive or negative counts."""
    classification, regression, count = 0.0, 0.0, 0
    for b in range(len(logits)):
        if index[b] < 0:
            continue
        candidates = np.where(inside[b][:, None], anchors, 0)
        truth, kind, _ = ops.match(boxes[b], labels[b] >= 0, candidates, positive_iou, negative_iou, True, negative_iou)
        for a in np.flatnonzero(inside[b] & (kind >= 0)):
            count += 1
            classification += cross_entropy(logits[b, a], kind[a])
            if kind[a] == 1:
                wanted = ops.encode(boxes[b, truth[a]], anchors[a], UNIT_STDS)
                regression += smooth_l1(deltas[b, a] - wanted, beta)
    return classification / count, regression / count


def box_loss(deltas, rois, labels, matched, gt_boxes, stds, rows, num_classes, beta=0.0):
    """deltas [B, P, C or 1, 4]; rois, labels, matched of at least P slots."""
    total = 0.0
    for b, p in np.ndindex(deltas.shape[:2]):
        label = labels[b, p]
        if 0 <= label < num_classes:
            own = deltas[b, p, label if deltas.shape[2] > 1 else 0]
            total += smooth_l1(own - ops.encode(gt_boxes[b, matched[b, p]], rois[b, p], stds), beta)
    return total / rows


def detect(scores, deltas, proposals, valid, size, stds, score_threshold, pre_nms, nms_iou, max_detections):
    """One image: lists of boxes, scores and labels, best first."""
    pairs = [(r, c) for r, c in np.ndindex(scores.shape) if valid[r] and scores[r, c] > np.float32(score_threshold)]
    pairs = sorted(pairs, key=lambda pair: -scores[pair])[:pre_nms]
    sets = deltas.shape[1]
    boxes = [clip(ops.decode(deltas[r, c if sets > 1 else 0], proposals[r], stds), size) for r, c in pairs]
    labels = np.array([c for _, c in pairs], int)
    kept = np.flatnonzero(ops.nms(boxes, labels, np.ones(len(pairs), bool), nms_iou))[:max_detections]
    return [boxes[k] for k in kept], [scores[pairs[k]] for k in kept], labels[kept]


def mask_head(pooled, labels, convs, deconv, weight, bias):
    """convs: (kernel, bias) of each layer; deconv: kernel [D, 2, 2, E] and bias [E]; weight [E, C].

    The logits of all classes, of which each RoI's own is taken.
    """
    x = pooled
    for layer in convs:
        x = relu(conv2d(x, *layer))
    rois, size, _, _ = x.shape
    kernel, shift = deconv
    doubled = np.zeros((rois, 2 * size, 2 * size, kernel.shape[-1]))
    for i, j, dy, dx in np.ndindex(size, size, 2, 2):
        doubled[:, 2 * i + dy, 2 * j + dx] += x[:, i, j] @ kernel[:, dy, dx] + shift
    everything = relu(doubled) @ weight + bias  # [P, 2S, 2S, C]
    return np.stack([everything[p, :, :, label] for p, label in enumerate(labels)])


def mask_loss(logits, targets, positive, positives):
    total = 0.0
    for p in np.flatnonzero(positive):
        total += np.mean([cross_entropy(logits[p][at], targets[p][at]) for at in np.ndindex(targets[p].shape)])
    return total / positives
