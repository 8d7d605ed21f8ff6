"""Says what is wrong with a data set before a run does, and what is in it.

examples:
  python -m rog_jax.tools.check_data --json data/lvis/lvis_v1_train.json --images data/coco --png tail.png
  python -m rog_jax.tools.check_data --config configs/lvis_r50.py --split val --decode

One pass over annotations and images: records that are broken, ids used twice, boxes and outlines that do not fit, image
files that are missing or of another size; then the categories, their groups and the memory that the annotations take
(not what else a run holds). The exit status is 1 if anything was found that is an error.
"""

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np

from configs import common
from rog_jax.data import Annotations, DataError, load_split
from rog_jax.data.findings import Findings
from rog_jax.data.inspection import inspect_annotations, inspect_json, packed_bytes
from rog_jax.data.inspection_images import ListedImages, inspect_images, inspect_listed
from rog_jax.data.inspection_openimages import inspect_openimages
from rog_jax.data.openimages import OpenImagesFiles
from rog_jax.data.sources import frequency_limits
from rog_jax.tools.recipe_file import load_config

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"r": "#c03028", "c": "#e0a020", "f": "#30903c", "1": "#c03028", "2": "#e07028", "3": "#e0a020",
           "4": "#90a028", "5": "#30903c"}  # fmt: skip
HATCHES = {"r": "xx", "c": "//", "f": "", "1": "xx", "2": "..", "3": "//", "4": "--", "5": ""}
GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}


def check(data, split: str, decode_all: bool = False) -> tuple[Findings, Annotations | None]:
    """Checks a split of config.data; the annotations are None where they cannot be loaded.

    Args:
        data: config.data.
        split: "train" or "val".
        decode_all: decodes every picture to its end.

    Raises:
        ValueError: config.data names no source or format that there is.
    """
    findings = Findings()
    listed = _inspect_files(data, split, findings)
    try:
        annotations = load_split(data, split)
    except DataError as error:
        if not findings.says(str(error)):
            findings.error("cannot be loaded", str(error))
        if listed is not None and not data[f"{split}_packed"]:
            inspect_listed(listed, Path(data[f"{split}_images"]), findings, decode_all)
        return findings, None
    inspect_annotations(annotations, findings)
    inspect_images(annotations, findings, decode_all)
    return findings, annotations


def _inspect_files(data, split: str, findings: Findings) -> ListedImages | None:
    """Checks every record of a split's annotation files; the images that they list, None where nothing tells them."""
    if data.source:
        return None
    path = Path(data[f"{split}_json"])
    if data.format == "openimages":
        options = data.openimages
        others = options[f"{split}_labels_csv"], options.hierarchy_json, options[f"{split}_sizes_csv"]
        names = (options.classes_csv, *others)
        return inspect_openimages(OpenImagesFiles(path, *(Path(name) if name else None for name in names)), findings)
    if data.format not in ("lvis", "coco") or not path.is_file():  # load_split says so
        return None
    try:
        return inspect_json(path, findings, frequency_limits(data))
    except DataError as error:
        findings.error("file that cannot be read", str(error))
        return None


def summary(annotations: Annotations) -> list[str]:
    """What is in a data set, a few lines."""
    groups = Counter(annotations.frequencies)
    named = ", ".join(f"{groups[group]} {GROUP_NAMES.get(group, f'in group {group}')}" for group in sorted(groups))
    counts = annotations.image_counts
    order = np.argsort(-counts, kind="stable")
    outlined = int(annotations.has_segmentation.sum())
    density = annotations.num_objects / annotations.num_images
    return [
        f"{annotations.num_images} images, {annotations.num_objects} objects, {density:.1f} an image",
        f"{annotations.num_classes} categories: {named}",
        f"{int(annotations.trainable.sum())} objects to train on, {outlined} with a mask, "
        f"{int(annotations.crowd.sum())} crowds or groups",
        "most frequent: " + ", ".join(f"{annotations.category_names[i]} {counts[i]}" for i in order[:5]),
        "rarest: " + ", ".join(f"{annotations.category_names[i]} {counts[i]}" for i in order[::-1][:5]),
        f"sizes: {_size(annotations, 0)} to {_size(annotations, -1)} (height x width)",
        f"annotations take {packed_bytes(annotations) / 1e6:.1f} MB"
        + (", mapped from a file that processes share" if annotations.packed else ", a copy in every loader process"),
    ]


