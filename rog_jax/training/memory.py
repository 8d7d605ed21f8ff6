"""LOCE's feature memory in the detector: what a step stores of its objects, and the rows that it draws in return."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.batch import Batch
from rog_jax.losses import feature_memory
from rog_jax.losses.feature_memory import FeatureMemory
from rog_jax.losses.localization import smooth_l1
from rog_jax.models.detector import Detector, image_keys
from rog_jax.models.layers import own_set
from rog_jax.ops import boxes as box_ops

CHOICE_KEY, JITTER_KEY, DRAW_KEY = 0, 1, 2


class MemoryOutputs(NamedTuple):
    """What the box head says of rows drawn from the memory.

    Attributes:
        logits: [M, Q].
        deltas: [M, C or 1, 4].
        targets: [M, 4], the deltas that would be right.
        labels: int32 [M], -1 for an empty row.
    """

    logits: Array
    deltas: Array
    targets: Array
    labels: Array


def empty_memory(config: ConfigDict | FrozenConfigDict) -> FeatureMemory:
    """One device's memory before the first step."""
    size = config.roi.box_pool, config.model.fpn_channels, config.loss.memory.slots
    return feature_memory.create_memory(config.model.num_classes, *size, dtype=jnp.dtype(config.model.dtype))


@jax.named_scope("feature_memory")
def remember(model: Detector, features: list[Array], batch: Batch, memory: FeatureMemory, key: Array) -> FeatureMemory:
    """The memory with the features of boxes around some objects of each image.

    Args:
        model: with its parameters.
        features: of the pyramid; they get no gradient.
        batch: this device's images.
        memory: this device's.
        key: of the step.
    """
    count = min(model.config.loss.memory.objects, batch.boxes.shape[1])
    choice = image_keys(jax.random.fold_in(key, CHOICE_KEY), batch.index)
    jitter = image_keys(jax.random.fold_in(key, JITTER_KEY), batch.index)

    def of_image(boxes, labels, index, size, choice, jitter):
        usable = (labels >= 0) & (index >= 0)
        chosen = jnp.argsort(jnp.where(usable, jax.random.uniform(choice, labels.shape), 2))[:count]
        around = feature_memory.jittered_boxes(boxes[chosen], jitter, size)  # [O, 16, 4]
        truths = jnp.broadcast_to(boxes[chosen][:, None], around.shape)
        targets = box_ops.encode(truths, around, model.config.roi.box_stds)
        kept = jnp.where(usable[chosen], labels[chosen], -1)
        return around.reshape(-1, 4), targets.reshape(-1, 4), jnp.repeat(kept, around.shape[1])

    arrays = batch.boxes, batch.labels, batch.index, batch.image_size, choice, jitter
    around, targets, labels = jax.vmap(of_image)(*arrays)  # [B, O * 16, ...]
    pooled = model.pool(jax.lax.stop_gradient(features), around, model.config.roi.box_pool)
    pooled = pooled.reshape(-1, *pooled.shape[2:])
    return feature_memory.insert(memory, pooled, targets.reshape(-1, 4), labels.reshape(-1))


@jax.named_scope("feature_memory")
def draw_rows(
    model: Detector, memory: FeatureMemory, mean_scores: Float[Array, " Q"], key: Array, axis_name: str
) -> MemoryOutputs:
    """Rows of classes that are recognised with low scores, through the box head; other rows on each device."""
    settings = model.config.loss.memory
    key = jax.random.fold_in(jax.random.fold_in(key, DRAW_KEY), jax.lax.axis_index(axis_name))
    rows = feature_memory.draw(memory, mean_scores, key, settings.classes, settings.features)
    embedding = model.box_head.embed(rows.features)
    logits, deltas = model.box_head.classify(embedding), model.box_head.regress(embedding)
    return MemoryOutputs(logits, deltas, rows.deltas, rows.labels)


@jax.named_scope("box_loss")
def memory_box_loss(
    rows: MemoryOutputs, settings: ConfigDict | FrozenConfigDict, count: Float[Array, ""]
) -> Float[Array, ""]:
    """Smooth L1 of the drawn rows' deltas, divided by the number of all rows (its mean over devices)."""
    own = own_set(jnp.maximum(rows.labels, 0), rows.deltas.shape[1])[:, None, None]
    deltas = jnp.take_along_axis(rows.deltas, own, axis=1)[:, 0]
    errors = smooth_l1(deltas, rows.targets, settings.smooth_l1_beta).sum(-1)
    return jnp.where(rows.labels >= 0, errors, 0).sum() / count
