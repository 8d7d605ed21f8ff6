"""Reads annotations in LVIS and COCO format into packed arrays."""

from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from rog_jax.data.annotations import FREQUENCY_LIMITS, Annotations, DataError, frequency_group
from rog_jax.data.cache import Contents, cached
from rog_jax.data.image_files import missing_folder, resolved_names
from rog_jax.data.packing import (
    MIN_BOX_SIDE,
    clipped_boxes,
    count_categories,
    offsets_of,
    places_of,
    unique_ids,
    warn_left_out,
)
from rog_jax.data.records import Category, Image, LabelledBox, Outline, decode, read_tables
from rog_jax.data.segmentation import SegmentationPacker


def load_lvis(
    json_path: str | Path, image_folder: str | Path, frequency_limits: Sequence[int] = FREQUENCY_LIMITS
) -> Annotations:
    """Reads an LVIS json (v1 or v0.5), or one in COCO's format.

    The frequency group of a category is the file's, or else follows from the file's `image_count`, or else from the
    number of its images in the file. Images without `neg_category_ids` count as searched for every category. How an
    image's file is found is told by `image_files.resolved_names`; docs/data.md says what becomes of each kind of odd
    input. A file of more than some MB is kept parsed beside itself: see `cache.cached`.

    Args:
        json_path: the annotation file.
        image_folder: folder of the images.
        frequency_limits: most images of a rare and of a common category, where the file states no groups.

    Raises:
        DataError: the file or the folder is missing or is not what it should be; the message names the record.
    """
    return _load(Path(json_path), Path(image_folder), frequency_limits, federated=True)


def load_coco(
    json_path: str | Path, image_folder: str | Path, frequency_limits: Sequence[int] = FREQUENCY_LIMITS
) -> Annotations:
    """Reads a json in COCO's format: instances of COCO 2017, or any file of that kind.

    As `load_lvis`, but every image counts as searched for every category, and frequency groups follow from the images
    counted in this file, whatever it says of them. Crowds (`iscrowd`) are kept, marked, and no objects of training.

    Raises:
        DataError: as `load_lvis`.
    """
    return _load(Path(json_path), Path(image_folder), frequency_limits, federated=False)


def _load(path: Path, folder: Path, limits: Sequence[int], federated: bool) -> Annotations:
    if not folder.is_dir():
        raise missing_folder(folder)
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}. Check config.data.train_json and config.data.val_json.")
    contents = cached([path], "coco json", lambda: _parse(path))
    arrays, texts = dict(contents.arrays), contents.texts
    names, urls = arrays.pop("file_names"), arrays.pop("urls")
    given, stated = texts["frequencies"], arrays.pop("stated_image_counts")
    warn_left_out(path, arrays)
    if federated:
        groups = _frequencies(given, np.where(stated >= 0, stated, arrays["image_counts"]), limits)
    else:
        groups = _frequencies([""] * len(given), arrays["image_counts"], limits)
        arrays["exhaustive"] = np.ones(len(names), bool)
        for kind in ("negative", "not_exhaustive"):
            arrays[f"{kind}_labels"] = np.zeros(0, np.int32)
            arrays[f"{kind}_offsets"] = np.zeros(len(names) + 1, np.int64)
    return Annotations(
        source=str(path),
        image_folder=str(folder),
        file_names=resolved_names(path, folder, names, urls, arrays["image_ids"]),
        category_names=tuple(texts["category_names"]),
        frequencies=groups,
        packed=contents.packed,
        **arrays,
    )


def _frequencies(given: Sequence[str], counts: np.ndarray, limits: Sequence[int]) -> tuple[str, ...]:
    return tuple(group or frequency_group(int(count), limits) for group, count in zip(given, counts, strict=True))


def _parse(path: Path) -> Contents:
    tables = read_tables(path)
    categories = sorted(decode(path, "categories", tables.categories, Category), key=lambda category: category.id)
    category_ids = unique_ids(path, "category", array("q", [category.id for category in categories]))
    images = list(decode(path, "images", tables.images, Image))
    image_ids = unique_ids(path, "image", array("q", [image.id for image in images]))
    sizes = np.array([(image.height, image.width) for image in images], np.float64).astype(np.int32)
    objects = _read_objects(path, tables.annotations, image_ids, sizes, category_ids)
    image_counts, instance_counts = count_categories(
        objects["labels"], objects["offsets"], ~objects["crowd"], len(categories)
    )
    arrays = {
        "image_ids": image_ids,
        "image_sizes": sizes,
        "file_names": _texts(path, images, "file_name"),
        "urls": _texts(path, images, "coco_url"),
        "category_ids": category_ids,
        "stated_image_counts": np.array([-1 if c.image_count is None else c.image_count for c in categories], np.int64),
        "image_counts": image_counts,
        "instance_counts": instance_counts,
        "exhaustive": np.array([image.neg_category_ids is None for image in images], bool),
        **_pack_labels(path, images, category_ids, "neg_category_ids", "negative"),
        **_pack_labels(path, images, category_ids, "not_exhaustive_category_ids", "not_exhaustive"),
        **objects,
    }
    texts = {
        "category_names": [str(c.id if c.name is None else c.name) for c in categories],
        "frequencies": [category.frequency or "" for category in categories],
    }
    return Contents(arrays, texts)


