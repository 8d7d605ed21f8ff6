"""Reads annotations in LVIS format (COCO's, with frequency groups and federated labels) into packed arrays."""

import json
import logging
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from rog_jax.data.annotations import Annotations, DataError, frequency_group
from rog_jax.data.segmentation import SegmentationPacker

logger = logging.getLogger(__name__)

SILENT_OVERHANG = 1.0
"""Pixels by which a box may stick out of its image without a word: what rounding leaves."""
MIN_BOX_SIDE = 1.0
"""Thinner objects are no training objects, in pixels of the file; MMDetection does the same."""
_PROBED_IMAGES = 10


def load_lvis(json_path: str | Path, image_folder: str | Path) -> Annotations:
    """Reads an LVIS or COCO json.

    An image's file is its `file_name` under `image_folder`, or else the last two parts of its `coco_url`
    (`train2017/000000000042.jpg`), or the last alone where the folder holds that. The frequency group of a category
    is the file's, or else follows from the file's `image_count`, or else from the number of its images in the file.
    docs/data.md says what becomes of each kind of odd input.

    Args:
        json_path: the annotation file.
        image_folder: folder of the images.

    Raises:
        DataError: the file or the folder is missing or is not what it should be; the message names the record.
    """
    path, folder = Path(json_path), Path(image_folder)
    data = _read_json(path)
    if not folder.is_dir():
        raise DataError(f"There is no image folder {folder}. Check config.data.train_images and val_images.")
    categories = _read_categories(path, data["categories"])
    label_of = {int(category_id): label for label, category_id in enumerate(categories.ids)}
    images = _read_images(path, folder, data["images"], label_of)
    objects = _read_objects(path, data.pop("annotations"), images, label_of)
    image_counts, instance_counts = _count(objects, len(label_of))
    frequencies = (
        given or frequency_group(int(counted if stated is None else stated))
        for given, stated, counted in zip(categories.frequencies, categories.image_counts, image_counts, strict=True)
    )
    return Annotations(
        source=str(path),
        image_folder=str(folder),
        image_ids=images.ids,
        image_sizes=images.sizes,
        file_names=images.file_names,
        category_ids=categories.ids,
        category_names=categories.names,
        frequencies=tuple(frequencies),
        image_counts=image_counts,
        instance_counts=instance_counts,
        negative_labels=images.negative[0],
        negative_offsets=images.negative[1],
        not_exhaustive_labels=images.not_exhaustive[0],
        not_exhaustive_offsets=images.not_exhaustive[1],
        **{key: value for key, value in objects.items() if key != "images"},
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}. Check config.data.train_json and config.data.val_json.")
    try:
        with path.open("rb") as file:
            data = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is no valid json: {error.msg} at line {error.lineno}, column {error.colno} (character "
            f"{error.pos}). The file has {path.stat().st_size} bytes; if that is too few, copy or download it again."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no json text: {error}. If it is compressed, unpack it first.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(f"{path} has no list {key!r}: is it an annotation file in LVIS or COCO format?")
    if not data["images"] or not data["categories"]:
        empty = "images" if not data["images"] else "categories"
        raise DataError(f"{path}: the list {empty!r} is empty. Annotations need at least one of them.")
    return data


class _Categories(NamedTuple):
    ids: np.ndarray
    names: tuple[str, ...]
    frequencies: list[str | None]
    image_counts: list[int | None]


def _read_categories(path: Path, records: list[dict]) -> _Categories:
    for place, record in enumerate(records):
        _require(path, "categories", place, record, ("id",))
    records = sorted(records, key=lambda record: record["id"])
    for record in records:
        if record.get("frequency") not in (None, "r", "c", "f"):
            raise DataError(f"{path}: category {record['id']}: frequency {record['frequency']!r} is none of r, c, f.")
    return _Categories(
        ids=_unique_ids(path, "category", [record["id"] for record in records]),
        names=tuple(str(record.get("name", record["id"])) for record in records),
        frequencies=[record.get("frequency") for record in records],
        image_counts=[_image_count(path, record) for record in records],
    )


class _Images(NamedTuple):
    ids: np.ndarray
    sizes: np.ndarray
    file_names: np.ndarray
    negative: tuple[np.ndarray, np.ndarray]
    not_exhaustive: tuple[np.ndarray, np.ndarray]


def _read_images(path: Path, folder: Path, records: list[dict], label_of: dict[int, int]) -> _Images:
    for place, record in enumerate(records):
        _require(path, "images", place, record, ("id", "height", "width"))
        for key in ("height", "width"):
            if not isinstance(record[key], int | float) or not 1 <= record[key] < 2**31:
                raise DataError(f"{path}: image {record['id']}: {key} {record[key]!r} is no positive number of pixels.")
    return _Images(
        ids=_unique_ids(path, "image", [record["id"] for record in records]),
        sizes=np.array([(record["height"], record["width"]) for record in records], np.int32).reshape(-1, 2),
        file_names=_file_names(path, folder, records),
        negative=_pack_labels(path, records, "neg_category_ids", label_of),
        not_exhaustive=_pack_labels(path, records, "not_exhaustive_category_ids", label_of),
    )


def _file_names(path: Path, folder: Path, records: list[dict]) -> np.ndarray:
    names = []
    for record in records:
        if record.get("file_name"):
            names.append(str(record["file_name"]))
        elif record.get("coco_url"):
            names.append("/".join(PurePosixPath(urlsplit(record["coco_url"]).path).parts[-2:]))
        else:
            raise DataError(f"{path}: image {record['id']} has neither 'file_name' nor 'coco_url'. Add its file name.")
    probe = names[:_PROBED_IMAGES]
    if not any((folder / name).is_file() for name in probe):
        if not any((folder / PurePosixPath(name).name).is_file() for name in probe):
            raise DataError(
                f"{path}: image {records[0]['id']} should be {folder / names[0]}, but neither it nor the next ones are "
                "there. Check config.data.train_images and config.data.val_images."
            )
        names = [PurePosixPath(name).name for name in names]
    return np.array(names)


def _image_count(path: Path, record: dict) -> int | None:
    count = record.get("image_count")
    if count is not None and not isinstance(count, int):
        raise DataError(f"{path}: category {record['id']}: image_count is {count!r}, no whole number. Correct it.")
    return count


def _pack_labels(path: Path, records: list[dict], key: str, label_of: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    labels, offsets = [], np.zeros(len(records) + 1, np.int64)
    for place, record in enumerate(records):
        for category_id in record.get(key) or ():
            if not isinstance(category_id, int) or category_id not in label_of:
                raise DataError(f"{path}: image {record['id']}: {key} has {category_id!r}, no category of the file.")
            labels.append(label_of[category_id])
        offsets[place + 1] = len(labels)
    return np.array(labels, np.int32), offsets


def _read_objects(path: Path, records: list[dict], images: _Images, label_of: dict[int, int]) -> dict[str, np.ndarray]:
    image_of = {int(image_id): place for place, image_id in enumerate(images.ids)}
    places = _image_places(path, records, image_of, label_of)
    order = np.argsort(places, kind="stable")
    places = places[order]
    ids = _unique_ids(path, "annotation", [records[i]["id"] for i in order])
    labels = np.array([label_of[records[i]["category_id"]] for i in order], np.int32)
    crowd = np.array([bool(records[i].get("iscrowd", 0)) for i in order], bool)
    corners = _boxes(path, [records[i] for i in order], images.sizes[places])
    sides = corners[:, 2:] - corners[:, :2]
    areas = _areas(path, [records[i] for i in order], sides)
    packer = SegmentationPacker(path)
    for i, place in zip(order, places, strict=True):
        # The parsed polygons of LVIS are gigabytes: each goes as soon as it is packed.
        packer.add(records[i]["id"], records[i].pop("segmentation", None), images.sizes[place])
    solid = (areas > 0) & (sides >= MIN_BOX_SIDE).all(axis=1) & ~packer.empty()
    _warn(path, ids, ~solid, "have no area or are thinner than a pixel: left out of training")
    _warn(path, ids, crowd, "are crowds: left out of training")
    return {
        "images": places,
        "offsets": np.searchsorted(places, np.arange(len(images.ids) + 1)).astype(np.int64),
        "annotation_ids": ids,
        "boxes": corners.astype(np.float32),
        "labels": labels,
        "areas": areas,
        "crowd": crowd,
        "trainable": solid & ~crowd,
        **packer.arrays(),
    }


def _image_places(path: Path, records: list[dict], image_of: dict[int, int], label_of: dict[int, int]) -> np.ndarray:
    places = np.empty(len(records), np.int64)
    for i, record in enumerate(records):
        _require(path, "annotations", i, record, ("id", "image_id", "category_id", "bbox"))
        for key, known, what in (("image_id", image_of, "images"), ("category_id", label_of, "categories")):
            if not isinstance(record[key], int) or record[key] not in known:
                raise DataError(
                    f"{path}: annotation {record['id']}: {key} {record[key]!r} is not among the {what} of the file. "
                    f"Correct it, or leave the annotation out."
                )
        places[i] = image_of[record["image_id"]]
    return places


def _boxes(path: Path, records: list[dict], sizes: np.ndarray) -> np.ndarray:
    """Boxes [O, 4] as corners, float64, checked and clipped to images of `sizes` [O, 2]."""
    boxes = np.empty((len(records), 4))
    for i, record in enumerate(records):
        try:
            boxes[i] = record["bbox"]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: annotation {record['id']}: bbox {record['bbox']!r} is not four numbers x, y, width, height."
            ) from error
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1).astype(np.float64)  # [O, 4]: x, y, x, y
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limits)
    outside = (corners[:, 2:] < 0).any(axis=1) | (corners[:, :2] > limits[:, 2:]).any(axis=1)
    outside |= ((clipped[:, 2:] <= clipped[:, :2]) & (boxes[:, 2:] > 0)).any(axis=1)
    for wrong, what in (
        (~np.isfinite(boxes).all(axis=1), "is not finite"),
        ((boxes[:, 2:] < 0).any(axis=1), "has a negative width or height (the format is x, y, width, height)"),
        (outside, "lies outside its image of {height} x {width} pixels (the format is x, y, width, height)"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            reason = what.format(height=sizes[i, 0], width=sizes[i, 1])
            raise DataError(
                f"{path}: annotation {records[i]['id']}, image {records[i]['image_id']}: bbox {records[i]['bbox']} "
                f"{reason}. Correct it, or leave the annotation out."
            )
    overhang = np.abs(clipped - corners).max(axis=1, initial=0) > SILENT_OVERHANG
    _warn(path, [record["id"] for record in records], overhang, "stick out of their images: clipped")
    return clipped


def _areas(path: Path, records: list[dict], sides: np.ndarray) -> np.ndarray:
    areas = np.prod(sides, axis=1).astype(np.float32)
    for i, record in enumerate(records):
        area = record.get("area")
        if area is None:
            continue
        if not isinstance(area, int | float) or not 0 <= area < np.inf:
            raise DataError(f"{path}: annotation {record['id']}: area {area!r} is no finite number. Correct it.")
        areas[i] = area
    return areas


def _count(objects: dict[str, np.ndarray], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and instances of each category, [C] and [C], crowds aside."""
    labels, images = objects["labels"][~objects["crowd"]], objects["images"][~objects["crowd"]]
    pairs = np.unique(images * num_classes + labels)
    return (
        np.bincount(pairs % num_classes, minlength=num_classes).astype(np.int64),
        np.bincount(labels, minlength=num_classes).astype(np.int64),
    )


def _require(path: Path, table: str, place: int, record: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{path}: {table}[{place}] is {record!r}, not an object with the keys {', '.join(keys)}.")
    for key in keys:
        if key not in record:
            raise DataError(f"{path}: {table}[{place}] (id {record.get('id')}) has no {key!r}. Add it.")
    number = record["id"]
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) >= 2**63:
        raise DataError(f"{path}: {table}[{place}]: id {number!r} is no whole number of 64 bits. Number the records.")


def _unique_ids(path: Path, what: str, ids: list[int]) -> np.ndarray:
    ids = np.array(ids, np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        twice = values[counts > 1]
        raise DataError(
            f"{path}: {what} id {twice[0]} occurs {counts.max()} times ({len(twice)} such ids). Ids must be unique: "
            "renumber them, or remove the copies."
        )
    return ids


def _warn(path: Path, ids: Any, marked: np.ndarray, what: str) -> None:
    if marked.any():
        first = ids[int(np.argmax(marked))]
        logger.warning("%s: %d objects %s (the first is annotation %d)", path, marked.sum(), what, first)
