"""Masks of objects: packing those of a json file, and resampling one to a square crop of its box."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as coco_mask

from rog_jax.data.annotations import DataError
from rog_jax.data.batch import MASK_CROP
from rog_jax.data.records import RunLengths

_MIN_POINTS = 3
_CHECKED_AT_ONCE = 1 << 22


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
        self._ids = array("q")

    def add(self, annotation_id: int, segmentation: list[list[float]] | RunLengths | None, size: Sequence[int]) -> None:
        """Adds an object's segmentation: polygons [x, y, x, y, ...], run lengths, or nothing.

        Args:
            annotation_id: for messages.
            segmentation: in pixels.
            size: (height, width) of the image.

        Raises:
            DataError: a polygon is no list of pairs, or run lengths do not fit the image; names the annotation.
        """
        polygons, rle = len(self._polygon_offsets), len(self._rle_bytes)
        if isinstance(segmentation, RunLengths):
            self._add_rle(annotation_id, segmentation, (int(size[0]), int(size[1])))
        else:
            for polygon in segmentation or ():
                self._add_polygon(annotation_id, polygon)
        self._object_polygons.append(len(self._polygon_offsets) - 1)
        self._rle_offsets.append(len(self._rle_bytes))
        nothing_packed = polygons == len(self._polygon_offsets) and rle == len(self._rle_bytes)
        self._empty.append(bool(segmentation) and nothing_packed)
        self._ids.append(annotation_id)

    def empty(self) -> Bool[np.ndarray, "O"]:
        """Objects that came with a segmentation in which there is no polygon of three points and no pixel."""
        return np.array(self._empty, bool)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields of `Annotations` that hold segmentations; they share the packer's memory.

        Raises:
            DataError: a coordinate is too large for float32.
        """
        points = np.frombuffer(self._coordinates, np.float32).reshape(-1, 2)
        offsets = np.frombuffer(self._polygon_offsets, np.int64)
        objects = np.frombuffer(self._object_polygons, np.int64)
        for start in range(0, len(points), _CHECKED_AT_ONCE):
            infinite = ~np.isfinite(points[start : start + _CHECKED_AT_ONCE]).all(axis=1)
            if infinite.any():
                polygon = np.searchsorted(offsets, start + int(np.argmax(infinite)), side="right") - 1
                owner = self._ids[int(np.searchsorted(objects, polygon, side="right")) - 1]
                raise self._error(owner, "has a polygon with a coordinate that is not finite in 32 bits")
        return {
            "points": points,
            "polygon_offsets": offsets,
            "object_polygons": objects,
            "rle_bytes": np.frombuffer(self._rle_bytes, np.uint8),
            "rle_offsets": np.frombuffer(self._rle_offsets, np.int64),
        }

    def _add_polygon(self, annotation_id: int, polygon: list[float]) -> None:
        if len(polygon) % 2:
            raise self._error(annotation_id, "has a polygon that is no list of pairs x, y")
        if len(polygon) >= 2 * _MIN_POINTS:
            self._coordinates.extend(polygon)
            self._polygon_offsets.append(len(self._coordinates) // 2)

    def _add_rle(self, annotation_id: int, rle: RunLengths, size: tuple[int, int]) -> None:
        height, width = size
        if rle.size != size:
            raise self._error(annotation_id, f"has run lengths of the size {list(rle.size)}, not [{height}, {width}]")
        if isinstance(rle.counts, list):
            if min(rle.counts, default=0) < 0 or sum(rle.counts) != height * width:
                raise self._error(annotation_id, _no_sum(size))
            counts = coco_mask.frPyObjects({"size": list(size), "counts": rle.counts}, height, width)["counts"]
        else:
            counts = rle.counts.encode()
        # pycocotools would fill what a code leaves open with whatever the memory holds.
        if _coded_pixels(counts) != height * width:
            raise self._error(annotation_id, _no_sum(size))
        if coco_mask.area({"size": list(size), "counts": counts}) > 0:
            self._rle_bytes += counts

    def _error(self, annotation_id: int, what: str) -> DataError:
        return DataError(f"{self._path}: annotation {annotation_id}: its segmentation {what}. Correct it.")


def _no_sum(size: tuple[int, int]) -> str:
    return f"has run lengths that are negative or do not add up to {size[0]} x {size[1]} pixels"


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
    segmentation: list[np.ndarray] | dict[str, Any],
    box: Float[np.ndarray, "4"],
    cells: tuple[int, int] = (MASK_CROP, MASK_CROP),
) -> Bool[np.ndarray, "rows columns"]:
    """An object's mask at the centres of the cells of its box, or of another rectangle.

    Polygons are sampled as they stand, without a mask of the whole image between, so small objects keep their outline.

    Args:
        segmentation: polygons [V, 2] in pixels, or COCO's run lengths {"size", "counts"}.
        box: [x1, y1, x2, y2] in the same pixels, of positive width and height.
        cells: rows and columns into which the box is divided.
    """
    rows, columns = cells
    start, scale = box[:2], np.array([columns, rows]) / (box[2:] - box[:2])
    if isinstance(segmentation, list):
        crop = np.zeros(cells, bool)
        for polygon in segmentation:
            crop |= rasterize((polygon - start) * scale, cells)
        return crop
    full = coco_mask.decode(segmentation)
    x, y = (
        np.clip(((np.arange(count) + 0.5) / scale[axis] + start[axis]).astype(np.int64), 0, full.shape[1 - axis] - 1)
        for axis, count in enumerate((columns, rows))
    )
    return full[y[:, None], x[None, :]].astype(bool)


def rasterize(polygon: Float[np.ndarray, "V 2"], cells: tuple[int, int]) -> Bool[np.ndarray, "rows columns"]:
    """Cells of a grid whose centres lie inside a polygon, by the even-odd rule.

    Args:
        polygon: vertices (x, y) in units of the cells; cell (row i, column j) has its centre at (j + 0.5, i + 0.5).
        cells: rows and columns of the grid.
    """
    height, width = cells
    polygon = polygon.astype(np.float64)
    (x0, y0), (x1, y1) = polygon.T, np.concatenate([polygon[1:], polygon[:1]]).T
    # Each edge crosses the rows whose centres lie between its ends, the upper end included.
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    crossings = last - first
    edges = np.repeat(np.arange(len(x0)), crossings)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(crossings) - crossings, crossings) + first[edges]
    x = x0[edges] + (rows + 0.5 - y0[edges]) / (y1 - y0)[edges] * (x1 - x0)[edges]
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    counts = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).astype(np.uint8)
    # Only the parity of the crossings to the left counts, so that eight bits may overflow.
    crossed = np.cumsum(counts.reshape(height, width + 1), axis=1, dtype=np.uint8)
    return (crossed[:, :width] & 1).view(bool)


def pack_masks(masks: Bool[np.ndarray, "G 112 112"]) -> UInt8[np.ndarray, "G 112 14"]:
    """Packs eight cells of a row into a byte, the leftmost in the highest bit."""
    return np.packbits(masks, axis=-1)
