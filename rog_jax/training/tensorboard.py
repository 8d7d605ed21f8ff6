"""TensorBoard's files of a run, each line of them on disk when it is written."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from rog_jax.training.storage import GO_ON, writing


class Board:
    """Writes scalars.

    tensorboardX's own SummaryWriter hands them to a thread. Where the disk is full, that thread dies, its queue fills,
    and the program waits for ever.

    Args:
        folder: made if not there; gets a file of this run's own.
        purge_step: TensorBoard forgets what earlier files say of this step and those after it.

    Raises:
        StorageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, purge_step: int):
        self._folder = folder
        with writing(folder, GO_ON):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
            self._add(purge_step, file_version="brain.Event:2")
            self._add(purge_step, session_log=SessionLog(status=SessionLog.START))
            self._writer.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step.

        Raises:
            StorageError: they cannot be written.
        """
        with writing(self._folder, GO_ON):
            for name, value in scalars.items():
                self._add(step, summary=scalar(name, value))
            self._writer.flush()

    def _add(self, step: int, **content) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """Closes the file."""
        with writing(self._folder, GO_ON):
            self._writer.close()
