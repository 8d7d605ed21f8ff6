"""The ranking loss that a config asks for, on the rows that the box head classified."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.batch import Batch
from rog_jax.losses import ap_loss_of_rows, gap_loss, rank_sort_loss_of_rows
from rog_jax.models.box_head import predicted_ious
from rog_jax.models.detector import Detector, TrainOutputs
from rog_jax.training.state import AXIS


def ranking_losses(
    model: Detector,
    outputs: TrainOutputs,
    batch: Batch,
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    counts: Int[Array, " C"],
) -> dict[str, Float[Array, ""]]:
    """The losses that `config.loss.ranking` names; none for "none".

    Args:
        model: with its config.
        outputs: of the forward pass.
        batch: this device's images.
        logits: what is ranked, the foreground columns of all rows.
        labels: of the rows.
        counts: positives of each class so far, this batch included.
    """
    loss = model.config.loss
    if loss.ranking == "none":
        return {}
    settings = loss[loss.ranking]
    shared: dict[str, Any] = {
        "weight": settings.weight,
        "delta": settings.delta,
        "axis_name": AXIS if settings.scope == "global" else None,
        "max_positives": len(batch.image) * outputs.rois.positives,
    }
    if loss.ranking == "gap":
        return {"gap": _gap(model, logits, labels, counts, settings, shared)}
    if loss.ranking == "ap":
        return {"ap": ap_loss_of_rows(logits, labels, **shared)}
    config = model.config
    boxes = outputs.deltas, outputs.rois, batch.boxes, model.num_classes, config.roi, config.model.box_clamp
    rank, sort = rank_sort_loss_of_rows(logits, labels, predicted_ious(*boxes).reshape(-1), **shared)
    return {"rank": rank, "sort": sort}


def _gap(
    model: Detector,
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    counts: Int[Array, " C"],
    settings: ConfigDict | FrozenConfigDict,
    shared: dict[str, Any],
) -> Float[Array, ""]:
    """GAP with omega from the counts of the run or of the training set; omega of one for every class is gamma 0."""
    return gap_loss(
        logits,
        labels,
        offline_counts(model) if settings.omega == "offline" else counts,
        gamma=0.0 if settings.omega == "none" else settings.gamma,
        variant=settings.variant,
        exclude_foreground=settings.exclude_foreground,
        method=settings.method,
        **shared,
    )


def offline_counts(model: Detector) -> np.ndarray:
    """[C], instances of each category in the training set (Table 4's offline omega).

    Raises:
        ValueError: the model was built without them.
    """
    if model.statistics is None:
        raise ValueError("config.loss.gap.omega='offline' needs the counts of a training set")
    return np.asarray(model.statistics.instance_counts, np.int32)
