"""Masks of objects: packing those of a json file, and resampling one to a square crop of its box."""

from array import array
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as coco_mask

from rog_jax.data.annotations import DataError
from rog_jax.data.batch import MASK_CROP

_MIN_POINTS = 3


class SegmentationPacker:
    """Gathers the segmentations of objects, one after the other, into the arrays of `Annotations`."""

    def __init__(self, path: Path):
        self._path = path
        self._coordinates = array("f")
        self._polygon_offsets = array("q", [0])
        self._object_polygons = array("q", [0])
        self._rle_bytes = bytearray()
        self._rle_offsets = array("q", [0])
        self._empty = array("b")

    def add(self, annotation_id: int, segmentation: Any, size: np.ndarray) -> None:
        """Adds an object's segmentation: a list of polygons [x, y, x, y, ...], COCO run lengths, or nothing.

        Raises:
            DataError: it is none of these; the message names the annotation.
        """
        polygons = len(self._polygon_offsets)
        rle = len(self._rle_bytes)
        if isinstance(segmentation, dict):
            self._add_rle(annotation_id, segmentation, size)
        elif isinstance(segmentation, list):
            for polygon in segmentation:
                self._add_polygon(annotation_id, polygon)
        elif segmentation is not None:
            raise self._error(annotation_id, "is neither a list of polygons nor run lengths")
        self._object_polygons.append(len(self._polygon_offsets) - 1)
        self._rle_offsets.append(len(self._rle_bytes))
        nothing_packed = polygons == len(self._polygon_offsets) and rle == len(self._rle_bytes)
        self._empty.append(bool(segmentation) and nothing_packed)

    def empty(self) -> Bool[np.ndarray, "O"]:
        """Objects that came with a segmentation in which there is no polygon of three points and no pixel."""
        return np.array(self._empty, bool)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields of `Annotations` that hold segmentations."""
        return {
            "points": np.array(self._coordinates, np.float32).reshape(-1, 2),
            "polygon_offsets": np.array(self._polygon_offsets, np.int64),
            "object_polygons": np.array(self._object_polygons, np.int64),
            "rle_bytes": np.frombuffer(bytes(self._rle_bytes), np.uint8),
            "rle_offsets": np.array(self._rle_offsets, np.int64),
        }

    def _add_polygon(self, annotation_id: int, polygon: Any) -> None:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise self._error(annotation_id, "has a polygon that is no list of pairs x, y")
        if len(polygon) < 2 * _MIN_POINTS:
            return
        start = len(self._coordinates)
        try:
            self._coordinates.extend(polygon)
        except TypeError as error:
            raise self._error(annotation_id, "has a polygon with something that is no number") from error
        if not np.isfinite(np.frombuffer(self._coordinates, np.float32, offset=4 * start)).all():
            raise self._error(annotation_id, "has a polygon with a coordinate that is not finite")
        self._polygon_offsets.append(len(self._coordinates) // 2)

    def _add_rle(self, annotation_id: int, rle: dict, size: np.ndarray) -> None:
        height, width = (int(side) for side in size)
        if "counts" not in rle or list(rle.get("size", ())) != [height, width]:
            raise self._error(
                annotation_id, f"has run lengths without counts or of another size than [{height}, {width}]"
            )
        counts = rle["counts"]
        if isinstance(counts, list):
            if any(not isinstance(run, int) or run < 0 for run in counts):
                raise self._error(annotation_id, "has a run length that is no whole number, or negative")
            counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
        counts = counts.encode() if isinstance(counts, str) else counts
        # pycocotools would fill what a code leaves open with whatever the memory holds.
        if not isinstance(counts, bytes) or _coded_pixels(counts) != height * width:
            raise self._error(annotation_id, f"has run lengths that do not add up to {height} x {width} pixels")
        if coco_mask.area({"size": [height, width], "counts": counts}) > 0:
            self._rle_bytes += counts

    def _error(self, annotation_id: int, what: str) -> DataError:
        return DataError(f"{self._path}: annotation {annotation_id}: its segmentation {what}. Correct it.")


def _coded_pixels(counts: bytes) -> int:
    """Pixels in all runs of COCO's compressed run lengths; -1 if they are broken.

    A character, less 48, holds 5 bits of a number, the lowest first, and whether more follow (32); the highest bit of
    the last one is the sign. From the fourth number on, each is the difference to the run before the last.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((characters & 32) == 0)
    if not len(last) or last[-1] != len(characters) - 1 or characters.min() < 0 or characters.max() > 63:
        return -1
    first = np.append(0, last[:-1] + 1)
    lengths = last - first + 1
    if lengths.max() > 7:  # 35 bits: no run of a picture is so long
        return -1
    shifts = 5 * (np.arange(len(characters)) - np.repeat(first, lengths))
    numbers = np.add.reduceat((characters & 31) << shifts, first)
    numbers -= np.where(characters[last] & 16, 1 << 5 * lengths, 0)
    runs = np.concatenate([numbers[:1], np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])])
    return int(runs.sum()) if runs.min() >= 0 else -1


