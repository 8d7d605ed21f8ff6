"""What a golden file should hold, from a run of ours: arrays under the file's own keys, in the order of its rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rog_jax.evaluation.paste import paste_crop
from rog_jax.models.fpn import STRIDES
from rog_jax.ops.roi_align import roi_levels
from rog_jax.tools.golden_measures import disorder, matching_rows
from rog_jax.tools.golden_run import GoldenRun, Trace

Arrays = dict[str, Any]
Reference = Mapping[str, np.ndarray]
LEVELS = range(len(STRIDES))


def feature_arrays(trace: Trace, names: tuple[str, ...]) -> Arrays:
    """Levels of the pyramid under the file's names, and what the RPN says of them."""
    arrays = {}
    for level, name in enumerate(names):
        features = trace["levels"][level]
        arrays[f"eval/fpn/{name}"] = features[..., ::16]
        arrays[f"eval/fpn_abs_mean/{name}"] = np.abs(features).mean(dtype=np.float64)
        rows, columns, _ = features.shape
        deltas = trace["rpn_deltas"][level].reshape(rows, columns, -1)
        arrays[f"eval/rpn_logits/{level}"] = trace["rpn_logits"][level].reshape(rows, columns, -1)
        arrays[f"eval/rpn_deltas/{level}"] = deltas[::2, ::2]
        arrays[f"eval/rpn_deltas_full/{level}"] = deltas
    for stage, features in enumerate(trace["stages"], 2):
        arrays[f"eval/res_abs_mean/res{stage}"] = np.abs(features).mean(dtype=np.float64)
    return arrays


def proposal_arrays(trace: Trace, reference: Reference) -> Arrays:
    """Proposals and the box head's outputs, in the order of the file's proposals."""
    valid = trace["proposal_valid"]
    rows = matching_rows(trace["proposals"][valid], reference["eval/proposals"])
    proposals = trace["proposals"][valid][rows]
    scores = trace["proposal_logits"][valid]
    return {
        "eval/proposals": proposals,
        "eval/proposals (number)": np.asarray(valid.sum()),
        "eval/proposals (order)": np.asarray(disorder(scores[rows])),
        "eval/proposal_logits": scores[rows],
        "eval/proposal_scores": 1 / (1 + np.exp(-scores[rows].astype(np.float64))),
        "eval/proposal_levels": np.asarray(roi_levels(proposals, 4)),
        "eval/roi_features": trace["roi_features"][valid][rows][:16, :, :, ::16],
        "eval/box_head": trace["embedding"][valid][rows][:16],
        "eval/box_logits": trace["logits"][valid][rows],
        "eval/box_deltas": trace["deltas"][valid][rows].reshape(len(rows), -1),
        "rows": rows,
    }


def detection_arrays(run: GoldenRun, trace: Trace, reference: Reference, paste: str) -> Arrays:
    """Detections and their masks, in the order of the file's detections; labels as ours."""
    found = trace["labels"] >= 0
    ours = {name: trace[name][found] for name in ("boxes", "scores", "labels")}
    rows = matching_rows(ours["boxes"], reference["eval/det/boxes"], ours["labels"], reference["eval/det/labels"])
    size = run.batch.image.shape[1:3]
    probabilities = 1 / (1 + np.exp(-trace["mask_logits"][found][rows].astype(np.float64)))
    masks = np.stack([whole_mask(*mask, size, paste) for mask in zip(probabilities, ours["boxes"][rows], strict=True)])
    return {
        "eval/det/boxes": ours["boxes"][rows],
        "eval/det/scores": ours["scores"][rows],
        "eval/det/labels": ours["labels"][rows],
        "eval/det (number)": np.asarray(found.sum()),
        "eval/det (order)": np.asarray(disorder(ours["scores"][rows])),
        "eval/det/mask_area": masks.sum((1, 2)),
        "eval/det/mask0_packed": np.packbits(masks[:4], axis=-1),
        "eval/mask_roi_features": trace["mask_roi_features"][found][rows][:4, :, :, ::16],
        "eval/mask_logits_own": trace["mask_logits"][found][rows][:8],
        "mask_embedding": trace["mask_embedding"][found][rows][:8],
    }


def whole_mask(probabilities: np.ndarray, box: np.ndarray, size: tuple[int, int], paste: str) -> np.ndarray:
    """A detection's mask in the whole image, bool [H, W]."""
    crop, top, left = paste_crop(probabilities, box, *size, method=paste)
    mask = np.zeros(size, bool)
    mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return mask


def loss_arrays(losses: dict[str, float], names: Mapping[str, str]) -> Arrays:
    """The losses under the file's names, and their sum."""
    arrays = {f"train/loss/{theirs}": np.asarray(losses[ours]) for theirs, ours in names.items()}
    return arrays | {"train/loss/total": np.asarray(sum(losses.values()))}


