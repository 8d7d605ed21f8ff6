"""Where the image files of an annotation file are: LVIS and COCO name them in several ways."""

import logging
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from rog_jax.data.annotations import DataError

logger = logging.getLogger(__name__)

_PROBED_IMAGES = 10
_COCO_2014_DIGITS = len("000000000000.jpg")


def missing_folder(folder: Path) -> DataError:
    """The error for an image folder that is not there."""
    return DataError(f"There is no image folder {folder}. Check config.data.train_images and val_images.")


def resolved_names(
    path: Path, folder: Path, file_names: np.ndarray, urls: np.ndarray, image_ids: np.ndarray
) -> np.ndarray:
    """The path of each image relative to `folder`, [I].

    Of the rules below the first one holds by which one of the file's first ten images is there; for all images, so that
    one that is missing is not looked for elsewhere. (1) The `file_name` as it stands. (2) The last two parts of the
    `coco_url`, `train2017/000000000042.jpg`, in which LVIS says where each image is, since a part of its validation
    images are in train2017. (3) The last part alone of either, what follows the last slash or backslash. (4) For LVIS
    v0.5, which has the names of COCO 2014 (`COCO_train2014_000000000042.jpg`): the number alone, (5, 6) in `train2017`
    or `val2017`.

    Args:
        path: of the annotation file, for messages.
        folder: of the images.
        file_names: as in the file, empty where it has none, [I].
        urls: `coco_url` as in the file, empty where it has none, [I].
        image_ids: for messages, [I].

    Raises:
        DataError: an image has neither name, or no rule finds one of the first ten.
    """
    nameless = (file_names == "") & (urls == "")
    if nameless.any():
        raise DataError(
            f"{path}: image {image_ids[int(np.argmax(nameless))]} has neither 'file_name' nor 'coco_url'. Add its file "
            "name."
        )
    pairs = list(zip(file_names[:_PROBED_IMAGES].tolist(), urls[:_PROBED_IMAGES].tolist(), strict=True))
    for rule in _RULES:
        if any(is_file(folder / rule(name, url)) for name, url in pairs):
            if rule is _by_file_name and (file_names != "").all():
                return file_names
            return np.array([rule(name, url) for name, url in zip(file_names.tolist(), urls.tolist(), strict=True)])
    name = _by_file_name(*pairs[0])
    raise DataError(
        f"{path}: image {image_ids[0]} should be {folder / name}, but neither it nor the next ones are there. Check "
        "config.data.train_images and config.data.val_images."
    )


def openimages_names(path: Path, folder: Path, image_names: np.ndarray) -> np.ndarray:
    """The path of each image of OpenImages relative to `folder`, [I]: `ID.jpg`, or that in the folder of a split.

    Args:
        path: of the annotation file, for messages.
        folder: of the images.
        image_names: ids, [I].

    Raises:
        DataError: none of the first ten images is there.
    """
    probe = image_names[:_PROBED_IMAGES].tolist()
    for prefix in ("", "train/", "validation/", "test/", "train_{}/"):
        if any(is_file(folder / f"{prefix.format(name[:1])}{name}.jpg") for name in probe):
            return np.array([f"{prefix.format(name[:1])}{name}.jpg" for name in image_names.tolist()])
    raise DataError(
        f"{path}: image {probe[0]} should be {folder / probe[0]}.jpg, but neither it nor the next ones are there, nor "
        "in train, validation, test or train_0 to train_f. Check config.data.train_images and val_images."
    )


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _by_file_name(name: str, url: str) -> str:
    return name or _by_url(name, url)


def _by_url(name: str, url: str) -> str:
    return "/".join(PurePosixPath(urlsplit(url).path).parts[-2:]) if url else name


def _last_part(name: str, url: str) -> str:
    return re.split(r"[/\\]", name or urlsplit(url).path)[-1]


def _in_folder_2017(split: str) -> Callable[[str, str], str]:
    def rule(name: str, url: str) -> str:
        last = _last_part(name, url)
        return f"{split}{last[-_COCO_2014_DIGITS:]}" if last.startswith("COCO_") else f"{split}{last}"

    return rule


_RULES = (
    _by_file_name,
    _by_url,
    _last_part,
    _in_folder_2017(""),
    _in_folder_2017("train2017/"),
    _in_folder_2017("val2017/"),
)
