"""Naive NumPy twins of `rog_jax.ops`: one loop per definition, no thought of speed."""

import math

import numpy as np


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    intersection = width * height
    return intersection / max(area(a) + area(b) - intersection, 1e-6)


def giou(a, b):
    width, height = (max(max(a[i + 2], b[i + 2]) - min(a[i], b[i]), 0) for i in range(2))
    intersection = np.prod([max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in range(2)])
    union = area(a) + area(b) - intersection
    return intersection / max(union, 1e-6) - (width * height - union) / max(width * height, 1e-6)


def pairwise_iou(a, b):
    return np.array([[iou(x, y) for y in b] for x in a], np.float32).reshape(len(a), len(b))


def encode(box, reference, stds):
    sides = [max(end - start, 1e-3) for start, end in ((box[0], box[2]), (box[1], box[3]))]
    ref_sides = [max(end - start, 1e-3) for start, end in ((reference[0], reference[2]), (reference[1], reference[3]))]
    moves = [((box[i] + box[i + 2]) - (reference[i] + reference[i + 2])) / 2 / ref_sides[i] for i in range(2)]
    scales = [math.log(sides[i] / ref_sides[i]) for i in range(2)]
    return np.array(moves + scales) / np.array(stds)


def decode(delta, reference, stds, max_ratio=1000 / 16, clamp="both"):
    delta = np.array(delta, np.float64) * np.array(stds)
    box = np.zeros(4)
    for i in range(2):
        side = reference[i + 2] - reference[i]
        centre = (reference[i] + reference[i + 2]) / 2 + delta[i] * side
        least = -math.log(max_ratio) if clamp == "both" else -math.inf
        side *= math.exp(min(max(delta[i + 2], least), math.log(max_ratio)))
        box[i], box[i + 2] = centre - side / 2, centre + side / 2
    return box


def match(gt_boxes, gt_valid, candidates, positive_iou, negative_iou, low_quality, min_positive_iou):
    """Candidate by candidate, then truth by truth: "reassign" is MaxIoUAssigner, "keep" Detectron2's Matcher."""
    count = len(candidates)
    overlaps = pairwise_iou(gt_boxes, candidates)
    index, kind, best = np.zeros(count, int), np.zeros(count, int), np.zeros(count, np.float32)
    for a in range(count):
        for g in np.flatnonzero(gt_valid):
            if overlaps[g, a] > best[a]:
                index[a], best[a] = g, overlaps[g, a]
        kind[a] = 1 if best[a] >= np.float32(positive_iou) else 0 if best[a] < np.float32(negative_iou) else -1
    if low_quality != "none":
        for g in np.flatnonzero(gt_valid):
            largest = overlaps[g].max()
            if largest > 0 and largest >= np.float32(min_positive_iou):
                taken = overlaps[g] == largest
                kind[taken] = 1
                if low_quality == "reassign":
                    index[taken] = g
    return index, kind, best


def nms(boxes, labels, valid, threshold):
    kept = []
    for i in np.flatnonzero(valid):
        if all(labels[j] != labels[i] or not iou(boxes[j], boxes[i]) > np.float32(threshold) for j in kept):
            kept.append(i)
    keep = np.zeros(len(boxes), bool)
    keep[kept] = True
    return keep


def top_k(x, k):
    order = np.argsort(-x, kind="stable")[:k]
    return x[order], order


def anchors(image_shape, strides, scale, ratios, rounding, offset, strides_from):
    """Box by box."""
    levels = []
    for stride in strides:
        rows, columns = (math.ceil(side / stride) for side in image_shape)
        step_y, step_x = (stride, stride)
        if strides_from == "image":
            step_y, step_x = image_shape[0] // rows, image_shape[1] // columns
        found = []
        for row, column, ratio in ((y, x, ratio) for y in range(rows) for x in range(columns) for ratio in ratios):
            width, height = scale * stride / math.sqrt(ratio), scale * stride * math.sqrt(ratio)
            corners = np.array([-width / 2, -height / 2, width / 2, height / 2])
            corners = np.round(corners) if rounding else corners
            x, y = (column + offset) * step_x, (row + offset) * step_y
            found.append(corners + np.array([x, y, x, y]))
        levels.append(np.array(found))
    return levels


