"""A long-tailed instance segmentation set in LVIS format, composed from a seed.

`make_dataset` writes `train.json`, `val.json` and `images/*.jpg`. Training follows a long tail of image counts exactly;
validation has every category equally often, in scenes of another seed. The same settings give the same bytes.

Both files carry LVIS v1's fields. `frequency` follows the training image counts, and so do `image_count` and
`instance_count`, in `val.json` too. Boxes, areas and polygons are those of the visible mask, to the pixel; polygons may
be simplified. Sets of LVIS's size can be made: of a drawn image only its annotations stay in memory, as text.
"""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from rog_jax.data import tail
from rog_jax.data.annotations import frequency_group
from rog_jax.data.procedural import (
    SHIFTED_BACKGROUNDS,
    USUAL_BACKGROUNDS,
    ProceduralBackgrounds,
    ProceduralObjects,
)
from rog_jax.data.scenes import (
    SHIFTED,
    USUAL,
    BackgroundSource,
    ObjectSource,
    SceneSettings,
    compose,
    mask_box,
    mask_to_polygons,
)
from rog_jax.data.sprites import PhotoBackgrounds, SpriteObjects, common_categories, styles_in

TRAIN, VAL = "train", "val"
_PLAN, _SCENES, _LABELS, _CATEGORIES = range(4)  # branches of the seed


