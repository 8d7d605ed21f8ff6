"""A detector for pictures of any size, compiled once for each of a few padded shapes."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from rog_jax.data.batch import Batch, Detections
from rog_jax.data.images import UnreadableImage, read_picture
from rog_jax.data.transforms import ExampleSettings, empty_example, smallest_shape
from rog_jax.data.views import View, place_view, whole_view
from rog_jax.evaluation.drawing import draw_objects
from rog_jax.evaluation.norcal import score_function
from rog_jax.evaluation.results import to_original
from rog_jax.inference.loading import Loaded, load
from rog_jax.inference.predictions import Predictions
from rog_jax.models.detector import ScoreFunction
from rog_jax.training.checkpoint import CheckpointError
from rog_jax.training.out_of_memory import INFERENCE_ADVICE, advice_where_memory_ends
from rog_jax.training.state import ModelDefinition, data_mesh
from rog_jax.training.step import make_predict_step, to_devices

logger = logging.getLogger(__name__)

_READ_AHEAD = 8
"""Pictures that are read while the devices work."""


class _Example(NamedTuple):
    """A picture ready for a batch: its key, one image of a `Batch`."""

    key: Any
    batch: Batch


class Predictor:
    """Runs a detector on pictures.

    Detections on a file are those of `eval.py` for the same picture, from a batch of the same size, to the last bit; in
    batches of another size the order in which a device adds may differ. (Large JPEG files are decoded at a part of
    their size where that suffices, which an array cannot be.)

    Attributes:
        categories: what the labels mean.
        config: that of the run, with the overrides.
        batch_size: pictures at once, over all devices.
    """

    def __init__(self, loaded: Loaded):
        model, self.categories = loaded
        self.config, self.batch_size = model.config, model.config.test.batch_size
        self._settings = ExampleSettings.testing(self.config.data)
        self._state, self._mesh = model.state, data_mesh()
        self._predict = make_predict_step(model.definition, self._mesh, scores_of(model.definition, self.config))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        step: int | None = None,
        batch_size: int | None = None,
        names: str | Path | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> "Predictor":
        """The detector of a run (`--workdir` of train.py), of one of its checkpoints, or of imported weights.

        Args:
            path: `runs/r50`, `runs/r50/best`, `runs/r50/checkpoints/90000`, or a folder of
                `rog_jax.tools.import_weights`.
            step: of the checkpoint; the newest if None.
            batch_size: pictures at once, a multiple of the number of devices, which is the default.
            names: a json with the categories; by default those of training, or COCO's.
            overrides: settings by path, such as {"test.max_detections": 100}, in place of those of training or of the
                weights' own project.

        Raises:
            CheckpointError: there is no such checkpoint, or it does not fit the overrides.
            DataError: the file of the names is not what it should be.
            ValueError: an override or the batch size has no meaning.
        """
        return cls(load(path, step, jax.device_count() if batch_size is None else batch_size, names, overrides))

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> Predictions | list[Predictions]:
        """Detections on a picture, uint8 [H, W, 3] in RGB, or on each of several, of any sizes.

        Raises:
            ValueError: a picture has another type or shape.
            OutOfMemory: a device's memory is too small; says which settings help.
        """
        several = [images] if isinstance(images, np.ndarray) else images
        found = dict(self._run(self._example(place, *_checked(image)) for place, image in enumerate(several)))
        return found[0] if isinstance(images, np.ndarray) else [found[place] for place in range(len(several))]

    def predict_files(self, paths: Iterable[str | Path]) -> Iterator[tuple[Path, Predictions]]:
        """Detections on picture files, as they become ready: pictures of one padded shape come in their order.

        A file that is no readable picture is left out with a warning. Memory does not grow with their number.

        Raises:
            OutOfMemory: a device's memory is too small; says which settings help.
        """
        return self._run(self._read(map(Path, paths)))

    def predict_file(self, path: str | Path) -> Predictions:
        """Detections on one picture file.

        Raises:
            UnreadableImage: no such file, no picture, or one cut short.
            OutOfMemory: a device's memory is too small; says which settings help.
        """
        return next(self._run([self._example_of_file(Path(path))]))[1]

    def draw(
        self, image: UInt8[np.ndarray, "H W 3"], predictions: Predictions, most: int = 20, least_score: float = 0.0
    ) -> UInt8[np.ndarray, "H1 W1 3"]:
        """The picture, enlarged if it is small, with the best detections; rare categories have a thick box.

        The best rather than those over a score: scores mean another thing with each loss.
        """
        best = predictions.best(most, least_score)
        return draw_objects(image, best.objects(), self.categories.names, self.categories.rare)

    def _read(self, paths: Iterator[Path]) -> Iterator[_Example]:
        with ThreadPoolExecutor(2) as threads:
            waiting = deque(threads.submit(self._example_of_file, path) for path in islice(paths, _READ_AHEAD))
            while waiting:
                started = waiting.popleft()
                waiting.extend(threads.submit(self._example_of_file, path) for path in islice(paths, 1))
                try:
                    yield started.result()
                except UnreadableImage as error:
                    logger.warning("left out: %s", error)

    def _example_of_file(self, path: Path) -> _Example:
        try:
            pixels, size = read_picture(path, lambda size: self._view(size)[0].size)
        except UnreadableImage as error:
            raise UnreadableImage(f"{path}: {error}") from error
        return self._example(path, pixels, size)

    def _example(self, key: Any, pixels: np.ndarray, size: tuple[int, int]) -> _Example:
        view, shape = self._view(size)
        example = empty_example(shape, self._settings)
        place_view(example.image, pixels, view, whole=True)
        sizes = np.array(view.size, np.float32), np.array(size, np.int32)
        return _Example(key, example._replace(image_size=sizes[0], original_size=sizes[1], index=np.int32(0)))

    def _view(self, size: tuple[int, int]) -> tuple[View, tuple[int, int]]:
        """How a picture of this (height, width) is shown, and in which padded shape.

        Of one that fits into no shape at the size of the tests, as much is shown as the best shape holds.
        """
        data = self.config.data
        view = whole_view(size, data.test_short_side, data.max_long_side, flip=False)
        place = smallest_shape(view.size, data.shapes)
        if place is not None:
            return view, tuple(data.shapes[place])
        scales = [min(height / view.size[0], width / view.size[1]) for height, width in data.shapes]
        best = int(np.argmax(scales))
        sides = [max(1, int(side * scales[best])) for side in view.size]
        return view._replace(size=(sides[0], sides[1])), tuple(data.shapes[best])

    @advice_where_memory_ends(INFERENCE_ADVICE)
    def _start(self, examples: list[_Example]) -> tuple[list[_Example], Detections]:
        """Detections on their way, and the pictures they are of."""
        rows = [example.batch for example in examples]
        shape = rows[0].image.shape[:2]
        rows += [empty_example(shape, self._settings)] * (self.batch_size - len(rows))
        batch = Batch(*(None if field[0] is None else np.stack(field) for field in zip(*rows, strict=True)))
        without_pixels = [example._replace(batch=example.batch._replace(image=None)) for example in examples]
        return without_pixels, self._predict(self._state, to_devices(batch, self._mesh))

    def _run(self, examples: Iterable[_Example]) -> Iterator[tuple[Any, Predictions]]:
        """Each key with its detections; the devices get a batch before the one before it is taken from them."""
        waiting = None
        for batch in self._batches(examples):
            started = self._start(batch)
            if waiting is not None:
                yield from self._finish(*waiting)
            waiting = started
        if waiting is not None:
            yield from self._finish(*waiting)

    def _batches(self, examples: Iterable[_Example]) -> Iterator[list[_Example]]:
        """Examples of one padded shape each, `batch_size` of them as long as there are so many."""
        of_shape: dict[tuple[int, ...], list[_Example]] = {}
        for example in examples:
            batch = of_shape.setdefault(example.batch.image.shape, [])
            batch.append(example)
            if len(batch) == self.batch_size:
                yield of_shape.pop(example.batch.image.shape)
        yield from of_shape.values()

    @advice_where_memory_ends(INFERENCE_ADVICE)
    def _taken(self, detections: Detections) -> Detections:
        return jax.device_get(detections)

    def _finish(self, examples: list[_Example], detections: Detections) -> Iterator[tuple[Any, Predictions]]:
        detections = self._taken(detections)
        for row, (key, batch) in enumerate(examples):
            found = (None if array is None else array[row] for array in detections)
            image = to_original(*found, batch.image_size, batch.original_size)
            size = tuple(batch.original_size.tolist())
            yield key, Predictions.of(image, self.categories, size, self.config.test.mask_threshold)


def _checked(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture and its size."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"a picture must be uint8 [height, width, 3] in RGB, got {found}; predict_file reads "
            "files, and turns them as their EXIF says"
        )
    if 0 in image.shape:
        raise ValueError(f"a picture without pixels: {list(image.shape)}")
    return image, image.shape[:2]


def scores_of(definition: ModelDefinition, config: ConfigDict) -> ScoreFunction | None:
    """NorCal's scores where the config asks for them, None for the loss's own.

    Raises:
        CheckpointError: the detector does not know the training images of each category.
    """
    norcal = config.test.norcal
    if norcal.gamma and definition.statistics is None:
        raise CheckpointError(
            "config.test.norcal.gamma needs the training images of each category, which imported weights do not have: "
            "set it to 0"
        )
    counts = np.asarray(definition.statistics.image_counts, np.int64) if norcal.gamma else None
    return score_function(definition.loss, counts, norcal)
