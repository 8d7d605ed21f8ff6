"""Checkpoints of the training state by Orbax, with enough beside them to refuse the wrong model."""

import contextlib
import functools
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rog_jax.training.state import TrainState
from rog_jax.training.storage import GO_ON, check_room, probe, writing

logger = logging.getLogger(__name__)

DELETED = "deleted"
"""Folder beside the checkpoints of those that are about to go."""
AS_NUMPY = ocp.RestoreArgs(restore_type=np.ndarray)
FORMAT = 2
"""Of what is saved. 1: without a number; class counts were [1, C], and early ones had no field for LOCE's memory."""


class CheckpointError(ValueError):
    """A checkpoint is missing, or was written by another model or another version of this program."""


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/STEP`.

    Saving is asynchronous and atomic: a half-written checkpoint is never taken for a whole one. An older one goes once
    a newer one is there; it gets another name first, so that what has a step for its name is whole.

    Args:
        workdir: folder of the run.
        keep: how many of the newest are kept.
        read_only: nothing is created; for evaluation.

    Raises:
        CheckpointError: read_only, and the run has no checkpoint.
        StorageError: the folder cannot be made.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, read_only: bool = False):
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._keep, self._saving, self._warned = keep, False, False
        self._deleting: threading.Thread | None = None
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"no checkpoint in {self.folder}: train first, or correct --workdir")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            todelete_subdir=None if read_only else DELETED,
        )
        with contextlib.nullcontext() if read_only else writing(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
            if not read_only:
                self._delete()

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, about: dict[str, Any], progress: dict[str, Any] | None = None) -> None:
        """Starts writing the state, and two json objects that come back with it.

        Args:
            state: of the training.
            about: what the run is.
            progress: what it has counted so far besides.

        Raises:
            StorageError: it cannot be written, or the one before could not be.
        """
        step = int(jax.device_get(state.step))
        if step in self._manager.all_steps():
            return
        meta = {
            "format": FORMAT,
            "about": about,
            "progress": progress or {},
            "arrays": describe(state),
            "devices": len(state.step.sharding.device_set),
        }
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._end_deletion()
        with writing(self.folder / str(step), GO_ON):
            probe(self.folder)  # where Orbax cannot make a folder, threads of its own keep the program for five minutes
            self._manager.save(step, args=args)
        self._saving = True

    def check(self) -> None:
        """Says so, without waiting, if the last state could not be written: a run would find out at its next save.

        Raises:
            StorageError: it could not be.
        """
        # Not Orbax's check_for_errors: an error that it has told once is none for the thread that then deletes the old.
        if self._saving and not self._manager.is_saving_in_progress():
            self._end_save()

    def wait(self) -> None:
        """Returns when everything is on disk, and what is to go is gone.

        Raises:
            StorageError: something could not be written.
        """
        self._end_save()
        self._end_deletion()

    def _end_save(self) -> None:
        self._saving = False
        with writing(self.folder, GO_ON):
            self._manager.wait_until_finished()
        self._end_deletion()
        self._deleting = threading.Thread(target=self._delete)  # gigabytes take seconds, in which no step would start
        self._deleting.start()

    def _end_deletion(self) -> None:
        if self._deleting is not None:
            self._deleting.join()

    def _delete(self) -> None:
        """Removes what Orbax has only given another name; what cannot go yet is left for the next time.

        Over NFS a file that another program has open keeps its folder, and the new checkpoint is whole whatever
        becomes of an old one.
        """
        if jax.process_index() != 0 or not (self.folder / DELETED).exists():
            return
        try:
            shutil.rmtree(self.folder / DELETED)
        except OSError as error:
            if not self._warned:
                logger.warning("a deleted checkpoint cannot be removed yet, and is tried at each save: %s", error)
            self._warned = True

    def check_room(self, state: TrainState) -> None:
        """Compares what the run's checkpoints will take with what the disk has left.

        Raises:
            StorageError: there is no room for a single one.
        """
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        check_room(self.folder, size, max(self._keep + 1 - len(self._manager.all_steps()), 1))

    def about(self, step: int | None = None) -> dict[str, Any]:
        """The json object saved with a checkpoint.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        return self._meta(self._existing(step))["about"]

    def progress(self, step: int | None = None) -> dict[str, Any]:
        """What the run had counted at a checkpoint; {} of an older program.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        return self._meta(self._existing(step)).get("progress", {})

    def devices(self, step: int | None = None) -> int:
        """The number of devices that a checkpoint was written on.

        Raises:
            CheckpointError: there is no such checkpoint, or its state has another format than this program's.
        """
        return self._resumable(self._existing(step))["devices"]

    def restore(self, like: TrainState, step: int | None = None, *, without: tuple[str, ...] = ()) -> TrainState:
        """The state of a checkpoint, placed as `like` is, whatever devices it was written on.

        Args:
            like: a state, or shapes and shardings, of the model that is to go on.
            step: of the checkpoint; the newest if None.
            without: fields that are not read; they stay as in `like`.

        Raises:
            CheckpointError: there is no such checkpoint, its arrays are those of another model, or its state has
                another format than this program's.
        """
        step = self._existing(step)
        saved = self._resumable(step)["arrays"]
        read = {path: array for path, array in saved.items() if path.partition("/")[0] not in without}
        differences = compare(read, describe(like._replace(**dict.fromkeys(without, ()))))
        if differences:
            raise another_model(str(self.folder / str(step)), differences)
        left = {name: jax.tree.map(lambda _: ocp.PLACEHOLDER, getattr(like, name)) for name in without}
        found = self._arrays(step, *(jax.tree.map(f, like._replace(**left)) for f in (_wanted, _placed)))
        return found._replace(**{name: getattr(like, name) for name in without})

    def parameters(self, step: int | None = None) -> dict[str, Any]:
        """Trained and fixed arrays of a checkpoint in NumPy, whatever devices it was written on; keys are text.

        Raises:
            CheckpointError: there is no such checkpoint, or it is a newer program's.
        """
        found = self._numpy(step, ("trainable/", "fixed/"))
        return nested({path.partition("/")[2]: array for path, array in found.items()})

    def gradient_sums(self, step: int | None = None) -> Any:
        """`TrainState.gradients` of a checkpoint in NumPy; () where training kept no sums.

        Raises:
            CheckpointError: there is no such checkpoint, or it is a newer program's.
        """
        return self._numpy(step, ("gradients",)).get("gradients", ())

    def _numpy(self, step: int | None, beginnings: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Arrays whose paths begin so, by path."""
        step = self._existing(step)
        paths = [path for path in self._meta(step)["arrays"] if path.startswith(beginnings)]
        wanted = nested(dict.fromkeys(paths, AS_NUMPY))
        return flattened(self._arrays(step, wanted, wanted, partial_restore=True)) if paths else {}

    def _arrays(self, step: int, wanted: Any, placed: Any, **options: Any) -> Any:
        """Some arrays of a checkpoint; the others are not read."""
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=placed, **options)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(self.folder / str(step) / "state", args=arguments)

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
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        if _format(meta) > FORMAT:
            raise CheckpointError(
                f"{self.folder / str(step)} has format {_format(meta)}, and this program reads formats up to {FORMAT}: "
                f"update it, or check out {_commit(meta)}"
            )
        return meta

    def _resumable(self, step: int) -> dict[str, Any]:
        """What was saved beside the state of a checkpoint that a run can go on from."""
        meta = self._meta(step)
        if _format(meta) < FORMAT:
            raise CheckpointError(
                f"{self.folder / str(step)} has format {_format(meta)} of an older program, and only format {FORMAT} "
                "can be resumed. It can be evaluated, and a new run in another --workdir can start from its weights "
                f"(--config.init_from={self.folder.parent}); to go on with it, check out {_commit(meta)}"
            )
        return meta

    def close(self) -> None:
        """Waits for what is being written, and lets go of the folder.

        Raises:
            StorageError: something could not be written.
        """
        if self._saving:
            self.wait()
        self._end_deletion()
        with writing(self.folder, GO_ON):
            self._manager.close()


def another_model(source: str, differences: list[str]) -> CheckpointError:
    """The error of a checkpoint that does not fit the config, with the lines that say where (`compare`)."""
    return CheckpointError(
        f"{source} was written by another model or with other settings than this config's:\n  "
        + "\n  ".join(differences)
        + "\nUse the config it was trained with, or another --workdir."
    )


def _wanted(leaf: Any) -> Any:
    """What Orbax is to read in a leaf's place; the placeholder says nothing."""
    if leaf is ocp.PLACEHOLDER:
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _placed(leaf: Any) -> ocp.RestoreArgs:
    """Where Orbax is to put it."""
    if leaf is ocp.PLACEHOLDER:
        return ocp.RestoreArgs()
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _format(meta: dict[str, Any]) -> int:
    return meta.get("format", 1)


def _commit(meta: dict[str, Any]) -> str:
    return f"the commit that wrote it ({meta['about'].get('commit') or 'not recorded'})"


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


def describe(state: Any) -> dict[str, str]:
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