def _texts(path: Path, images: list[Image], key: str) -> np.ndarray:
    texts = [getattr(image, key) or "" for image in images]
    longest = max(range(len(texts)), key=lambda place: len(texts[place]))
    if len(texts[longest]) > 4096 or any("\0" in text for text in texts):
        raise DataError(f"{path}: image {images[longest].id}: its {key} is longer than any path. Correct it.")
    return np.array(texts)


def _pack_labels(
    path: Path, images: list[Image], category_ids: np.ndarray, key: str, name: str
) -> dict[str, np.ndarray]:
    lists = [getattr(image, key) or () for image in images]
    lengths = np.array([len(ids) for ids in lists], np.int64)
    ids = np.array([category_id for ids in lists for category_id in ids], np.int64)
    labels, known = places_of(category_ids, ids)
    if not known.all():
        first = int(np.argmin(known))
        image = images[int(np.searchsorted(np.cumsum(lengths), first, side="right"))]
        raise DataError(f"{path}: image {image.id}: {key} has {ids[first]}, no category of the file. Correct it.")
    return {
        f"{name}_labels": labels.astype(np.int32),
        f"{name}_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    }


def _read_objects(
    path: Path, raws: list[msgspec.Raw], image_ids: np.ndarray, sizes: np.ndarray, category_ids: np.ndarray
) -> dict[str, np.ndarray]:
    ids, image_refs, category_refs = array("q"), array("q"), array("q")
    flat_boxes, stated_areas, crowd = array("d"), array("d"), array("b")
    for record in decode(path, "annotations", raws, LabelledBox):
        ids.append(record.id)
        image_refs.append(record.image_id)
        category_refs.append(record.category_id)
        flat_boxes.extend(record.bbox)
        stated_areas.append(-1.0 if record.area is None else record.area)
        crowd.append(bool(record.iscrowd))
    ids = np.frombuffer(ids, np.int64) if ids else np.zeros(0, np.int64)
    places = _references(path, ids, image_refs, image_ids, "image_id", "images")
    labels = _references(path, ids, category_refs, category_ids, "category_id", "categories")
    order = np.argsort(places, kind="stable")
    ids, places = unique_ids(path, "annotation", ids[order]), places[order]
    boxes = np.array(flat_boxes).reshape(-1, 4)[order]
    corners = clipped_boxes(path, ids, image_ids[places], boxes, sizes[places])
    sides = corners[:, 2:] - corners[:, :2]
    areas = np.array(stated_areas)[order]
    areas = np.where(areas >= 0, areas, np.prod(sides, axis=1)).astype(np.float32)
    packer = SegmentationPacker(path)
    ordered = [raws[i] for i in order]
    heights_widths = sizes[places].tolist()
    # One after the other, and none is kept: as Python lists, the polygons of LVIS are gigabytes.
    for place, outline in enumerate(decode(path, "annotations", ordered, Outline)):
        packer.add(outline.id, outline.segmentation, heights_widths[place])
    crowd = np.array(crowd, bool)[order]
    solid = (areas > 0) & (sides >= MIN_BOX_SIDE).all(axis=1) & ~packer.empty()
    return {
        "offsets": offsets_of(places, len(image_ids)),
        "annotation_ids": ids,
        "boxes": corners.astype(np.float32),
        "labels": labels[order].astype(np.int32),
        "areas": areas,
        "crowd": crowd,
        "trainable": solid & ~crowd,
        **packer.arrays(),
    }


def _references(
    path: Path, annotation_ids: np.ndarray, refs: array, known_ids: np.ndarray, key: str, table: str
) -> np.ndarray:
    refs = np.array(refs, np.int64)
    places, known = places_of(known_ids, refs)
    if not known.all():
        first = int(np.argmin(known))
        raise DataError(
            f"{path}: annotation {annotation_ids[first]}: {key} {refs[first]} is not among the {table} of the file. "
            "Correct it, or leave the annotation out."
        )
    return places
