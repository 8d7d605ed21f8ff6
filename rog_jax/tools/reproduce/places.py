"""Where a reproduction reads and writes."""

import contextlib
import fcntl
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
"""Of the source tree, in which train.py and eval.py are."""


class Places(NamedTuple):
    """Folders, and whether all is made tiny.

    Attributes:
        work: sets, backbones, and the folders of runs at work.
        out: records, tables and plots.
        sprites: folder of styles (docs/data.md), for the second set.
        backgrounds: folder of photographs behind the sprites.
        ccp: folder of the photographs in LVIS format.
        quick: tiny sets, model and schedule, which show that everything works and nothing else.
        keep: whether folders of finished runs stay.
    """

    work: Path
    out: Path
    sprites: Path
    backgrounds: Path
    ccp: Path
    quick: bool = False
    keep: bool = False


@contextlib.contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Keeps a second program out of the same work folder, where both would train the same runs.

    A program that `call` started keeps it closed too, where this one was killed and the other goes on.

    Raises:
        RuntimeError: there is one; says its process ids.
    """
    work.mkdir(parents=True, exist_ok=True)
    lock = work / "lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            known = ", ".join(map(str, _holders(lock)))
            raise RuntimeError(
                f"another program reproduces in {work}{f' (process {known})' if known else ''}: wait for it, end it by "
                "SIGTERM, or give another --work"
            ) from error
        os.set_inheritable(file.fileno(), True)
        yield


def _holders(lock: Path) -> list[int]:
    """Other processes that have the file open, where Linux tells: an id in the file would be that of a killed parent,
    not of the training that it left.
    """
    found = set()
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if os.readlink(link) == str(lock.resolve()):
                found.add(int(Path(link).parts[2]))
    return sorted(found - {os.getpid()})
