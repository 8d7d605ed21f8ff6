"""Everything that is wrong with an annotation file, where the readers stop at the first error."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from rog_jax.data.annotations import FREQUENCY_LIMITS, Annotations, DataError, frequency_group
from rog_jax.data.findings import Findings
from rog_jax.data.image_files import resolved_names
from rog_jax.data.inspection_images import ListedImages
from rog_jax.data.records import Category, Image, LabelledBox, Outline, decode, read_tables
from rog_jax.data.segmentation import SegmentationPacker

_FAR_OUT = 2.0
"""Pixels by which an outline may leave its box before that is worth a word."""


def inspect_json(path: Path, findings: Findings, frequency_limits: Sequence[int] = FREQUENCY_LIMITS) -> ListedImages:
    """Checks every record of an LVIS or COCO json.

    Args:
        path: of the json.
        findings: added to.
        frequency_limits: most images of a rare and of a common category.

    Returns:
        The images of all records that can be read and have a name.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    tables = read_tables(path)
    categories = _decoded(path, "categories", tables.categories, Category, findings)
    images = _decoded(path, "images", tables.images, Image, findings)
    for table, records in (("category", categories), ("image", images)):
        _duplicates(f"{table} id used twice", (record.id for record in records), findings.error)
    _duplicates("category name used twice", (c.name for c in categories if c.name is not None), findings.remark)
    _duplicates("file name used twice", (i.file_name or i.coco_url for i in images), findings.remark)
    for image in images:
        if not image.file_name and not image.coco_url:
            findings.error("image without file_name and coco_url", f"image {image.id}")
    sizes = {image.id: (int(image.height), int(image.width)) for image in images}
    known = {category.id for category in categories}
    for image in images:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if set(getattr(image, key) or ()) - known:
                findings.error(f"{key} of no category", f"image {image.id}")
    seen: set[int] = set()
    pairs: set[tuple[int, int]] = set()
    for place, raw in enumerate(tables.annotations):
        try:
            (box,) = decode(path, "annotations", [raw], LabelledBox)
            (outline,) = decode(path, "annotations", [raw], Outline)
        except DataError as error:
            findings.error("broken annotation", _short(error, path).replace("annotations[0]", f"annotations[{place}]"))
            continue
        if box.id in seen:
            findings.error("annotation id used twice", f"annotation {box.id}")
        seen.add(box.id)
        if box.image_id not in sizes or box.category_id not in known:
            what = "image" if box.image_id not in sizes else "category"
            findings.error(f"annotation of an unknown {what}", f"annotation {box.id}")
            continue
        if not box.iscrowd:
            pairs.add((box.image_id, box.category_id))
        _inspect_box(box, sizes[box.image_id], findings)
        _inspect_outline(path, box, outline, sizes[box.image_id], findings)
    for image in images:
        for category_id in set(image.neg_category_ids or ()):
            if (image.id, category_id) in pairs:
                findings.remark("category annotated and in neg_category_ids", f"image {image.id}: {category_id}")
    _inspect_counts(categories, pairs, frequency_limits, findings)
    return _listed(path, images)


def _listed(path: Path, images: list[Image]) -> ListedImages:
    named = [image for image in images if image.file_name or image.coco_url]
    ids = np.array([image.id for image in named], np.int64)
    # As objects: a broken file may hold a name of any length, which an array of texts would give to every image.
    names, urls = (
        np.array([getattr(image, key) or "" for image in named], object) for key in ("file_name", "coco_url")
    )
    return ListedImages(
        ids=ids.tolist(),
        sizes=[(int(image.height), int(image.width)) for image in named],
        names_in=lambda folder: resolved_names(path, folder, names, urls, ids).tolist(),
    )


