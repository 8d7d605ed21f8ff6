"""Reads data sets that TensorFlow Datasets (TFDS) has prepared as ArrayRecord files, without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from pycocotools import mask as coco_mask

from rog_jax.data.annotations import FREQUENCY_LIMITS, Annotations, DataError, frequency_group
from rog_jax.data.cache import Contents, cached
from rog_jax.data.images import UnreadableImage, decode_mask, stored_size
from rog_jax.data.openimages import frequency_fifths, hexadecimal_ids
from rog_jax.data.packing import MIN_BOX_SIDE, clipped_boxes, count_categories, offsets_of, unique_ids, warn_left_out

PREFIX = "tfds:"


def load_tfds(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    group_counts: np.ndarray | None = None,
    frequency_limits: Sequence[int] = FREQUENCY_LIMITS,
) -> Annotations:
    """Reads a split of a prepared TFDS set: lvis, coco/2017, open_images_challenge2019_detection, or one like them.

    Fields are found by their names: `image`; `image/id` or `id`; `objects` or `bobjects` with `bbox`, `label`, and
    where there are some `id`, `area`, `is_crowd`, `is_group_of`, `segmentation` (a picture of the mask);
    `neg_category_ids`, `not_exhaustive_category_ids`; or `objects` with `confidence`, labels verified for the image.
    Labels are numbered 1..C as category ids. TFDS has no frequency groups: they follow from the counts of this split
    (images, for OpenImages boxes), or from `group_counts`, which a validation split needs.

    Args:
        name: as TFDS has it, `lvis`, `coco/2017`, `lvis:1.4.0`.
        split: `train`, `validation`, or a part (`train[:10%]`).
        data_dir: where TFDS keeps data sets; its own default if not given.
        group_counts: images (OpenImages: boxes) of each category in the training split, [C].
        frequency_limits: most images of a rare and of a common category; OpenImages has five equal groups.

    Raises:
        DataError: the data set is not prepared, is of another file format, or lacks a field; a record is broken.
    """
    source, files = _open(name, split, data_dir)
    what = f"{PREFIX}{name}, {split}"
    contents = cached(files, f"tfds {name} {split}", lambda: _parse(source, what))
    arrays = dict(contents.arrays)
    warn_left_out(Path(what), arrays)
    is_openimages = "positive_labels" in arrays
    counts = arrays["instance_counts" if is_openimages else "image_counts"] if group_counts is None else group_counts
    if len(counts) != len(arrays["category_ids"]):
        raise DataError(f"group_counts has {len(counts)} numbers for the {len(arrays['category_ids'])} categories.")
    if is_openimages:
        groups = frequency_fifths(np.asarray(counts, np.int64))
    else:
        groups = tuple(frequency_group(count, frequency_limits) for count in counts.tolist())
    return Annotations(
        source=what,
        image_folder="",
        category_names=tuple(contents.texts["category_names"]),
        frequencies=groups,
        records=TfdsImages(source),
        packed=contents.packed,
        **arrays,
    )


class TfdsImages:
    """The pictures of a TFDS split; see `image_records.ImageRecords`."""

    def __init__(self, source: Any):
        self._source = source

    def read(self, place: int) -> bytes:
        try:
            return _fields(self._source[place])["image"][0]
        except (ValueError, RuntimeError, KeyError, IndexError, DecodeError) as error:
            raise OSError(f"record {place} cannot be read: {error}") from error


def _open(name: str, split: str, data_dir: str | Path | None) -> tuple[Any, list[Path]]:
    """TFDS's source of the split's records, and the files that they lie in."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir and str(data_dir))
        source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        return source, [Path(part.filename) for part in builder.info.splits[split].file_instructions]
    except NotImplementedError as error:
        raise DataError(
            f"{PREFIX}{name} is not stored as ArrayRecord: {error}. Prepare it with file_format='array_record', or "
            "convert it: python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record"
        ) from error
    except Exception as error:  # TFDS has many kinds of them, and here they all mean this
        raise DataError(
            f"{PREFIX}{name}, {split} cannot be opened: {error}. Prepare it (tfds build --file_format=array_record), "
            "or check config.data.source and config.data.tfds_dir."
        ) from error


