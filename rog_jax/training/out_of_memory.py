"""What to do when a device's memory is too small, instead of the compiler's words alone."""

import contextlib
from collections.abc import Iterator

import jax

TRAINING_ADVICE = (
    "In the order of what it costs: fewer images a device (more devices, or a smaller train.batch_size, with which "
    "optim.lr is scaled), the same batch in micro-batches (train.accumulate), model.dtype=bfloat16, fewer RoIs "
    "(roi.samples) and proposals (rpn.train_proposals), smaller images (data.shapes, data.short_sides, "
    "data.max_long_side), a smaller data.max_objects; with LOCE loss.memory.slots. "
    "`python -m rog_jax.tools.compile_check` says what a TPU needs without one."
)
INFERENCE_ADVICE = (
    "In the order of what it costs: fewer images a device (test.batch_size), smaller images (data.shapes, "
    "data.test_short_side, data.max_long_side), fewer proposals (rpn.test_proposals) and candidates (test.pre_nms)."
)


class OutOfMemory(MemoryError):
    """A device's memory is too small for the program."""


@contextlib.contextmanager
def advice_where_memory_ends(advice: str) -> Iterator[None]:
    """Adds advice to the error of a device without memory left.

    Raises:
        OutOfMemory: instead of JAX's error, which is its cause.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        first, *_ = str(error).splitlines()
        if not first.startswith("RESOURCE_EXHAUSTED"):
            raise
        raise OutOfMemory(f"the device's memory is too small: {first}\n{advice}") from error
