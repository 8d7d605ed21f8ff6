"""The best checkpoint of a run by one figure of its evaluations, kept whatever training deletes meanwhile.

In `WORKDIR/best`: `checkpoints/STEP`, as a run has it, so that the folder can be evaluated and started from like one;
`best.json`, which says what step it is and why; and while evaluations run, `held`, with the checkpoints they look at.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rog_jax.training.checkpoint import CheckpointError
from rog_jax.training.storage import whole_file, writing

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

BEST = "best"
"""What `evaluate_run` takes in a step's place, and the folder's name."""
RECORD = "best.json"
SCHEMA = 1
REPLACED = "replaced-"
"""Before a step: beginning of the name of a best checkpoint whose place another one of the same step is taking."""
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
"""Of file systems without hard links, and of links to another one."""


def best_folder(workdir: str | Path) -> Path:
    """Where a run's best checkpoint is."""
    return Path(workdir) / BEST


def recorded_step(folder: Path) -> int | None:
    """The step of the best checkpoint in a `best_folder`; None where nothing is recorded.

    Raises:
        CheckpointError: another version of this program recorded it.
    """
    record = _read(folder)
    return None if record is None else record["step"]


def best_step(workdir: str | Path) -> int:
    """The step of a run's best checkpoint.

    Raises:
        CheckpointError: no evaluation has kept one, or another version of this program has.
    """
    step = recorded_step(best_folder(workdir))
    if step is None:
        raise CheckpointError(
            f"{best_folder(workdir)} holds no best checkpoint: eval.py keeps it when it evaluates a checkpoint of the "
            "run (config.test.best_figure)"
        )
    return step


def read_best(folder: Path, read: Callable[[int | None], Read]) -> Read:
    """What is read of the best checkpoint; again where another one became the best and it was moved away.

    Args:
        folder: a `best_folder`, or any other that has checkpoints.
        read: of the step; of None where none is recorded.
    """
    step = recorded_step(folder)
    while True:
        try:
            return read(step)
        except Exception:
            before, step = step, recorded_step(folder)
            if step == before:
                raise


@contextlib.contextmanager
def held(workdir: str | Path, step: int) -> Iterator[Path | None]:
    """A copy of a checkpoint, by hard links where there are any, that training does not delete; removed at the end.

    It is whole: training gives a checkpoint another name before it removes anything of it, so that what has its name
    after the last file was copied had all of them until then.

    Yields:
        Its folder; None if training has deleted the checkpoint already.

    Raises:
        StorageError: the folder cannot be written to.
        OSError: the checkpoint cannot be read.
    """
    folder = best_folder(workdir)
    with writing(folder):
        (folder / "held").mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _remove_left_over(folder / "held")
            _put_back(folder)
            place = Path(tempfile.mkdtemp(dir=folder / "held"))
            owner = _lock(place)
    try:
        copy = place / str(step)
        is_whole = _copied(Path(workdir) / "checkpoints" / str(step), copy)
        yield copy if is_whole else None
    finally:
        if owner is not None:
            os.close(owner)  # first: over NFS an open file keeps its folder
        shutil.rmtree(place, ignore_errors=True)


def keep_if_best(workdir: str | Path, copy: Path, figure: str, value: float, measured: Mapping[str, Any]) -> bool:
    """Makes a checkpoint the run's best one, if its figure is higher than that of the best so far.

    A reader finds the old one or the new one, each whole: the new one's folder comes first, then the record, and the
    old one's folder goes last.

    Args:
        workdir: of the run.
        copy: what `held` yielded; its name is the step.
        figure: the figure's name.
        value: of this checkpoint.
        measured: json object that says how; figures that were measured otherwise are not compared.

    Returns:
        Whether it is the best.

    Raises:
        StorageError: the folder cannot be written to.
    """
    folder, step = best_folder(workdir), int(copy.name)
    how = {"figure": figure, "measured": dict(measured)}
    with writing(folder), _locked(folder):
        _put_back(folder)
        best = _read(folder)
        if best is not None and best | how != best:
            logger.warning(
                "step %d: %s %.4f is not compared with the best of %s, step %d: %s %.4f, which was measured otherwise, "
                "or by a program that did not say how (%s); remove that folder to begin anew",
                *(step, figure, value, folder, best["step"], best["figure"], best["value"], _differing(best, how)),
            )
            return False
        if best is not None and value <= best["value"]:
            logger.info("step %d: %s %.4f; the best is step %d: %.4f", step, figure, value, best["step"], best["value"])
            return False
        target = folder / "checkpoints" / copy.name
        target.parent.mkdir(exist_ok=True)
        if target.exists():  # of another training, or left by an evaluation that was killed before it was recorded
            target.rename(folder / f"{REPLACED}{step}")
        copy.rename(target)
        earlier = [] if best is None else [*best["earlier"], {key: best[key] for key in ("step", "value")}]
        record = {"schema": SCHEMA, "step": step, "value": value, **how, "earlier": earlier}
        with whole_file(folder / RECORD) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
        for other in [other for other in target.parent.iterdir() if other != target]:
            other.rename(copy.with_name(f"old-{other.name}"))
        _put_back(folder)
    logger.info("step %d is the best so far, kept in %s: %s %.4f", step, folder, figure, value)
    return True


def _differing(best: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    """Names of what was another when the best was measured."""
    old, new = ({"figure": each["figure"], **each["measured"]} for each in (best, how))
    return ", ".join(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    record = json.loads(path.read_text()) if path.is_file() else None
    if record is not None and record["schema"] != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {record['schema']}, and this program reads schema {SCHEMA}: use the program that wrote "
            "it, or remove the folder"
        )
    return record


def _copied(source: Path, target: Path) -> bool:
    """Copies a folder; whether it was there until the end."""
    try:
        before = source.stat().st_ino
        for folder, _, files in os.walk(source, onerror=_raise):
            inner = target / Path(folder).relative_to(source)
            with writing(inner):
                inner.mkdir()
            for name in files:
                _link(Path(folder) / name, inner / name)
        return source.stat().st_ino == before
    except FileNotFoundError:
        return False


def _raise(error: OSError) -> None:
    raise error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:  # the source: the target's folder was made just now
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            with writing(target):
                raise
        with source.open("rb") as read, writing(target), target.open("wb") as written:
            shutil.copyfileobj(read, written)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One evaluation at a time; where the file system has no locks, that is left to the user."""
    with (folder / "lock").open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock(place: Path) -> int | None:
    """An open file that shows, until this process ends, that somebody uses a folder; None if somebody does already, or
    has just removed it.

    A file, opened for writing: NFS locks nothing else.
    """
    try:
        descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left_over(folder: Path) -> None:
    """Removes what evaluations that were killed have left."""
    for place in folder.iterdir():
        owner = _lock(place)
        if owner is not None:
            os.close(owner)  # nobody begins to use a folder that was left
            shutil.rmtree(place, ignore_errors=True)


def _put_back(folder: Path) -> None:
    """Gives a best checkpoint its name again where the one that was to replace it has not come; else removes it."""
    for aside in folder.glob(f"{REPLACED}*"):
        target = folder / "checkpoints" / aside.name.removeprefix(REPLACED)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)
