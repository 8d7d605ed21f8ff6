"""The ranking loss that a config asks for, on the rows that the box head classified."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.batch import Batch
from rog_jax.losses import ap_loss_of_rows, gap_loss
from rog_jax.losses.rank_sort_head import HeadLoss, rank_sort_head_loss
from rog_jax.models.box_head import matched_truths, predicted_boxes
from rog_jax.models.detector import Detector, TrainOutputs
from rog_jax.training.state import AXIS


@jax.named_scope("ranking")
def ranking_losses(
    model: Detector,
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    counts: Int[Array, " C"],
    max_positives: int,
) -> dict[str, Float[Array, ""]]:
    """GAP or AP loss, as `config.loss.ranking` says; nothing for any other word.

    Args:
        model: with its config.
        logits: what is ranked, the foreground columns of all rows.
        labels: of the rows.
        counts: positives of each class so far, this batch included.
        max_positives: rows that can be positives, as sampled.
    """
    loss = model.config.loss
    if loss.ranking == "gap":
        return {"gap": _gap(model, logits, labels, counts, max_positives)}
    if loss.ranking == "ap":
        shared = _shared(loss.ap) | {"max_positives": max_positives}
        return {"ap": ap_loss_of_rows(logits, labels, **shared)}
    return {}


@jax.named_scope("ranking")
def rank_sort_losses(model: Detector, outputs: TrainOutputs, batch: Batch) -> HeadLoss:
    """Rank & Sort of the box head's scores by the IoU of its boxes, and its loss of the boxes."""
    config, rois = model.config, outputs.rois
    boxes = predicted_boxes(outputs.deltas, rois, model.num_classes, config.roi, config.model.box_clamp)
    truths = matched_truths(rois, batch.boxes)[:, : boxes.shape[1]]
    images, rows, columns = outputs.logits.shape
    logits = model.loss.foreground_logits(outputs.logits.reshape(-1, columns)).reshape(images, rows, -1)
    settings = config.loss.rank_sort
    options = {"delta": settings.delta, "weight": settings.weight, "joint_ranking": settings.scope == "global"}
    return rank_sort_head_loss(logits, rois.labels, boxes, truths, axis_name=AXIS, **options)


def _shared(settings: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """Arguments that GAP and AP loss have in common."""
    axis = AXIS if settings.scope == "global" else None
    return {"weight": settings.weight, "delta": settings.delta, "axis_name": axis}


def _gap(
    model: Detector,
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    counts: Int[Array, " C"],
    max_positives: int,
) -> Float[Array, ""]:
    """GAP with omega from the counts of the run or of the training set; omega of one for every class is gamma 0."""
    settings = model.config.loss.gap
    return gap_loss(
        logits,
        labels,
        offline_counts(model) if settings.omega == "offline" else counts,
        gamma=0.0 if settings.omega == "none" else settings.gamma,
        variant=settings.variant,
        exclude_foreground=settings.exclude_foreground,
        method=settings.method,
        max_positives=max_positives,
        **_shared(settings),
    )


def offline_counts(model: Detector) -> np.ndarray:
    """[C], instances of each category in the training set (Table 4's offline omega).

    Raises:
        ValueError: the model was built without them.
    """
    if model.statistics is None:
        raise ValueError("config.loss.gap.omega='offline' needs the counts of a training set")
    return np.asarray(model.statistics.instance_counts, np.int32)
