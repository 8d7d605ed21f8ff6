"""Checkpoints of the training state by Orbax, with enough beside them to refuse the wrong model."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rog_jax.training.state import TrainState

AS_NUMPY = ocp.RestoreArgs(restore_type=np.ndarray)


class CheckpointError(ValueError):
    """A checkpoint is missing, or was written by another model."""


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/STEP`.

    Saving is asynchronous and atomic: a half-written checkpoint is never taken for a whole one.

    Args:
        workdir: folder of the run.
        keep: how many of the newest are kept.
        read_only: nothing is created; for evaluation.

    Raises:
        CheckpointError: read_only, and the run has no checkpoint.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, read_only: bool = False):
        self.folder = Path(workdir).absolute() / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"no checkpoint in {self.folder}: train first, or correct --workdir")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=not read_only, read_only=read_only)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, about: dict[str, Any]) -> None:
        """Starts writing the state; `about` is a json object that comes back with it."""
        step = int(jax.device_get(state.step))
        if step in self._manager.all_steps():
            return
        meta = {"about": about, "arrays": describe(state)}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        )

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def about(self, step: int | None = None) -> dict[str, Any]:
        """The json object saved with a checkpoint.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        return self._meta(self._existing(step))["about"]

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state of a checkpoint, placed as `like` is, whatever devices it was written on.

        Args:
            like: a state, or shapes and shardings, of the model that is to go on.
            step: of the checkpoint; the newest if None.

        Raises:
            CheckpointError: there is no such checkpoint, or its arrays are those of another model.
        """
        step = self._existing(step)
        differences = compare(self._meta(step)["arrays"], describe(like))
        if differences:
            raise CheckpointError(
                f"{self.folder / str(step)} was written by another model or with other settings than this config's:\n  "
                + "\n  ".join(differences)
                + "\nUse the config it was trained with, or another --workdir."
            )
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def parameters(self, step: int | None = None) -> dict[str, Any]:
        """Trained and fixed arrays of a checkpoint in NumPy, whatever devices it was written on; keys are text.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        step = self._existing(step)
        wanted = nested(
            {path: AS_NUMPY for path in self._meta(step)["arrays"] if path.startswith(("trainable/", "fixed/"))}
        )
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=wanted, partial_restore=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(self.folder / str(step) / "state", args=arguments)
        return nested({path.partition("/")[2]: array for path, array in flattened(restored).items()})

    def _existing(self, step: int | None) -> int:
        steps = sorted(self._manager.all_steps())
        if step is None and steps:
            return steps[-1]
        if step not in steps:
            found = ", ".join(map(str, steps)) or "none"
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise CheckpointError(f"{self.folder} has {wanted}; found: {found}")
        return step

    def _meta(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def close(self) -> None:
        """Waits for what is being written, and lets go of the folder."""
        self._manager.close()


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dicts in dicts from paths such as "fpn/lateral/0/kernel"."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        functools.reduce(lambda branch, key: branch.setdefault(key, {}), parents, tree)[leaf] = value
    return tree


def flattened(tree: Any) -> dict[str, Any]:
    """Path of each leaf, as text, to the leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(_name(key) for key in path): leaf for path, leaf in leaves}


def describe(state: TrainState) -> dict[str, str]:
    """Path of each array to its shape and type, as text."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flattened(state).items()}


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def compare(saved: dict[str, str], wanted: dict[str, str], most: int = 8) -> list[str]:
    """Lines that say how two descriptions differ; empty where they are equal.

    Args:
        saved: of a checkpoint.
        wanted: of the model at hand.
        most: lines at the most, the last of them a count of the rest.
    """
    lines = [
        f"{path}: checkpoint {saved.get(path, 'lacks it')}, model {wanted.get(path, 'lacks it')}"
        for path in sorted(saved.keys() | wanted.keys())
        if saved.get(path) != wanted.get(path)
    ]
    return lines if len(lines) <= most else [*lines[: most - 1], f"... and {len(lines) - most + 1} more arrays"]
