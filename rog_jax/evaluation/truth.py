"""The ground truth that an evaluation reads from an annotation json."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

_IMAGE_KEYS = ("id", "height", "width")
_ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "area")
_OPTIONAL_KEYS = ("segmentation", "ignore", "iscrowd")


@dataclass(frozen=True, eq=False)
class Truth:
    """Images, categories and objects of an LVIS or COCO json, as an evaluator wants them.

    Attributes:
        path: of the json file.
        images: each with "id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids", and what the file
            says of its name.
        categories: by rising id, each with "id", "name", "frequency" ("r", "c", "f", or "" where unknown), and whatever
            else the file says of it.
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


def load_truth(annotations_json: str | Path) -> Truth:
    """Reads the ground truth of an evaluation.

    Images without `neg_category_ids` (COCO's format) count as searched for every category; images without
    `not_exhaustive_category_ids` as exhaustively annotated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: broken json, or a record without a key that evaluation needs; the message names file and record.
    """
    path = Path(annotations_json)
    data = _load_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{path} is no LVIS or COCO annotation file: it has no list {key!r}.")
        if not data[key] and key != "annotations":
            raise ValueError(f"{path}: the list {key!r} is empty, so there is nothing to evaluate.")
    categories = [_category(path, index, category) for index, category in enumerate(data["categories"])]
    categories.sort(key=lambda category: category["id"])
    every_id = [category["id"] for category in categories]
    images = [_image(path, index, image, every_id) for index, image in enumerate(data["images"])]
    annotations = _annotations(path, data["annotations"], {image["id"] for image in images}, set(every_id))
    return Truth(path, images, categories, annotations)


def _load_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file {path}: check config.data.val_json.")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is broken or cut off ({error}): fetch or write it again.") from error


def _category(path: Path, index: int, category: Any) -> dict:
    _require(path, "categories", index, category, ("id",))
    known = {key: value for key, value in category.items() if value is not None}
    return {"name": str(category["id"]), "frequency": ""} | known


def _image(path: Path, index: int, image: Any, every_category_id: list[int]) -> dict:
    _require(path, "images", index, image, _IMAGE_KEYS)
    known = {key: ids for key, ids in image.items() if ids is not None}
    image = {"neg_category_ids": every_category_id, "not_exhaustive_category_ids": []} | known
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        unknown = set(image[key]) - set(every_category_id) if image[key] is not every_category_id else ()
        if unknown:
            raise ValueError(f"{path}: images[{index}]: {key} has {min(unknown)!r}, no category's id. Correct it.")
    return image


def _annotations(path: Path, annotations: list, image_ids: set[int], category_ids: set[int]) -> list[dict]:
    kept = []
    for index, annotation in enumerate(annotations):
        _require(path, "annotations", index, annotation, _ANNOTATION_KEYS)
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if annotation[key] not in known:
                raise ValueError(f"{path}: annotations[{index}]: {key} {annotation[key]!r} is unknown. Correct it.")
        optional = {key: annotation[key] for key in _OPTIONAL_KEYS if key in annotation}
        kept.append({"id": len(kept) + 1} | {key: annotation[key] for key in _ANNOTATION_KEYS} | optional)
    return kept


def _require(path: Path, part: str, index: int, record: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{path}: {part}[{index}] is no json object. Correct it.")
    for key in keys:
        if key not in record:
            raise ValueError(f"{path}: {part}[{index}] has no {key!r}, which evaluation needs. Add it.")
