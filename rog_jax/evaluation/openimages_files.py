"""OpenImages's figures of a results file, and results in the challenge's own formats."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from rog_jax.data.annotations import Annotations
from rog_jax.evaluation.openimages import (
    OpenImagesDetections,
    OpenImagesTruth,
    openimages_ap50,
    openimages_figures,
)
from rog_jax.evaluation.results_file import Results, keep_best, read_results
from rog_jax.training.storage import whole_file

Layout = Literal["submission", "detections"]
_DECIMALS = 6  # of a share of the image's side: a hundredth of a pixel at 10,000 pixels


def evaluate_openimages(
    annotations: Annotations,
    results_json: str | Path | Results,
    *,
    group_of: bool = True,
    max_detections: int = -1,
    expand_detections: bool = False,
) -> dict[str, Any]:
    """The challenge's figures of a results file.

    Args:
        annotations: from `load_openimages` with `expand=True`, as the challenge expands its boxes and labels.
        results_json: detections in LVIS format with the ids of `annotations`, or what `read_results` made of them.
        group_of: whether group-of boxes are treated as such, or as any box.
        max_detections: the best so many of each image take part; -1 for all, as in the challenge.
        expand_detections: each detection counts for every ancestor of its category too, as MMDetection has it; the
            challenge leaves that to those who take part.

    Returns:
        "AP50", "AP50_1" (the rarest fifth of the categories) .. "AP50_5", and "per_category_AP50", {category id: AP} of
        the categories that have boxes. Fractions of 1, NaN where no category has.

    Raises:
        FileNotFoundError, ValueError: as `read_results`; detections are to be expanded and there is no hierarchy.
    """
    results = read_openimages_results(annotations, results_json)
    detections = detections_of(annotations, keep_best(results, max_detections))
    if expand_detections:
        detections = _expanded(detections, annotations)
    ap = openimages_ap50(truth_of(annotations), detections, group_of=group_of)
    figures = openimages_figures(ap, annotations.frequencies)
    of_category = zip(annotations.category_ids.tolist(), ap.tolist(), strict=True)
    return figures | {"per_category_AP50": {key: value for key, value in of_category if not np.isnan(value)}}


def read_openimages_results(annotations: Annotations, results_json: str | Path | Results) -> Results:
    """Detections of boxes with the ids of `annotations`, read from a file where they are not given.

    Raises:
        FileNotFoundError, ValueError: as `read_results`.
    """
    if isinstance(results_json, Results):
        return results_json
    sizes = zip(annotations.image_ids.tolist(), map(tuple, annotations.image_sizes.tolist()), strict=True)
    return read_results(results_json, "bbox", dict(sizes), annotations.category_ids.tolist())


def truth_of(annotations: Annotations) -> OpenImagesTruth:
    """Boxes and verified labels; without a file of labels, every label counts as verified in every image."""
    verified = _verified(annotations)
    return OpenImagesTruth(
        images=annotations.images_of_objects,
        labels=annotations.labels.astype(np.int64),
        boxes=annotations.boxes.astype(np.float64),
        group_of=annotations.crowd,
        verified=verified,
        num_images=annotations.num_images,
        num_classes=annotations.num_classes,
    )


def _verified(annotations: Annotations) -> Bool[np.ndarray, "I C"] | None:
    positive = annotations.positive_labels
    if not len(annotations.negative_labels) and (positive is None or not len(positive)):
        return None
    return np.stack([annotations.verified_categories(image) for image in range(annotations.num_images)])


def detections_of(annotations: Annotations, results: Results) -> OpenImagesDetections:
    """The columns of a results file with places and corners instead of ids and sides."""
    order = np.argsort(annotations.image_ids)
    images = order[np.searchsorted(annotations.image_ids, results.image_ids, sorter=order)]
    corners = np.concatenate([results.boxes[:, :2], results.boxes[:, :2] + results.boxes[:, 2:]], axis=1)
    labels = np.searchsorted(annotations.category_ids, results.category_ids)
    return OpenImagesDetections(images, labels, corners, results.scores)


def _expanded(detections: OpenImagesDetections, annotations: Annotations) -> OpenImagesDetections:
    if annotations.ancestors is None:
        raise ValueError("Detections are expanded along a hierarchy: set config.data.openimages.hierarchy_json.")
    rows, labels = np.nonzero((annotations.ancestors | np.eye(annotations.num_classes, dtype=bool))[detections.labels])
    return detections.take(rows)._replace(labels=labels)


def write_challenge_csv(
    annotations: Annotations, results_json: str | Path | Results, path: str | Path, layout: Layout = "submission"
) -> Path:
    """Writes a results file as the challenge reads it.

    Args:
        annotations: the images and categories that its ids mean.
        results_json: the detections.
        path: of the csv.
        layout: "submission" has a line for each image, ImageId and PredictionString: label, confidence, XMin, YMin,
            XMax, YMax, one detection after the other, the best first. "detections" has a line for each detection,
            ImageID, LabelName, Score, XMin, XMax, YMin, YMax, which the challenge's evaluation programs read.

    Returns:
        The path.

    Raises:
        FileNotFoundError, ValueError: as `read_results`.
    """
    found = detections_of(annotations, read_openimages_results(annotations, results_json))
    found = found.take(np.lexsort((-found.scores, found.images)))
    bounds = np.searchsorted(found.images, np.arange(annotations.num_images + 1))
    names = [Path(str(name)).stem for name in annotations.file_names]
    path = Path(path)
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADERS[layout])
        for image, name in enumerate(names):
            rows = found.take(np.arange(bounds[image], bounds[image + 1]))
            height, width = annotations.image_sizes[image].tolist()
            shares = np.round(rows.boxes / (width, height, width, height), _DECIMALS)
            keys = [annotations.category_keys[label] for label in rows.labels.tolist()]
            scores = [f"{score:.9g}" for score in rows.scores.tolist()]
            writer.writerows(_rows(layout, name, keys, scores, shares.tolist()))
    return path


_HEADERS = {
    "submission": ("ImageId", "PredictionString"),
    "detections": ("ImageID", "LabelName", "Score", "XMin", "XMax", "YMin", "YMax"),
}


def _rows(
    layout: Layout, name: str, keys: Sequence[str], scores: Sequence[str], boxes: Sequence[Sequence[float]]
) -> list[list]:
    found = zip(keys, scores, boxes, strict=True)
    if layout == "submission":
        return [[name, " ".join(f"{key} {score} {x1} {y1} {x2} {y2}" for key, score, (x1, y1, x2, y2) in found)]]
    return [[name, key, score, x1, x2, y1, y2] for key, score, (x1, y1, x2, y2) in found]
