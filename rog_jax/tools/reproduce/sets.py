"""The data sets and backbones that runs need, made once."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rog_jax.data.presets import preset
from rog_jax.data.synthetic import make_dataset
from rog_jax.evaluation.summary import write_json
from rog_jax.tools.reproduce.places import Places
from rog_jax.tools.reproduce.programs import call, check_trained, flags_of
from rog_jax.training.checkpoint import flattened, nested
from rog_jax.training.initial import HEADS, InitialWeights, load_initial, save_initial

QUICK_SET: dict[str, Any] = {"train_images": 48, "val_images": 16, "num_categories": 12, "val_instances": 2}
QUICK_SETTINGS: dict[str, Any] = {
    "data.shapes": "((64, 64),)",
    "data.short_sides": "(64,)",
    "data.max_long_side": 64,
    "data.test_short_side": 64,
    "model.width": 8,
    "model.fpn_channels": 8,
    "rpn.train_proposals": 24,
    "rpn.test_proposals": 24,
    "roi.samples": 16,
    "roi.hidden": 16,
    "roi.mask_channels": 8,
    "roi.mask_convs": 1,
    "optim.milestone_unit": "steps",
    "optim.milestones": "(100,)",
    "train.steps": 4,
}
SOURCES = "sources.json"
"""In a set of sprites: the folders that it was made of."""
OPENIMAGES_SETTINGS: dict[str, Any] = {
    "data.format": "openimages",
    "model.masks": False,
    "test.written_detections": 0,  # its figures count all that are written, and shall count 100 an image too
}


def data_settings(data: str, places: Places) -> dict[str, Any]:
    """Makes a set if it is not there; the config's settings for it.

    Raises:
        FileNotFoundError: the photographs, or the sprites and backgrounds, are not where `places` says.
        ValueError: the set is there, made of other sprites or backgrounds.
    """
    if data == "ccp":
        if not (places.ccp / "train.json").is_file():
            raise FileNotFoundError(f"no train.json in {places.ccp}: give the folder of the photographs by --ccp DIR")
        return {"data.root": places.ccp}
    folder = places.work / "data" / data
    if not (folder / "val.json").is_file() and not (folder / "val.csv").is_file():
        unfinished = folder.with_name(f"{data}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _MAKERS[data](unfinished, places)
        unfinished.rename(folder)
    elif data == "sprites":
        _check_sources(folder, places)
    if data != "openimages":
        return {"data.root": folder}
    return OPENIMAGES_SETTINGS | {
        "data.train_json": folder / "train.csv",
        "data.val_json": folder / "val.csv",
        "data.train_images": folder / "train",
        "data.val_images": folder / "val",
        "data.openimages.classes_csv": folder / "classes.csv",
        "data.openimages.train_labels_csv": folder / "train_labels.csv",
        "data.openimages.val_labels_csv": folder / "val_labels.csv",
    }


def _drawn(name: str) -> Callable[[Path, Places], None]:
    return lambda folder, places: _draw(folder, name, places)


def _draw(folder: Path, name: str, places: Places, **more: Any) -> None:
    make_dataset(folder, preset(name, **(QUICK_SET if places.quick else {}), **more))


def _sprites(folder: Path, places: Places) -> None:
    _draw(folder, "mini_lvis_sprites", places, **_sources(places))
    write_json(folder / SOURCES, _sources(places))


def _sources(places: Places) -> dict[str, str]:
    return {"sprites": str(places.sprites), "backgrounds": str(places.backgrounds)}


def _check_sources(folder: Path, places: Places) -> None:
    """A set made of some sprites must not stand for one of others."""
    path = folder / SOURCES
    known = json.loads(path.read_text()) if path.is_file() else _sources(places)  # the first sets do not say
    if known != _sources(places):
        raise ValueError(
            f"the set in {folder} is made of {known['sprites']} and {known['backgrounds']}, not of {places.sprites} "
            f"and {places.backgrounds}: give those, another --work and --out, or remove that folder"
        )


def _openimages(folder: Path, places: Places) -> None:
    write_openimages(Path(data_settings("drawn", places)["data.root"]), folder)


_MAKERS: dict[str, Callable[[Path, Places], None]] = {
    "drawn": _drawn("mini_lvis"),
    "backbone": _drawn("mini_lvis_backbone"),
    "sprites": _sprites,
    "openimages": _openimages,
}


def write_openimages(source: Path, folder: Path) -> None:
    """Writes a set of `make_dataset` in OpenImages's format; images are linked.

    Its verified labels are those of LVIS: a category's objects in an image, and the categories that it lacks.

    Args:
        source: with train.json, val.json and images.
        folder: made; gets classes.csv and of each split SPLIT.csv, SPLIT_labels.csv and images.
    """
    for split in ("train", "val"):
        content = json.loads((source / f"{split}.json").read_text())
        (folder / split).mkdir(parents=True)
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        labels = [(image["id"], key, 0) for image in content["images"] for key in image["neg_category_ids"]]
        labels += sorted({(found["image_id"], found["category_id"], 1) for found in content["annotations"]})
        for image in content["images"]:
            os.link(source / "images" / image["file_name"], folder / split / f"{image['id']:016x}.jpg")
        columns = ("ImageID", "Source", "LabelName", "Confidence")
        corners = ("XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
        boxes = [
            (f"{found['image_id']:016x}", "xclick", f"/m/{found['category_id']:04d}", 1)
            + _corners(found["bbox"], *sizes[found["image_id"]])
            + (0,) * 5
            for found in content["annotations"]
        ]
        _write(folder / f"{split}.csv", columns + corners, boxes)
        rows = [(f"{image:016x}", "verification", f"/m/{key:04d}", is_there) for image, key, is_there in labels]
        _write(folder / f"{split}_labels.csv", columns, rows)
    classes = [(f"/m/{category['id']:04d}", category["name"]) for category in content["categories"]]
    _write(folder / "classes.csv", ("LabelName", "DisplayName"), classes)


def _corners(box: list[float], width: int, height: int) -> tuple[str, ...]:
    x, y, w, h = box
    return tuple(f"{value:.6f}" for value in (x / width, (x + w) / width, y / height, (y + h) / height))


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def start_settings(data: str, depth: int, places: Places) -> dict[str, Any]:
    """Trains the shared backbone of that depth if it is not there; the config's settings for a run that starts from it.

    It is a detector of other categories, each as frequent as any other, without the layers that depend on categories.
    The real photographs are learnt from scratch.

    Raises:
        ProgramError: its training or evaluation failed, or was stopped.
    """
    if data == "ccp":
        return {}
    folder = places.work / "backbones" / f"resnet{depth}"
    if not folder.is_dir():
        run = folder.with_name(f"{folder.name}.run")
        settings = (QUICK_SETTINGS if places.quick else {}) | data_settings("backbone", places) | {"model.depth": depth}
        common = ["--config=configs/mini_lvis.py:backbone", f"--workdir={run}", *flags_of(settings)]
        call(["train.py", *common], run / "log.txt")
        check_trained(run)
        call(["eval.py", *common], run / "log.txt")
        save_initial(folder, without_heads(load_initial(run)))
        if not places.keep:
            shutil.rmtree(run / "checkpoints")
    return {"init_from": folder}


def without_heads(weights: InitialWeights) -> InitialWeights:
    """The arrays that mean the same for other categories."""
    kept = {path: array for path, array in flattened(weights.parameters).items() if not path.startswith(HEADS)}
    return weights._replace(parameters=nested(kept))
