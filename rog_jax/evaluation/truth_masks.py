"""Masks of the annotated objects as run-length codes."""

from typing import Any

from pycocotools import mask as coco_mask

from rog_jax.evaluation.truth import Truth


def object_codes(truth: Truth) -> list[dict[str, Any]]:
    """The mask of each object of `truth.solid`, {"size": [height, width], "counts": text}.

    Raises:
        ValueError: an object has no segmentation.
    """
    return [_code(truth, annotation) for annotation in truth.solid]


def _code(truth: Truth, annotation: dict[str, Any]) -> dict[str, Any]:
    segmentation = annotation.get("segmentation")
    height, width = truth.image_sizes[annotation["image_id"]]
    if not segmentation:
        raise ValueError(
            f"{truth.path}: an object of image {annotation['image_id']} has no segmentation, so masks cannot be "
            "evaluated. Add it, or evaluate boxes."
        )
    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    counts = code["counts"]
    return {"size": [height, width], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
