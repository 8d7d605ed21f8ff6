"""What a detector's labels mean, from wherever that is written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rog_jax.data.annotations import Annotations, DataError
from rog_jax.evaluation.pictures import RAREST

COCO = {
    **{1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck"},
    **{9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench"},
    **{16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear"},
    **{24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"},
    **{34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat"},
    **{40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle"},
    **{46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple"},
    **{54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut"},
    **{61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet"},
    **{72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave"},
    **{79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock", 86: "vase"},
    **{87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush"},
}
"""COCO's category ids and names, for imported detectors, whose files do not have them."""


class Categories(NamedTuple):
    """The categories of a detector, C of them, in the order of its labels.

    Attributes:
        ids: as in the annotations.
        names: of each.
        groups: frequency group of each, "" where it is not known.
    """

    ids: Int[np.ndarray, " C"]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def rare(self) -> frozenset[int]:
        """Labels of the rarest ones."""
        return frozenset(label for label, group in enumerate(self.groups) if group in RAREST)


def categories_of_run(about: dict[str, Any]) -> Categories:
    """Those that a checkpoint was trained on; runs of older versions kept the ids only."""
    ids = np.asarray(about["category_ids"], np.int64)
    names = about.get("category_names") or [f"category {number}" for number in ids]
    return Categories(ids, tuple(names), tuple(about.get("category_groups") or [""] * len(ids)))


def categories_of(annotations: Annotations) -> Categories:
    """Those of a data set."""
    return Categories(annotations.category_ids, annotations.category_names, annotations.frequencies)


def categories_of_coco(num_classes: int) -> Categories | None:
    """COCO's for a detector of 80 classes, or of 90 (torchvision's, a column for each id); None for another number."""
    if num_classes == len(COCO):
        ids = list(COCO)
    elif num_classes == max(COCO):
        ids = list(range(1, num_classes + 1))
    else:
        return None
    return Categories(np.array(ids), tuple(COCO.get(number, f"category {number}") for number in ids), ("",) * len(ids))


def read_categories(path: str | Path) -> Categories:
    """Those of a json in LVIS's or COCO's format, or of one with their list alone.

    Raises:
        DataError: there is no such file, or it holds no categories.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        found = found["categories"] if isinstance(found, dict) else found
        found = sorted(found, key=lambda category: category["id"])
        ids, names = [category["id"] for category in found], tuple(str(category["name"]) for category in found)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no categories: it must be annotations in LVIS's or COCO's format, or the list of their "
            f'"categories", each with "id" and "name" ({type(error).__name__}: {error})'
        ) from error
    return Categories(np.array(ids, np.int64), names, tuple(category.get("frequency", "") for category in found))


def check_number(categories: Categories, num_classes: int, source: str | Path | Sequence[str]) -> Categories:
    """The categories, if a detector has so many.

    Raises:
        DataError: it has more or fewer.
    """
    if len(categories.names) != num_classes:
        raise DataError(f"{source} has {len(categories.names)} categories, and the detector {num_classes}")
    return categories
