"""Results files of LVIS and COCO, read record by record so that memory holds columns of numbers and no parsed json."""

import gzip
import json
import re
from collections.abc import Collection, Iterator
from io import TextIOBase
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from hotcoco import mask as hotcoco_mask  # pycocotools 2.0.11 fails on the area of more than 255 masks

IouType = Literal["bbox", "segm"]
GEOMETRY_KEY = {"bbox": "bbox", "segm": "segmentation"}
_BLOCK = 1 << 22  # characters read at once
_RECORDS_AT_ONCE = 1 << 12
_LONGEST_RECORD = 1 << 26  # characters; without a bound, one syntax error would draw the whole file into memory
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


class Results(NamedTuple):
    """Columns of a results file, in its order.

    Attributes:
        image_ids: int64 [M].
        category_ids: int64 [M].
        scores: float64 [M].
        boxes: float64 [M, 4], x, y, width, height in pixels: the detection's own, or those of its mask.
        areas: float64 [M], pixels: of the box, or of the mask.
        masks: M run-length codes of masks, or None where boxes are evaluated.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    masks: list[dict[str, Any]] | None

    def take(self, rows: np.ndarray) -> "Results":
        """The records at places `rows`, in that order."""
        masks = None if self.masks is None else [self.masks[row] for row in rows.tolist()]
        return Results(*(column[rows] for column in self[:5]), masks)


def iter_records(path: str | Path) -> Iterator[Any]:
    """The elements of a json list, one by one, holding no more than a block of the file (.json or .json.gz).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a json list, or is broken or cut off; the message names the element.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no results file {path}: check the path, or run the inference first.")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from _Elements(file, path)


class _Elements:
    """A cursor over the elements of a json list in an open file."""

    def __init__(self, file: TextIOBase, path: Path):
        self.file, self.path = file, path
        self.text, self.position = "", 0

    def __iter__(self) -> Iterator[Any]:
        if self._peek() != "[":
            raise ValueError(f"{self.path} is no results file: it must hold a json list of records.")
        self.position += 1
        if self._peek() == "]":
            return
        for index in count():
            yield self._element(index)
            separator = self._peek()
            if separator == "]":
                return
            if separator != ",":
                found = repr(separator) if separator else "the end of the file"
                raise self._broken(index, f"a comma or a closing bracket should follow it, not {found}")
            self.position += 1

    def _peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read():
                return ""

    def _element(self, index: int) -> Any:
        self._peek()
        while True:
            try:
                element, self.position = _DECODER.raw_decode(self.text, self.position)
                return element
            except json.JSONDecodeError as error:
                if len(self.text) - self.position > _LONGEST_RECORD or not self._read():
                    raise self._broken(index, error.msg) from error

    def _read(self) -> bool:
        block = self.file.read(_BLOCK)
        self.text, self.position = self.text[self.position :] + block, 0
        return bool(block)

    def _broken(self, index: int, reason: str) -> ValueError:
        return ValueError(
            f"{self.path}: record {index} is broken or the file is cut off ({reason}). Write the file again."
        )


def read_results(
    path: str | Path, iou_type: IouType, image_sizes: dict[int, tuple[int, int]], category_ids: Collection[int]
) -> Results:
    """A results file as checked columns.

    Args:
        path: json list of {"image_id", "category_id", "score", and "bbox": [x, y, width, height] or "segmentation":
            compressed run-length code}.
        iou_type: which of the two to read; the other may be present and is not looked at, so that a mask's area never
            is that of its box.
        image_sizes: (height, width) of each known image id.
        category_ids: the known categories.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty list or broken json; a record with a missing key, an unknown image or category, a score
            that is no finite number, a negative width or height, or a mask that does not fit its image. The message
            names the file, the record's place (from 0) and the remedy.
    """
    checker = _RecordChecker(Path(path), iou_type, image_sizes, frozenset(category_ids))
    blocks, start = [], 0
    elements = iter_records(path)
    while records := list(islice(elements, _RECORDS_AT_ONCE)):
        blocks.append(checker.columns(records, start))
        start += len(records)
    if not blocks:
        raise ValueError(
            f"{path} holds no detection, so there is nothing to evaluate: lower config.test.score_threshold, or train "
            "for longer."
        )
    columns = [np.concatenate(parts) for parts in zip(*(block[:5] for block in blocks), strict=True)]
    masks = None if iou_type == "bbox" else [mask for block in blocks for mask in block.masks]
    return Results(*columns, masks)


