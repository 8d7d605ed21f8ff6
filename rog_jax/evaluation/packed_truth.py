"""The ground truth of an evaluation from packed annotations, for data that comes without a json."""

from pathlib import Path
from typing import Any

import numpy as np

from rog_jax.data.annotations import Annotations
from rog_jax.evaluation.truth import Truth


def truth_from_annotations(annotations: Annotations) -> Truth:
    """What `load_truth` makes of a json, with boxes and masks in the precision that the annotations keep (float32)."""
    ids = annotations.category_ids
    categories = [
        {"id": category_id, "name": name, "frequency": group if group in ("r", "c", "f") else ""}
        for category_id, name, group in zip(
            ids.tolist(), annotations.category_names, annotations.frequencies, strict=True
        )
    ]
    every_id = ids.tolist()
    images = []
    for place, (image_id, size) in enumerate(
        zip(annotations.image_ids.tolist(), annotations.image_sizes.tolist(), strict=True)
    ):
        images.append(
            {
                "id": image_id,
                "height": size[0],
                "width": size[1],
                "neg_category_ids": (
                    every_id if annotations.exhaustive[place] else ids[annotations.negative_categories(place)].tolist()
                ),
                "not_exhaustive_category_ids": ids[annotations.not_exhaustive_categories(place)].tolist(),
            }
        )
    objects = [_object(annotations, place, images) for place in range(annotations.num_objects)]
    return Truth(Path(annotations.source), images, categories, objects)


def _object(annotations: Annotations, place: int, images: list[dict[str, Any]]) -> dict[str, Any]:
    x1, y1, x2, y2 = annotations.boxes[place].astype(np.float64).tolist()
    found = {
        "id": place + 1,
        "image_id": images[annotations.images_of_objects[place]]["id"],
        "category_id": int(annotations.category_ids[annotations.labels[place]]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(annotations.areas[place]),
        "iscrowd": int(annotations.crowd[place]),
    }
    segmentation = annotations.segmentation(place)
    if isinstance(segmentation, list):
        segmentation = [polygon.astype(np.float64).ravel().tolist() for polygon in segmentation]
    return found if segmentation is None else found | {"segmentation": segmentation}
