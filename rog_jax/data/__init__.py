"""From annotation files and images to batches."""

from rog_jax.data.annotations import Annotations, DataError, check_categories, check_masks, check_num_classes
from rog_jax.data.batch import Batch, Detections
from rog_jax.data.lvis import load_coco, load_lvis
from rog_jax.data.openimages import load_openimages
from rog_jax.data.samplers import epoch_indices, repeat_factors
from rog_jax.data.sources import load_split
from rog_jax.data.statistics import ClassStatistics
from rog_jax.data.tfds import load_tfds

__all__ = [
    "Annotations",
    "Batch",
    "ClassStatistics",
    "DataError",
    "Detections",
    "check_categories",
    "check_masks",
    "check_num_classes",
    "epoch_indices",
    "load_coco",
    "load_lvis",
    "load_openimages",
    "load_split",
    "load_tfds",
    "repeat_factors",
]