class _RecordChecker:
    """Checks a block of records by whole columns, and looks at single records only to name the one that is wrong."""

    def __init__(self, path: Path, iou_type: IouType, image_sizes: dict, category_ids: frozenset):
        self.path, self.iou_type = path, iou_type
        self.image_sizes, self.category_ids = image_sizes, category_ids
        self.keys = ("image_id", "category_id", "score", GEOMETRY_KEY[iou_type])
        self._fields = itemgetter(*self.keys)

    def columns(self, records: list, start: int) -> Results:
        try:
            images, categories, scores, geometry = zip(*map(self._fields, records), strict=True)
            image_ids, category_ids, scores = np.array(images), np.array(categories), np.array(scores)
            well_formed = image_ids.dtype.kind == category_ids.dtype.kind == "i" and scores.dtype.kind in "fi"
            known = self.image_sizes.keys() >= set(images) and self.category_ids >= set(categories)
            if well_formed and known and np.isfinite(scores).all():
                boxes, areas, masks = self._geometry(geometry, images)
                return Results(image_ids, category_ids, scores.astype(np.float64), boxes, areas, masks)
        except (TypeError, ValueError, KeyError, IndexError):
            pass
        for index, record in enumerate(records, start):
            self._explain(record, index)
        raise ValueError(f"{self.path}: records {start} to {start + len(records) - 1} are of mixed or wrong types.")

    def _geometry(self, geometry: tuple, images: tuple) -> tuple[np.ndarray, np.ndarray, list | None]:
        """Boxes [M, 4], areas [M] and masks (or None); a ValueError where a record's geometry is wrong."""
        if self.iou_type == "bbox":
            boxes = np.array(geometry)
            if boxes.dtype.kind not in "fi" or boxes.shape != (len(geometry), 4) or _bad_boxes(boxes).any():
                raise ValueError
            boxes = boxes.astype(np.float64)
            return boxes, boxes[:, 2] * boxes[:, 3], None
        masks = [{"size": mask["size"], "counts": mask["counts"]} for mask in geometry]
        if any(self._mask_fault(mask, image) for mask, image in zip(masks, images, strict=True)):
            raise ValueError
        return hotcoco_mask.to_bbox(masks), hotcoco_mask.area(masks).astype(np.float64), masks

    def _mask_fault(self, mask: Any, image_id: int) -> str:
        """What is wrong with a mask, or ""."""
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str) or "size" not in mask:
            return 'segmentation must be a compressed run-length code {"size": [height, width], "counts": text}'
        if mask["size"] != list(self.image_sizes[image_id]):
            return f"the mask's size {mask['size']} is not the image's (height, width) {self.image_sizes[image_id]}"
        return ""

    def _explain(self, record: Any, index: int) -> None:
        """Raises the error of a wrong record; a sound one passes."""
        fault = self._fault(record)
        if fault:
            raise ValueError(f"{self.path}: record {index}: {fault}. Correct the program that wrote it.")

    def _fault(self, record: Any) -> str:
        if not isinstance(record, dict):
            return f"a record must be an object with the keys {', '.join(self.keys)}"
        for key in self.keys:
            if key not in record:
                return f"key {key!r} is missing"
        image_id, category_id, score, geometry = self._fields(record)
        if not _is_integer(image_id) or image_id not in self.image_sizes:
            return f"image_id {image_id!r} is not in the annotations"
        if not _is_integer(category_id) or category_id not in self.category_ids:
            return f"category_id {category_id!r} is not in the annotations"
        if not _is_finite(score):
            return f"score {score!r} is no finite number"
        if self.iou_type == "segm":
            return self._mask_fault(geometry, image_id) or _code_fault(geometry)
        if not isinstance(geometry, list) or len(geometry) != 4 or not all(map(_is_finite, geometry)):
            return f"bbox {geometry!r} must be four finite numbers: x, y, width, height"
        if min(geometry[2:]) < 0:
            return f"bbox {geometry!r} has a negative width or height (it must be x, y, width, height)"
        return ""


def _code_fault(mask: dict) -> str:
    try:
        hotcoco_mask.area([mask])
    except ValueError as error:
        return f"the mask's run-length code does not fit its size ({error})"
    return ""


def _bad_boxes(boxes: np.ndarray) -> np.ndarray:
    return ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def keep_best(results: Results, max_detections: int) -> Results:
    """At most `max_detections` of each image, over all categories, by score; equal scores in the file's order.

    The records that stay keep the file's order. -1 keeps all.
    """
    if max_detections == -1:
        return results
    order = np.lexsort((-results.scores, results.image_ids))  # stable
    images = results.image_ids[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    return results.take(np.sort(order[rank < max_detections]))
