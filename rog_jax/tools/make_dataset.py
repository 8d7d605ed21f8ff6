"""Writes a long-tailed instance segmentation set in LVIS format: drawn objects, or sprites on photographs.

examples:
  python -m rog_jax.tools.make_dataset --out data/procedural
  python -m rog_jax.tools.make_dataset --out data/mini_lvis --preset mini_lvis
  python -m rog_jax.tools.make_dataset --out data/sprites --sprites SPRITES --backgrounds PHOTOS \\
      --val-styles twemoji --num-categories 200 --train-images 5000 --size 256 --counts lvis_v1_categories.json
As large as LVIS v1, with its 1,203 image counts (docs/data.md tells how long that takes):
  python -m rog_jax.tools.make_dataset --out data/like_lvis --sprites SPRITES --backgrounds PHOTOS --workers 16 \\
      --train-styles noto openmoji --val-styles twemoji --num-categories 1203 --train-images 100170 \\
      --val-images 19809 --size 480 640 --objects 3 22 --object-size 24 160 --federated 0.01 --polygon-error 1 \\
      --counts lvis_v1_categories.json
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rog_jax.data.presets import PRESETS, preset
from rog_jax.data.synthetic import SyntheticSettings, make_dataset

_DEFAULTS = SyntheticSettings()


def _parser() -> argparse.ArgumentParser:
    description, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m rog_jax.tools.make_dataset",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not given is the preset's
    )

    def add(group, flag: str, text: str, **options) -> None:
        default = getattr(_DEFAULTS, flag.lstrip("-").replace("-", "_"), None)
        if default not in (None, "", ()) and default is not False:
            options.setdefault("type", type(default))
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text += f" [{shown}]"
        group.add_argument(flag, help=text, **options)

    add(parser, "--out", "folder to write: train.json, val.json, images/*.jpg", required=True, type=Path)
    add(parser, "--preset", "a set with a name; flags beside it change single settings", choices=PRESETS)
    add(parser, "--overwrite", "replace a set that is already in the folder", action="store_true", default=False)
    add(
        parser, "--workers", "processes that draw; 0 draws in this one; the result is the same [0]", type=int, default=0
    )
    add(
        parser,
        "--preview",
        "also write a picture of the first training scenes with outlines",
        metavar="FILE.png",
        type=Path,
        default=None,
    )
    scenes = parser.add_argument_group("scenes")
    add(scenes, "--seed", "the same seed gives the same bytes")
    add(scenes, "--train-images", "number of training images")
    add(scenes, "--val-images", "number of validation images")
    scenes.add_argument(
        "--size",
        nargs="+",
        type=int,
        metavar="PX",
        help=f"height and width, or one side of a square [{_DEFAULTS.height} {_DEFAULTS.width}]",
    )
    pair = {"nargs": 2, "type": int, "metavar": ("MIN", "MAX")}
    add(scenes, "--objects", "objects an image", **pair)
    add(scenes, "--object-size", "pixels across an object", **pair)
    add(scenes, "--small-share", "share of the objects that are half as large")
    add(scenes, "--min-visible", "least visible share of an object")
    add(scenes, "--min-pixels", "least number of visible pixels")
    add(scenes, "--jpeg-quality", "1 to 100")
    labels = parser.add_argument_group("categories and labels")
    add(labels, "--num-categories", "number of categories")
    add(labels, "--disjoint-from", "not 0 draws categories that a drawn set of so many does not have")
    labels.add_argument(
        "--counts",
        type=Path,
        metavar="FILE.json",
        help="tail to imitate: a list of training image counts, or LVIS categories with image_count [LVIS v1's]",
    )
    labels.add_argument("--zipf", type=float, metavar="EXPONENT", help="counts fall as 1 / rank**EXPONENT instead")
    add(labels, "--val-instances", "least validation instances of each category")
    add(
        labels,
        "--val-shift",
        "validation in poses, light, noise and drawn backgrounds that training never has",
        action="store_true",
    )
    add(labels, "--polygon-error", "pixels by which polygons may leave the mask's edge; 0 follows every pixel")
    add(labels, "--federated", "share of an image's absent categories in its neg_category_ids")
    labels.add_argument(
        "--not-exhaustive",
        type=float,
        metavar="SHARE",
        help="share of (image, category) pairs with two objects or more of which one is left unannotated [0.0]",
    )
    sources = parser.add_argument_group("objects and backgrounds from files (default: drawn)")
    add(
        sources,
        "--sprites",
        "folder of styles, each a zip or a sub-folder of RGBA CATEGORY.png",
        metavar="DIR",
    )
    add(sources, "--train-styles", "styles to train on [all but those of validation]", nargs="+")
    add(sources, "--val-styles", "styles of validation [those of training]", nargs="+")
    add(sources, "--backgrounds", "folder of photographs to crop", metavar="DIR")
    return parser


def read_counts(path: Path) -> tuple[int, ...]:
    """Training image counts from a json list of numbers, a list of LVIS categories, or an LVIS json.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds none of these.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; --counts wants a json file.")
    try:
        data = json.loads(path.read_text())
        entries = data["categories"] if isinstance(data, dict) else data
        counts = tuple(int(e["image_count"] if isinstance(e, dict) else e) for e in entries)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: neither a list of image counts nor LVIS categories with image_count.") from error
    return tuple(c for c in counts if c > 0)


