"""From an image and its annotations to one training or test example."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from rog_jax.data.annotations import Annotations, Place
from rog_jax.data.batch import MASK_CROP, Batch
from rog_jax.data.copy_paste import PasteSource, paste, uncovered
from rog_jax.data.images import UnreadableImage, read_annotated
from rog_jax.data.photometric import distort
from rog_jax.data.segmentation import pack_masks
from rog_jax.data.shown import CELLS, Shown, shown_objects
from rog_jax.data.views import View, cropped_view, jittered_view, place_view, whole_view

logger = logging.getLogger(__name__)


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
        verified: length C of `Batch.verified`; 0 leaves it out.
        scale_jitter: smallest and largest scale of large-scale jitter, which then takes the place of `short_sides`.
        crop: probability of a random crop.
        crop_shares: smallest and largest share of each side that a crop leaves.
        photometric: probability of random light and colour.
        paste: probability that objects of another image are pasted.
        paste_objects: the most that are pasted.
    """

    short_sides: tuple[int, ...]
    test_short_side: int
    max_long_side: int
    flip: float
    max_objects: int
    masks: bool
    verified: int = 0
    scale_jitter: tuple[float, ...] = ()
    crop: float = 0.0
    crop_shares: tuple[float, ...] = (0.5, 1.0)
    photometric: float = 0.0
    paste: float = 0.0
    paste_objects: int = 0

    def __post_init__(self):
        """Raises ValueError where a setting has no meaning."""
        for name, pair, most in (("scale_jitter", self.scale_jitter, np.inf), ("crop_shares", self.crop_shares, 1.0)):
            if pair and not (len(pair) == 2 and 0 < pair[0] <= pair[1] <= most):
                raise ValueError(f"config.data.{name} is {pair}: it must be two numbers over 0, the smaller first")
        probabilities = {
            "flip": self.flip,
            "crop": self.crop,
            "photometric": self.photometric,
            "copy_paste.probability": self.paste,
        }
        for name, value in probabilities.items():
            if not 0 <= value <= 1:
                raise ValueError(f"config.data.{name} is {value}: it is a probability, from 0 to 1")
        if self.paste and self.paste_objects < 1:
            raise ValueError(f"config.data.copy_paste.max_objects is {self.paste_objects}: it must be 1 or more")

    @classmethod
    def training(cls, data: Any, masks: bool, num_classes: int) -> "ExampleSettings":
        """Those of config.data for images with their truth, of so many categories."""
        return cls(
            short_sides=tuple(data.short_sides),
            test_short_side=data.test_short_side,
            max_long_side=data.max_long_side,
            flip=data.flip,
            max_objects=data.max_objects,
            masks=masks,
            verified=num_classes if data.negatives else 0,
            scale_jitter=tuple(data.scale_jitter),
            crop=data.crop,
            crop_shares=tuple(data.crop_shares),
            photometric=data.photometric,
            paste=data.copy_paste.probability,
            paste_objects=data.copy_paste.max_objects,
        )

    @classmethod
    def testing(cls, data: Any) -> "ExampleSettings":
        """Those of config.data for images without their truth."""
        return cls(tuple(data.short_sides), data.test_short_side, data.max_long_side, 0.0, 0, False)


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
    pasting: PasteSource | None = None,
) -> Batch:
    """One image of a `Batch`: every field without its leading axis.

    An image that cannot be read gives an example of zeros that takes part in nothing; the reason is logged.

    Args:
        annotations: of the data set.
        image: place of the image in the annotations.
        shape: (height, width) of the padded image.
        settings: sizes, limits and probabilities.
        rng: draws whatever is random; None for the test scale without any of it.
        pasting: objects that may be pasted; None for none.

    Raises:
        ValueError: the resized image does not fit into `shape`.
    """
    view = choose_view(annotations, image, shape, settings, rng)
    if view.size[0] > shape[0] or view.size[1] > shape[1]:
        path = annotations.image_path(image)
        raise ValueError(f"{path}: {view.size} pixels do not fit into the padded shape {shape}")
    example = empty_example(shape, settings)
    if not _draw(example.image, annotations, image, view):
        return empty_example(shape, settings, unreadable=True)
    shown: list[Shown] = []
    if settings.max_objects:
        shown = shown_objects(annotations, annotations.training_objects(image), view, view.size)
    if rng is not None and pasting is not None and rng.random() < settings.paste:
        shown = _with_pasted(example.image, shown, annotations, view.size, settings, rng, pasting)
    if rng is not None and rng.random() < settings.photometric:
        area = example.image[: view.size[0], : view.size[1]]
        area[:] = distort(area, rng)
    kept = choose_objects(len(shown), settings.max_objects, rng)
    for slot, place in enumerate(kept):
        example.boxes[slot], example.labels[slot] = shown[place].box, shown[place].label
        if settings.masks and shown[place].sample is not None:
            example.masks[slot] = pack_masks(shown[place].sample(shown[place].box, CELLS)[None])[0]
    verified = annotations.verified_categories(image) if settings.verified else None
    if verified is not None:
        verified[[one.label for one in shown]] = True  # what is pasted is there
    return example._replace(
        image_size=np.array(view.size, np.float32),
        original_size=annotations.image_sizes[image].astype(np.int32),
        index=np.int32(image),
        dropped=np.int32(len(shown) - len(kept)),
        verified=verified,
    )


