"""A trace of a few training steps, for XProf or Perfetto and for `python -m rog_jax.tools.profile_shares`."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rog_jax.training.storage import writing

logger = logging.getLogger(__name__)

STEP_MARK, WAIT_MARK = "train", "data_wait"
"""The host's marks around each step's start and around each wait for a batch."""


class ProfileRequest(NamedTuple):
    """What to trace.

    Attributes:
        folder: that takes the trace.
        first: steps that this run does before; compilation is in the first of them.
        steps: to trace.
    """

    folder: str | Path
    first: int = 10
    steps: int = 3


class StepProfiler:
    """Traces some steps of a run on its first host; does nothing where none was asked for.

    Raises:
        ValueError: the request asks for no steps, or for those of the run's start, in which it compiles.
    """

    def __init__(self, request: ProfileRequest | None):
        self._request = request if jax.process_index() == 0 else None
        self._done, self._traces = 0, False
        if request is not None and (request.first < 1 or request.steps < 1):
            raise ValueError(
                f"a profile of {request.steps} steps after {request.first}: at least one of each, the first compiles"
            )

    def before_step(self, state: Any) -> None:
        """Starts the trace when it is time, once all that was asked of the devices before is done."""
        if self._request is not None and self._done == self._request.first:
            jax.block_until_ready(state)
            start_trace(self._request.folder)
            self._traces = True

    def after_step(self, state: Any) -> None:
        """Ends the trace when it is time, and says where it is.

        Raises:
            StorageError: it cannot be written.
        """
        self._done += 1
        if self._request is not None and self._done == self._request.first + self._request.steps:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that still runs; says so where there was none.

        Raises:
            StorageError: it cannot be written.
        """
        request, traces = self._request, self._traces
        self._request, self._traces = None, False  # one that cannot be written is not tried again
        if request is None:
            return
        if traces:
            with writing(request.folder):
                jax.profiler.stop_trace()
            logger.info("traced: python -m rog_jax.tools.profile_shares %s", request.folder)
        else:
            logger.warning("no step was traced: the run ended before the %d that come first", request.first)


def start_trace(folder: str | Path) -> None:
    """Begins to write what devices and host do; Python's own calls are left out, which would be most of it."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, profiler_options=options)


def step_mark(number: int) -> jax.profiler.StepTraceAnnotation:
    """To be entered around a step."""
    return jax.profiler.StepTraceAnnotation(STEP_MARK, step_num=number)


def wait_mark() -> jax.profiler.TraceAnnotation:
    """To be entered around a wait for a batch."""
    return jax.profiler.TraceAnnotation(WAIT_MARK)