def gradient_arrays(
    gradients: dict[str, dict], places: Mapping[str, tuple], names: Mapping[str, str], reference: Reference
) -> Arrays:
    """The norm of each parameter's gradient, under the name of the tensor that the parameter came from.

    Args:
        gradients: trees by loss, "total" among them.
        places: path in the tree of each tensor; those of no trained parameter are left out.
        names: our losses by theirs.
        reference: the file, which may list the tensors in an order of its own.
    """
    norms = {loss: {name: norm_at(tree, path) for name, path in places.items()} for loss, tree in gradients.items()}
    trained = sorted(name for name, norm in norms["total"].items() if norm is not None)
    rows = sorted(names)
    order = {str(name): number for number, name in enumerate(reference.get("train/grad_norm_by_loss_columns", ()))}
    trained.sort(key=lambda name: order.get(name, len(order)))
    return {
        **{f"train/grad_norm/{name}": np.asarray(norms["total"][name]) for name in trained},
        "train/grad_norm_by_loss_rows": np.asarray(rows),
        "train/grad_norm_by_loss_columns": np.asarray(trained),
        "train/grad_norm_by_loss": np.asarray([[norms[names[row]][name] for name in trained] for row in rows]),
        "trained": np.asarray(trained),
    }


def norm_at(tree: dict, path: tuple) -> float | None:
    """L2 norm of the array at a path of nested dicts, None where there is none."""
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return float(np.linalg.norm(np.asarray(tree, np.float64)))


def mmdetection_training_arrays(trace: Trace, reference: Reference, anchors_a_level: list[int]) -> Arrays:
    """Targets and outputs of MMDetection's training pass, in the order of the file's rows."""
    kind = trace["rpn_kind"]
    counts = [int((kind == value).sum()) for value in (1, 0, -1)]
    labels = reference["train/sampled_labels"]
    rows = matching_rows(trace["roi_boxes"], reference["train/sampled_boxes"], trace["roi_labels"], labels)
    positives = len(reference["train/pos_gt_index"])
    logits = trace["logits"][rows]
    return {
        "train/rpn_pos_index": np.flatnonzero(kind == 1),
        "train/rpn_num_pos_neg_ignored": np.asarray(counts),
        "train/rpn_avg_factor": np.asarray(counts[0] + counts[1]),
        "train/sampled_boxes": trace["roi_boxes"][rows],
        "train/sampled_labels": trace["roi_labels"][rows],
        "train/box_logits": logits,
        "train/box_deltas": trace["deltas"][rows].reshape(len(rows), -1),
        "train/acc": np.asarray([100 * (logits.argmax(1) == trace["roi_labels"][rows]).mean()]),
        "train/pos_gt_index": trace["roi_matched"][rows][:positives],
        "train/pos_box_targets": trace["box_targets"][rows][:positives],
        "train/mask_targets_packed": np.packbits(trace["mask_targets"][rows][:positives] > 0.5, axis=-1),
        "train/mask_logits_own": trace["mask_logits"][rows][:positives],
        **_rpn_losses_by_level(trace, anchors_a_level),
    }


def _rpn_losses_by_level(trace: Trace, anchors_a_level: list[int]) -> Arrays:
    kind = trace["rpn_kind"]
    logits, deltas = (np.concatenate(trace[name], dtype=np.float64) for name in ("rpn_logits", "rpn_deltas"))
    cross_entropy = np.logaddexp(0, np.where(kind == 1, -logits, logits)) * (kind >= 0)
    distance = np.abs(deltas - trace["rpn_targets"]).sum(-1) * (kind == 1)
    starts, count = np.cumsum([0, *anchors_a_level[:-1]]), (kind >= 0).sum()
    return {
        "train/loss_per_level/loss_rpn_cls": np.add.reduceat(cross_entropy, starts) / count,
        "train/loss_per_level/loss_rpn_bbox": np.add.reduceat(distance, starts) / count,
    }


def detectron2_training_arrays(trace: Trace, reference: Reference) -> Arrays:
    """Targets of Detectron2's training pass, in the order of the file's rows."""
    kind, labels = trace["rpn_kind"], trace["roi_labels"]
    background = trace["logits"].shape[-1] - 1
    positive = np.flatnonzero((labels >= 0) & (labels < background))
    boxes, classes = trace["roi_boxes"][positive], labels[positive]
    rows = matching_rows(boxes, reference["train/fg_boxes"], classes, reference["train/fg_labels"])
    targets = trace["mask_targets"][positive][rows] > 0.5
    return {
        "train/rpn_labels": kind,
        "train/count/anchors": np.asarray([len(kind), (kind == 1).sum(), (kind == 0).sum()]),
        "train/count/rois": np.asarray([(labels >= 0).sum(), len(positive)]),
        "train/fg_boxes": boxes[rows],
        "train/fg_labels": classes[rows],
        "train/fg_mask_targets_packed": np.packbits(targets, axis=-1),
    }


def mask_channels(embedding: np.ndarray, weight: np.ndarray, bias: np.ndarray, channels: int = 4) -> np.ndarray:
    """The first channels of a mask predictor's output, [n, M, M, channels]; weight [C, E, 1, 1] and bias [C] as stored.

    The mask head itself gives each detection's own class alone, and has no channel for background.
    """
    return embedding @ weight[:channels, :, 0, 0].T + bias[:channels]
