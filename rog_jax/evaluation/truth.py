"""The ground truth that an evaluation reads from an annotation json."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Int
from msgspec import Meta, Raw

from rog_jax.data.annotations import DataError
from rog_jax.data.packing import unique_ids
from rog_jax.data.records import Category, Image, LabelledBox, Whole, decode, read_tables


@dataclass(frozen=True, eq=False)
class Truth:
    """Images, categories and objects of an LVIS or COCO json, as an evaluator wants them.

    Attributes:
        path: of the json file.
        images: each with "id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids".
        categories: by rising id, each with "id", "name", "frequency" ("r", "c", "f", or "" where unknown), and
            "image_count" and "instance_count" of the training set where the file has them.
        annotations: the objects, numbered from 1 (an evaluator takes a match with number 0 for none).
    """

    path: Path
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]

    @cached_property
    def image_sizes(self) -> dict[int, tuple[int, int]]:
        """(height, width) by image id."""
        return {image["id"]: (image["height"], image["width"]) for image in self.images}

    @cached_property
    def image_ids(self) -> Int[np.ndarray, "I"]:
        """Rising."""
        return np.array(sorted(image["id"] for image in self.images), np.int64)

    @cached_property
    def category_ids(self) -> Int[np.ndarray, "C"]:
        """Rising."""
        return np.array([category["id"] for category in self.categories], np.int64)

    @cached_property
    def solid(self) -> list[dict[str, Any]]:
        """The objects of positive area, the only ones that the official LVIS evaluator takes."""
        return [annotation for annotation in self.annotations if annotation["area"] > 0]

    @cached_property
    def evaluated(self) -> Bool[np.ndarray, "I C"]:
        """The pairs of image and category in which LVIS evaluates detections: the category is in the image, or was
        looked for and not found."""
        evaluated = self._marked("neg_category_ids")
        images = np.searchsorted(self.image_ids, [found["image_id"] for found in self.solid])
        categories = np.searchsorted(self.category_ids, [found["category_id"] for found in self.solid])
        evaluated[images, categories] = True
        return evaluated

    @cached_property
    def not_exhaustive(self) -> Bool[np.ndarray, "I C"]:
        """The pairs of image and category of which not every object is annotated."""
        return self._marked("not_exhaustive_category_ids")

    def _marked(self, key: str) -> Bool[np.ndarray, "I C"]:
        marked = np.zeros((len(self.image_ids), len(self.category_ids)), bool)
        place_of = {image_id: place for place, image_id in enumerate(self.image_ids.tolist())}
        for image in self.images:
            marked[place_of[image["id"]], np.searchsorted(self.category_ids, image[key])] = True
        return marked

    def lvis_json(self) -> dict[str, list[dict[str, Any]]]:
        """What an LVIS evaluator reads. A category of unknown frequency needs one there; our own means do not look at
        it. `iscrowd` has no meaning in LVIS."""
        categories = [category | {"frequency": category["frequency"] or "f"} for category in self.categories]
        annotations = [{key: found[key] for key in found if key != "iscrowd"} for found in self.solid]
        return {"images": self.images, "categories": categories, "annotations": annotations}

    def coco_json(self) -> dict[str, list[dict[str, Any]]]:
        """What a COCO evaluator reads: objects without area take part, and `iscrowd` counts."""
        annotations = [{"iscrowd": 0} | found for found in self.annotations]
        return {"images": self.images, "categories": self.categories, "annotations": annotations}


class _Category(Category, kw_only=True, gc=False):
    instance_count: Whole | None = None


class _Object(LabelledBox, kw_only=True, gc=False):
    id: Whole | None = None
    area: Annotated[float, Meta(ge=0)]
    segmentation: Any = None
    ignore: int | bool | float | None = None


def load_truth(annotations_json: str | Path) -> Truth:
    """Reads the ground truth of an evaluation.

    Images without `neg_category_ids` (COCO's format) count as searched for every category; images without
    `not_exhaustive_category_ids` as exhaustively annotated.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: broken json, or a record without a key that evaluation needs or with one of no meaning; the message
            names file and record.
    """
    path = Path(annotations_json)
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file {path}. Check config.data.val_json.")
    tables = read_tables(path)
    categories = sorted(decode(path, "categories", tables.categories, _Category), key=lambda category: category.id)
    category_ids = unique_ids(path, "category", [category.id for category in categories]).tolist()
    images = list(decode(path, "images", tables.images, Image))
    image_ids = unique_ids(path, "image", [image.id for image in images]).tolist()
    return Truth(
        path=path,
        images=[_image_record(path, image, category_ids) for image in images],
        categories=[_category_record(category) for category in categories],
        annotations=_object_records(path, tables.annotations, set(image_ids), set(category_ids)),
    )


def _category_record(category: _Category) -> dict[str, Any]:
    name = category.id if category.name is None else category.name
    counts = {key: getattr(category, key) for key in ("image_count", "instance_count")}
    known = {key: count for key, count in counts.items() if count is not None}
    return {"id": category.id, "name": str(name), "frequency": category.frequency or ""} | known


def _image_record(path: Path, image: Image, every_category_id: list[int]) -> dict[str, Any]:
    searched, partly = image.neg_category_ids, image.not_exhaustive_category_ids or []
    for key, ids in (("neg_category_ids", searched or []), ("not_exhaustive_category_ids", partly)):
        unknown = set(ids) - set(every_category_id)
        if unknown:
            raise DataError(f"{path}: image {image.id}: {key} has {min(unknown)}, no category of the file. Correct it.")
    return {
        "id": image.id,
        "height": int(image.height),
        "width": int(image.width),
        "neg_category_ids": every_category_id if searched is None else searched,
        "not_exhaustive_category_ids": partly,
    }


def _object_records(
    path: Path, raws: Sequence[Raw], image_ids: set[int], category_ids: set[int]
) -> list[dict[str, Any]]:
    records = []
    for place, found in enumerate(decode(path, "annotations", raws, _Object)):
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if getattr(found, key) not in known:
                raise DataError(
                    f"{path}: annotation {found.id} (annotations[{place}]): {key} {getattr(found, key)} is unknown. "
                    "Correct it, or leave the annotation out."
                )
        optional = {key: getattr(found, key) for key in ("segmentation", "ignore", "iscrowd")}
        records.append(
            {
                "id": place + 1,
                "image_id": found.image_id,
                "category_id": found.category_id,
                "bbox": list(found.bbox),
                "area": found.area,
            }
            | {key: value for key, value in optional.items() if value is not None}
        )
    return records
