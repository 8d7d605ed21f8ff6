"""Results files of LVIS and COCO as columns of numbers, and the limits on how many detections count."""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json
from hotcoco import mask as hotcoco_mask  # pycocotools 2.0.11 fails on the area of more than 255 masks
from jaxtyping import Int

from rog_jax.evaluation.json_stream import NotRegular, RecordBlock, iter_blocks, iter_records
from rog_jax.evaluation.results_checks import GEOMETRY_KEY, RecordChecker
from rog_jax.evaluation.run_lengths import RunLengths

IouType = Literal["bbox", "segm"]
ImageSizes = dict[int, tuple[int, int]]
"""(height, width) in pixels by image id."""
_RECORDS_AT_ONCE = 1 << 12
_GEOMETRY_TYPE = {
    "bbox": pa.list_(pa.float64()),
    "segm": pa.struct({"size": pa.list_(pa.int64()), "counts": pa.large_string()}),
}


class Results(NamedTuple):
    """Columns of a results file, in its order.

    Attributes:
        image_ids: int64 [M].
        category_ids: int64 [M].
        scores: float64 [M].
        boxes: float64 [M, 4], x, y, width, height in pixels: the detection's own, or those of its mask.
        areas: float64 [M], pixels: of the box, or of the mask.
        masks: of M detections, or None where boxes are evaluated.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    masks: RunLengths | None

    @property
    def iou_type(self) -> IouType:
        """What the detections are compared by."""
        return "bbox" if self.masks is None else "segm"

    def take(self, rows: np.ndarray) -> "Results":
        """The records at places `rows`, in that order."""
        return Results(*(column[rows] for column in self[:5]), None if self.masks is None else self.masks.take(rows))


def kinds_of(path: str | Path) -> tuple[IouType, ...]:
    """What a results file can be evaluated as, by the geometry that its first record has; ("bbox",) if it has none."""
    first = next(iter_records(path), None)
    keys = first.keys() if isinstance(first, dict) else ()
    return tuple(kind for kind, key in GEOMETRY_KEY.items() if key in keys) or ("bbox",)


def read_results(
    path: str | Path, iou_type: IouType, image_sizes: ImageSizes, category_ids: Collection[int]
) -> Results:
    """A results file as checked columns.

    Blocks of the file go through a columnar parser, so that neither the text nor parsed records are ever in memory as
    a whole. Where that finds anything unusual, the file is read again record by record, to say which one is wrong.

    Args:
        path: json list of {"image_id", "category_id", "score", and "bbox": [x, y, width, height] or "segmentation":
            run-length code, compressed or, slower to read, as numbers}; .json or .json.gz.
        iou_type: which of the two to read; the other may be present and is not looked at, so that a mask's area never
            is that of its box.
        image_sizes: of every known image.
        category_ids: the known categories.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty list or broken json; a record with a missing key, an unknown image or category, a score
            that is no finite number, a negative width or height, or a mask that does not fit its image. The message
            names the file, the record's place (from 0) and the remedy.
    """
    try:
        columns = _BlockParser(iou_type, image_sizes, category_ids)
        parts = [columns.parse(block) for block in iter_blocks(path)]
    except NotRegular:
        parts = list(_read_one_by_one(Path(path), iou_type, image_sizes, category_ids))
    if not parts:
        raise ValueError(
            f"{path} holds no detection, so there is nothing to evaluate: lower config.test.score_threshold, or train "
            "for longer."
        )
    masks = None if iou_type == "bbox" else RunLengths.concatenate([part.masks for part in parts])
    return Results(*(np.concatenate(column) for column in list(zip(*parts, strict=True))[:5]), masks)


class _BlockParser:
    """Text of regular, sound records to columns."""

    def __init__(self, iou_type: IouType, image_sizes: ImageSizes, category_ids: Collection[int]):
        self.image_ids = np.array(sorted(image_sizes), np.int64)
        self.sizes = np.array([image_sizes[image_id] for image_id in self.image_ids.tolist()], np.int64).reshape(-1, 2)
        self.category_ids = np.array(sorted(category_ids), np.int64)
        self.geometry, self.iou_type = GEOMETRY_KEY[iou_type], iou_type
        fields = {"image_id": pa.int64(), "category_id": pa.int64(), "score": pa.float64()}
        self.options = pa.json.ParseOptions(
            explicit_schema=pa.schema(fields | {self.geometry: _GEOMETRY_TYPE[iou_type]}),
            unexpected_field_behavior="ignore",
        )

    def parse(self, block: RecordBlock) -> Results:
        """Columns of a block.

        Raises:
            NotRegular: a record is wrong, or is not what the text seemed to hold.
        """
        reading = pa.json.ReadOptions(use_threads=False, block_size=len(block.lines) + 1)
        try:
            table = pa.json.read_json(pa.BufferReader(block.lines), reading, self.options)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise NotRegular from error
        _require(table.num_rows == block.records and not any(column.null_count for column in table.columns))
        images, categories, scores = (table[key].to_numpy() for key in ("image_id", "category_id", "score"))
        places = np.searchsorted(self.image_ids, images).clip(max=len(self.image_ids) - 1)
        known = np.searchsorted(self.category_ids, categories).clip(max=len(self.category_ids) - 1)
        _require(
            (self.image_ids[places] == images).all()
            and (self.category_ids[known] == categories).all()
            and np.isfinite(scores).all()
        )
        geometry = table[self.geometry].combine_chunks()
        if self.iou_type == "bbox":
            boxes = _fixed_size_lists(geometry, 4)
            _require(np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all())
            return Results(images, categories, scores, boxes, boxes[:, 2] * boxes[:, 3], None)
        sizes, counts = (geometry.field(name) for name in ("size", "counts"))
        _require(not counts.null_count)
        masks = RunLengths(counts, _fixed_size_lists(sizes, 2))
        _require((masks.sizes == self.sizes[places]).all())
        try:
            return Results(images, categories, scores, *_boxes_and_areas(masks), masks)
        except ValueError as error:
            raise NotRegular from error


def _require(regular: bool | np.bool_) -> None:
    if not regular:
        raise NotRegular


def _fixed_size_lists(column: pa.ListArray, length: int) -> np.ndarray:
    """Lists of equal length as the rows of an array."""
    values = column.flatten()
    _require(not column.null_count and not values.null_count and (np.diff(column.offsets) == length).all())
    return values.to_numpy(zero_copy_only=False).reshape(-1, length)


def _boxes_and_areas(masks: RunLengths) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M, 4] and areas [M] of masks; a ValueError where a code does not fit its size."""
    codes = masks.codes()
    return hotcoco_mask.to_bbox(codes), hotcoco_mask.area(codes).astype(np.float64)


