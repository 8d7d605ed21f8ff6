"""What training remembers: parameters, optimizer, class counts and the memory of the losses."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rog_jax.data.statistics import ClassStatistics
from rog_jax.models.detector import Detector
from rog_jax.models.objective import uses_memory
from rog_jax.models.recipe import with_recipe
from rog_jax.models.resnet import frozen_path
from rog_jax.training.gradient_sums import empty_sums
from rog_jax.training.memory import empty_memory

AXIS = "data"
"""The one axis of the device mesh: images are spread over it, everything else is on all devices."""


class TrainState(NamedTuple):
    """A pytree of plain dicts and arrays; all that a run needs to go on, besides its config and data.

    Attributes:
        step: int32 [], updates done so far. Learning rate, data order and random keys follow from it.
        trainable: parameters that are trained.
        fixed: frozen parameters and stored statistics.
        optimizer: state of the optax transformation.
        class_counts: int32 [C], positives seen so far.
        loss: memory of the classification loss.
        features: LOCE's feature memory; () without.
        gradients: float32 [2, C], sums so far of the sizes of the losses' derivatives by each category's logits, over
            rows of the category and over all others; () unless `config.train.gradient_sums`.

    `class_counts`, `loss` and `features` are the `LossMemory`. Those of them that each device keeps for itself
    (`ModelDefinition.local`) have a first axis of devices, spread over the mesh; all else is the same on all devices.
    """

    step: Any
    trainable: Any
    fixed: Any
    optimizer: Any
    class_counts: Any
    loss: Any
    features: Any
    gradients: Any


class LossMemory(NamedTuple):
    """What the losses of one device carry from step to step.

    Attributes:
        class_counts: int32 [C], positives so far.
        loss: the classification loss's own state.
        features: LOCE's feature memory, () without.
    """

    class_counts: Any
    loss: Any
    features: Any


class ModelDefinition:
    """The detector without its arrays, and how to put the arrays of a `TrainState` back.

    Args:
        config: with `model.num_classes` set; settings left open take what belongs to the classification loss.
        statistics: of the training set, which some losses and calibrations need.

    Attributes:
        config: with nothing left open.
        statistics: as given.
        loss: the classification loss.
        local: the fields of `LossMemory` that each device keeps for itself.
        initial: trainable and fixed arrays before the first step (NumPy): drawn as `config.train.seed` says, or
            imported.
    """

    def __init__(self, config: ConfigDict, statistics: ClassStatistics | None = None):
        self.config = config = with_recipe(config)
        self.statistics = statistics
        model = Detector(config, config.train.seed, statistics)
        self.loss = model.loss
        kept_apart = {
            "class_counts": config.loss.gap.counts_scope == "device",
            "loss": self.loss.state_is_local,
            "features": uses_memory(config),
        }
        self.local = tuple(name for name, is_local in kept_apart.items() if is_local)
        self._graph, trainable, fixed = nnx.split(model, self._is_trainable, ...)
        self.initial = nnx.to_pure_dict(trainable), nnx.to_pure_dict(fixed)
        self._templates = trainable, fixed
        self._check_trained_parts()

    def _is_trainable(self, path: tuple, value: Any) -> bool:
        model = self.config.model
        frozen = path[0] == "backbone" and frozen_path(path[1:], model.frozen_stages)
        stored = "norm" in path and model.norm == "frozen_batch" and not model.norm_trained
        chosen = not model.trained_parts or any(_begins_with(path, part) for part in model.trained_parts)
        return isinstance(value, nnx.Param) and chosen and not (frozen or stored)

    def _check_trained_parts(self) -> None:
        trees = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in self.initial)
        paths = [[key.key for key in path] for leaves in trees for path, _ in leaves]
        for part in self.config.model.trained_parts:
            if not any(_begins_with(path, part) for path in paths):
                parts = ", ".join(sorted({path[0] for path in paths}))
                raise ValueError(f"config.model.trained_parts: the model has no {part!r}; its parts are {parts}")

    def merge(self, trainable: dict, fixed: dict) -> Detector:
        """The detector with these arrays in it."""
        states = (filled(*pair) for pair in zip(self._templates, (trainable, fixed), strict=True))
        return nnx.merge(self._graph, *states)


def _begins_with(path: Sequence[Any], part: str) -> bool:
    """Whether the keys of an array's path begin with those of `part`, such as "box_head/deltas"."""
    keys = part.split("/")
    return [str(key) for key in path[: len(keys)]] == keys