def _fields(record: bytes) -> dict[str, list]:
    """The values of a tf.train.Example by their flat names; TFDS brings the message without TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    return {
        name: list(getattr(value, value.WhichOneof("kind") or "bytes_list").value) for name, value in features.items()
    }


def _parse(source: Any, what: str) -> Contents:
    names = _category_names(source.dataset_info.features, what)
    columns = _Columns()
    for place in range(len(source)):
        try:
            columns.add(_fields(source[place]), len(names))
        except (ValueError, KeyError, IndexError, RuntimeError, UnreadableImage, DecodeError) as error:
            reason = f"it has no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{what}: record {place}: {reason}. Prepare the data set again.") from error
    if not columns.sizes:
        raise DataError(f"{what} has no records.")
    return Contents(columns.arrays(what, len(names)), {"category_names": names})


def _category_names(features: Any, what: str) -> list[str]:
    for key in ("bobjects", "objects"):
        if key in features and "label" in features[key].feature and "bbox" in features[key].feature:
            label = features[key].feature["label"]
            return list(label.names) if label.names else [str(i) for i in range(label.num_classes)]
    raise DataError(f"{what} has no objects with bbox and label: it is no detection data set. Its fields: {features}")


class _Columns:
    """Gathers the records of a split into columns."""

    def __init__(self):
        self.sizes: list[tuple[int, int]] = []
        self._image_ids: list[int | str] = []
        self._counts: list[int] = []
        self._columns: dict[str, list] = {name: [] for name in ("ids", "boxes", "labels", "areas", "crowd")}
        self._codes: list[bytes] = []
        self._verified: dict[str, list[tuple[int, int]]] = {}

    def add(self, fields: dict[str, list], num_classes: int) -> None:
        """Adds a record's image and objects.

        Raises:
            ValueError: its columns differ in length, or a label is no category.
            KeyError: a field is missing.
            UnreadableImage: the image or a mask is no picture.
        """
        place, size = len(self.sizes), stored_size(fields["image"][0])
        objects = "bobjects" if "bobjects/label" in fields or "objects/confidence" in fields else "objects"
        labels = fields.get(f"{objects}/label", [])
        _check_labels(labels, num_classes)
        boxes = np.array(fields.get(f"{objects}/bbox", []), np.float64).reshape(len(labels), 4)
        if not np.isfinite(boxes).all():
            raise ValueError("a bbox is not finite")
        optional = {
            key: fields.get(f"{objects}/{key}", []) for key in ("id", "area", "is_crowd", "is_group_of", "segmentation")
        }
        for key, values in optional.items():
            if values and len(values) != len(labels):
                raise ValueError(f"it has {len(values)} values of {key} for {len(labels)} objects")
        verified = {
            "negative": fields.get("neg_category_ids"),
            "not_exhaustive": fields.get("not_exhaustive_category_ids"),
            **_image_labels(fields),
        }
        for kind, found in verified.items():
            if found is not None:
                _check_labels(found, num_classes)
                self._verified.setdefault(kind, []).extend((place, label) for label in found)
        self._codes += [_run_lengths(data, size) for data in optional["segmentation"]] or [b""] * len(labels)
        self._columns["ids"] += optional["id"]
        self._columns["labels"] += labels
        self._columns["boxes"].append(boxes[:, [1, 0, 3, 2]] * np.tile(size[::-1], 2))  # from y, x, y, x
        self._columns["areas"] += optional["area"] or [-1] * len(labels)
        self._columns["crowd"] += optional["is_crowd"] or optional["is_group_of"] or [False] * len(labels)
        self._counts.append(len(labels))
        self._image_ids += fields.get("image/id") or [name.decode() for name in fields.get("id", [])] or [place + 1]
        self.sizes.append(size)

    def arrays(self, what: str, num_classes: int) -> dict[str, np.ndarray]:
        """The arrays of `Annotations`."""
        sizes = np.array(self.sizes, np.int32)
        offsets = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        labels = np.array(self._columns["labels"], np.int32)
        ids = self._columns["ids"] if len(self._columns["ids"]) == len(labels) else range(1, len(labels) + 1)
        ids = unique_ids(Path(what), "annotation", ids)
        names = np.array(self._image_ids)
        image_ids = hexadecimal_ids(names) if names.dtype.kind == "U" else unique_ids(Path(what), "image", names)
        places = np.repeat(np.arange(len(sizes)), self._counts)
        corners = np.concatenate(self._columns["boxes"])
        extents = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        boxes = clipped_boxes(Path(what), ids, image_ids[places], extents, sizes[places])
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = np.array(self._columns["areas"], np.float64)
        areas = np.where(areas >= 0, areas, np.prod(sides, axis=1)).astype(np.float32)
        crowd = np.array(self._columns["crowd"], bool)
        is_openimages = "positive" in self._verified
        counted = np.ones(len(labels), bool) if is_openimages else ~crowd
        image_counts, instance_counts = count_categories(labels, offsets, counted, num_classes)
        solid = (areas > 0) & (sides >= MIN_BOX_SIDE).all(axis=1)
        arrays = {
            "image_ids": image_ids,
            "image_sizes": sizes,
            "file_names": np.array([f"record {place}" for place in range(len(sizes))]),
            "offsets": offsets,
            "annotation_ids": ids,
            "boxes": boxes.astype(np.float32),
            "labels": labels,
            "areas": areas,
            "crowd": crowd,
            "trainable": solid & counted,
            "points": np.zeros((0, 2), np.float32),
            "polygon_offsets": np.zeros(1, np.int64),
            "object_polygons": np.zeros(len(labels) + 1, np.int64),
            "rle_bytes": np.frombuffer(b"".join(self._codes), np.uint8),
            "rle_offsets": np.concatenate([[0], np.cumsum([len(code) for code in self._codes])]).astype(np.int64),
            "category_ids": np.arange(1, num_classes + 1),
            "image_counts": image_counts,
            "instance_counts": instance_counts,
            "exhaustive": np.full(len(sizes), "negative" not in self._verified),
        }
        for kind in ("negative", "not_exhaustive", *(["positive"] if is_openimages else [])):
            pairs = np.unique(np.array(self._verified.get(kind, []), np.int64).reshape(-1, 2), axis=0)
            arrays[f"{kind}_labels"] = pairs[:, 1].astype(np.int32)
            arrays[f"{kind}_offsets"] = offsets_of(pairs[:, 0], len(sizes))
        return arrays


def _check_labels(labels: list[int], num_classes: int) -> None:
    wrong = [label for label in labels if not 0 <= label < num_classes]
    if wrong:
        raise ValueError(f"label {wrong[0]} is none of the {num_classes} categories")


def _image_labels(fields: dict[str, list]) -> dict[str, list[int]]:
    """OpenImages's labels of the whole image, those that are there (confidence above 0) and those that are not."""
    if "bobjects/label" not in fields and "objects/confidence" not in fields:
        return {}
    pairs = list(zip(fields.get("objects/label", []), fields.get("objects/confidence", []), strict=True))
    return {
        "positive": [label for label, confidence in pairs if confidence > 0],
        "negative": [label for label, confidence in pairs if confidence <= 0],
    }


def _run_lengths(data: bytes, size: tuple[int, int]) -> bytes:
    mask = decode_mask(data)
    if mask.shape != size:
        raise ValueError(f"a mask has {mask.shape} pixels, its image {size}")
    return coco_mask.encode(np.asfortranarray(mask))["counts"] if mask.any() else b""
