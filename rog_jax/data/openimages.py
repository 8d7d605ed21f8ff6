"""Reads OpenImages (V4 to V7, Challenge 2019) as it comes: CSVs of boxes, labels and classes, a json hierarchy."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from rog_jax.data.annotations import Annotations, DataError
from rog_jax.data.cache import Contents, cached
from rog_jax.data.image_files import missing_folder, openimages_names
from rog_jax.data.images import UnreadableImage, stored_size
from rog_jax.data.openimages_csv import read_boxes, read_classes, read_labels, read_sizes
from rog_jax.data.packing import MIN_BOX_SIDE, clipped_boxes, count_categories, offsets_of, warn_left_out

logger = logging.getLogger(__name__)

NUM_GROUPS = 5


def load_openimages(
    boxes_csv: str | Path,
    image_folder: str | Path,
    *,
    classes_csv: str | Path,
    labels_csv: str | Path | None = None,
    hierarchy_json: str | Path | None = None,
    sizes_csv: str | Path | None = None,
    expand: bool = False,
    train_group_of: bool = True,
    group_counts: Sequence[int] | np.ndarray | None = None,
) -> Annotations:
    """Reads OpenImages's own files; columns are found by their names, so those of every version will do.

    Categories are numbered 1..C in the order of `classes_csv`; `Annotations.category_keys` are their codes (/m/0...).
    An image's id is the number that its name stands for in hexadecimal, as 64 bits with a sign. Group-of boxes are
    marked in `Annotations.crowd`. The five frequency groups "1" (rarest) to "5" are of C / 5 categories each, by rising
    number of boxes (the paper's Table 6, after EQLv2).

    Args:
        boxes_csv: ImageID, LabelName, XMin, XMax, YMin, YMax (shares of the sides) and perhaps IsGroupOf.
        image_folder: holds `ID.jpg`, or these in train, validation, test or train_0 ... train_f.
        classes_csv: LabelName, DisplayName, with or without a header; boxes of other classes are an error.
        labels_csv: ImageID, LabelName, Confidence: 1 where a class was verified to be in an image, 0 where not to be.
        hierarchy_json: nested LabelName and Subcategory; fills `Annotations.ancestors`.
        sizes_csv: ImageID, Width, Height in pixels; without it the sizes are read from the image files, once.
        expand: adds a box of every ancestor to each box, a positive label of every ancestor, and a negative label of
            every descendant, as the challenge's evaluation does.
        train_group_of: whether group-of boxes are objects of training, as in MMDetection.
        group_counts: boxes of each category, by which the groups are made; those of this file if not given. A
            validation set needs those of its training set.

    Raises:
        DataError: a file is missing or not what it should be; the message names file and line.
    """
    if not str(classes_csv):
        raise DataError(f"{boxes_csv}: OpenImages needs its list of classes: set config.data.openimages.classes_csv.")
    paths = [Path(path) for path in (boxes_csv, classes_csv, labels_csv, hierarchy_json, sizes_csv) if path]
    folder = Path(image_folder)
    for path in paths:
        if not path.is_file():
            raise missing_file(path)
    if not folder.is_dir():
        raise missing_folder(folder)
    if expand and hierarchy_json is None:
        raise DataError(f"{boxes_csv}: boxes can be expanded along a hierarchy only with its json: set hierarchy_json.")
    files = OpenImagesFiles(Path(boxes_csv), Path(classes_csv), *map(_path, (labels_csv, hierarchy_json, sizes_csv)))
    reader = f"openimages {folder.resolve()} {expand} {[file is not None for file in files]}"
    contents = cached(paths, reader, lambda: _parse(files, folder, expand))
    arrays, texts = dict(contents.arrays), contents.texts
    arrays["trainable"] = arrays["trainable"] & (train_group_of | ~arrays["crowd"])
    warn_left_out(Path(boxes_csv), arrays)
    counts = arrays["instance_counts"] if group_counts is None else np.asarray(group_counts, np.int64)
    if len(counts) != len(arrays["category_ids"]):
        raise DataError(f"group_counts has {len(counts)} numbers for the {len(arrays['category_ids'])} categories.")
    ancestors = arrays.pop("ancestors")
    return Annotations(
        source=str(boxes_csv),
        image_folder=str(folder),
        category_names=tuple(texts["category_names"]),
        category_keys=tuple(texts["category_keys"]),
        frequencies=frequency_fifths(counts),
        ancestors=ancestors if hierarchy_json else None,
        packed=contents.packed,
        **arrays,
    )


def missing_file(path: Path) -> DataError:
    """The error for a file of OpenImages that is not there."""
    return DataError(f"There is no file {path}. Check config.data and the names of OpenImages's files.")


def frequency_fifths(instance_counts: Int64[np.ndarray, "C"]) -> tuple[str, ...]:
    """Five groups of equal size by rising instance count, "1" the rarest; ties go by the category's place."""
    groups = np.empty(len(instance_counts), np.int64)
    for group, members in enumerate(np.array_split(np.argsort(instance_counts, kind="stable"), NUM_GROUPS)):
        groups[members] = group + 1
    return tuple(str(group) for group in groups)


def hexadecimal_ids(names: np.ndarray) -> Int64[np.ndarray, "I"]:
    """The numbers that names of 16 hexadecimal digits stand for; running numbers where a name is none of these."""
    try:
        if all(len(name) == 16 for name in names.tolist()):
            return np.array([int(name, 16) for name in names.tolist()], np.uint64).astype(np.int64)
    except ValueError:
        pass
    return np.arange(1, len(names) + 1)


def read_hierarchy(path: Path, keys: Sequence[str]) -> Bool[np.ndarray, "C C"]:
    """Which categories stand above which: entry [c, a] tells that a is an ancestor of c, and not c itself.

    Raises:
        DataError: it is no json of nested LabelName and Subcategory.
    """
    try:
        root = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid json: {error}.") from error
    label_of = {key: label for label, key in enumerate(keys)}
    above = np.zeros((len(keys), len(keys)), bool)
    pending: list[tuple[Any, tuple[int, ...]]] = [(root, ())]
    while pending:
        node, ancestors = pending.pop()
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            raise DataError(f"{path}: {str(node)[:60]!r} is no object with a LabelName. Correct it.")
        children = node.get("Subcategory", [])
        if not isinstance(children, list):
            raise DataError(f"{path}: the Subcategory of {node['LabelName']} is no list. Correct it.")
        label = label_of.get(node["LabelName"])  # the root, Entity, is no category
        if label is not None:
            if label in ancestors:
                raise DataError(f"{path}: {node['LabelName']} stands below itself. Correct it.")
            above[label, list(ancestors)] = True
            ancestors = (*ancestors, label)
        pending += [(child, ancestors) for child in children]
    return above


class OpenImagesFiles(NamedTuple):
    """The files of a split; None where there is none."""

    boxes: Path
    classes: Path
    labels: Path | None
    hierarchy: Path | None
    sizes: Path | None


def _parse(files: OpenImagesFiles, folder: Path, expand: bool) -> Contents:
    keys, names = read_classes(files.classes)
    label_of = {key: label for label, key in enumerate(keys)}
    above = read_hierarchy(files.hierarchy, keys) if files.hierarchy else np.zeros((0, 0), bool)
    place_of: dict[str, int] = {}
    places, labels, corners, group_of = read_boxes(files.boxes, label_of, place_of)
    none = np.zeros((0, 2), np.int64)
    positive, negative = read_labels(files.labels, label_of, place_of) if files.labels else (none, none)
    if not place_of:
        raise DataError(f"{files.boxes} has no boxes. Is it the file of boxes?")
    if expand:
        boxes_of, labels = _expanded(labels, above)
        places, corners, group_of = places[boxes_of], corners[boxes_of], group_of[boxes_of]
        positive, negative = _expanded_pairs(positive, above), _expanded_pairs(negative, above.T)
    image_names = np.array(list(place_of))
    file_names = openimages_names(files.boxes, folder, image_names)
    sizes = read_sizes(files.sizes, image_names) if files.sizes else _stored_sizes(folder, file_names)
    order = np.argsort(places, kind="stable")
    places, labels, corners, group_of = places[order], labels[order], corners[order], group_of[order]
    scale = np.tile(sizes[places][:, ::-1], 2)  # [O, 4]: x, y, x, y
    pixels = corners * scale
    ids, image_ids = np.arange(1, len(order) + 1), hexadecimal_ids(image_names)
    extents = np.concatenate([pixels[:, :2], pixels[:, 2:] - pixels[:, :2]], axis=1)
    boxes = clipped_boxes(files.boxes, ids, image_names[places], extents, sizes[places])
    sides = boxes[:, 2:] - boxes[:, :2]
    offsets = offsets_of(places, len(image_names))
    image_counts, instance_counts = count_categories(labels, offsets, np.ones(len(labels), bool), len(keys))
    without_outline = np.zeros(len(labels) + 1, np.int64)
    no_images = np.zeros(len(image_names) + 1, np.int64)
    arrays = {
        "image_ids": image_ids,
        "image_sizes": sizes,
        "file_names": file_names,
        "offsets": offsets,
        "annotation_ids": ids,
        "boxes": boxes.astype(np.float32),
        "labels": labels.astype(np.int32),
        "areas": np.prod(sides, axis=1).astype(np.float32),
        "crowd": group_of,
        "trainable": (sides >= MIN_BOX_SIDE).all(axis=1),
        "points": np.zeros((0, 2), np.float32),
        "polygon_offsets": np.zeros(1, np.int64),
        "object_polygons": without_outline,
        "rle_bytes": np.zeros(0, np.uint8),
        "rle_offsets": without_outline,
        "category_ids": np.arange(1, len(keys) + 1),
        "image_counts": image_counts,
        "instance_counts": instance_counts,
        **_packed_labels("positive", positive, len(image_names)),
        **_packed_labels("negative", negative, len(image_names)),
        "not_exhaustive_labels": np.zeros(0, np.int32),
        "not_exhaustive_offsets": no_images,
        "exhaustive": np.zeros(len(image_names), bool),
        "ancestors": above,
    }
    return Contents(arrays, {"category_names": names, "category_keys": keys})


def _stored_sizes(folder: Path, file_names: np.ndarray) -> np.ndarray:
    """(height, width) of each image, from the heads of the files: most of the time is waiting for the disk."""
    logger.info("reading the sizes of %d images from their files; sizes_csv would save that", len(file_names))
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(_size_or_none, (folder / name for name in file_names.tolist()), chunksize=64))
    missing = [place for place, size in enumerate(sizes) if size is None]
    if missing:
        some = ", ".join(str(folder / file_names[place]) for place in missing[:3])
        raise DataError(
            f"{len(missing)} of {len(sizes)} images are missing or no pictures, the first are {some}. Fetch them, or "
            "leave their lines out of the CSVs."
        )
    return np.array(sizes, np.int32)


def _expanded(labels: np.ndarray, relation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each label and all that `relation` [C, C] gives for it: the place that each comes from, and the label."""
    of_label, related = np.nonzero(relation | np.eye(len(relation), dtype=bool))
    counts = np.bincount(of_label, minlength=len(relation))
    source = np.repeat(np.arange(len(labels)), counts[labels])
    ends = np.cumsum(counts[labels])
    within = np.arange(len(source)) - np.repeat(ends - counts[labels], counts[labels])
    return source, related[(np.cumsum(counts) - counts)[labels[source]] + within]


def _expanded_pairs(pairs: np.ndarray, relation: np.ndarray) -> np.ndarray:
    source, labels = _expanded(pairs[:, 1], relation)
    return np.stack([pairs[source, 0], labels], axis=1)


def _size_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return stored_size(path)
    except UnreadableImage:
        return None


def _packed_labels(name: str, pairs: np.ndarray, num_images: int) -> dict[str, np.ndarray]:
    pairs = np.unique(pairs, axis=0)
    return {f"{name}_labels": pairs[:, 1].astype(np.int32), f"{name}_offsets": offsets_of(pairs[:, 0], num_images)}


def _path(path: str | Path | None) -> Path | None:
    return Path(path) if path else None
