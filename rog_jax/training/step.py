"""One update: all losses, their gradient, and the state that follows, on every device of the mesh at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from rog_jax.data.batch import Batch, Detections
from rog_jax.losses import accumulate_counts, gap_loss
from rog_jax.losses.normaliser import normaliser
from rog_jax.models.box_head import box_loss
from rog_jax.models.detector import Detector, ScoreFunction, TrainOutputs, image_keys
from rog_jax.models.mask_head import mask_loss, mask_targets
from rog_jax.models.rpn import rpn_losses, rpn_targets
from rog_jax.training.optimizer import Schedule
from rog_jax.training.state import AXIS, ModelDefinition, TrainState, state_specs

RPN_KEY, ROI_KEY = 0, 1


class LossMemory(NamedTuple):
    """What the losses carry from step to step: class counts [1, C] and the classification loss's own state."""

    class_counts: Array
    loss: Any


def compute_losses(
    model: Detector, batch: Batch, memory: LossMemory, offline_counts: Array | np.ndarray, key: Array
) -> tuple[dict[str, Float[Array, ""]], LossMemory]:
    """Every loss of this device's images; the mean over devices is that of the global batch.

    Args:
        model: with its parameters.
        batch: this device's images.
        memory: from the step before.
        offline_counts: [C], instances of each category in the training set (Table 4's offline omega).
        key: of the step.
    """
    config, loss = model.config, model.config.loss
    outputs = model.train_outputs(batch, jax.random.fold_in(key, ROI_KEY))
    labels = outputs.rois.labels.reshape(-1)  # [N]
    logits = outputs.logits.reshape(len(labels), -1)  # [N, Q]
    rows = normaliser((labels >= 0).sum(), AXIS)

    targets = rpn_targets(
        batch.boxes,
        batch.labels,
        batch.image_size,
        batch.index,
        batch.image.shape[1:3],
        config.rpn,
        image_keys(jax.random.fold_in(key, RPN_KEY), batch.index),
    )
    losses = rpn_losses(outputs.rpn, targets, batch.index, config.rpn, AXIS)
    losses["cls"], loss_state = model.loss(logits, labels, None, memory.loss, axis_name=AXIS)
    counts_axis = AXIS if loss.gap.counts_scope == "global" else None
    counts = accumulate_counts(memory.class_counts[0], labels, axis_name=counts_axis)
    if loss.ranking == "gap":
        ranked = counts if loss.gap.omega == "online" else offline_counts
        positives = len(batch.image) * outputs.rois.positives
        losses["gap"] = ranking_loss(model.loss.foreground_logits(logits), labels, ranked, loss.gap, positives)
    losses["box"] = box_loss(outputs.deltas, outputs.rois, batch.boxes, model.num_classes, config.roi, rows)
    if outputs.mask_logits is not None:
        losses["mask"] = _mask_loss(outputs, batch, model.num_classes, config.roi.mask_targets)
    return losses, LossMemory(counts[None], loss_state)


def ranking_loss(
    logits: Float[Array, "N C"],
    labels: Int[Array, "N"],
    counts: Array | np.ndarray,
    gap: ConfigDict,
    max_positives: int,
) -> Float[Array, ""]:
    """GAP with the settings of `config.loss.gap`, for at most `max_positives` rows of foreground, as sampled.

    Omega of one for every class is gamma 0.
    """
    return gap_loss(
        logits,
        labels,
        counts,
        delta=gap.delta,
        gamma=0.0 if gap.omega == "none" else gap.gamma,
        weight=gap.weight,
        variant=gap.variant,
        exclude_foreground=gap.exclude_foreground,
        method=gap.method,
        axis_name=AXIS if gap.scope == "global" else None,
        max_positives=max_positives,
    )


def _mask_loss(outputs: TrainOutputs, batch: Batch, num_classes: int, kind: str) -> Float[Array, ""]:
    count = outputs.rois.positives
    labels = outputs.rois.labels[:, :count]
    matched = outputs.rois.matched[:, :count]
    positive = ((labels >= 0) & (labels < num_classes)).reshape(-1)
    masks = jax.vmap(lambda masks, index: masks[index])(batch.masks, matched)  # [B, P, 112, 14]
    boxes = jax.vmap(lambda boxes, index: boxes[index])(batch.boxes, matched)
    logits = outputs.mask_logits.reshape(-1, *outputs.mask_logits.shape[2:])
    rois = outputs.rois.boxes[:, :count].reshape(-1, 4)
    targets = mask_targets(masks.reshape(-1, *masks.shape[2:]), boxes.reshape(-1, 4), rois, logits.shape[-1], kind)
    return mask_loss(logits, targets, positive, normaliser(positive.sum(), AXIS))


