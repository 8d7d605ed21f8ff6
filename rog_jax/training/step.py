"""One update: the gradient of all losses and the state that follows, on every device of the mesh at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from rog_jax.data.batch import Batch, Detections
from rog_jax.models.detector import Detector, ScoreFunction
from rog_jax.training.accumulation import mean_gradient, over_micro_batches
from rog_jax.training.losses import FILL_KEY, compute_losses
from rog_jax.training.memory import remember
from rog_jax.training.optimizer import Schedule
from rog_jax.training.state import AXIS, ModelDefinition, TrainState, own_memory, state_specs, with_memory


def make_train_step(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The compiled update; the state it is given is used up (its buffers are donated).

    An update whose loss or gradient is not finite leaves everything but the step as it was, so that the state stays
    good while the host, which reads the metrics a few steps late, finds out and stops or goes on. (Feature memories
    take the step's rows too where the host will stop, and nothing is saved then.)

    With `config.train.accumulate` above 1, losses and gradient are the means over so many micro-batches, which the
    losses see one after the other as they see steps; docs/pods.md says what that means for each of them.

    Args:
        definition: of the model.
        optimizer: from `create_optimizer`.
        schedule: the learning rate, reported with the metrics.
        mesh: with the axis `data`.

    Returns:
        A function of state and global batch to the next state and float32 metrics: every loss, `loss` (their sum),
        `gradient_norm` (before clipping), `lr`, `positives` (sampled positive RoIs), `finite` (1 or 0), and of all
        hosts' images together `unreadable` and `dropped` (objects beyond the most that an image may have).
    """
    config, local = definition.config, definition.local

    def update(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        memory = own_memory(state, local)

        def of_images(memory, images, key):
            def total(trainable, tap):
                model = definition.merge(trainable, state.fixed)
                losses, next_memory = compute_losses(model, images, memory, key, tap)
                return sum(losses.values()), (losses, next_memory)

            with_sums = jax.grad(total, argnums=(0, 1), has_aux=True)
            gradients, (losses, next_memory) = with_sums(state.trainable, state.gradients)
            return gradients, losses, next_memory

        like = state.trainable, state.gradients
        micro_batches = config.train.accumulate
        (gradient, sums), losses, memory_after = mean_gradient(of_images, like, memory, batch, key, micro_batches)
        # One mean for everything: losses are divided by global counts, so that this is the global batch's gradient.
        with jax.named_scope("gradient_mean"):
            gradient, sums, losses = jax.lax.pmean((gradient, sums, losses), AXIS)
        norm = optax.global_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(sum(losses.values()))
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
        sums = jax.tree.map(jnp.add, state.gradients, sums)
        done = state._replace(trainable=trainable, optimizer=optimizer_state, gradients=sums)
        done = with_memory(done, memory_after, local)
        with jax.named_scope("optimizer"):
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), done, state)
        after = after._replace(optimizer=_with_counts_of(done.optimizer, after.optimizer))
        if config.train.max_skipped_steps == 0:
            # A choice between two feature memories holds both; where a run stops, what a bad step stored is not saved.
            after = after._replace(features=done.features)
        seen = (memory_after.class_counts - memory.class_counts).sum()
        if "class_counts" in local:
            seen = jax.lax.psum(seen, AXIS)
        left_out = {"unreadable": batch.unreadable.sum(), "dropped": batch.dropped.sum()}
        metrics = losses | jax.lax.psum(left_out, AXIS)
        metrics |= {
            "loss": sum(losses.values()),
            "gradient_norm": norm,
            "lr": schedule(state.step),
            "positives": seen,
            "finite": finite,
        }
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return after._replace(step=state.step + 1), metrics

    specs = state_specs(definition)
    sharded = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(specs, PartitionSpec(AXIS)),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,  # with it, the gradient of replicated parameters would be summed over devices beforehand
    )
    return jax.jit(sharded, donate_argnums=0)


def _with_counts_of(counted: Any, state: Any) -> Any:
    """An optimizer's state with the counts of another one: a skipped step counts in the schedules."""
    return jax.tree.map(lambda x, y: x if jnp.issubdtype(x.dtype, jnp.integer) else y, counted, state)


def make_fill_step(definition: ModelDefinition, mesh: Mesh) -> Callable[[TrainState, Batch, Array], TrainState]:
    """The compiled pass that stores the features of a batch's objects in LOCE's memory and does nothing else.

    The state it is given is used up.

    Returns:
        A function of state, global batch and the batch's number.
    """
    train, local = definition.config.train, definition.local

    def fill(state: TrainState, batch: Batch, number: Array) -> TrainState:
        model = definition.merge(state.trainable, state.fixed)
        memory = own_memory(state, local)
        key = jax.random.fold_in(jax.random.key(train.seed), number)

        def store(stored, images, key):
            features = model.features(images.image, images.image_size)
            return remember(model, features, images, stored, jax.random.fold_in(key, FILL_KEY)), ()

        stored, _ = over_micro_batches(store, memory.features, batch, key, train.accumulate)
        return with_memory(state, memory._replace(features=stored), local)

    specs = state_specs(definition)
    sharded = jax.shard_map(
        fill,
        mesh=mesh,
        in_specs=(specs, PartitionSpec(AXIS), PartitionSpec()),
        out_specs=specs,
        check_vma=False,
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