def roi_level(box, num_levels):
    scale = math.sqrt(area(box))
    return min(max(math.floor(math.log2(scale / 56 + 1e-6)), 0), num_levels - 1)


def bilinear(feature, y, x):
    """Value of feature [H, W, D] at (y, x) in cells, by torchvision's rule at the border."""
    height, width, depth = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(depth)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = (1 - dx) * feature[top, left] + dx * feature[top, right]
    below = (1 - dx) * feature[bottom, left] + dx * feature[bottom, right]
    return (1 - dy) * above + dy * below


def roi_samples(start, length, size, ratio, most):
    """Places of the samples in each of `size` cells, along one axis: a list of lists."""
    cell = length / size
    count = ratio or min(max(math.ceil(cell), 0), most)
    places = [[start + (i + (k + 0.5) / count) * cell for k in range(count)] for i in range(size)]
    if ratio == 0 and cell > most:
        places = [[float(np.round(place)) for place in cell_places] for cell_places in places]
    return places


def roi_align(features, boxes, strides, size, ratio, aligned, most=8):
    """features: one [B, H, W, D] a level, float64; boxes [B, R, 4]."""
    batch, rois = boxes.shape[:2]
    result = np.zeros((batch, rois, size, size, features[0].shape[-1]))
    for b, r in np.ndindex(batch, rois):
        level = roi_level(boxes[b, r], len(features))
        x1, y1, x2, y2 = boxes[b, r].astype(np.float64) / strides[level] - (0.5 if aligned else 0)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        rows, columns = roi_samples(y1, height, size, ratio, most), roi_samples(x1, width, size, ratio, most)
        for i, j in np.ndindex(size, size):
            samples = [bilinear(features[level][b], y, x) for y in rows[i] for x in columns[j]]
            result[b, r, i, j] = np.mean(samples, axis=0) if samples else 0
    return result


def roi_align_mask(mask, roi, size, aligned):
    """One mask [H, W] of a whole image, as a feature map of stride 1 without a bound of the samples."""
    x1, y1, x2, y2 = roi.astype(np.float64) - (0.5 if aligned else 0)
    width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
    rows, columns = (roi_samples(start, length, size, 0, 10**6) for start, length in ((y1, height), (x1, width)))
    result = np.zeros((size, size))
    for i, j in np.ndindex(size, size):
        samples = [bilinear(mask[..., None].astype(float), y, x)[0] for y in rows[i] for x in columns[j]]
        result[i, j] = np.mean(samples) if samples else 0
    return result


def crop_mask(mask, gt_box, roi, size):
    """Share of each cell of the RoI that the mask [M, M] inside `gt_box` covers; a cell is at least a pixel wide."""

    def shares(start, end, origin, extent):
        """Of each cell in each square of the mask, along one axis."""
        cell, squares = (end - start) / size, len(mask)
        square = max(extent, 1e-3) / squares
        result = np.zeros((size, squares))
        for i, k in np.ndindex(size, squares):
            centre, half = start + (i + 0.5) * cell, max(cell, 1) / 2
            common = min(centre + half, origin + (k + 1) * square) - max(centre - half, origin + k * square)
            result[i, k] = max(common, 0) / (2 * half)
        return result

    gt_box, roi = gt_box.astype(float), roi.astype(float)
    rows = shares(roi[1], roi[3], gt_box[1], gt_box[3] - gt_box[1])
    columns = shares(roi[0], roi[2], gt_box[0], gt_box[2] - gt_box[0])
    return rows @ mask @ columns.T