def make_train_step(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    offline_counts: Array | np.ndarray,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The compiled update; the state it is given is used up (its buffers are donated).

    An update whose loss or gradient is not finite leaves everything but the step as it was, so that the state stays
    good while the host, which reads the metrics a few steps late, finds out and stops.

    Args:
        definition: of the model.
        optimizer: from `create_optimizer`.
        schedule: the learning rate, reported with the metrics.
        mesh: with the axis `data`.
        offline_counts: [C], instances of each category in the training set.

    Returns:
        A function of state and global batch to the next state and float32 metrics: every loss, `loss` (their sum),
        `gradient_norm` (before clipping), `lr`, `positives` (sampled positive RoIs), `finite` (1 or 0).
    """
    config = definition.config

    def update(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        memory = LossMemory(state.class_counts, state.loss)

        def total(trainable):
            model = definition.merge(trainable, state.fixed)
            losses, next_memory = compute_losses(model, batch, memory, offline_counts, key)
            return sum(losses.values()), (losses, next_memory)

        gradient, (losses, memory_after) = jax.grad(total, has_aux=True)(state.trainable)
        # One mean for everything: losses are divided by global counts, so that this is the global batch's gradient.
        gradient, losses = jax.lax.pmean((gradient, losses), AXIS)
        norm = optax.global_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(sum(losses.values()))
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.trainable)
        done = TrainState(
            step=state.step,
            trainable=optax.apply_updates(state.trainable, updates),
            fixed=state.fixed,
            optimizer=optimizer_state,
            class_counts=memory_after.class_counts,
            loss=memory_after.loss,
        )
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), done, state)
        seen = (memory_after.class_counts - memory.class_counts).sum()
        if config.loss.gap.counts_scope == "device":
            seen = jax.lax.psum(seen, AXIS)
        metrics = losses | {
            "loss": sum(losses.values()),
            "gradient_norm": norm,
            "lr": schedule(state.step),
            "positives": seen,
            "finite": finite,
        }
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return after._replace(step=state.step + 1), metrics

    specs = state_specs(config)
    sharded = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(specs, PartitionSpec(AXIS)),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,  # with it, the gradient of replicated parameters would be summed over devices beforehand
    )
    return jax.jit(sharded, donate_argnums=0)


def make_predict_step(
    definition: ModelDefinition, mesh: Mesh, score_function: ScoreFunction | None = None
) -> Callable[[TrainState, Batch], Detections]:
    """The compiled inference on a global batch, with the classification loss's own scores if no others are given."""

    def predict(model: Detector, batch: Batch) -> Detections:
        return model.predict(batch, score_function)

    return _compiled_inference(definition, mesh, predict)


def make_sweep_step(
    definition: ModelDefinition,
    mesh: Mesh,
    score_function: Callable[[Float[Array, "N Q"], Float[Array, ""]], Float[Array, "N C"]],
    values: Float[np.ndarray, " V"],
) -> Callable[[TrainState, Batch], Detections]:
    """The compiled inference on a global batch for several values of one number that scores depend on.

    The backbone, the RPN and the box head run once. The rest is compiled once and runs for one value after the other.

    Args:
        definition: of the model.
        mesh: with the axis `data`.
        score_function: of the classifier's raw outputs and one of the values.
        values: such as NorCal's gammas.

    Returns:
        A function of state and global batch to detections whose arrays have the values as their second axis,
        [B, V, ...].
    """

    def predict(model: Detector, batch: Batch) -> Detections:
        raw = model.raw_outputs(batch)

        def with_value(value: Float[Array, ""]) -> Detections:
            return model.detections(raw, batch.image_size, lambda logits: score_function(logits, value))

        found = jax.lax.map(with_value, jnp.asarray(values, jnp.float32))
        return jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), found)

    return _compiled_inference(definition, mesh, predict)


def _compiled_inference(
    definition: ModelDefinition, mesh: Mesh, predict: Callable[[Detector, Batch], Detections]
) -> Callable[[TrainState, Batch], Detections]:
    sharded = jax.shard_map(
        lambda trainable, fixed, batch: predict(definition.merge(trainable, fixed), batch),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    compiled = jax.jit(sharded)
    return lambda state, batch: compiled(state.trainable, state.fixed, batch)


def to_devices(batch: Batch, mesh: Mesh) -> Batch:
    """This host's part of a batch, spread over its devices of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
