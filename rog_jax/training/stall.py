"""A run that hangs without dying: a file system that no longer answers, a dead lock, a collective nobody joins."""

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable

import jax

logger = logging.getLogger(__name__)

TICKS = 20
"""In which the time is counted, so that a program that was stopped and continued is not taken for one that hangs."""

LAST_WORDS_SECONDS = 10
"""For what a run says at its end; whoever reads it may be what hangs."""


class StallGuard:
    """Ends the process if no step begins for some time while it is open (`with StallGuard(3600) as guard`).

    JAX's heartbeats come from threads of their own and say nothing of the main one. Of several hosts each says where it
    stands; the ones that wait for another end by their own guard, or by that one's death. Against code that never lets
    go of Python's lock it can do nothing.

    Args:
        seconds: from one `beat` to the next, to be longer than a compilation; 0: for ever.
        end: what is done then, by the guard's thread.
    """

    def __init__(self, seconds: float | int, end: Callable[[str], None] | None = None):
        self._seconds, self._end = seconds, end or _end_process
        self._beats = self._step = 0
        self._process = jax.process_index()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StallGuard":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def beat(self, step: int) -> None:
        """Says that this step begins."""
        self._beats, self._step = self._beats + 1, step

    def _watch(self) -> None:
        seen, quiet = self._beats, 0
        while not self._closed.wait(self._seconds / TICKS):
            quiet = quiet + 1 if self._beats == seen else 0
            seen = self._beats
            if quiet >= TICKS:
                self._end(
                    f"process {self._process} has been at step {self._step} for {self._seconds:g} seconds "
                    "(config.train.stall_seconds) and ends, and by it the others. Where its threads stand follows: "
                    "loader.py means that images do not come, device_get that a device or another host does not "
                    "answer. The same command goes on from the newest checkpoint."
                )
                return


def _end_process(message: str) -> None:
    try:
        faulthandler.dump_traceback_later(LAST_WORDS_SECONDS, exit=True, file=sys.__stderr__)
        logger.critical(message)
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
    finally:
        os._exit(1)
