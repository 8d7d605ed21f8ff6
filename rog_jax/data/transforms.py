"""From an image and its annotations to one training or test example: resize, flip, pad, crop the masks."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from rog_jax.data.annotations import Annotations, Place
from rog_jax.data.batch import MASK_CROP, Batch
from rog_jax.data.images import UnreadableImage, cv2, read_annotated
from rog_jax.data.segmentation import crop_mask, pack_masks

logger = logging.getLogger(__name__)

MIN_SIDE = 1.0
"""Objects that resizing leaves thinner are dropped, in pixels of the padded image."""


@dataclass(frozen=True)
class ExampleSettings:
    """How an image becomes an example; the fields are those of config.data, and config.model.masks.

    Attributes:
        short_sides: the short side in training is one of these, in pixels.
        test_short_side: the short side in tests, in pixels.
        max_long_side: the long side is at most this, in pixels.
        flip: probability of a horizontal flip in training.
        max_objects: length of the object axis; more objects are left out at random.
        masks: whether examples hold masks.
    """

    short_sides: tuple[int, ...]
    test_short_side: int
    max_long_side: int
    flip: float
    max_objects: int
    masks: bool

    @classmethod
    def training(cls, data: Any, masks: bool) -> "ExampleSettings":
        """Those of config.data for images with their truth."""
        return cls(
            tuple(data.short_sides), data.test_short_side, data.max_long_side, data.flip, data.max_objects, masks
        )

    @classmethod
    def testing(cls, data: Any) -> "ExampleSettings":
        """Those of config.data for images without their truth."""
        return cls(tuple(data.short_sides), data.test_short_side, data.max_long_side, 0.0, 0, False)


def resized_size(size: Sequence[int] | np.ndarray, short_side: int, max_long_side: int) -> tuple[int, int]:
    """(height, width) after scaling the short side to `short_side`, or to less where the long side is at its limit."""
    height, width = int(size[0]), int(size[1])
    scale = min(short_side / min(height, width), max_long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def smallest_shape(size: tuple[int, int], shapes: Sequence[Sequence[int]]) -> int | None:
    """Place of the smallest of `shapes` (height, width) that holds an image of `size`; None where none does."""
    fitting = [i for i, (height, width) in enumerate(shapes) if height >= size[0] and width >= size[1]]
    return min(fitting, key=lambda i: shapes[i][0] * shapes[i][1], default=None)


def make_example(
    annotations: Annotations,
    image: Place,
    shape: tuple[int, int],
    settings: ExampleSettings,
    rng: np.random.Generator | None = None,
) -> Batch:
    """One image of a `Batch`: every field without its leading axis.

    An image that cannot be read gives an example of zeros that takes part in nothing; the reason is logged.

    Args:
        annotations: of the data set.
        image: place of the image in the annotations.
        shape: (height, width) of the padded image.
        settings: sizes and limits.
        rng: draws scale, flip and the choice among too many objects; None for the test scale without a flip.

    Raises:
        ValueError: the resized image does not fit into `shape`.
    """
    short_side = settings.test_short_side if rng is None else int(rng.choice(settings.short_sides))
    flip = rng is not None and rng.random() < settings.flip
    size = tuple(int(side) for side in annotations.image_sizes[image])
    resized = resized_size(size, short_side, settings.max_long_side)
    if resized[0] > shape[0] or resized[1] > shape[1]:
        raise ValueError(f"{annotations.image_path(image)}: {resized} pixels do not fit into the padded shape {shape}")
    try:
        pixels = read_annotated(annotations, image)
    except UnreadableImage as error:
        _report_unreadable(annotations.image_path(image), str(error))
        return empty_example(shape, settings, unreadable=True)
    objects, boxes = resized_boxes(annotations, image, resized) if settings.max_objects else _no_objects()
    kept = choose_objects(len(objects), settings.max_objects, rng)
    example = empty_example(shape, settings)
    place_image(example.image, pixels, resized, flip)
    example.boxes[: len(kept)] = flip_boxes(boxes[kept], resized[1]) if flip else boxes[kept]
    example.labels[: len(kept)] = annotations.labels[objects[kept]]
    if settings.masks:
        fill_masks(example.masks, annotations, objects[kept], flip)
    return example._replace(
        image_size=np.array(resized, np.float32),
        original_size=np.array(size, np.int32),
        index=np.int32(image),
        dropped=np.int32(len(objects) - len(kept)),
    )


def empty_example(shape: tuple[int, int], settings: ExampleSettings, unreadable: bool = False) -> Batch:
    """An example without image and objects, index -1; its sizes are the padded shape, so that nothing divides by 0."""
    crops = (MASK_CROP, MASK_CROP // 8) if settings.masks else (0, 0)
    return Batch(
        image=np.zeros((*shape, 3), np.uint8),
        image_size=np.array(shape, np.float32),
        original_size=np.array(shape, np.int32),
        index=np.int32(-1),
        boxes=np.zeros((settings.max_objects, 4), np.float32),
        labels=np.full(settings.max_objects, -1, np.int32),
        masks=np.zeros((settings.max_objects, *crops), np.uint8),
        dropped=np.int32(0),
        unreadable=np.int32(unreadable),
    )


def resized_boxes(
    annotations: Annotations, image: Place, resized: tuple[int, int]
) -> tuple[Int64[np.ndarray, "G"], Float32[np.ndarray, "G 4"]]:
    """The training objects of an image and their boxes in the resized image, without those thinner than a pixel."""
    objects = annotations.training_objects(image)
    height, width = resized / annotations.image_sizes[image]
    boxes = (annotations.boxes[objects] * [width, height, width, height]).astype(np.float32)
    solid = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
    return objects[solid], boxes[solid]


def choose_objects(count: int, limit: int, rng: np.random.Generator | None) -> Int64[np.ndarray, "K"]:
    """Which of `count` objects stay where at most `limit` may: a random choice, rising; the first without `rng`."""
    if count <= limit or rng is None:
        return np.arange(min(count, limit))
    return np.sort(rng.choice(count, limit, replace=False))


def flip_boxes(boxes: Float32[np.ndarray, "G 4"], width: int) -> Float32[np.ndarray, "G 4"]:
    """Boxes of an image of `width` pixels after a horizontal flip."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def place_image(
    canvas: UInt8[np.ndarray, "H W 3"], pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], flip: bool
) -> None:
    """Resizes an image to `size` (height, width), flips it if asked, and writes it to the canvas' upper left corner."""
    if pixels.shape[:2] != size:
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    canvas[: size[0], : size[1]] = pixels[:, ::-1] if flip else pixels


def fill_masks(
    packed: UInt8[np.ndarray, "G 112 14"], annotations: Annotations, objects: Int64[np.ndarray, "K"], flip: bool
) -> None:
    """Writes the masks of K <= G objects, each resampled inside its box and packed along x."""
    for slot, obj in enumerate(objects):
        segmentation = annotations.segmentation(int(obj))
        if segmentation is None:
            continue
        mask = crop_mask(segmentation, annotations.boxes[obj])
        packed[slot] = pack_masks((mask[:, ::-1] if flip else mask)[None])[0]


@functools.cache
def _report_unreadable(path: Path, reason: str) -> None:
    """Warns once per file and process: an image recurs in every epoch."""
    logger.warning("%s is left out: %s", path, reason)


def _no_objects() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
