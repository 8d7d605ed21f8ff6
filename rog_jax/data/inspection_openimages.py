"""Everything that is wrong with the files of OpenImages, where the reader stops at the first error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rog_jax.data.annotations import DataError
from rog_jax.data.findings import Findings
from rog_jax.data.image_files import openimages_names
from rog_jax.data.inspection_images import ListedImages
from rog_jax.data.openimages import OpenImagesFiles, missing_file, read_hierarchy
from rog_jax.data.openimages_csv import Report, TableError, read_boxes, read_classes, read_labels, read_sizes


def inspect_openimages(files: OpenImagesFiles, findings: Findings) -> ListedImages | None:
    """Checks every line of the tables of boxes, labels and sizes, the list of classes and the hierarchy.

    A line's fault is of the kind that its `TableError` names, of its file; a file that cannot be read as a whole does
    not keep the others from being looked at.

    Returns:
        The images of all sound lines; None without a list of classes, by which lines are judged.
    """
    there = OpenImagesFiles(*(path if path is not None and path.is_file() else None for path in files))
    for path, found in zip(files, there, strict=True):
        if path is not None and found is None:
            findings.error("file missing", str(missing_file(path)))
    classes = _read(findings, read_classes, there.classes)
    if classes is None:
        return None
    keys, names = classes
    for name in sorted({name for name in names if names.count(name) > 1}):
        findings.remark("category name used twice", f"{name} ({names.count(name)} times)")
    _read(findings, read_hierarchy, there.hierarchy, keys)
    label_of, place_of = {key: label for label, key in enumerate(keys)}, {}
    _read(findings, read_boxes, there.boxes, label_of, place_of, _report(findings, there.boxes))
    _read(findings, read_labels, there.labels, label_of, place_of, _report(findings, there.labels))
    images = np.array(list(place_of), object)
    sizes = _read(findings, read_sizes, there.sizes, images, _report(findings, there.sizes))
    known = np.zeros((len(images), 2), np.int32) if sizes is None else sizes
    return ListedImages(
        ids=images.tolist(),
        sizes=[(height, width) if height else None for height, width in known.tolist()],
        names_in=lambda folder: openimages_names(files.boxes, folder, images).tolist(),
    )


def _read(findings: Findings, read: Callable[..., Any], path: Path | None, *others: Any) -> Any:
    """What `read` makes of a file; None where there is none or it cannot be read."""
    if path is None:
        return None
    try:
        return read(path, *others)
    except DataError as error:
        findings.error("file that cannot be read", str(error))
        return None


def _report(findings: Findings, path: Path | None) -> Report:
    def report(error: TableError) -> None:
        findings.error(f"{error.cause} in {path.name}", str(error).removeprefix(f"{path}, "))

    return report