@dataclass(frozen=True)
class SyntheticSettings:
    """What `make_dataset` makes; the defaults are those of `make demo`."""

    seed: int = 0
    train_images: int = 1000
    val_images: int = 200
    num_categories: int = 24
    disjoint_from: int = 0  # drawn categories are those that a set of so many does not have
    height: int = 128  # pixels of each image
    width: int = 128
    objects: tuple[int, int] = (3, 8)  # objects an image, fewest and most
    object_size: tuple[int, int] = (24, 64)  # pixels across, smallest and largest
    small_share: float = 0.1  # share of the objects that are half as large
    min_visible: float = 0.25  # least visible share of an object
    min_pixels: int = 40  # least number of visible pixels
    counts: tuple[int, ...] = tail.LVIS_V1_COUNTS  # training image counts to imitate
    zipf: float = 0.0  # if not 0, counts fall as 1 / rank ** zipf instead
    val_instances: int = 20  # least validation instances of each category
    val_shift: bool = False  # validation in poses, light, noise and drawn backgrounds that training never has
    federated: float = 1.0  # share of an image's absent categories in its neg_category_ids
    not_exhaustive: float = 0.0  # share of (image, category) pairs of several objects that lack one annotation
    sprites: str = ""  # folder of styles; empty draws the objects
    train_styles: tuple[str, ...] = ()  # empty takes all but `val_styles`
    val_styles: tuple[str, ...] = ()  # empty takes `train_styles`
    backgrounds: str = ""  # folder of photographs; empty draws the backgrounds
    jpeg_quality: int = 92
    polygon_error: float = 0.0  # pixels by which polygons may leave the mask's edge; 0 follows every pixel

    def __post_init__(self):
        numbers = ("train_images", "val_images", "num_categories", "height", "width", "min_pixels", "val_instances")
        for name in numbers:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("small_share", "min_visible", "federated", "not_exhaustive"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share, from 0 to 1.")
        for name in ("objects", "object_size"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} is {low} to {high}: the lower bound must be at least 1, the upper no lower.")
        for name in ("zipf", "seed", "polygon_error"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if not self.counts or min(self.counts) < 1:
            raise ValueError("counts must be a list of training image counts, each at least 1.")
        if self.disjoint_from < 0 or (self.disjoint_from and self.sprites):
            raise ValueError(f"disjoint_from is {self.disjoint_from}: a number of drawn categories, without sprites.")
        if not self.sprites and (self.train_styles or self.val_styles):
            raise ValueError("train_styles and val_styles choose among sprites: give the folder of the sprites, too.")


@dataclass(frozen=True)
class _Drawing:
    """One image to draw: everything that a worker process needs."""

    settings: SyntheticSettings
    split: str
    number: int  # within the split
    categories: tuple[int, ...]


class _Object(NamedTuple):
    """An object that was drawn: its category id, and the json of its annotation after the ids, without its brace."""

    category_id: int
    json: str


def make_dataset(
    out: str | Path, settings: SyntheticSettings | None = None, *, workers: int = 0, overwrite: bool = False
) -> dict[str, Path]:
    """Writes a data set into the folder `out`.

    Args:
        out: made if absent.
        settings: defaults to the set of `make demo`.
        workers: processes that draw; 0 draws in this one. The bytes do not depend on it. Processes are spawned, so a
            script that asks for them needs the `if __name__ == "__main__":` guard.
        overwrite: replace a set that is already there.

    Returns:
        paths by name: `train_json`, `val_json`, `images`.

    Raises:
        FileExistsError: there is a set already and `overwrite` is off.
        FileNotFoundError: sprites, styles or backgrounds are not where the settings say.
        ValueError: the settings contradict one another, for example too few images for the tail.
    """
    settings = settings or SyntheticSettings()
    plans = {split: plan_categories(settings, split) for split in (TRAIN, VAL)}
    for split in plans:
        _sources(settings, split)  # complains before anything is written or replaced
    images = _prepare(Path(out), overwrite)
    drawings = [
        _Drawing(settings, split, number, tuple(int(c) for c in kinds))
        for split, plan in plans.items()
        for number, kinds in enumerate(plan)
    ]
    records = dict(zip(((d.split, d.number) for d in drawings), _draw_all(drawings, images, workers), strict=True))
    categories = _categories(settings, plans[TRAIN])
    paths = {"images": images}
    for split, plan in plans.items():
        first_id = 1 if split == TRAIN else 1 + settings.train_images
        objects = [records[split, number] for number in range(len(plan))]
        paths[f"{split}_json"] = Path(out) / f"{split}.json"
        _write_lvis(paths[f"{split}_json"], settings, split, categories, objects, first_id)
    return paths


def plan_categories(settings: SyntheticSettings, split: str) -> list[np.ndarray]:
    """The category (0..C-1, by falling training image count) of each object of each image of a split."""
    rng = np.random.default_rng([settings.seed, _PLAN, split == VAL])
    num_images = settings.train_images if split == TRAIN else settings.val_images
    low, high = settings.objects
    numbers = rng.permutation(low + np.arange(num_images) % (high - low + 1))
    if split == VAL:
        return tail.balanced_categories(settings.num_categories, numbers, settings.val_instances, rng)
    size = (settings.num_categories, num_images, int(numbers.sum()))
    counts = (
        tail.zipf_counts(settings.zipf, *size) if settings.zipf else tail.fit_counts(np.array(settings.counts), *size)
    )
    return tail.assign_categories(counts, numbers, rng)


def _prepare(out: Path, overwrite: bool) -> Path:
    """The folder of images, without what an earlier run left there."""
    jsons, images = [out / f"{split}.json" for split in (TRAIN, VAL)], out / "images"
    if any(path.exists() for path in jsons) and not overwrite:
        raise FileExistsError(f"{out} holds a data set already: choose another folder, or allow to overwrite it.")
    for path in jsons:
        path.unlink(missing_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    for split in (TRAIN, VAL):
        for path in images.glob(f"{split}_*.jpg"):
            path.unlink()
    return images


def _draw_all(drawings: list[_Drawing], images: Path, workers: int) -> Iterator[list[_Object]]:
    if workers < 1:
        yield from map(partial(_draw, images=images), drawings)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(_draw, images=images), drawings, chunksize=32)


def _draw(drawing: _Drawing, images: Path) -> list[_Object]:
    """Writes one image and gives its objects."""
    settings, validation = drawing.settings, drawing.split == VAL
    objects, backgrounds = _sources(settings, drawing.split)
    scene = compose(
        drawing.categories,
        objects,
        backgrounds,
        SceneSettings(
            settings.height,
            settings.width,
            settings.object_size,
            settings.small_share,
            settings.min_visible,
            settings.min_pixels,
        ),
        SHIFTED if _shifts(settings, drawing.split) else USUAL,
        np.random.default_rng([settings.seed, _SCENES, validation, drawing.number]),
    )
    path = images / _file_name(drawing.split, drawing.number)
    done, data = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode the image as JPEG.")
    path.write_bytes(data.tobytes())
    pairs = zip(scene.categories, scene.masks, strict=True)
    return [_annotation(category, mask, settings.polygon_error) for category, mask in pairs]


def _shifts(settings: SyntheticSettings, split: str) -> bool:
    return settings.val_shift and split == VAL


def _annotation(category: int, mask: np.ndarray, polygon_error: float) -> _Object:
    x1, y1, x2, y2 = (float(v) for v in mask_box(mask))
    fields = {
        "category_id": category + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(np.count_nonzero(mask)),
        "segmentation": [_simplified(polygon, polygon_error) for polygon in mask_to_polygons(mask)],
    }
    return _Object(category + 1, _compact(fields)[1:])


def _simplified(polygon: list[float], error: float) -> list[float]:
    """A polygon of fewer vertices that stays within `error` pixels of it; itself where less than a triangle is left."""
    if not error:
        return polygon
    fewer = cv2.approxPolyDP(np.array(polygon, np.float32).reshape(-1, 1, 2), error, True)
    return fewer.astype(float).ravel().tolist() if len(fewer) >= 3 else polygon


@lru_cache(maxsize=8)
def _sources(settings: SyntheticSettings, split: str) -> tuple[ObjectSource, BackgroundSource]:
    ranges = SHIFTED_BACKGROUNDS if _shifts(settings, split) else USUAL_BACKGROUNDS
    backgrounds = PhotoBackgrounds(settings.backgrounds) if settings.backgrounds else ProceduralBackgrounds(ranges)
    if not settings.sprites:
        return ProceduralObjects(settings.num_categories, settings.disjoint_from), backgrounds
    train = settings.train_styles or tuple(s for s in styles_in(settings.sprites) if s not in settings.val_styles)
    val = settings.val_styles or train
    if not train:
        raise ValueError(f"{settings.sprites}: no style is left to train on; choose fewer for validation.")
    stems = common_categories(settings.sprites, tuple(dict.fromkeys(train + val)))
    if len(stems) < settings.num_categories:
        raise ValueError(
            f"{settings.sprites}: the styles {', '.join(train + val)} share {len(stems)} categories, and "
            f"{settings.num_categories} are asked for: ask for fewer, or leave out the style that has the fewest."
        )
    # Which categories, and which of them are rare, is left to chance: names that are neighbours look alike.
    chosen = np.random.default_rng([settings.seed, _CATEGORIES]).permutation(len(stems))[: settings.num_categories]
    categories = tuple(stems[i] for i in chosen)
    return SpriteObjects(settings.sprites, train if split == TRAIN else val, categories), backgrounds


def _file_name(split: str, number: int) -> str:
    return f"{split}_{number:06d}.jpg"


def _categories(settings: SyntheticSettings, plan: list[np.ndarray]) -> list[dict[str, Any]]:
    """LVIS's category records; all counts and groups are those of the training images."""
    objects, _ = _sources(settings, TRAIN)
    size = settings.num_categories
    image_counts = np.bincount(np.concatenate([np.unique(kinds) for kinds in plan]), minlength=size)
    instance_counts = np.bincount(np.concatenate(plan), minlength=size)
    records = []
    for i, (name, definition) in enumerate(zip(objects.names, objects.definitions, strict=True)):
        word = name.replace(" ", "_")
        records.append(
            {
                "id": i + 1,
                "name": word,
                "synset": f"{word}.n.01",
                "synonyms": [word],
                "def": definition,
                "image_count": int(image_counts[i]),
                "instance_count": int(instance_counts[i]),
                "frequency": frequency_group(int(image_counts[i])),
            }
        )
    return records


def _write_lvis(
    path: Path,
    settings: SyntheticSettings,
    split: str,
    categories: list[dict[str, Any]],
    objects: list[list[_Object]],
    first_id: int,
) -> None:
    """Writes under another name first, so that a half-written file is never taken for a data set."""
    images: list[dict[str, Any]] = []
    annotations: list[tuple[int, str]] = []
    for number, found in enumerate(objects):
        rng = np.random.default_rng([settings.seed, _LABELS, split == VAL, number])
        kept, not_exhaustive = _leave_out(found, settings.not_exhaustive, rng)
        present = {one.category_id for one in found}
        absent = [c["id"] for c in categories if c["id"] not in present]
        verified = rng.choice(absent, round(settings.federated * len(absent)), replace=False) if absent else []
        name = _file_name(split, number)
        images.append(
            {
                "id": first_id + number,
                "file_name": name,
                "coco_url": f"images/{name}",
                "width": settings.width,
                "height": settings.height,
                "neg_category_ids": sorted(int(c) for c in verified),
                "not_exhaustive_category_ids": not_exhaustive,
            }
        )
        annotations += [(first_id + number, one.json) for one in kept]
    others = {
        "info": {"description": f"Synthetic long-tailed set, {split}, seed {settings.seed}", "version": "1"},
        "licenses": [],
        "categories": categories,
        "images": images,
    }
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w") as file:
        file.write(_compact(others)[:-1] + ',"annotations":[')
        for number, (image_id, fields) in enumerate(annotations, start=1):
            file.write(f'{"," if number > 1 else ""}{{"id":{number},"image_id":{image_id},{fields}')
        file.write("]}")
    unfinished.replace(path)


def _compact(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


def _leave_out(found: list[_Object], share: float, rng: np.random.Generator) -> tuple[list[_Object], list[int]]:
    """Takes one annotation from some of the categories that the image has twice or more, as federated labels do."""
    places: dict[int, list[int]] = {}
    for place, one in enumerate(found):
        places.setdefault(one.category_id, []).append(place)
    repeated = [c for c, where in sorted(places.items()) if len(where) > 1]
    marked = [c for c, draw in zip(repeated, rng.random(len(repeated)), strict=True) if draw < share]
    dropped = {int(rng.choice(places[c])) for c in marked}
    return [one for place, one in enumerate(found) if place not in dropped], marked