def crop_mask(
    segmentation: list[np.ndarray] | dict[str, Any], box: Float[np.ndarray, "4"]
) -> Bool[np.ndarray, "112 112"]:
    """An object's mask at the centres of the 112 x 112 cells of its box.

    Polygons are sampled as they stand, without a mask of the whole image between, so small objects keep their outline.

    Args:
        segmentation: polygons [V, 2] in pixels, or COCO's run lengths {"size", "counts"}.
        box: [x1, y1, x2, y2] in the same pixels, of positive width and height.
    """
    start, scale = box[:2], MASK_CROP / (box[2:] - box[:2])
    if isinstance(segmentation, list):
        crop = np.zeros((MASK_CROP, MASK_CROP), bool)
        for polygon in segmentation:
            crop |= rasterize((polygon - start) * scale, MASK_CROP)
        return crop
    full = coco_mask.decode(segmentation)
    centres = (np.arange(MASK_CROP) + 0.5)[:, None] / scale + start  # [112, 2]: x, y in pixels of the file
    columns, rows = np.clip(centres.astype(np.int64), 0, np.array(full.shape[::-1]) - 1).T
    return full[rows[:, None], columns[None, :]].astype(bool)


def rasterize(polygon: Float[np.ndarray, "V 2"], side: int) -> Bool[np.ndarray, "{side} {side}"]:
    """Cells of a square grid whose centres lie inside a polygon, by the even-odd rule.

    Args:
        polygon: vertices (x, y) in units of the cells; cell (row i, column j) has its centre at (j + 0.5, i + 0.5).
        side: cells a side.
    """
    polygon = polygon.astype(np.float64)
    (x0, y0), (x1, y1) = polygon.T, np.concatenate([polygon[1:], polygon[:1]]).T
    # Each edge crosses the rows whose centres lie between its ends, the upper end included.
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, side).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, side).astype(np.int64)
    crossings = last - first
    edges = np.repeat(np.arange(len(x0)), crossings)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(crossings) - crossings, crossings) + first[edges]
    x = x0[edges] + (rows + 0.5 - y0[edges]) / (y1 - y0)[edges] * (x1 - x0)[edges]
    columns = np.clip(np.ceil(x - 0.5), 0, side).astype(np.int64)
    counts = np.bincount(rows * (side + 1) + columns, minlength=side * (side + 1)).astype(np.uint8)
    # Only the parity of the crossings to the left counts, so that eight bits may overflow.
    crossed = np.cumsum(counts.reshape(side, side + 1), axis=1, dtype=np.uint8)
    return (crossed[:, :side] & 1).view(bool)


def pack_masks(masks: Bool[np.ndarray, "G 112 112"]) -> UInt8[np.ndarray, "G 112 14"]:
    """Packs eight cells of a row into a byte, the leftmost in the highest bit."""
    return np.packbits(masks, axis=-1)
