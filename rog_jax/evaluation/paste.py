"""Masks predicted inside boxes as COCO run lengths of the whole image, which is never made."""

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

Rle = dict[str, list[int] | str]
"""COCO's compressed run-length code: {"size": [height, width], "counts": text}."""


def encode_detection_mask(
    probabilities: Float[np.ndarray, "M M"],
    box: Float[np.ndarray, "4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Rle:
    """The pixels of a detection's mask in an image.

    Args:
        probabilities: [M, M], the predicted map; its cells tile the box.
        box: [4], x1, y1, x2, y2 in pixels of the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        threshold: a pixel belongs to the mask from this probability on.

    Returns:
        The mask as COCO's compressed run-length code, what pycocotools makes of the mask pasted into the whole image.
    """
    crop, top, left = paste_crop(probabilities, box, height, width, threshold)
    return encode_crop(crop, top, left, height, width)


def paste_crop(
    probabilities: Float[np.ndarray, "M M"],
    box: Float[np.ndarray, "4"],
    height: int,
    width: int,
    threshold: float = 0.5,
    method: str = "detectron2",
) -> tuple[Bool[np.ndarray, "h w"], int, int]:
    """The part of a pasted mask that its box covers: the mask [h, w] and the image's row and column of its corner.

    A pixel has the value of the map at its centre, interpolated between the centres of the map's cells; the map is zero
    outside the box. This is Detectron2's and MMDetection's sub-pixel pasting at any threshold of 0.5 or more. The
    method "torchvision" is that project's: the map, framed by zeros, is resized to whole pixels.

    Raises:
        ValueError: unknown method.
    """
    if method not in _METHODS:
        raise ValueError(f"paste_crop: method={method!r} is unknown; choose one of {', '.join(_METHODS)}")
    neighbours = _METHODS[method]
    x1, y1, x2, y2 = (float(edge) for edge in box)
    framed = np.pad(probabilities.astype(np.float64), 1)  # [M + 2, M + 2]
    top, upper, lower_weight = neighbours(y1, y2, height, probabilities.shape[0])
    left, before, after_weight = neighbours(x1, x2, width, probabilities.shape[0])
    # No matrix product: on arrays of this size its threads cost more than they save.
    rows = _interpolate(framed, upper, lower_weight)  # [h, M + 2]
    values = _interpolate(rows.T, before, after_weight)  # [w, h], the layout that run lengths are read from
    return (values >= threshold).T, top, left


def paste_whole(
    probabilities: Float[np.ndarray, "M M"],
    box: Float[np.ndarray, "4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "H W"]:
    """The mask of a whole image [H, W]; for the arguments see `encode_detection_mask`."""
    mask = np.zeros((height, width), bool)
    crop, top, left = paste_crop(probabilities, box, height, width, threshold)
    mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return mask


def _neighbours(
    start: float, stop: float, size: int, cells: int
) -> tuple[int, Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Along one axis: the first pixel whose centre is in [start, stop]; and for each pixel from it to the last such one
    the cell of the framed map before its centre and the weight of the cell behind that."""
    first = max(int(np.ceil(start - 0.5)), 0)
    last = min(int(np.floor(stop - 0.5)), size - 1)
    if stop <= start or last < first:
        return min(max(first, 0), size), np.zeros(0, np.int64), np.zeros(0)
    centres = np.arange(first, last + 1) + 0.5
    position = (centres - start) / (stop - start) * cells + 0.5  # in cells of the framed map
    before = np.clip(np.floor(position).astype(np.int64), 0, cells)
    return first, before, position - before


def _neighbours_of_whole_pixels(
    start: float, stop: float, size: int, cells: int
) -> tuple[int, Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The same by torchvision: the box, enlarged as its framed map is, is cut to whole pixels, the last included.

    In float32 as there: a box over the whole width of an image often ends on a whole pixel once it is enlarged, and
    there the last bit decides between two pixels.
    """
    low, high = np.float32(start), np.float32(stop)
    centre, half = (high + low) * np.float32(0.5), (high - low) * np.float32(0.5) * np.float32((cells + 2) / cells)
    first, last = int(centre - half), int(centre + half)
    length = max(last - first + 1, 1)
    pixels = np.arange(max(first, 0), min(first + length, size))
    position = np.clip((pixels - first + 0.5) * (cells + 2) / length - 0.5, 0, cells + 1)  # in cells of the framed map
    before = np.minimum(position.astype(np.int64), cells)
    return min(max(first, 0), size), before, position - before


_METHODS = {"detectron2": _neighbours, "torchvision": _neighbours_of_whole_pixels}


def _interpolate(
    cells: Float[np.ndarray, "A B"], before: Int[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n B"]:
    """Values between the rows `before` and `before` + 1 of `cells`."""
    cells = np.ascontiguousarray(cells)
    values = np.diff(cells, axis=0)[before]
    values *= weight[:, None]
    values += cells[before]
    return values


def encode_crop(crop: Bool[np.ndarray, "h w"], top: int, left: int, height: int, width: int) -> Rle:
    """Run-length code of an image that is empty but for `crop` [h, w] at row `top` and column `left`."""
    rows, columns = crop.shape
    framed = np.zeros(columns * height + 2, bool)  # the columns that the crop touches, between two empty pixels
    framed[1:-1].reshape(columns, height)[:, top : top + rows] = crop.T
    edges = np.flatnonzero(framed[1:] != framed[:-1]) + left * height
    counts = np.diff(edges, prepend=0, append=height * width)
    if counts.size > 1 and counts[-1] == 0:
        counts = counts[:-1]
    code = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}
