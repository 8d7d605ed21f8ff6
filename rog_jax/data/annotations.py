"""The annotations of a data set as packed NumPy arrays: no Python object per image or per object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from rog_jax.data.image_records import ImageRecords
from rog_jax.data.packed import PackedError, PackedFile

Place = int | np.integer
"""Place of an image or an object in the arrays of `Annotations`."""
FREQUENCY_LIMITS = (10, 100)
"""Most training images of a rare and of a common category, in LVIS."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the record and the remedy."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """Images, categories and objects of a data set; I images, O objects sorted by image, C categories.

    Boxes are [x1, y1, x2, y2] in pixels of the image file, clipped to the image. Labels are 0..C-1 by rising category
    id.

    Attributes:
        source: path of the file that this was read from, for messages.
        image_folder: folder that `file_names` are relative to.
        image_ids: as in the file.
        image_sizes: (height, width) in pixels.
        file_names: relative paths.
        offsets: objects of image i are offsets[i] to offsets[i + 1].
        annotation_ids: as in the file.
        boxes: see above.
        labels: 0..C-1.
        areas: of the mask, as the file says, in pixels².
        crowd: marks a crowd of objects that is no single one (`iscrowd`, OpenImages's group-of).
        trainable: objects that training uses: none of COCO's crowds, nothing thinner than a pixel or without area.
        points: vertices (x, y) of all polygons, in pixels of the file.
        polygon_offsets: polygon p has points polygon_offsets[p] to polygon_offsets[p + 1].
        object_polygons: object o has polygons object_polygons[o] to object_polygons[o + 1].
        rle_bytes: COCO's compressed run lengths of objects that have these instead of polygons.
        rle_offsets: object o has bytes rle_offsets[o] to rle_offsets[o + 1].
        category_ids: rising.
        category_names: one a category.
        frequencies: "r", "c" or "f", one a category; for OpenImages "1" (rarest) to "5".
        image_counts: images of this data set in which each category occurs, COCO's crowds aside.
        instance_counts: objects of each category in this data set, COCO's crowds aside.
        negative_labels: categories that were looked for and not found, image after image.
        negative_offsets: image i has negative_labels[negative_offsets[i]] up to negative_offsets[i + 1].
        not_exhaustive_labels: categories of which not every instance is annotated, image after image.
        not_exhaustive_offsets: as negative_offsets.
        exhaustive: images that were searched for every category, as COCO's are: what is not annotated is not there.
        category_keys: codes of the categories where they have some besides their names, as OpenImages's /m/0....
        ancestors: entry [c, a] tells that category a stands above c in the data's hierarchy; None where there is none.
        positive_labels: categories verified to be in an image beside those annotated, image after image; or None.
        positive_offsets: as negative_offsets.
        records: where the pictures are if they have no files of their own; `file_names` then only serve messages.
        packed: the file that arrays are mapped from, if any. Processes that unpickle the annotations map it too,
            instead of holding a copy each.
    """

    source: str
    image_folder: str
    image_ids: Int64[np.ndarray, "I"]
    image_sizes: Int32[np.ndarray, "I 2"]
    file_names: np.ndarray
    offsets: Int64[np.ndarray, "I+1"]
    annotation_ids: Int64[np.ndarray, "O"]
    boxes: Float32[np.ndarray, "O 4"]
    labels: Int32[np.ndarray, "O"]
    areas: Float32[np.ndarray, "O"]
    crowd: Bool[np.ndarray, "O"]
    trainable: Bool[np.ndarray, "O"]
    points: Float32[np.ndarray, "V 2"]
    polygon_offsets: Int64[np.ndarray, "P"]
    object_polygons: Int64[np.ndarray, "O+1"]
    rle_bytes: UInt8[np.ndarray, "Z"]
    rle_offsets: Int64[np.ndarray, "O+1"]
    category_ids: Int64[np.ndarray, "C"]
    category_names: tuple[str, ...]
    frequencies: tuple[str, ...]
    image_counts: Int64[np.ndarray, "C"]
    instance_counts: Int64[np.ndarray, "C"]
    negative_labels: Int32[np.ndarray, "M"]
    negative_offsets: Int64[np.ndarray, "I+1"]
    not_exhaustive_labels: Int32[np.ndarray, "E"]
    not_exhaustive_offsets: Int64[np.ndarray, "I+1"]
    exhaustive: Bool[np.ndarray, "I"]
    category_keys: tuple[str, ...] = ()
    ancestors: Bool[np.ndarray, "C C"] | None = None
    positive_labels: Int32[np.ndarray, "N"] | None = None
    positive_offsets: Int64[np.ndarray, "I+1"] | None = None
    records: ImageRecords | None = None
    packed: PackedFile | None = None

    def __reduce__(self) -> tuple[Callable, tuple]:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "packed"}
        if self.packed is None:
            return _restored, (None, None, (), values)
        mapped = tuple(name for name, array in self.packed.arrays.items() if values.get(name) is array)
        rest = {name: value for name, value in values.items() if name not in mapped}
        return _restored, (self.packed.path, self.packed.key, mapped, rest)

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_objects(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    @cached_property
    def images_of_objects(self) -> Int64[np.ndarray, "O"]:
        """The image of each object, 0..I-1."""
        return np.repeat(np.arange(self.num_images, dtype=np.int64), np.diff(self.offsets))

    @cached_property
    def has_segmentation(self) -> Bool[np.ndarray, "O"]:
        """Objects that have polygons or run lengths."""
        return (np.diff(self.object_polygons) > 0) | (np.diff(self.rle_offsets) > 0)

    def images_of(self, objects: Place | Int64[np.ndarray, "K"]) -> Int64[np.ndarray, "..."] | np.int64:
        """The image of an object or of several, found without an array of the length of all."""
        return np.searchsorted(self.offsets, objects, side="right") - 1

    def objects(self, image: Place) -> slice:
        """The objects of an image, for indexing the arrays of length O."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def training_objects(self, image: Place) -> Int64[np.ndarray, "G"]:
        """Indices of the objects of an image that training uses."""
        start, stop = self.offsets[image : image + 2]
        return start + np.flatnonzero(self.trainable[start:stop])

    def image_path(self, image: Place) -> Path:
        return Path(self.image_folder) / str(self.file_names[image])

    def image_bytes(self, image: Place) -> bytes:
        """An image as its file holds it: JPEG, PNG, ....

        Raises:
            OSError, ValueError: it cannot be read, or has a name that no file can have.
        """
        return self.image_path(image).read_bytes() if self.records is None else self.records.read(int(image))

    def segmentation(self, obj: Place) -> list[np.ndarray] | dict[str, Any] | None:
        """The mask of an object: polygons [V, 2] in pixels of the file, COCO's {"size", "counts"}, or None."""
        start, stop = self.object_polygons[obj : obj + 2]
        if stop > start:
            return [self.points[self.polygon_offsets[p] : self.polygon_offsets[p + 1]] for p in range(start, stop)]
        start, stop = self.rle_offsets[obj : obj + 2]
        if stop > start:
            image = int(self.images_of(obj))
            size = [int(side) for side in self.image_sizes[image]]
            return {"size": size, "counts": self.rle_bytes[start:stop].tobytes()}
        return None

    def object_categories(self) -> list[np.ndarray]:
        """For each image the labels of its training objects, one an object."""
        images = self.images_of_objects[self.trainable]
        return np.split(self.labels[self.trainable], np.searchsorted(images, np.arange(1, self.num_images)))

    def negative_categories(self, image: Place) -> Int32[np.ndarray, "N"]:
        """Labels that were looked for in the image and not found."""
        return self.negative_labels[self.negative_offsets[image] : self.negative_offsets[image + 1]]

    def not_exhaustive_categories(self, image: Place) -> Int32[np.ndarray, "N"]:
        """Labels of which not every instance in the image is annotated."""
        return self.not_exhaustive_labels[self.not_exhaustive_offsets[image] : self.not_exhaustive_offsets[image + 1]]

    def positive_categories(self, image: Place) -> Int32[np.ndarray, "N"]:
        """Labels verified to be in the image as a whole, with or without annotated objects."""
        if self.positive_labels is None or self.positive_offsets is None:
            return np.zeros(0, np.int32)
        return self.positive_labels[self.positive_offsets[image] : self.positive_offsets[image + 1]]

    def verified_categories(self, image: Place) -> Bool[np.ndarray, "C"]:
        """Categories of which it is known whether the image has them: found in it, or looked for and not found."""
        if self.exhaustive[image]:
            return np.ones(self.num_classes, bool)
        verified = np.zeros(self.num_classes, bool)
        verified[self.labels[self.objects(image)]] = True
        verified[self.negative_categories(image)] = True
        verified[self.positive_categories(image)] = True
        return verified


def _restored(
    path: Path | None, key: dict[str, Any] | None, mapped: tuple[str, ...], values: dict[str, Any]
) -> Annotations:
    """Unpickled annotations, some of whose arrays lie in a packed file."""
    if path is None:
        return Annotations(**values)
    try:
        packed = PackedFile(path, key)
    except (OSError, PackedError) as error:
        raise DataError(
            f"{path}, which holds the parsed annotations, cannot be used any more: {error}. It must stay as it is "
            "during a run. Start again: it is written anew where it has to be."
        ) from error
    return Annotations(**values, **{name: packed.arrays[name] for name in mapped}, packed=packed)


def frequency_group(image_count: int, limits: Sequence[int] = FREQUENCY_LIMITS) -> str:
    """The group of a category by its training images: "r" up to the first limit, "c" up to the second, "f" above."""
    if image_count <= limits[0]:
        return "r"
    return "c" if image_count <= limits[1] else "f"


def check_num_classes(annotations: Annotations, num_classes: int) -> None:
    """Raises DataError unless a model of `num_classes` categories fits the data."""
    if num_classes != annotations.num_classes:
        raise DataError(
            f"config.model.num_classes is {num_classes}, but {annotations.source} has "
            f"{annotations.num_classes} categories. Set config.model.num_classes={annotations.num_classes}, or 0 to "
            "take the number from the file."
        )


def check_categories(annotations: Annotations, trained: list[int]) -> None:
    """Raises DataError unless the data has the very category ids that a checkpoint was trained on."""
    if annotations.category_ids.tolist() != trained:
        raise DataError(
            f"{annotations.source} has {annotations.num_classes} categories, and they are not the {len(trained)} that "
            "the checkpoint was trained on. Give the json that belongs to it, or another --workdir."
        )


def check_masks(annotations: Annotations) -> None:
    """Raises DataError if an object that training would use has no mask."""
    missing = np.flatnonzero(annotations.trainable & ~annotations.has_segmentation)
    if len(missing):
        raise DataError(
            f"{annotations.source}: {len(missing)} objects have no segmentation, the first is annotation "
            f"{annotations.annotation_ids[missing[0]]}. Add their masks, or train boxes alone: "
            "config.model.masks=False."
        )
