"""The tables of OpenImages: boxes, verified labels, classes and image sizes, checked line by line."""

import csv
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rog_jax.data.annotations import DataError


class TableError(DataError):
    """A line that is wrong, or one that is missing.

    Attributes:
        cause: what is wrong, in words that hold for every line of which the same is.
    """

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


Report = Callable[[TableError], None]
"""Told of each line that is wrong, which is then passed over."""
_CORNERS = ("XMin", "YMin", "XMax", "YMax")
_OVERHANG = 0.01
"""By how much of a side a box may leave its image, as rounding makes some do."""


def read_classes(path: Path) -> tuple[list[str], list[str]]:
    """Codes and names of the classes, in the order of the file."""
    rows = [row for row in _text_rows(path) if row]
    if rows and rows[0][0] == "LabelName":
        rows = rows[1:]
    if not rows or any(len(row) < 2 for row in rows):
        raise DataError(f"{path} is no table of LabelName, DisplayName, one class a line.")
    keys = [row[0] for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{path}: the class {twice} stands there twice. Remove one.")
    return keys, [row[1] for row in rows]


def raised(error: TableError) -> None:
    """A `Report` that stops at the first wrong line."""
    raise error


def read_boxes(
    path: Path, label_of: dict[str, int], place_of: dict[str, int], report: Report = raised
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image and label of each box, corners as shares [O, 4], and whether it is a group. Names images in `place_of`."""
    places, labels, corners, group_of = array("q"), array("q"), array("d"), array("b")
    columns = ("ImageID", "LabelName", *_CORNERS)
    for line, (image, key, *numbers, group) in _rows(path, columns, ("IsGroupOf",), report):
        try:
            label, is_group = _label(path, line, key, label_of), _is_one(path, line, group)
            sides = _sides(path, line, numbers)
        except TableError as error:
            report(error)
            continue
        labels.append(label)
        places.append(place_of.setdefault(image, len(place_of)))
        corners.extend(sides)
        group_of.append(is_group)
    return (
        np.array(places, np.int64),
        np.array(labels, np.int64),
        np.array(corners, np.float64).reshape(-1, 4),
        np.array(group_of, bool),
    )


def read_labels(
    path: Path, label_of: dict[str, int], place_of: dict[str, int], report: Report = raised
) -> tuple[np.ndarray, np.ndarray]:
    """Verified pairs of image and label, [M, 2] those that are there and those that are not.

    Classes beyond those of the boxes are passed over: the file has labels of thousands. Images without boxes are added.
    """
    found: tuple[array, array] = (array("q"), array("q"))
    for line, (image, key, confidence, _) in _rows(path, ("ImageID", "LabelName", "Confidence"), (), report):
        if key in label_of:
            try:
                present = _is_one(path, line, confidence)
            except TableError as error:
                report(error)
                continue
            found[present].extend((place_of.setdefault(image, len(place_of)), label_of[key]))
    return np.array(found[1], np.int64).reshape(-1, 2), np.array(found[0], np.int64).reshape(-1, 2)


def read_sizes(path: Path, image_names: np.ndarray, report: Report = raised) -> np.ndarray:
    """(height, width) in pixels of the images named, int32 [I, 2]; zeros where there is none and `report` allows it."""
    sizes = {}
    for line, (image, width, height, _) in _rows(path, ("ImageID", "Width", "Height"), (), report):
        if not (_is_length(width) and _is_length(height)):
            text = f"{path}, line {line}: {width} x {height} is no size in pixels. Correct it."
            report(TableError("size that is no whole numbers", text))
            continue
        size = (int(height), int(width))
        if sizes.setdefault(image, size) != size:
            text = f"{path}, line {line}: {image} had another size in a line before. Remove one of them."
            report(TableError("second size of an image", text))
    missing = [name for name in image_names.tolist() if name not in sizes]
    if missing:
        text = f"{path} has no size of {len(missing)} images, the first is {missing[0]}. Add their lines."
        report(TableError("images without a size", text))
    return np.array([sizes.get(name, (0, 0)) for name in image_names.tolist()], np.int32).reshape(-1, 2)


def _is_length(text: str) -> bool:
    return text.isdecimal() and len(text) < 11 and 0 < int(text) < 2**31


def _rows(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...], report: Report = raised
) -> Iterator[tuple[int, list[str]]]:
    """Number of each line and its values of the `needed` columns and one `optional` one, "0" where there is none."""
    rows = _text_rows(path)
    header = next(rows, [])
    twice = [name for name in needed if header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {', '.join(twice)} twice. Remove one.")
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; its first line is {','.join(header)[:80]!r}.")
    columns = [header.index(name) for name in needed]
    extra = next((header.index(name) for name in optional if name in header), None)
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            text = f"{path}, line {line}: it has {len(row)} values for {len(header)} columns. Correct it."
            report(TableError("line of another length than the first", text))
            continue
        yield line, [*(row[column] for column in columns), "0" if extra is None else row[extra]]


def _text_rows(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{path}, after line {rows.line_num}: it is no CSV text: {error}.") from error
            yield row


def _sides(path: Path, line: int, numbers: list[str]) -> tuple[float, float, float, float]:
    """The corners of a box, x1, y1, x2, y2."""
    try:
        x1, y1, x2, y2 = (float(number) for number in numbers)
    except ValueError as error:
        text = f"{path}, line {line}: the corners {numbers} are no numbers. Correct them."
        raise TableError("corners that are no numbers", text) from error
    if not (_is_side(x1, x2) and _is_side(y1, y2)):
        raise TableError(
            "corners outside the image or out of order",
            f"{path}, line {line}: the box {x1}, {y1}, {x2}, {y2} is not of shares from 0 to 1, the smaller first. "
            "Correct it, or leave the line out.",
        )
    return x1, y1, x2, y2


def _is_side(low: float, high: float) -> bool:
    """Whether a box may reach from `low` to `high`: in order, in the image but for rounding, and not beside it."""
    # The comparisons are also false for NaN.
    return -_OVERHANG <= low <= high <= 1 + _OVERHANG and ((low < 1 and high > 0) or 0 <= low == high <= 1)


def _label(path: Path, line: int, key: str, label_of: dict[str, int]) -> int:
    if key not in label_of:
        text = f"{path}, line {line}: {key!r} is no class of the list of classes. Give the list that fits."
        raise TableError("class that is not listed", text)
    return label_of[key]


def _is_one(path: Path, line: int, text: str) -> bool:
    """Flags are 0 or 1, -1 where nobody looked; confidences may have decimals."""
    try:
        number = float(text)
    except ValueError:
        number = None
    if number not in (0, 1, -1):
        message = f"{path}, line {line}: {text!r} is neither 0 nor 1. Correct it."
        raise TableError("flag or confidence that is neither 0 nor 1", message)
    return number == 1