def preview(train_json: Path, images: Path, path: Path, columns: int = 5, rows: int = 2) -> None:
    """Writes a picture of the first training images, enlarged, with each object's box and outline.

    The colour of box and outline is that of the frequency group: green frequent, yellow common, red rare. Images with
    rare categories come first.
    """
    data = json.loads(train_json.read_text())
    group = {c["id"]: c["frequency"] for c in data["categories"]}
    colours = {"f": (90, 220, 90), "c": (60, 220, 255), "r": (60, 60, 255)}  # BGR
    found: dict[int, list[dict]] = {}
    for annotation in data["annotations"]:
        found.setdefault(annotation["image_id"], []).append(annotation)
    by_rarity = sorted(
        data["images"], key=lambda i: -sum(group[a["category_id"]] == "r" for a in found.get(i["id"], []))
    )
    step = max(1, len(by_rarity) // (rows * columns))
    picked = (by_rarity[:columns] + by_rarity[columns::step])[: rows * columns]
    tiles, zoom = [], 2
    for image in picked:
        tile = cv2.imread(str(images / image["file_name"]))
        tile = tile.repeat(zoom, 0).repeat(zoom, 1)
        for annotation in found.get(image["id"], []):
            colour = colours[group[annotation["category_id"]]]
            x, y, w, h = (round(zoom * v) for v in annotation["bbox"])
            cv2.rectangle(tile, (x, y), (x + w - 1, y + h - 1), colour, 1)
            parts = [np.rint(np.reshape(p, (-1, 2)) * zoom).astype(np.int32) for p in annotation["segmentation"]]
            cv2.polylines(tile, parts, True, (255, 255, 255), 1)
        tiles.append(cv2.copyMakeBorder(tile, 0, 4, 0, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    lines = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles) - columns + 1, columns)] or [
        np.hstack(tiles)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette keeps the file small enough for a repository.
    Image.fromarray(np.vstack(lines)[..., ::-1]).quantize(
        256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and writes the set; a wrong setting ends in one line that says what to change."""
    parser = _parser()
    flags = vars(parser.parse_args(arguments))
    out, overwrite, workers, picture = (flags.pop(name) for name in ("out", "overwrite", "workers", "preview"))
    name = flags.pop("preset", None)
    if size := flags.pop("size", None):
        if len(size) > 2:
            parser.error("--size takes one number or two: height and width")
        flags |= {"height": size[0], "width": size[-1]}
    try:
        if "counts" in flags:
            flags["counts"] = read_counts(flags["counts"])
        flags = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
        settings = preset(name, **flags) if name else SyntheticSettings(**flags)
        paths = make_dataset(out, settings, workers=workers, overwrite=overwrite)
        if picture:
            preview(paths["train_json"], paths["images"], picture)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"make_dataset: {error}")
    categories = json.loads(paths["train_json"].read_text())["categories"]
    groups = {letter: sum(c["frequency"] == letter for c in categories) for letter in "rcf"}
    print(f"{settings.train_images} training and {settings.val_images} validation images in {paths['images']}")
    print(f"{len(categories)} categories: {groups['r']} rare, {groups['c']} common, {groups['f']} frequent")
    print(f"{paths['train_json']}\n{paths['val_json']}")


if __name__ == "__main__":
    main()
