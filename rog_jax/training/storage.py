"""What can go wrong with the disk that a run writes to: said with path and remedy, and early where it can be."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

PROBE_BYTES = 64 * 1024
LEFT_OVER_SECONDS = 24 * 3600
NAME_BYTES = 220
FULL = "the disk is full: free some of it"
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "your quota of that disk is used up: free some of it, or have it raised",
    errno.EFBIG: "files of this process may not be so large: raise `ulimit -f`, or use another file system",
    errno.EROFS: "the file system is read-only: mount it for writing, or choose another folder",
    errno.EACCES: "this user may not write there: give permission (chown, chmod), or choose another folder",
    errno.EPERM: "this user may not write there: give permission (chown, chmod), or choose another folder",
    errno.EEXIST: "a file is where a folder has to be: move it away, or choose another folder",
    errno.ENOTDIR: "a file is where a folder has to be: move it away, or choose another folder",
    errno.EISDIR: "a folder is where a file has to be: move it away, or choose another folder",
    errno.ENOENT: "its folder is gone: was it removed, or its disk unmounted?",
    errno.EIO: "the disk or the network to it failed: look at the system's log",
    errno.ESTALE: "the network's file system was mounted anew: start again",
}
"""By the system's number of what happened while something was being written."""
GO_ON = "Then the same command goes on from the newest checkpoint; those already written are whole."
AGAIN = "Then give the same command again."


class StorageError(OSError):
    """Something could not be written; the message names the path, what happened and the remedy."""


@contextlib.contextmanager
def writing(path: str | Path, afterwards: str = AGAIN) -> Iterator[None]:
    """Says of an error of the disk in its body what path it was about and what to do.

    Args:
        path: what the body writes; it reads nothing else, so that no other file's error is taken for this one's.
        afterwards: what to do once the disk is in order.

    Raises:
        StorageError: instead of the system's, Orbax's or JAX's error, which is its cause. Other errors pass.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = _number(error)
        if number not in REMEDIES:
            raise
        words = f"{path} cannot be written ({os.strerror(number)}): {REMEDIES[number]}. {afterwards}"
        raise StorageError(number, words) from error


def _number(error: Exception) -> int | None:
    """The system's number of an error.

    TensorStore, which writes checkpoints' arrays, has it in its text alone, and JAX's profiler only its words.
    """
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    if found:
        return int(found[1])
    return next((number for number in REMEDIES if str(error).endswith(f"; {os.strerror(number)}")), None)


@contextlib.contextmanager
def whole_file(path: str | Path, afterwards: str = AGAIN) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its name at the end: nobody sees half of the file.

    After an error the file is as it was, and what was begun is removed; what a process leaves that is killed goes a day
    later, once another one writes into the folder.

    Raises:
        StorageError: it cannot be written.
    """
    path = Path(path)
    partial = own_partial(path)
    with writing(path, afterwards):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path.parent)
        try:
            yield partial
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def own_partial(path: Path) -> Path:
    """A name beside a path to write to before it is whole, which no other process or thread takes at the same time."""
    name = os.fsdecode(os.fsencode(path.name)[:NAME_BYTES])  # a long name and more would be too long
    return path.with_name(f"{name}.partial-{secrets.token_hex(8)}")


@functools.cache
def _remove_left_over(folder: Path) -> None:
    """Removes, once a process, what killed ones have not finished; what somebody still writes to is younger."""
    for left in folder.glob(f"*.partial-{'[0-9a-f]' * 16}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_OVER_SECONDS:
                left.unlink()


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """A folder that can be written to, by this program alone as long as the context lasts; made if not there.

    Raises:
        StorageError: another program has it, or it cannot be written to.
    """
    check_writable(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            words = f"another program writes into {folder}: wait until it has ended. {AGAIN}"
            raise StorageError(error.errno, words) from error
        except OSError:  # a file system without locks leaves that to the user
            logger.debug("%s has no locks", folder)
        yield


def check_writable(*folders: Path, afterwards: str = AGAIN) -> None:
    """Writes and removes a small file in each folder, or where it is not there, in the nearest that it would be in.

    Raises:
        StorageError: that is not possible.
    """
    for folder in folders:
        with writing(folder, afterwards):
            probe(next(place for place in (folder, *folder.absolute().parents) if place.exists()))


def probe(folder: Path) -> None:
    """Writes and removes a small file in a folder that is there.

    Raises:
        OSError: that is not possible.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable.") as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def check_room(folder: Path, num_bytes: int, more: int) -> None:
    """Compares a checkpoint's size with what the disk has left.

    Args:
        folder: where checkpoints are written.
        num_bytes: of one, before Orbax's compression, which wins little on trained weights.
        more: how many more of them the run will keep at the same time.

    Raises:
        StorageError: there is no room for one. Where there is none for all of them, a warning says so.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        words = f"{folder}: a checkpoint takes {_size(num_bytes)} and {_size(free)} are free: {FULL}. {AGAIN}"
        raise StorageError(errno.ENOSPC, words)
    if free < more * num_bytes:
        logger.warning(
            "%s: %s are free, and the %d more checkpoints that the run will hold at a time take %s: free some of the "
            "disk, or lower config.train.keep_checkpoints; a run without room stops at a checkpoint and loses what "
            "came after the one before",
            *(folder, _size(free), more, _size(more * num_bytes)),
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
