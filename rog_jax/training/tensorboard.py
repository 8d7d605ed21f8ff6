"""TensorBoard's files of a run, each line of them on disk when it is written."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar

from rog_jax.training.storage import GO_ON, writing


@runtime_checkable
class Mirror(Protocol):
    """Another place that shows what TensorBoard does."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the scalars of a step."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Takes a picture [H, W, 3] of a step."""

    def close(self) -> None:
        """Nothing more comes."""


class Board:
    """Writes scalars and pictures.

    tensorboardX's own SummaryWriter hands them to a thread. Where the disk is full, that thread dies, its queue fills,
    and the program waits for ever.

    Args:
        folder: made if not there; gets a file of this run's own.
        purge_step: TensorBoard forgets what earlier files say of this step and those after it; None to keep all.
        mirror: gets all of it, too; closed by who opened it.

    Raises:
        StorageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, purge_step: int | None = None, mirror: Mirror | None = None):
        self._folder, self._mirror = folder, mirror
        with writing(folder, GO_ON):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
            self._add(purge_step or 0, file_version="brain.Event:2")
            if purge_step is not None:
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
        if self._mirror is not None:
            self._mirror.scalars(step, scalars)

    def picture(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Writes a picture in RGB.

        Raises:
            StorageError: it cannot be written.
        """
        with writing(self._folder, GO_ON):
            self._add(step, summary=image(name, pixels, dataformats="HWC"))
            self._writer.flush()
        if self._mirror is not None:
            self._mirror.picture(step, name, pixels)

    def _add(self, step: int, **content) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """Closes the file."""
        with writing(self._folder, GO_ON):
            self._writer.close()