def choose_view(
    annotations: Annotations,
    image: Place,
    shape: tuple[int, int],
    settings: ExampleSettings,
    rng: np.random.Generator | None,
) -> View:
    """What an example shows of an image; for the arguments see `make_example`."""
    size = (int(annotations.image_sizes[image, 0]), int(annotations.image_sizes[image, 1]))
    if rng is None:
        return whole_view(size, settings.test_short_side, settings.max_long_side, flip=False)
    short_side = int(rng.choice(settings.short_sides))
    flip = bool(rng.random() < settings.flip)
    if settings.scale_jitter:
        return jittered_view(size, shape, settings.scale_jitter, flip, rng)
    view = whole_view(size, short_side, settings.max_long_side, flip)
    if settings.crop and rng.random() < settings.crop:
        objects = annotations.training_objects(image)
        anchor = annotations.boxes[rng.choice(objects)] if len(objects) else None
        return cropped_view(view, shape, settings.crop_shares, anchor, (short_side, settings.max_long_side), rng)
    return view


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
        verified=np.zeros(settings.verified, bool) if settings.verified else None,
    )


def choose_objects(count: int, limit: int, rng: np.random.Generator | None) -> Int64[np.ndarray, "K"]:
    """Which of `count` objects stay where at most `limit` may: a random choice, rising; the first without `rng`."""
    if count <= limit or rng is None:
        return np.arange(min(count, limit))
    return np.sort(rng.choice(count, limit, replace=False))


def _draw(canvas: np.ndarray, annotations: Annotations, image: Place, view: View) -> bool:
    """Writes what a view shows to the canvas; False, and a word in the log, where the image cannot be read."""
    height, width = annotations.image_sizes[image].tolist()
    whole = view.window == (0, 0, width, height)
    try:
        place_view(canvas, read_annotated(annotations, image, view.size if whole else None), view, whole)
    except UnreadableImage as error:
        _report_unreadable(str(annotations.image_path(image)), str(error))
        return False
    return True


def _with_pasted(
    canvas: np.ndarray,
    shown: list[Shown],
    annotations: Annotations,
    area: tuple[int, int],
    settings: ExampleSettings,
    rng: np.random.Generator,
    pasting: PasteSource,
) -> list[Shown]:
    """The objects after others have been pasted onto the canvas; as they were where the other image is unreadable."""
    drawn = pasting.draw(annotations, settings.paste_objects, rng)
    if drawn is None:
        return shown
    image, objects = drawn
    # The other image may have another aspect ratio than this example's shape.
    view = fitted(choose_view(annotations, image, canvas.shape[:2], settings, rng), canvas.shape[:2])
    other = np.zeros_like(canvas)
    if not _draw(other, annotations, image, view):
        return shown
    pasted = shown_objects(annotations, objects, view, area)
    return uncovered(shown, paste(canvas, other, pasted)) + pasted


def fitted(view: View, shape: tuple[int, int]) -> View:
    """A view that fits into a shape (height, width), scaled down where it has to be."""
    scale = min(1.0, shape[0] / view.size[0], shape[1] / view.size[1])
    return view._replace(size=(max(1, int(view.size[0] * scale)), max(1, int(view.size[1] * scale))))


@functools.cache
def _report_unreadable(path: str, reason: str) -> None:
    """Warns once per file and process: an image recurs in every epoch."""
    logger.warning("%s is left out: %s", path, reason)
