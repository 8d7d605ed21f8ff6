"""The ground truth that LVIS evaluation reads from an annotation json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

_IMAGE_KEYS = ("id", "height", "width")
_ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "area")


class Truth(NamedTuple):
    """Images, categories and objects of an LVIS or COCO json, as an evaluator wants them.

    Attributes:
        path: of the json file.
        images: each with "id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids", and what the file
            says of its name.
        categories: by rising id, each with "id", "name", "frequency" ("r", "c", "f", or "" where unknown), and whatever
            else the file says of it.
        annotations: the objects of positive area, numbered from 1 (an evaluator takes a match with number 0 for none).
    """

    path: Path
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]

    @property
    def image_sizes(self) -> dict[int, tuple[int, int]]:
        """(height, width) by image id."""
        return {image["id"]: (image["height"], image["width"]) for image in self.images}

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """What an evaluator reads. A category of unknown frequency needs one there; our own means do not look at it."""
        categories = [category | {"frequency": category["frequency"] or "f"} for category in self.categories]
        return {"images": self.images, "categories": categories, "annotations": self.annotations}


def load_truth(annotations_json: str | Path) -> Truth:
    """Reads the ground truth of an evaluation.

    Images without `neg_category_ids` (COCO's format) count as searched for every category; images without
    `not_exhaustive_category_ids` as exhaustively annotated. Objects without area are left out, as the official LVIS
    evaluator does. `iscrowd` has no meaning in LVIS and is not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: broken json, or a record without a key that evaluation needs; the message names file and record.
    """
    path = Path(annotations_json)
    data = _load_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{path} is no LVIS or COCO annotation file: it has no list {key!r}.")
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
    return {"name": str(category["id"]), "frequency": ""} | category


def _image(path: Path, index: int, image: Any, every_category_id: list[int]) -> dict:
    _require(path, "images", index, image, _IMAGE_KEYS)
    return {"neg_category_ids": every_category_id, "not_exhaustive_category_ids": []} | image


def _annotations(path: Path, annotations: list, image_ids: set[int], category_ids: set[int]) -> list[dict]:
    kept = []
    for index, annotation in enumerate(annotations):
        _require(path, "annotations", index, annotation, _ANNOTATION_KEYS)
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if annotation[key] not in known:
                raise ValueError(f"{path}: annotations[{index}]: {key} {annotation[key]!r} is unknown. Correct it.")
        if annotation["area"] > 0:
            optional = {key: annotation[key] for key in ("segmentation", "ignore") if key in annotation}
            kept.append({"id": len(kept) + 1} | {key: annotation[key] for key in _ANNOTATION_KEYS} | optional)
    return kept


def _require(path: Path, part: str, index: int, record: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{path}: {part}[{index}] is no json object. Correct it.")
    for key in keys:
        if key not in record:
            raise ValueError(f"{path}: {part}[{index}] has no {key!r}, which evaluation needs. Add it.")
