"""Detections on padded images to LVIS result records in the pixels of the files, written as they come.

Each host writes its own shard of json lines, so that memory does not grow with the data set and no prediction is sent
between hosts; the first host then joins the shards to one json list.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from rog_jax.evaluation.paste import encode_detection_mask
from rog_jax.training.storage import own_partial, whole_file, writing

_DECIMALS = 4  # of a coordinate: what float32 resolves at 1000 pixels


class ImageDetections(NamedTuple):
    """The detections of one image, best first, as NumPy arrays.

    Attributes:
        boxes: float64 [K, 4], pixels of the image in its file, clipped to it.
        scores: float32 [K].
        labels: int32 [K], 0..C-1.
        masks: float32 [K, M, M], probabilities inside the box, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None


def to_original(
    boxes: Float[np.ndarray, "K 4"],
    scores: Float32[np.ndarray, " K"],
    labels: Int32[np.ndarray, " K"],
    masks: Float[np.ndarray, "K M M"] | None,
    image_size: Float[np.ndarray, "2"],
    original_size: Int[np.ndarray, "2"],
) -> ImageDetections:
    """Drops the empty slots (label -1) and scales boxes from the padded image to the image in its file.

    Args:
        boxes: [K, 4], pixels of the padded image.
        scores: [K].
        labels: [K], -1 for an empty slot.
        masks: [K, M, M] or None.
        image_size: (height, width) of the resized image inside the padding.
        original_size: (height, width) in the file; the two axes scale on their own, since resizing rounds each.
    """
    filled = labels >= 0
    scale = original_size.astype(np.float64) / image_size.astype(np.float64)  # (y, x)
    limit = original_size[[1, 0, 1, 0]].astype(np.float64)
    scaled = np.clip(boxes[filled].astype(np.float64) * scale[[1, 0, 1, 0]], 0.0, limit)  # [K, 4]
    return ImageDetections(scaled, scores[filled], labels[filled], None if masks is None else masks[filled])


def box_records(
    detections: ImageDetections, image_id: int, category_ids: Int[np.ndarray, " C"]
) -> Iterator[dict[str, Any]]:
    """LVIS records {"image_id", "category_id", "bbox": [x, y, width, height], "score"} of an image."""
    corner, far = detections.boxes[:, :2], detections.boxes[:, 2:]
    boxes = np.round(np.concatenate([corner, far - corner], axis=1), _DECIMALS).tolist()
    for category_id, box, score in zip(
        category_ids[detections.labels].tolist(), boxes, _shortest(detections.scores), strict=True
    ):
        yield {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def mask_records(
    detections: ImageDetections,
    image_id: int,
    category_ids: Int[np.ndarray, " C"],
    original_size: Int[np.ndarray, "2"],
    threshold: float = 0.5,
) -> Iterator[dict[str, Any]]:
    """LVIS records {"image_id", "category_id", "segmentation", "score"} of an image.

    They have no "bbox": an evaluator would take the box's area for the mask's, and APs, APm and APl would be of boxes.
    """
    height, width = original_size.tolist()
    for category_id, box, mask, score in zip(
        category_ids[detections.labels].tolist(),
        detections.boxes,
        detections.masks,
        _shortest(detections.scores),
        strict=True,
    ):
        code = encode_detection_mask(mask, box, height, width, threshold)
        yield {"image_id": image_id, "category_id": category_id, "segmentation": code, "score": score}


def _shortest(scores: np.ndarray) -> list[float]:
    """The shortest decimals that name these float32 numbers: order and ties stay, and files are half as long."""
    return [float(str(score)) for score in scores]


class ResultWriter:
    """Writes one host's shard of one results file as json lines; the shard has its name only once it is whole.

    Use it as a context manager: an error inside leaves no shard.
    """

    def __init__(self, folder: str | Path, kind: str, process_index: int = 0, process_count: int = 1):
        """`kind` is "bbox" or "segm"; the folder is made if it is not there. All methods raise StorageError."""
        self.path = shard_path(folder, kind, process_index, process_count)
        self._partial = own_partial(self.path)
        self._file: IO[str] | None = None

    def __enter__(self) -> "ResultWriter":
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            self._file = self._partial.open("w", encoding="utf-8")
        return self

    def write(self, records: Iterator[dict[str, Any]]) -> None:
        """Appends records."""
        with writing(self.path):
            self._file.writelines(json.dumps(record, separators=(",", ":")) + "\n" for record in records)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with writing(self.path):
                self._file.close()
                if kind is None:
                    os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def shard_path(folder: str | Path, kind: str, process_index: int, process_count: int) -> Path:
    """Where a host writes its part of the results."""
    return Path(folder) / f"results_{kind}.shard-{process_index:05d}-of-{process_count:05d}.jsonl"


def merge_shards(folder: str | Path, kind: str, process_count: int = 1) -> Path:
    """Joins the shards of all hosts to `results_{kind}.json`, a json list, and removes them.

    The file appears in one piece: a reader never sees a half of it.

    Raises:
        FileNotFoundError: a shard is missing: the hosts do not share the folder, or one did not finish.
    """
    shards = [shard_path(folder, kind, index, process_count) for index in range(process_count)]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"There is no {missing[0]}: every host must write into the same folder, and finish before the first joins."
        )
    merged = Path(folder) / f"results_{kind}.json"
    with whole_file(merged) as partial, partial.open("w", encoding="utf-8") as out:
        separator = "[\n"
        for shard in shards:
            with shard.open(encoding="utf-8") as lines:
                for line in lines:
                    out.write(separator + line.rstrip("\n"))
                    separator = ",\n"
        out.write("\n]\n" if separator == ",\n" else "[]\n")
    for shard in shards:
        shard.unlink()
    return merged
