"""A run that goes on from its checkpoint, on as many devices as before or on others."""

import logging
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.state import AXIS, ModelDefinition, TrainState

logger = logging.getLogger(__name__)


def resume(
    checkpoints: Checkpoints, fresh: TrainState, definition: ModelDefinition, mesh: Mesh
) -> tuple[TrainState, bool]:
    """The state of the newest checkpoint on this mesh.

    What each device keeps for itself cannot go on as it was on another number of devices; the log says what becomes of
    it. Counts (of GAP with `counts_scope="device"`, of a loss whose state is local) are summed over the old devices and
    shared evenly among the new: as much as each of them would have counted. Feature memories are not read.

    Args:
        checkpoints: of the run, with at least one.
        fresh: a state before the first step, placed on the mesh; its feature memory is given up.
        definition: of the model.
        mesh: with the axis `data`.

    Returns:
        The state, and whether its feature memory is empty and has to be filled again.

    Raises:
        CheckpointError: the checkpoint is another model's, or of another format.
    """
    before, now, local = checkpoints.devices(), mesh.size, definition.local
    if before == now:
        like = jax.tree.map(_abstract, fresh)
        for array in jax.tree.leaves(fresh.features):
            array.delete()  # two memories may not fit
        return checkpoints.restore(like), False
    _warn_of_scopes(definition, before, now)
    everywhere = NamedSharding(mesh, PartitionSpec())
    counts = [name for name in local if name != "features"]
    like = fresh._replace(
        **{name: jax.tree.map(lambda x: _abstract(x, before, everywhere), getattr(fresh, name)) for name in counts}
    )
    state = checkpoints.restore(like, without=tuple(set(local) - set(counts)))
    for name in counts:
        logger.warning("%s of %d devices: their sums, shared evenly among %d (each keeps its own)", name, before, now)
        shares = jax.tree.map(lambda x: evenly(jax.device_get(x), now), getattr(state, name))
        state = state._replace(**{name: jax.device_put(shares, NamedSharding(mesh, PartitionSpec(AXIS)))})
    if "features" in local:
        logger.warning("feature memories of %d devices are left out: %d devices begin with empty ones", before, now)
    return state, "features" in local


def evenly(of_devices: np.ndarray, devices: int) -> np.ndarray:
    """Counts of some devices as counts of others: the same sums in shares that differ by 1 at most.

    Args:
        of_devices: integers, [devices before, ...].
        devices: now.

    Returns:
        [devices, ...] of the same type; counts that are full on all devices stay full on as many devices or fewer.

    Raises:
        TypeError: they are no integers, so that they may be no counts.
    """
    if not np.issubdtype(of_devices.dtype, np.integer):
        raise TypeError(f"a loss's state of {of_devices.dtype} cannot be shared among devices: only counts can")
    total = of_devices.astype(np.int64).sum(0)
    place = np.arange(devices).reshape(-1, *[1] * total.ndim)
    shares = total // devices + (place < total % devices)
    return np.minimum(shares, np.iinfo(of_devices.dtype).max).astype(of_devices.dtype)


def _abstract(array: Any, devices: int | None = None, sharding: Any = None) -> jax.ShapeDtypeStruct:
    """Shape, type and sharding; with another first axis where a number of devices is given."""
    shape = array.shape if devices is None else (devices, *array.shape[1:])
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding or array.sharding)


def _warn_of_scopes(definition: ModelDefinition, before: int, now: int) -> None:
    loss, count = definition.config.loss, definition.config.train.accumulate
    if count > 1:
        logger.warning(
            "config.train.accumulate=%d: a micro-batch has a part of each device's images, so that on %d devices, %d "
            "until now, other images share one, with their normalisers, ranking, counts and random keys; "
            "train.accumulate=1 does not depend on the devices",
            *(count, now, before),
        )
    if loss.ranking != "none" and loss[loss.ranking].scope == "device":
        logger.warning(
            "config.loss.%s.scope=device: the images of each of %d devices are ranked among themselves, those of each "
            "of %d until now; scope=global does not depend on the devices",
            loss.ranking,
            now,
            before,
        )
