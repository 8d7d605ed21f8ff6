"""What looks at a run at each checkpoint, while it goes on training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rog_jax.data import Annotations
from rog_jax.losses.gap import class_weights
from rog_jax.training.state import ModelDefinition, TrainState
from rog_jax.training.tensorboard import Board

SHOWN = 5
"""Categories at either end of the tail."""


class Checkpointed(NamedTuple):
    """A run at a checkpoint.

    Attributes:
        step: updates done.
        state: on the devices; the next step uses it up.
        definition: of the model.
        mesh: that the state is on.
        board: for what is to be shown; None on hosts that keep silent.
    """

    step: int
    state: TrainState
    definition: ModelDefinition
    mesh: Mesh
    board: Board | None


Watcher = Callable[[Checkpointed], None]


class TailScalars:
    """Positives so far, and GAP's omega from them, of the rarest and the most frequent categories.

    With counts of each device's own, positives are the sum, and omega is that of the sum, about each device's.

    Args:
        annotations: of the training images.
    """

    def __init__(self, annotations: Annotations):
        there = np.flatnonzero(annotations.image_counts)
        order = there[np.argsort(annotations.image_counts[there], kind="stable")]
        self._labels = {"rare": order[:SHOWN], "frequent": order[::-1][:SHOWN]}
        self._names = annotations.category_names

    def __call__(self, run: Checkpointed) -> None:
        """Writes them; with counts of several hosts' devices each for itself, which no host has, nothing."""
        counts: Any = run.state.class_counts
        if run.board is None or (not counts.is_fully_addressable and not counts.is_fully_replicated):
            return
        counts = np.asarray(jax.device_get(counts))
        counts = counts.sum(axis=0) if "class_counts" in run.definition.local else counts
        settings = run.definition.config.loss.gap
        values_of = {"positives": counts}
        if run.definition.config.loss.ranking == "gap" and settings.omega == "online":
            values_of["omega"] = np.asarray(class_weights(counts.astype(np.float32), settings.gamma, settings.variant))
        shown = {
            f"tail/{what}/{end}/{self._names[label]}": float(values[label])
            for what, values in values_of.items()
            for end, labels in self._labels.items()
            for label in labels
        }
        run.board.write(run.step, shown)
