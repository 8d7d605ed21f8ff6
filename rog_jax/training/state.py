"""What training remembers: parameters, optimizer, class counts and the memory of the losses."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rog_jax.models.detector import Detector
from rog_jax.models.resnet import frozen_path

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
        loss: memory of the classification loss.
    """

    step: Any
    trainable: Any
    fixed: Any
    optimizer: Any
    class_counts: Any
    loss: Any


class ModelDefinition:
    """The detector without its arrays, and how to put the arrays of a `TrainState` back.

    Args:
        config: with `model.num_classes` set.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        model = Detector(config, config.train.seed)
        self.loss = model.loss
        self._graph, trainable, fixed = nnx.split(model, self._is_trainable, ...)
        self.initial = nnx.to_pure_dict(trainable), nnx.to_pure_dict(fixed)
        """Trainable and fixed arrays before the first step (NumPy): drawn as `config.train.seed` says, or imported."""
        self._templates = trainable, fixed

    def _is_trainable(self, path: tuple, value: Any) -> bool:
        model = self.config.model
        frozen = path[0] == "backbone" and frozen_path(path[1:], model.frozen_stages)
        stored = "norm" in path and model.norm == "frozen_batch" and not model.norm_trained
        return isinstance(value, nnx.Param) and not (frozen or stored)

    def merge(self, trainable: dict, fixed: dict) -> Detector:
        """The detector with these arrays in it."""
        states = (filled(*pair) for pair in zip(self._templates, (trainable, fixed), strict=True))
        return nnx.merge(self._graph, *states)


def filled(template: nnx.State, arrays: dict) -> nnx.State:
    """A copy of the template that holds the arrays."""
    state = jax.tree.map(lambda leaf: leaf, template)
    nnx.replace_by_pure_dict(state, arrays)
    return state


def create_state(definition: ModelDefinition, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, placed on the mesh."""
    config = definition.config
    trainable, fixed = definition.initial
    rows = mesh.size if config.loss.gap.counts_scope == "device" else 1
    state = TrainState(
        step=np.zeros((), np.int32),
        trainable=trainable,
        fixed=fixed,
        optimizer=jax.jit(optimizer.init)(trainable),
        class_counts=np.zeros((rows, config.model.num_classes), np.int32),
        loss=jax.tree.map(np.asarray, definition.loss.init_state()),
    )
    return jax.device_put(state, state_shardings(state, config, mesh))


def state_specs(config: ConfigDict) -> TrainState:
    """Which part of the state is spread over the mesh: nothing, but class counts that each device keeps for itself."""
    everywhere = PartitionSpec()
    counts = PartitionSpec(AXIS) if config.loss.gap.counts_scope == "device" else everywhere
    return TrainState(everywhere, everywhere, everywhere, everywhere, counts, everywhere)


def state_shardings(state: TrainState, config: ConfigDict, mesh: Mesh) -> TrainState:
    """A sharding for each array of the state."""
    return TrainState(
        *(
            jax.tree.map(lambda _, spec=spec: NamedSharding(mesh, spec), part)
            for part, spec in zip(state, state_specs(config), strict=True)
        )
    )


def data_mesh(devices: list | None = None) -> Mesh:
    """All devices of the run, on the one axis `data`."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))
