"""From config.data to the annotations of the training or the validation split, whatever their format."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rog_jax.data.annotations import Annotations
from rog_jax.data.image_pack import packed_images
from rog_jax.data.lvis import load_coco, load_lvis
from rog_jax.data.openimages import load_openimages
from rog_jax.data.tfds import PREFIX, load_tfds

TRAIN, VAL = "train", "val"


def load_split(data: Any, split: str, group_counts: np.ndarray | None = None) -> Annotations:
    """The annotations of a split.

    Args:
        data: config.data; `source` names a TFDS data set, or `format` says how `train_json` and `val_json` are read.
        split: "train" or "val".
        group_counts: images (OpenImages: boxes) of each category in the training split, [C]. Frequency groups follow
            from them where the validation split does not state its groups, as OpenImages's and TFDS's do not; without
            them the training split is read, too.

    Raises:
        DataError: the data is not what the config says.
        ValueError: an unknown format, source or split.
    """
    if split not in (TRAIN, VAL):
        raise ValueError(f"there is no split {split!r}; choose {TRAIN} or {VAL}")
    annotations = _load(data, split, group_counts)
    packed = data[f"{split}_packed"]
    return dataclasses.replace(annotations, records=packed_images(annotations, Path(packed))) if packed else annotations


def _load(data: Any, split: str, group_counts: np.ndarray | None) -> Annotations:
    if data.source and not data.source.startswith(PREFIX):
        raise ValueError(f"config.data.source is {data.source!r}; it must be empty or start with {PREFIX!r}")
    if not data.source and data.format in ("lvis", "coco"):
        load = load_lvis if data.format == "lvis" else load_coco
        return load(data[f"{split}_json"], data[f"{split}_images"], frequency_limits(data))
    if split == VAL and group_counts is None:
        group_counts = _group_counts(_load(data, TRAIN, None))
    if data.source:
        name = data.source.removeprefix(PREFIX)
        return load_tfds(name, data[f"{split}_split"], data.tfds_dir or None, group_counts, frequency_limits(data))
    if data.format == "openimages":
        options = data.openimages
        return load_openimages(
            data[f"{split}_json"],
            data[f"{split}_images"],
            classes_csv=options.classes_csv,
            labels_csv=options[f"{split}_labels_csv"] or None,
            hierarchy_json=options.hierarchy_json or None,
            sizes_csv=options[f"{split}_sizes_csv"] or None,
            expand=options.expand,
            train_group_of=options.train_group_of,
            group_counts=group_counts,
        )
    raise ValueError(f"config.data.format is {data.format!r}; it must be lvis, coco or openimages")


def frequency_limits(data: Any) -> tuple[int, int]:
    """Most training images of a rare and of a common category, from config.data.

    Raises:
        ValueError: they are no two numbers in rising order.
    """
    limits = tuple(data.frequency_limits)
    if len(limits) != 2 or not 0 <= limits[0] <= limits[1]:
        raise ValueError(f"config.data.frequency_limits is {limits}: it must be two numbers, the smaller first")
    return limits


def _group_counts(training: Annotations) -> np.ndarray:
    """What the frequency groups of the training split follow from."""
    return training.instance_counts if training.positive_labels is not None else training.image_counts
