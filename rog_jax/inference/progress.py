"""Detections on a few validation images at each checkpoint of a run, drawn beside the truth."""

import logging

import jax
import numpy as np
from ml_collections import ConfigDict

from rog_jax.data import Annotations, load_split
from rog_jax.data.batch import Batch, Detections
from rog_jax.data.block import stack, unpack
from rog_jax.data.images import UnreadableImage, read_annotated
from rog_jax.data.plan import padded_shapes
from rog_jax.data.sources import VAL
from rog_jax.data.transforms import ExampleSettings, empty_example, make_example
from rog_jax.evaluation.drawing import draw_comparison
from rog_jax.evaluation.inference import local_rows
from rog_jax.evaluation.pictures import FEWEST_PREDICTIONS, choose_images, truths
from rog_jax.evaluation.results import to_original
from rog_jax.inference.categories import categories_of
from rog_jax.inference.predictions import Predictions
from rog_jax.inference.predictor import scores_of
from rog_jax.training.config import check_config
from rog_jax.training.state import data_mesh
from rog_jax.training.step import make_predict_step, to_devices
from rog_jax.training.watchers import Checkpointed

logger = logging.getLogger(__name__)


class ProgressPictures:
    """Shows the same images at each checkpoint, half of them, where there are so many, with rare categories.

    All are of one padded shape, so that one program is compiled for them; it runs on all devices, and takes the time of
    one batch of evaluation a checkpoint.

    Args:
        config: of the run; `train.pictures` says how many, at most those of `test.batch_size` on the first host.

    Raises:
        DataError: the validation data is not what the config says.
        ValueError: a setting has no meaning.
    """

    def __init__(self, config: ConfigDict):
        check_config(config, data_mesh().size)
        self._data, self._test = config.data, config.test
        self._annotations = load_split(config.data, VAL)
        self._categories = categories_of(self._annotations)
        local = config.test.batch_size // jax.process_count()
        if config.train.pictures > local:
            logger.warning(
                "config.train.pictures=%d: only %d images are shown, those of config.test.batch_size=%d on the first "
                "host of %d",
                *(config.train.pictures, local, config.test.batch_size, jax.process_count()),
            )
        self._images, self._shape = _of_one_shape(self._annotations, config, min(config.train.pictures, local))
        self._batch = self._local_batch(local)
        self._predict = None

    def __call__(self, run: Checkpointed) -> None:
        """Runs the detector, and shows what it found where the run has a board."""
        if self._predict is None:
            self._predict = make_predict_step(
                run.definition, run.mesh, scores_of(run.definition, run.definition.config)
            )
        found = self._predict(run.state, to_devices(self._batch, run.mesh))
        if run.board is None:
            return
        found = Detections(*(None if array is None else local_rows(array) for array in found))
        for row, image in enumerate(self._images):
            picture = self._drawn(image, found, row)
            if picture is not None:
                run.board.picture(run.step, f"pictures/{self._annotations.image_ids[image]}", picture)

    def _local_batch(self, size: int) -> Batch:
        """The images, on the first host, and as many empty ones as a batch lacks."""
        settings = ExampleSettings.testing(self._data)
        shown = self._images if jax.process_index() == 0 else []
        rows = [make_example(self._annotations, image, self._shape, settings) for image in shown]
        rows += [empty_example(self._shape, settings)] * (size - len(rows))
        return unpack(stack(rows))

    def _drawn(self, image: int, found: Detections, row: int) -> np.ndarray | None:
        annotations = self._annotations
        try:
            pixels = read_annotated(annotations, image)
        except UnreadableImage:  # reading the batch has warned of it
            return None
        truth = truths(annotations, image)
        arrays = (None if array is None else array[row] for array in found)
        sizes = self._batch.image_size[row], self._batch.original_size[row]
        most = max(len(truth.labels), FEWEST_PREDICTIONS)
        image, categories = to_original(*arrays, *sizes), self._categories
        best = Predictions.of(image, categories, pixels.shape[:2], self._test.mask_threshold).best(most)
        return draw_comparison(pixels, truth, best.objects(), categories.names, categories.rare)


def _of_one_shape(annotations: Annotations, config: ConfigDict, count: int) -> tuple[list[int], tuple[int, int]]:
    """Images to show, of the padded shape that most have."""
    everything = np.arange(annotations.num_images)
    shapes = padded_shapes(annotations, everything, config.data.test_short_side, config.data)
    most = int(np.bincount(shapes).argmax())
    return choose_images(annotations, count, among=shapes == most), tuple(config.data.shapes[most])
