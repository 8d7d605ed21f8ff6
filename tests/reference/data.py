"""Naive twins of the data path, and small data sets made for its tests."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from configs import common
from rog_jax.data.batch import MASK_CROP

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def data_config(**changes: Any) -> ConfigDict:
    """Settings of config.data for images of some 64 pixels, read in this process."""
    data = common.get_config().data
    data.shapes, data.short_sides, data.max_long_side, data.test_short_side = ((64, 96), (96, 64)), (48, 56, 64), 96, 64
    data.max_objects, data.min_image_side, data.workers = 4, 16, 0
    data.update(changes)
    return data


def sampler_config(**changes: Any) -> ConfigDict:
    """Settings of config.sampler; random unless changed."""
    sampler = common.get_config().sampler
    sampler.name, sampler.threshold = "random", 0.5
    sampler.update(changes)
    return sampler


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A rectangle as a COCO segmentation."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def make_records(num_images: int = 8) -> dict[str, list[dict]]:
    """An LVIS json of 60 x 40 and 40 x 60 images (width x height), each with a rectangle of one of three categories."""
    images, annotations = [], []
    for i in range(num_images):
        width, height = (60, 40) if i % 2 == 0 else (40, 60)
        images.append({"id": 10 + i, "file_name": f"{i:03d}.png", "width": width, "height": height})
        box = [4 + i % 5, 6, 20, 24]
        annotations.append(
            {
                "id": 100 + i,
                "image_id": 10 + i,
                "category_id": (3, 5, 9)[i % 3],
                "bbox": box,
                "area": 480,
                "segmentation": rectangle(*box),
            }
        )
    categories = [{"id": k, "name": f"class{k}"} for k in (9, 3, 5)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_data_set(folder: Path, records: dict[str, list[dict]]) -> tuple[Path, Path]:
    """Writes the json and pictures in which each object is filled with the colour of its category; gives both paths."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    ids = sorted(category["id"] for category in records["categories"])
    for image in records["images"]:
        picture = Image.new("RGB", (image["width"], image["height"]))
        draw = ImageDraw.Draw(picture)
        for annotation in records["annotations"]:
            x, y, width, height = annotation["bbox"]
            if annotation["image_id"] == image["id"] and min(width, height) >= 1:
                color = COLORS[ids.index(annotation["category_id"]) % len(COLORS)]
                draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        picture.save(images / image["file_name"])
    return write_json(folder, records), images


def write_json(folder: Path, records: dict[str, list[dict]]) -> Path:
    """Writes annotations alone."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(records))
    return path


def changed(records: dict, table: str, place: int, **fields: Any) -> dict:
    """A copy of the records with fields of one of them changed; the value `...` takes a field away."""
    records = copy.deepcopy(records)
    for key, value in fields.items():
        if value is ...:
            del records[table][place][key]
        else:
            records[table][place][key] = value
    return records


def naive_repeat_factors(image_categories: list[list[int]], threshold: float, count_empty: bool) -> list[float]:
    """LVIS's repeat factors, category by category."""
    sets = [{int(c) for c in categories} for categories in image_categories]
    if count_empty:
        sets = [categories or {"empty"} for categories in sets]
    factors = []
    for categories in sets:
        factor = 1.0
        for category in categories:
            share = sum(category in other for other in sets) / len(sets)
            factor = max(factor, math.sqrt(threshold / share))
        factors.append(factor)
    return factors


def naive_instance_aware_factors(image_categories: list[list[int]], threshold: float) -> list[float]:
    """Repeat factors by the geometric mean of the shares of images and of objects, category by category."""
    every = [category for categories in image_categories for category in categories]
    factors = []
    for categories in image_categories:
        factor = 1.0
        for category in categories:
            images = sum(category in other for other in image_categories) / len(image_categories)
            objects = every.count(category) / len(every)
            factor = max(factor, math.sqrt(threshold / math.sqrt(images * objects)))
        factors.append(factor)
    return factors


def naive_rasterize(polygon: np.ndarray, side: int) -> np.ndarray:
    """Even-odd test of every cell's centre against every edge."""
    inside = np.zeros((side, side), bool)
    for row in range(side):
        for column in range(side):
            x, y, crossings = column + 0.5, row + 0.5, 0
            for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                    crossings += 1
            inside[row, column] = crossings % 2 == 1
    return inside


def unpack_mask(packed: np.ndarray) -> np.ndarray:
    """A crop [112, 112] from its packed form."""
    return np.unpackbits(packed, axis=-1).astype(bool)


def paste_crop(crop: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask of a whole image [height, width]: each pixel's centre looked up in the crop of `box`."""
    full = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            u = (column + 0.5 - box[0]) / (box[2] - box[0]) * MASK_CROP
            v = (row + 0.5 - box[1]) / (box[3] - box[1]) * MASK_CROP
            if 0 <= u < MASK_CROP and 0 <= v < MASK_CROP:
                full[row, column] = crop[int(v), int(u)]
    return full


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A full mask resized by OpenCV's bilinear interpolation and cut at one half."""
    return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