def inspect_annotations(annotations: Annotations, findings: Findings) -> None:
    """What only the whole tells: categories without images, images and objects without use for training."""
    for label in np.flatnonzero(annotations.image_counts == 0):
        findings.remark("category without images", annotations.category_names[label])
    empty = np.diff(annotations.offsets) == 0
    for image in np.flatnonzero(empty):
        findings.remark("image without objects", f"image {annotations.image_ids[image]}")
    for obj in np.flatnonzero(~annotations.trainable & ~annotations.crowd):
        findings.remark(
            "object without area, thinner than a pixel or with an empty outline, not trained on",
            f"annotation {annotations.annotation_ids[obj]}",
        )
    for obj in np.flatnonzero(annotations.crowd):
        findings.remark("crowd or group", f"annotation {annotations.annotation_ids[obj]}")
    for obj in np.flatnonzero(annotations.trainable & ~annotations.has_segmentation):
        findings.remark("object without a mask (model.masks=False)", f"annotation {annotations.annotation_ids[obj]}")


def packed_bytes(annotations: Annotations) -> int:
    """Memory that the annotations take, in bytes; mapped from a file where they are kept."""
    return sum(value.nbytes for value in vars(annotations).values() if isinstance(value, np.ndarray))


def _decoded(path: Path, table: str, raws: list, kind: type, findings: Findings) -> list:
    records = []
    for place, raw in enumerate(raws):
        try:
            records += decode(path, table, [raw], kind)
        except DataError as error:
            findings.error(f"broken record of {table}", _short(error, path).replace(f"{table}[0]", f"{table}[{place}]"))
    return records


def _short(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _duplicates(kind: str, values: Iterable, report: Callable[[str, str], None]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            report(kind, f"{value} ({count} times)")


def _inspect_box(box: LabelledBox, size: tuple[int, int], findings: Findings) -> None:
    x, y, width, height = box.bbox
    who = f"annotation {box.id}"
    if width < 0 or height < 0:
        findings.error("box with a negative side", f"{who}: {list(box.bbox)}")
        return
    over = max(-x, -y, x + width - size[1], y + height - size[0])
    if x > size[1] or y > size[0] or x + width < 0 or y + height < 0:
        findings.error("box outside its image", f"{who}: {list(box.bbox)} in {size[0]} x {size[1]}")
    elif over > 1:
        findings.remark("box over the edge of its image", f"{who}: by {over:.1f} pixels")
    if box.area is not None and box.area > 1.01 * width * height + 1:
        findings.remark("area larger than the box", f"{who}: {box.area:.0f} of {width * height:.0f}")


def _inspect_outline(path: Path, box: LabelledBox, outline: Outline, size: tuple[int, int], findings: Findings) -> None:
    packer = SegmentationPacker(path)
    try:
        packer.add(box.id, outline.segmentation, size)
        points = packer.arrays()["points"]
    except DataError as error:
        findings.error("broken outline", _short(error, path))
        return
    if packer.empty()[0]:
        findings.remark("outline without three points or a pixel", f"annotation {box.id}")
    if len(points):
        x, y, width, height = box.bbox
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        apart = max(x - left, y - top, right - x - width, bottom - y - height)
        if left > x + width or right < x or top > y + height or bottom < y:
            findings.error("outline outside its box", f"annotation {box.id}: {left:.0f}, {top:.0f} and beyond")
        elif apart > _FAR_OUT:
            findings.remark("outline leaves its box", f"annotation {box.id}: by {apart:.1f} pixels")


def _inspect_counts(
    categories: list[Category], pairs: set[tuple[int, int]], limits: Sequence[int], findings: Findings
) -> None:
    counted = Counter(category_id for _, category_id in pairs)
    for category in categories:
        who = f"category {category.id} ({category.name})"
        if category.image_count is None:
            continue
        if category.image_count != counted[category.id]:
            findings.remark(
                "image_count that is not that of this file (a validation file states those of training)",
                f"{who}: {category.image_count}, {counted[category.id]} counted",
            )
        if category.frequency and category.frequency != frequency_group(category.image_count, limits):
            findings.remark("frequency that does not follow from image_count", f"{who}: {category.frequency}")
