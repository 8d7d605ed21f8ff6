"""Batches for training and for tests, read by worker processes through Grain."""

import atexit
import contextlib
import copy
import functools
import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from rog_jax.data.annotations import Annotations, DataError, check_masks
from rog_jax.data.batch import Batch
from rog_jax.data.block import BatchBlock, stack, unpack
from rog_jax.data.copy_paste import PasteSource
from rog_jax.data.images import cv2
from rog_jax.data.plan import PlannedBatch, TrainPlan, eval_batches
from rog_jax.data.transforms import ExampleSettings, empty_example, make_example

logger = logging.getLogger(__name__)


def train_loader(
    annotations: Annotations,
    plan: TrainPlan,
    data: Any,
    *,
    seed: int,
    start_step: int,
    num_steps: int,
    masks: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> "Loader":
    """This host's part of the batches of steps start_step to start_step + num_steps, in order.

    A batch depends on the seed and the step alone, neither on the number of workers or hosts nor on where a run was
    resumed.

    Args:
        annotations: of the training images.
        plan: says which images each step has.
        data: config.data.
        seed: of scale, flip and the choice among too many objects.
        start_step: counted from 0.
        num_steps: length of the loader.
        masks: whether batches hold masks.
        process_index: number of this host.
        process_count: number of hosts; each takes an equal part of every batch.

    Raises:
        DataError: objects lack masks; while iterating, on a single host, more than config.data.max_unreadable images
            could not be read. Several hosts have to check their sum, so that none stops while others wait for it.
        ValueError: the batch cannot be divided among the hosts.
    """
    if masks:
        check_masks(annotations)
    local = local_size(plan.batch_size, process_count)
    settings = ExampleSettings.training(data, masks, annotations.num_classes)
    source = _Slots(plan.batch, plan.batch_size, local, process_index, start_step, num_steps)
    pasting = PasteSource(annotations, data.copy_paste.even) if settings.paste else None
    load = functools.partial(_load, annotations=annotations, settings=settings, seed=seed, pasting=pasting)
    return Loader(source, load, local, data, alone=process_count == 1)


def eval_loader(
    annotations: Annotations, data: Any, batch_size: int, *, process_index: int = 0, process_count: int = 1
) -> "Loader":
    """This host's part of every image once, at the test scale and without truth (G = 0).

    Batches hold images of one padded shape; the last of each shape is filled up with index -1. All hosts have the same
    number of batches, of the same shapes. `batch_size` counts the images over all hosts.

    Raises:
        DataError: an image fits into no shape; while iterating, too many unreadable images, as in training.
        ValueError: the batch cannot be divided among the hosts.
    """
    local = local_size(batch_size, process_count)
    batches = eval_batches(annotations, data, batch_size)
    source = _Slots(batches.__getitem__, batch_size, local, process_index, 0, len(batches))
    load = functools.partial(_load, annotations=annotations, settings=ExampleSettings.testing(data), seed=None)
    return Loader(source, load, local, data, alone=process_count == 1)


def local_size(batch_size: int, process_count: int) -> int:
    """Images of each batch that one host reads."""
    if batch_size % process_count:
        raise ValueError(f"a batch of {batch_size} images cannot be divided among {process_count} hosts")
    return batch_size // process_count


class Loader(Iterator[Batch]):
    """An iterator of batches that counts what was left out.

    Worker processes that die are started again, and the run goes on with the very batches that it would have had.

    Attributes:
        dropped: objects beyond config.data.max_objects left out so far.
        unreadable: images that could not be read so far.
        restarts: how often worker processes had died and were started again.
    """

    def __init__(self, source: "_Slots", load: Callable[["_Slot"], Batch], batch_size: int, data: Any, alone: bool):
        self.dropped = 0
        self.unreadable = 0
        self.restarts = 0
        self._source, self._load, self._batch_size = source, load, batch_size
        self._data, self._alone = data, alone
        self._done = 0
        self._batches = self._start()

    def __len__(self) -> int:
        """Number of batches from the first to the last."""
        return self._source.num_steps

    def __next__(self) -> Batch:
        batch = self._next_batch()
        self._done += 1
        self.dropped += int(batch.dropped.sum())
        self.unreadable += int(batch.unreadable.sum())
        if self._alone:
            try:
                check_unreadable(self.unreadable, self._data.max_unreadable)
            except DataError:
                self.close()
                raise
        return batch

    def close(self) -> None:
        """Stops the worker processes."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def _start(self) -> Iterator[BatchBlock]:
        """The batches after those that have been given out."""
        rest = self._source.after(self._done)
        return iter(_pipeline(rest, self._load, self._batch_size, self._data.workers, self._data.prefetch))

    def _next_batch(self) -> Batch:
        while True:
            try:
                return unpack(next(self._batches))
            except RuntimeError as error:
                if "Worker process" not in str(error):
                    raise
                self._after_death(error)

    def _after_death(self, error: RuntimeError) -> None:
        self.close()
        if self.restarts >= self._data.max_restarts:
            raise RuntimeError(
                f"A loader process died ({error}) after {self.restarts} restarts, config.data.max_restarts = "
                f"{self._data.max_restarts}. Their memory may have run out: each of the {self._data.workers} holds "
                "config.data.prefetch batches. Lower config.data.workers or config.data.prefetch; with "
                "config.data.workers=0 images are read in the main process, where an error shows its place."
            ) from error
        self.restarts += 1
        logger.warning(
            "a loader process died at batch %d (%s): all are started again, for the %d. time of at most %d",
            self._done,
            error,
            self.restarts,
            self._data.max_restarts,
        )
        self._batches = self._start()


def check_unreadable(count: int, limit: int) -> None:
    """Raises DataError if more images than config.data.max_unreadable could not be read, on all hosts together."""
    if count > limit:
        raise DataError(
            f"{count} images could not be read, more than config.data.max_unreadable = {limit}. The warnings above "
            "name the files and the reasons. Mend them, or raise the limit."
        )


def prefetched(batches: Iterable[Any], put: Callable[[Any], Any], ahead: int = 1) -> Iterator[tuple[Any, Any]]:
    """Pairs of a batch and what `put` makes of it, put on the devices before it is asked for.

    Args:
        batches: of this host.
        put: starts the transfer to the devices and returns at once.
        ahead: batches on their way besides the one in use; each takes the devices' memory.
    """
    waiting: deque[tuple[Any, Any]] = deque()
    for batch in batches:
        waiting.append((batch, put(batch)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


class _Slot(NamedTuple):
    """One image of a batch and its position in the run, from which its randomness comes."""

    image: int
    shape: tuple[int, int]
    position: int


class _Slots:
    """Grain's source: slot r of this host, counted over all its batches."""

    def __init__(
        self,
        batch: Callable[[int], PlannedBatch],
        batch_size: int,
        local_size: int,
        process_index: int,
        start_step: int,
        num_steps: int,
    ):
        self.num_steps = num_steps
        self._batch = batch
        self._batch_size = batch_size
        self._local_size = local_size
        self._first_slot = process_index * local_size
        self._start_step = start_step

    def after(self, steps: int) -> "_Slots":
        """The slots of all steps but the first ones."""
        rest = copy.copy(self)
        rest._start_step += steps
        rest.num_steps -= steps
        return rest

    def __len__(self) -> int:
        return self.num_steps * self._local_size

    def __getitem__(self, record: int) -> _Slot:
        step = self._start_step + record // self._local_size
        slot = self._first_slot + record % self._local_size
        planned = self._batch(step)
        return _Slot(int(planned.indices[slot]), planned.shape, step * self._batch_size + slot)


def _load(
    slot: _Slot,
    annotations: Annotations,
    settings: ExampleSettings,
    seed: int | None,
    pasting: PasteSource | None = None,
) -> Batch:
    if slot.image < 0:
        return empty_example(slot.shape, settings)
    rng = None if seed is None else np.random.default_rng([seed, slot.position])
    return make_example(annotations, slot.image, slot.shape, settings, rng, pasting)


def _pipeline(source: _Slots, load: Callable[[_Slot], Batch], batch_size: int, workers: int, prefetch: int) -> Any:
    """A Grain dataset of batches. Worker processes are spawned: a fork after JAX has started would hang."""
    dataset = grain.MapDataset.source(source).map(load).batch(batch_size, batch_fn=stack)
    if workers == 0:
        # One thread reads ahead while the device computes: OpenCV lets go of Python's lock.
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain hands its flags to its workers, also where no absl program is running
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
    return dataset.mp_prefetch(options, worker_init_fn=_start_worker)


def _start_worker(worker: int, workers: int) -> None:
    cv2.setNumThreads(1)  # the workers already share the cores among them
    # Slurm sends it to every process of a job; the run, which saves and then ends its workers, still needs them.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker whose run was killed: it would wait for ever, with its memory."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@atexit.register
def _await_deletions() -> None:
    """Lets Grain release the last batches' shared memory, which Python would otherwise report as leaked.

    A thread of Grain's does that once nothing refers to the arrays; there is no public way to wait for it.
    """
    gc.collect()
    with contextlib.suppress(ImportError, AttributeError):  # private parts of Grain, without which all else works
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

        SharedMemoryArray._del_thread_pool.apply(int)
