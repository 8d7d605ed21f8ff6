"""SIGTERM, by which clusters announce that a machine is about to be taken away: a run saves and ends well."""

import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notes SIGTERM while it is open (`with Preemption() as preemption`).

    With several hosts, JAX carries the news to all of them and names one step, a little ahead, at which they stop
    together; a signal to any host is enough. Alone, the process notes the signal itself.
    """

    def __init__(self):
        self._noted = False
        self._several = jax.process_count() > 1
        self._previous: Any = None

    def __enter__(self) -> "Preemption":
        if not self._several:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._several:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self, step: int) -> bool:
        """Whether the run is to stop after this step; every host asks after every step, with the same number."""
        return multihost_utils.reached_preemption_sync_point(step) if self._several else self._noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
