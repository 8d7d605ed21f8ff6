"""What training remembers: parameters, optimizer, class counts and the memory of the losses."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rog_jax.data.statistics import ClassStatistics
from rog_jax.models.detector import Detector
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
        class_counts: int32 [1, C], positives seen so far over all devices, or [devices, C] where each device keeps
            its own.
        loss: memory of the classification loss; [devices, ...] where each device keeps its own.
        features: LOCE's feature memory, [devices, ...]; () without.
        gradients: float32 [2, C], sums so far of the sizes of the losses' derivatives by each category's logits, over
            rows of the category and over all others; () unless `config.train.gradient_sums`.
    """

    step: Any
    trainable: Any
    fixed: Any
    optimizer: Any
    class_counts: Any
    loss: Any
    features: Any
    gradients: Any


class ModelDefinition:
    """The detector without its arrays, and how to put the arrays of a `TrainState` back.

    Args:
        config: with `model.num_classes` set; settings left open take what belongs to the classification loss.
        statistics: of the training set, which some losses and calibrations need.
    """

    def __init__(self, config: ConfigDict, statistics: ClassStatistics | None = None):
        self.config = config = with_recipe(config)
        self.statistics = statistics
        model = Detector(config, config.train.seed, statistics)
        self.loss = model.loss
        self._graph, trainable, fixed = nnx.split(model, self._is_trainable, ...)
        self.initial = nnx.to_pure_dict(trainable), nnx.to_pure_dict(fixed)
        """Trainable and fixed arrays before the first step (NumPy): drawn as `config.train.seed` says, or imported."""
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
    config = definition.config
    trainable, fixed = definition.initial
    counts = np.zeros(config.model.num_classes, np.int32)
    loss = jax.tree.map(np.asarray, definition.loss.init_state())
    state = TrainState(
        step=np.zeros((), np.int32),
        trainable=trainable,
        fixed=fixed,
        optimizer=jax.jit(optimizer.init)(trainable),
        class_counts=_for_each_device(counts, mesh.size if config.loss.gap.counts_scope == "device" else 1),
        loss=_for_each_device(loss, mesh.size) if definition.loss.state_is_local else loss,
        features=_for_each_device(empty_memory(config), mesh.size),
        gradients=empty_sums(config),
    )
    return jax.device_put(state, state_shardings(state, definition, mesh))


def _for_each_device(tree: Any, devices: int) -> Any:
    """The same arrays for each device, along a new first axis."""
    return jax.tree.map(lambda x: np.repeat(x[None], devices, axis=0), tree)


def state_specs(definition: ModelDefinition) -> TrainState:
    """Which part of the state is spread over the mesh: nothing, but what each device keeps for itself."""
    everywhere, own = PartitionSpec(), PartitionSpec(AXIS)
    counts = own if definition.config.loss.gap.counts_scope == "device" else everywhere
    loss = own if definition.loss.state_is_local else everywhere
    return TrainState(everywhere, everywhere, everywhere, everywhere, counts, loss, own, everywhere)


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