def filled(template: nnx.State, arrays: dict) -> nnx.State:
    """A copy of the template that holds the arrays."""
    state = jax.tree.map(lambda leaf: leaf, template)
    nnx.replace_by_pure_dict(state, arrays)
    return state


def create_state(definition: ModelDefinition, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, placed on the mesh."""
    trainable, fixed = definition.initial
    state = TrainState(
        step=np.zeros((), np.int32),
        trainable=trainable,
        fixed=fixed,
        optimizer=jax.jit(optimizer.init)(trainable),
        class_counts=np.zeros(definition.config.model.num_classes, np.int32),
        loss=jax.tree.map(np.asarray, definition.loss.init_state()),
        features=(),
        gradients=empty_sums(definition.config),
    )
    for name in set(definition.local) - {"features"}:
        repeated = jax.tree.map(lambda x: np.repeat(x[None], mesh.size, axis=0), getattr(state, name))
        state = state._replace(**{name: repeated})
    placed = jax.device_put(state, state_shardings(state, definition, mesh))
    return placed._replace(features=create_features(definition, mesh))


def create_features(definition: ModelDefinition, mesh: Mesh) -> Any:
    """The empty feature memory of each device, made where it stays: a host may not hold all of its devices'."""
    if "features" not in definition.local:
        return ()

    def on_every_device():
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (mesh.size, *x.shape)), empty_memory(definition.config))

    return jax.jit(on_every_device, out_shardings=NamedSharding(mesh, PartitionSpec(AXIS)))()


def inference_state(definition: ModelDefinition, mesh: Mesh, step: int = 0) -> TrainState:
    """The definition's arrays on the mesh and nothing that only training needs."""
    arrays = np.asarray(step, np.int32), *definition.initial
    return TrainState(*jax.device_put(arrays, NamedSharding(mesh, PartitionSpec())), (), (), (), (), ())


def own_memory(state: TrainState, local: Sequence[str]) -> LossMemory:
    """The memory of the losses as this device has it; called inside `shard_map`.

    Args:
        state: this device's part.
        local: fields that each device keeps for itself.
    """
    parts = {name: getattr(state, name) for name in LossMemory._fields}
    first = partial(jax.tree.map, lambda x: x[0])
    return LossMemory(**{name: first(part) if name in local else part for name, part in parts.items()})


def with_memory(state: TrainState, memory: LossMemory, local: Sequence[str]) -> TrainState:
    """This device's part of the state with that memory in it: the way back from `own_memory`."""
    alone = partial(jax.tree.map, lambda x: x[None])
    parts = memory._asdict()
    return state._replace(**{name: alone(part) if name in local else part for name, part in parts.items()})


def state_specs(definition: ModelDefinition) -> TrainState:
    """Which part of the state is spread over the mesh: nothing, but what each device keeps for itself."""
    return TrainState(
        *(PartitionSpec(AXIS) if name in definition.local else PartitionSpec() for name in TrainState._fields)
    )


def state_shardings(state: TrainState, definition: ModelDefinition, mesh: Mesh) -> TrainState:
    """A sharding for each array of the state."""
    return TrainState(
        *(
            jax.tree.map(lambda _, spec=spec: NamedSharding(mesh, spec), part)
            for part, spec in zip(state, state_specs(definition), strict=True)
        )
    )


def data_mesh(devices: list | None = None) -> Mesh:
    """All devices of the run, on the one axis `data`."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))
