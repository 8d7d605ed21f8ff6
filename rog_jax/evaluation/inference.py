"""A compiled detector over a data set: batches in, results files out."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from rog_jax.data.annotations import Annotations
from rog_jax.data.batch import Batch, Detections
from rog_jax.evaluation.results import (
    ImageDetections,
    ResultWriter,
    box_records,
    mask_records,
    merge_shards,
    to_original,
)
from rog_jax.training.storage import whole_file

logger = logging.getLogger(__name__)


class ResultPaths(NamedTuple):
    """The results files of a data set, None where there are no boxes or no masks."""

    bbox: Path | None
    segm: Path | None


def run_inference(
    predict: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    annotations: Annotations,
    out_dir: str | Path,
    *,
    process_index: int = 0,
    process_count: int = 1,
    mask_threshold: float = 0.5,
    progress: bool = True,
    barrier: Callable[[str], None] = multihost_utils.sync_global_devices,
) -> ResultPaths:
    """Writes the detections of a data set as `results_bbox.json` and `results_segm.json` into `out_dir`.

    While the device works on a batch, the host pastes and writes the one before it. Every image is written once,
    however often the batches bring it; rows with index -1 are skipped.

    Args:
        predict: a compiled function of this host's part of a batch; it returns before its result is there. What it
            returns may be arrays over all hosts' devices, whose rows on this host are those of the batch.
        batches: this host's batches, as many on every host.
        annotations: the data set that `Batch.index` points into.
        out_dir: made if not there; with several hosts, a folder that all of them see.
        process_index: of this host.
        process_count: number of hosts.
        mask_threshold: a pixel belongs to a mask from this probability on.
        progress: show a bar with images a second.
        barrier: waits until all hosts have called it with the same name; called only with more hosts than one.

    Returns:
        The paths of the joined files, on every host, once the first host has written them.

    Raises:
        ValueError: there is no batch.
    """
    options = {"process_index": process_index, "process_count": process_count, "progress": progress}
    recorder = _Recorder(annotations, [Path(out_dir)], mask_threshold, process_index, process_count)
    (paths,) = _run(predict, batches, recorder, **options, barrier=barrier)
    return paths


def run_sweep_inference(
    predict: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    annotations: Annotations,
    out_dirs: Sequence[str | Path],
    *,
    process_index: int = 0,
    process_count: int = 1,
    mask_threshold: float = 0.5,
    progress: bool = True,
    barrier: Callable[[str], None] = multihost_utils.sync_global_devices,
) -> list[ResultPaths]:
    """The same for a detector that gives several sets of detections an image, each of which gets a folder of its own.

    Args:
        predict: as for `run_inference`, but the arrays have the sets as their second axis.
        out_dirs: one folder a set.

    The other arguments are those of `run_inference`.

    Returns:
        The paths of the joined files of each set.

    Raises:
        ValueError: there is no batch.
    """
    options = {"process_index": process_index, "process_count": process_count, "progress": progress}
    folders = [Path(folder) for folder in out_dirs]
    recorder = _Recorder(annotations, folders, mask_threshold, process_index, process_count, swept=True)
    return _run(predict, batches, recorder, **options, barrier=barrier)


def _run(
    predict: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    recorder: "_Recorder",
    *,
    process_index: int,
    process_count: int,
    progress: bool,
    barrier: Callable[[str], None],
) -> list[ResultPaths]:
    results = _one_behind(predict, batches)
    first = next(results, None)
    if first is None:
        raise ValueError("There is no batch to run the detector on: is the data set empty?")
    kinds = ("bbox",) if first[1].masks is None else ("bbox", "segm")
    with contextlib.ExitStack() as stack:
        recorder.open(kinds, stack)
        total = -(-len(recorder.image_ids) // process_count)
        bar = stack.enter_context(tqdm(total=total, unit="image", desc="inference", disable=not progress))
        bar.update(recorder.write(*first))
        del first  # or its masks would stay to the end
        for batch, detections in results:
            bar.update(recorder.write(batch, detections))
    recorder.report_unreadable()
    return _join(recorder, kinds, process_index, process_count, barrier)


def _one_behind(predict: Callable[[Batch], Detections], batches: Iterable[Batch]) -> Iterator[tuple[Batch, Detections]]:
    """Each batch, without its pixels, with its detections, once the device has been given the batch after it."""
    waiting = None
    for batch in batches:
        started = batch._replace(image=None, boxes=None, labels=None, masks=None), predict(batch)
        if waiting is not None:
            yield waiting
        waiting = started
    if waiting is not None:
        yield waiting


def _join(
    recorder: "_Recorder",
    kinds: tuple[str, ...],
    process_index: int,
    process_count: int,
    barrier: Callable[[str], None],
) -> list[ResultPaths]:
    folders = recorder.folders
    if process_count > 1:
        recorder.save_written()
        barrier("results written")
    if process_index == 0:
        for folder, kind in itertools.product(folders, kinds):
            merge_shards(folder, kind, process_count)
        recorder.report_missing()
    if process_count > 1:
        barrier("results joined")
    return [
        ResultPaths(folder / "results_bbox.json", folder / "results_segm.json" if "segm" in kinds else None)
        for folder in folders
    ]


class _Recorder:
    """Writes the images of a batch, each once, and counts them."""

    def __init__(
        self,
        annotations: Annotations,
        folders: Sequence[Path],
        mask_threshold: float,
        process_index: int,
        process_count: int,
        swept: bool = False,
    ):
        self.image_ids, self.category_ids = annotations.image_ids, annotations.category_ids
        self.folders, self.mask_threshold, self.swept = folders, mask_threshold, swept
        self.process_index, self.process_count = process_index, process_count
        self.written = np.zeros(len(annotations.image_ids), bool)
        self.unreadable = 0
        self.writers: list[dict[str, ResultWriter]] = []

    def open(self, kinds: tuple[str, ...], stack: contextlib.ExitStack) -> None:
        """Opens a file of each kind in each folder."""
        place = self.process_index, self.process_count
        self.writers = [
            {kind: stack.enter_context(ResultWriter(folder, kind, *place)) for kind in kinds} for folder in self.folders
        ]

    def write(self, batch: Batch, detections: Detections) -> int:
        """Waits for the detections and writes them; returns the number of new images."""
        boxes, scores, labels, masks = (None if array is None else self._sets(array) for array in detections)
        self.unreadable += int(np.sum(batch.unreadable))
        new = 0
        for row, index in enumerate(np.asarray(batch.index).tolist()):
            if index < 0 or self.written[index]:
                continue
            self.written[index] = True
            new += 1
            original_size = np.asarray(batch.original_size[row])
            size = np.asarray(batch.image_size[row])
            for place, writers in enumerate(self.writers):
                row_masks = None if masks is None else masks[row, place]
                found = boxes[row, place], scores[row, place], labels[row, place], row_masks
                self._write(writers, to_original(*found, size, original_size), index, original_size)
        return new

    def _sets(self, array: jax.Array | np.ndarray) -> np.ndarray:
        """The rows on this host, with the sets of detections as the second axis."""
        rows = local_rows(array)
        return rows if self.swept else rows[:, None]

    def _write(
        self, writers: dict[str, ResultWriter], image: ImageDetections, index: int, original_size: np.ndarray
    ) -> None:
        image_id = int(self.image_ids[index])
        writers["bbox"].write(box_records(image, image_id, self.category_ids))
        if image.masks is not None:
            records = mask_records(image, image_id, self.category_ids, original_size, self.mask_threshold)
            writers["segm"].write(records)

    def report_unreadable(self) -> None:
        if self.unreadable:
            logger.warning("%d images could not be read and have no detections.", self.unreadable)

    def save_written(self) -> None:
        """Leaves a note for the first host of the images that this one has written."""
        with whole_file(self._note(self.process_index)) as partial, partial.open("wb") as file:
            np.save(file, self.written)

    def report_missing(self) -> None:
        """Says which images no host has written, by all hosts' notes: they count as images without a detection."""
        if self.process_count > 1:
            notes = [self._note(host) for host in range(self.process_count)]
            self.written = np.any([np.load(note) for note in notes], axis=0)
            for note in notes:
                note.unlink()
        missing = np.flatnonzero(~self.written)
        if missing.size:
            some = ", ".join(str(image_id) for image_id in self.image_ids[missing[:5]])
            logger.warning("%d of %d images have no results (ids %s ...).", missing.size, self.written.size, some)

    def _note(self, host: int) -> Path:
        return self.folders[0] / f"written.shard-{host:05d}-of-{self.process_count:05d}.npy"


def local_rows(array: jax.Array | np.ndarray) -> np.ndarray:
    """The rows of a batch array that lie on this host's devices."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable:
        return np.asarray(array)
    return _joined(array.addressable_shards)


def _joined(shards: list[jax.Shard]) -> np.ndarray:
    """Shards along the first axis, in the order of their rows."""
    return np.concatenate([np.asarray(shard.data) for shard in sorted(shards, key=lambda shard: shard.index[0].start)])