def _read_one_by_one(
    path: Path, iou_type: IouType, image_sizes: ImageSizes, category_ids: Collection[int]
) -> Iterator[Results]:
    checker = RecordChecker(path, iou_type, image_sizes, frozenset(category_ids))
    elements, start = iter_records(path), 0
    while records := list(islice(elements, _RECORDS_AT_ONCE)):
        for index, record in enumerate(records, start):
            checker.check(record, index)
        start += len(records)
        image_ids, category_ids, scores, geometry = zip(*map(checker.fields, records), strict=True)
        ids = np.array(image_ids, np.int64), np.array(category_ids, np.int64)
        if iou_type == "bbox":
            boxes = np.array(geometry, np.float64)
            yield Results(*ids, np.array(scores, np.float64), boxes, boxes[:, 2] * boxes[:, 3], None)
        else:
            masks = RunLengths.from_codes(geometry)
            yield Results(*ids, np.array(scores, np.float64), *_boxes_and_areas(masks), masks)


def keep_best(results: Results, max_detections: int) -> Results:
    """At most `max_detections` of each image, over all categories, by score; equal scores in the file's order.

    The records that stay keep the file's order. -1 keeps all.
    """
    return (
        results if max_detections == -1 else results.take(_best_of(results.image_ids, results.scores, max_detections))
    )


def keep_best_of_categories(results: Results, max_detections: int) -> Results:
    """The same for each category over all images: the limit of AP-fixed (Dave et al., arXiv:2102.01066)."""
    return results.take(_best_of(results.category_ids, results.scores, max_detections))


def _best_of(groups: Int[np.ndarray, " M"], scores: np.ndarray, number: int) -> Int[np.ndarray, " K"]:
    """The rows, rising, of the `number` best scores of each group."""
    order = np.lexsort((-scores, groups))  # stable
    sorted_groups = groups[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_groups, sorted_groups)
    return np.sort(order[rank < number])