def _size(annotations: Annotations, place: int) -> str:
    """The image that is the smallest (place 0) or the largest (-1) by pixels."""
    sizes = annotations.image_sizes
    height, width = sizes[np.argsort(sizes.prod(axis=1, dtype=np.int64), kind="stable")[place]]
    return f"{height} x {width}"


def plot_tail(annotations: Annotations, path: Path) -> None:
    """Images of each category, most frequent first, on a logarithmic axis, coloured and hatched by group."""
    order = np.argsort(-annotations.image_counts, kind="stable")
    figure, axes = pyplot.subplots(figsize=(9, 3.5))
    groups = np.array(annotations.frequencies)[order]
    counts = annotations.image_counts[order]
    for group in dict.fromkeys(groups.tolist()):
        places = np.flatnonzero(groups == group)
        name = f"{GROUP_NAMES.get(group, f'group {group}')}: {len(places)}"
        style = {"color": COLOURS[group], "hatch": HATCHES[group], "edgecolor": "white", "linewidth": 0}
        axes.bar(places, np.maximum(counts[places], 0.5), width=1.0, label=name, **style)
    axes.set(xlabel="category, by falling number of images", ylabel="images", yscale="log")
    axes.set(xlim=(-0.5, len(order) - 0.5), ylim=(0.5, None), title=f"{annotations.num_images} images")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a data set, by paths or by a recipe."""
    parser.add_argument("--config", metavar="FILE.py", help="recipe whose config.data is used")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="of the recipe, or of TFDS [train]")
    parser.add_argument("--json", metavar="FILE", help="annotations (OpenImages: the CSV of boxes)")
    parser.add_argument("--images", metavar="DIR", help="folder of the images")
    parser.add_argument("--format", choices=("lvis", "coco", "openimages"), help="of the annotations [lvis]")
    parser.add_argument("--source", metavar="tfds:NAME", help="a data set that TFDS has prepared")
    parser.add_argument("--tfds-dir", metavar="DIR", help="where TFDS keeps its data sets")
    parser.add_argument("--classes", metavar="FILE.csv", help="OpenImages's classes")


def config_of(given: argparse.Namespace):
    """The recipe that the options describe.

    Raises:
        ValueError: there is no such recipe.
    """
    config = load_config(given.config) if given.config else common.get_config()
    data, split = config.data, given.split
    named = {
        f"{split}_json": given.json,
        f"{split}_images": given.images,
        "format": given.format,
        "source": given.source,
        "tfds_dir": given.tfds_dir,
    }
    data.update({name: value for name, value in named.items() if value})
    if given.classes:
        data.openimages.classes_csv = given.classes
    return config


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.ERROR)  # the report says it all, with more examples
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_arguments(parser)
    parser.add_argument("--decode", action="store_true", help="decode every picture to its end, not only its head")
    parser.add_argument("--png", type=Path, metavar="FILE.png", help="draw the number of images of each category")
    given = parser.parse_args(arguments)
    if not (given.config or given.json or given.source):
        parser.error("name a data set: --config, --json with --images, or --source")
    try:
        findings, annotations = check(config_of(given).data, given.split, given.decode)
    except (ValueError, OSError) as error:
        sys.exit(f"check_data: {error}")
    for line in findings.lines():
        print(line)
    if annotations is not None:
        print("\n".join(summary(annotations)))
        if given.png:
            plot_tail(annotations, given.png)
            print(given.png)
    total = sum(findings.counts[kind] for kind in findings.errors)
    print(f"{total} errors" if total else "no errors")
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
