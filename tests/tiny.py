"""A detector small enough to compile in seconds, and batches for it."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import common
from rog_jax.data.batch import Batch
from rog_jax.data.synthetic import SyntheticSettings, make_dataset

NUM_CLASSES = 5
SHAPE = (64, 64)
SHAPES = (SHAPE, (64, 96))


def tiny_config() -> ConfigDict:
    """A ResNet-18 with 8 channels on images of 64x64 pixels."""
    return make_tiny(common.get_config())


def make_tiny(config: ConfigDict) -> ConfigDict:
    """Gives any recipe the sizes of `tiny_config`; returns it."""
    config.data.shapes = (SHAPE,)
    config.data.short_sides = (56, 64)
    config.data.max_long_side = 64
    config.data.test_short_side = 64
    config.data.min_image_side = 16
    config.data.max_objects = 6
    config.data.workers = 0
    config.sampler.name = "random"
    config.model.num_classes = NUM_CLASSES
    config.model.depth = 18
    config.model.width = 8
    config.model.norm = "group"
    config.model.frozen_stages = -1
    config.model.fpn_channels = 8
    config.model.dtype = "float32"
    config.rpn.anchor_scale = 4.0
    config.rpn.samples = 32
    config.rpn.train_pre_nms = 40
    config.rpn.train_proposals = 24
    config.rpn.test_pre_nms = 40
    config.rpn.test_proposals = 24
    config.roi.samples = 16
    config.roi.hidden = 16
    config.roi.mask_pool = 7
    config.roi.mask_channels = 8
    config.roi.mask_convs = 1
    config.optim.lr_batch_size = 8
    config.optim.warmup_steps = 4
    config.optim.milestone_unit = "steps"
    config.optim.milestones = (100,)
    config.train.batch_size = 8
    config.train.steps = 6
    config.train.log_every = 2
    config.train.checkpoint_every = 3
    config.test.batch_size = 8
    config.test.pre_nms = 60
    config.test.max_detections = 10
    config.test.pictures = 2
    return config


def config_of_a_set(folder: Path) -> tuple[ConfigDict, dict[str, Path]]:
    """The tiny detector, with the padded shapes `SHAPES`, for a small procedural set; the set's paths."""
    settings = SyntheticSettings(
        train_images=40, val_images=12, num_categories=6, height=64, width=64, object_size=(16, 32), val_instances=3
    )
    paths = make_dataset(folder, settings)
    config = tiny_config()
    config.model.num_classes = 0
    config.data.shapes, config.data.max_long_side = SHAPES, 96
    config.data.train_json, config.data.val_json = str(paths["train_json"]), str(paths["val_json"])
    config.data.train_images = config.data.val_images = str(paths["images"])
    return config, paths


def random_batch(seed: int, size: int = 8, objects: int = 6, masks: bool = True, verified: bool = False) -> Batch:
    """Noise with boxes on it; the last image is a padding image, one has no object.

    With `verified`, the batch says of each image's own categories and of some others that they are verified.
    """
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 36, (size, objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 28, corner.shape)], axis=-1)
    labels = rng.integers(0, NUM_CLASSES, (size, objects))
    labels[:, 4:] = -1
    labels[1] = -1
    index = np.arange(size) + 100 * seed
    index[-1] = -1
    # Left parts of boxes, not noise: its means lie all at the threshold of the mask targets, where rounding decides.
    filled = np.where(np.arange(14) < rng.integers(1, 14, (size, objects, 1, 1)), 255, 0)
    packed = np.broadcast_to(filled, (size, objects, 112, 14)) if masks else np.zeros((size, objects, 0, 0))
    return Batch(
        image=rng.integers(0, 256, (size, *SHAPE, 3)).astype(np.uint8),
        image_size=np.tile(np.float32([[56, 64]]), (size, 1)),
        original_size=np.tile(np.int32([[112, 128]]), (size, 1)),
        index=index.astype(np.int32),
        boxes=boxes.astype(np.float32),
        labels=labels.astype(np.int32),
        masks=packed.astype(np.uint8),
        dropped=np.zeros(size, np.int32),
        unreadable=np.zeros(size, np.int32),
        verified=_verified(rng, labels) if verified else None,
    )


def _verified(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    looked_for = rng.random((len(labels), NUM_CLASSES)) < 0.4
    image, slot = np.nonzero(labels >= 0)
    looked_for[image, labels[image, slot]] = True
    return looked_for
