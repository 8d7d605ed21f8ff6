"""What can be wrong with one record of a results file, and how the user is told."""

import math
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

from hotcoco import mask as hotcoco_mask

GEOMETRY_KEY = {"bbox": "bbox", "segm": "segmentation"}


class RecordChecker:
    """Checks the records of a results file one by one.

    Args:
        path: of the file, for messages.
        iou_type: "bbox" or "segm", which geometry a record must have.
        image_sizes: (height, width) of each known image id.
        category_ids: the known categories.
    """

    def __init__(self, path: Path, iou_type: str, image_sizes: dict[int, tuple[int, int]], category_ids: frozenset):
        self.path, self.iou_type = path, iou_type
        self.image_sizes, self.category_ids = image_sizes, category_ids
        self.keys = ("image_id", "category_id", "score", GEOMETRY_KEY[iou_type])
        self.fields = itemgetter(*self.keys)

    def check(self, record: Any, index: int) -> None:
        """Passes a sound record.

        Raises:
            ValueError: the record is wrong; the message names the file, the record's place and the fault.
        """
        fault = self._fault(record)
        if fault:
            raise ValueError(f"{self.path}: record {index}: {fault}. Correct the program that wrote it.")

    def _fault(self, record: Any) -> str:
        if not isinstance(record, dict):
            return f"a record must be an object with the keys {', '.join(self.keys)}"
        for key in self.keys:
            if key not in record:
                return f"key {key!r} is missing"
        image_id, category_id, score, geometry = self.fields(record)
        if not _is_integer(image_id) or image_id not in self.image_sizes:
            return f"image_id {image_id!r} is not in the annotations"
        if not _is_integer(category_id) or category_id not in self.category_ids:
            return f"category_id {category_id!r} is not in the annotations"
        if not _is_finite(score):
            return f"score {score!r} is no finite number"
        if self.iou_type == "segm":
            return self._mask_fault(geometry, image_id)
        if not isinstance(geometry, list) or len(geometry) != 4 or not all(map(_is_finite, geometry)):
            return f"bbox {geometry!r} must be four finite numbers: x, y, width, height"
        if min(geometry[2:]) < 0:
            return f"bbox {geometry!r} has a negative width or height (it must be x, y, width, height)"
        return ""

    def _mask_fault(self, mask: Any, image_id: int) -> str:
        counts = mask.get("counts") if isinstance(mask, dict) else None
        if not (isinstance(counts, str) or _are_lengths(counts)) or "size" not in mask:
            return 'segmentation must be a run-length code {"size": [height, width], "counts": text or whole numbers}'
        if mask["size"] != list(self.image_sizes[image_id]):
            return f"the mask's size {mask['size']} is not the image's (height, width) {self.image_sizes[image_id]}"
        if not isinstance(counts, str):
            covered, pixels = sum(counts), math.prod(mask["size"])
            return "" if covered == pixels else f"the mask's run lengths add up to {covered}, not {pixels} pixels"
        try:
            hotcoco_mask.area([mask])
        except ValueError as error:
            return f"the mask's run-length code does not fit its size ({error})"
        return ""


def _are_lengths(value: Any) -> bool:
    return isinstance(value, list) and all(_is_integer(length) and length >= 0 for length in value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
