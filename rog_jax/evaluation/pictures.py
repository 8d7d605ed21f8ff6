"""Pictures of predictions beside the truth, for images of a data set and the results files of a model."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from rog_jax.data.annotations import Annotations
from rog_jax.data.images import UnreadableImage, read_annotated
from rog_jax.evaluation.drawing import Objects, draw_comparison
from rog_jax.evaluation.json_stream import iter_records
from rog_jax.training.storage import whole_file

FEWEST_PREDICTIONS = 3
RAREST = ("r", "1")  # groups of LVIS and of OpenImages
_JPEG_QUALITY = 92


def save_pictures(
    annotations: Annotations,
    results_bbox: str | Path,
    results_segm: str | Path | None,
    out_dir: str | Path,
    *,
    count: int = 12,
    seed: int = 0,
    also: Sequence[int] = (),
) -> list[Path]:
    """Draws some images of a data set, truth at the left and predictions at the right, into `out_dir`/pictures.

    As many predictions are drawn as there are truths (three at least), the best first: scores mean another thing with
    each loss, so that a score threshold would show nothing of one model and everything of the next.

    Args:
        annotations: the data set.
        results_bbox: LVIS results of boxes.
        results_segm: LVIS results of masks, or None.
        out_dir: made if it is not there.
        count: number of images.
        seed: for the choice of the images.
        also: ids of further images.

    Returns:
        The pictures' paths, `ID.jpg`. An image that cannot be read is left out.
    """
    further = np.flatnonzero(np.isin(annotations.image_ids, also)).tolist()
    images = sorted({*choose_images(annotations, count, seed), *further})
    chosen = {int(annotations.image_ids[image]) for image in images}
    boxes = _records_of(results_bbox, chosen)
    masks = _records_of(results_segm, chosen) if results_segm is not None else {}
    rare = frozenset(label for label, frequency in enumerate(annotations.frequencies) if frequency in RAREST)
    folder = Path(out_dir) / "pictures"
    paths = []
    for image in images:
        try:
            pixels = read_annotated(annotations, image)
        except UnreadableImage:  # inference has warned of it
            continue
        image_id = int(annotations.image_ids[image])
        truth = truths(annotations, image)
        best = max(len(truth.labels), FEWEST_PREDICTIONS)
        predicted = predictions(annotations, boxes.get(image_id, []), masks.get(image_id, []), best)
        names = annotations.category_names
        picture = draw_comparison(pixels, truth, predicted, names, rare, title=f"image {image_id}")
        paths.append(folder / picture_name(image_id))
        _write_jpeg(paths[-1], picture)
    return paths


def picture_name(image_id: int) -> str:
    """The name of an image's picture."""
    return f"{image_id:012d}.jpg"


def choose_images(annotations: Annotations, count: int, seed: int = 0, among: np.ndarray | None = None) -> list[int]:
    """Places of images to look at, rising: half of them, where there are so many, with objects of rare classes.

    Only images with objects are chosen, of those that `among` [I] is true for if it is given.
    """
    filled = np.diff(annotations.offsets) > 0
    order = np.random.default_rng(seed).permutation(np.flatnonzero(filled if among is None else filled & among))
    rare = np.array([frequency in RAREST for frequency in annotations.frequencies])
    with_rare = set(annotations.images_of_objects[rare[annotations.labels]].tolist())
    first = [int(image) for image in order if int(image) in with_rare][: count // 2]
    others = [int(image) for image in order if int(image) not in first]
    return sorted(first + others[: count - len(first)])


def truths(annotations: Annotations, image: int) -> Objects:
    """The objects of an image as annotated; those without area, which evaluation leaves out, are not shown."""
    objects = annotations.objects(image)
    places = objects.start + np.flatnonzero(annotations.areas[objects] > 0)
    height, width = annotations.image_sizes[image].tolist()
    masks = [_decode(annotations.segmentation(place), height, width) for place in places.tolist()]
    return Objects(annotations.boxes[places], annotations.labels[places], None, masks)


def predictions(
    annotations: Annotations, boxes: list[dict[str, Any]], masks: list[dict[str, Any]], best: int
) -> Objects:
    """The best detections of an image, each with the mask that has its category and score, where there is one."""
    label_of = {int(category_id): label for label, category_id in enumerate(annotations.category_ids)}
    boxes = sorted(boxes, key=lambda record: -record["score"])[:best]
    mask_of = defaultdict(list)
    for record in masks:
        mask_of[record["category_id"], record["score"]].append(record["segmentation"])
    codes = [mask_of[record["category_id"], record["score"]] for record in boxes]
    corners = np.array([record["bbox"] for record in boxes], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Objects(
        boxes=corners,
        labels=np.array([label_of[record["category_id"]] for record in boxes], np.int32),
        scores=np.array([record["score"] for record in boxes], np.float64),
        masks=[coco_mask.decode(same.pop(0)) if same else None for same in codes],
    )


def _records_of(path: str | Path, image_ids: Collection[int]) -> dict[int, list[dict[str, Any]]]:
    records = defaultdict(list)
    for record in iter_records(path):
        if record["image_id"] in image_ids:
            records[record["image_id"]].append(record)
    return records


def _decode(segmentation: list[np.ndarray] | dict[str, Any] | None, height: int, width: int) -> np.ndarray | None:
    """The mask [H, W] of polygons or of a run-length code."""
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        return coco_mask.decode(segmentation)
    polygons = [polygon.astype(np.float64).ravel().tolist() for polygon in segmentation]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    with whole_file(path) as partial:
        partial.write_bytes(data.tobytes())
