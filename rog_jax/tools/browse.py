"""A gallery of samples in one HTML file: as annotated, and as training sees them after augmentation.

examples:
  python -m rog_jax.tools.browse --json demo/data/train.json --images demo/data/images --out gallery.html
  python -m rog_jax.tools.browse --config configs/lvis_r50.py --out rare.html --frequency r --count 40 --augmented 3 \\
      --set data.copy_paste.probability=1.0 --set data.scale_jitter=0.1,2.0

The file needs nothing beside it, so that it can be sent to someone. In the browser, samples are filtered by category
and by frequency group; --category and --frequency choose which samples are in the file at all. --sheet writes the
pictures as one image, a row a sample.
"""

import argparse
import base64
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rog_jax.data import Annotations, Batch, DataError, load_split
from rog_jax.data.copy_paste import PasteSource
from rog_jax.data.images import UnreadableImage, cv2, read_annotated
from rog_jax.data.plan import padded_shapes
from rog_jax.data.transforms import ExampleSettings, make_example
from rog_jax.evaluation.drawing import Objects, draw_objects
from rog_jax.evaluation.pictures import truths
from rog_jax.tools.check_data import GROUP_NAMES, config_of, data_arguments

_JPEG_QUALITY = 85


def write_gallery(
    annotations: Annotations,
    data: Any,
    out: Path,
    *,
    count: int = 24,
    augmented: int = 2,
    categories: Sequence[str] = (),
    frequencies: Sequence[str] = (),
    seed: int = 0,
    width: int = 480,
    sheet: Path | None = None,
) -> int:
    """Writes the HTML file.

    Args:
        annotations: of the data set.
        data: config.data, whose augmentations are shown.
        out: the file.
        count: most samples.
        augmented: examples as in training beside each sample.
        categories: names, of which a sample has to have one; all if empty.
        frequencies: groups, of which a sample has to have a category; all if empty.
        seed: of the choice and of the augmentations.
        width: of each picture, at most, in pixels.
        sheet: where the pictures also go, as one image.

    Returns:
        The number of samples written.

    Raises:
        DataError: no category of such a name, or no image that fits.
    """
    masks = bool(annotations.has_segmentation.any())
    settings = ExampleSettings.training(data, masks, annotations.num_classes)
    pasting = PasteSource(annotations, data.copy_paste.even) if settings.paste else None
    cards, rows = [], []
    for image in choose(annotations, categories, frequencies, seed):
        try:
            pixels = read_annotated(annotations, image)
        except UnreadableImage:  # check_data tells of these
            continue
        pictures = [("as annotated", _draw(annotations, pixels, truths(annotations, image), width))]
        for number in range(augmented):
            rng = np.random.default_rng([seed, image, number])
            place = padded_shapes(annotations, np.array([image]), max(data.short_sides), data)[0]
            example = make_example(annotations, image, tuple(data.shapes[place]), settings, rng, pasting)
            pictures.append(("in training", _draw(annotations, *shown_in(example), width)))
        cards.append(_card(annotations, image, pictures))
        rows.append([picture for _, picture in pictures])
        if len(cards) == count:
            break
    if not cards:
        raise DataError(f"{annotations.source}: no readable image has an object that was asked for.")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_page(annotations, cards), encoding="utf-8")
    if sheet is not None:
        _write_sheet(sheet, rows)
    return len(cards)


def choose(annotations: Annotations, categories: Sequence[str], frequencies: Sequence[str], seed: int) -> list[int]:
    """Places of the images that have an object asked for, in random order.

    Raises:
        DataError: there is no category or group of such a name.
    """
    for known, asked, what in (
        (annotations.category_names, categories, "category"),
        (annotations.frequencies, frequencies, "frequency group"),
    ):
        unknown = set(asked) - set(known)
        if unknown:
            raise DataError(f"{annotations.source} has no {what} {sorted(unknown)[0]!r}.")
    wanted = np.ones(annotations.num_classes, bool)
    if categories:
        wanted &= np.isin(annotations.category_names, categories)
    if frequencies:
        wanted &= np.isin(annotations.frequencies, frequencies)
    images = np.unique(annotations.images_of_objects[wanted[annotations.labels]])
    return np.random.default_rng(seed).permutation(images).tolist()


def shown_in(example: Batch) -> tuple[np.ndarray, Objects]:
    """The picture of an example without its padding, and its objects with masks of that picture's size."""
    height, width = example.image_size.astype(int).tolist()
    kept = np.flatnonzero(example.labels >= 0)
    masks: list[np.ndarray | None] = [None] * len(kept)
    if example.masks.shape[1]:
        crops = np.unpackbits(example.masks[kept], axis=-1)
        masks = [_pasted(crop, box, height, width) for crop, box in zip(crops, example.boxes[kept], strict=True)]
    return example.image[:height, :width], Objects(example.boxes[kept], example.labels[kept], None, masks)


def _pasted(crop: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [height, width] from its crop inside a box."""
    places, inside = [], []
    for axis, side in enumerate((width, height)):
        place = (np.arange(side) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * len(crop)
        inside.append((place >= 0) & (place < len(crop)))
        places.append(np.clip(place, 0, len(crop) - 1).astype(int))
    return crop[places[1][:, None], places[0][None, :]] * inside[1][:, None] * inside[0][None, :]


def _draw(annotations: Annotations, pixels: np.ndarray, objects: Objects, width: int) -> np.ndarray:
    """A picture with its objects, RGB."""
    rare = frozenset(label for label, group in enumerate(annotations.frequencies) if group in ("r", "1"))
    picture = draw_objects(np.ascontiguousarray(pixels), objects, annotations.category_names, rare)
    if picture.shape[1] > width:
        size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture


def _data_url(picture: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _write_sheet(path: Path, rows: list[list[np.ndarray]]) -> None:
    """Pictures side by side, a row a sample, on white."""
    height = max(picture.shape[0] for row in rows for picture in row) + 4
    width = max(picture.shape[1] for row in rows for picture in row) + 4
    canvas = np.full((height * len(rows), width * len(rows[0]), 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            canvas[i * height : i * height + picture.shape[0], j * width : j * width + picture.shape[1]] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette keeps the file small enough for a repository.
    Image.fromarray(canvas).quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def _card(annotations: Annotations, image: int, pictures: list[tuple[str, np.ndarray]]) -> str:
    labels = sorted(set(annotations.labels[annotations.objects(image)].tolist()))
    groups = sorted({annotations.frequencies[label] for label in labels})
    title = f"image {annotations.image_ids[image]}: {annotations.file_names[image]}"
    shown = "".join(
        f'<figure><img src="{_data_url(picture)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for caption, picture in pictures
    )
    attributes = f'data-labels="{html.escape(json.dumps(labels))}" data-groups="{html.escape(json.dumps(groups))}"'
    return f"<section {attributes}><h2>{html.escape(title)}</h2><div>{shown}</div></section>"


def _page(annotations: Annotations, cards: list[str]) -> str:
    names = sorted(enumerate(annotations.category_names), key=lambda pair: pair[1])
    categories = "".join(f'<option value="{label}">{html.escape(name)}</option>' for label, name in names)
    groups = "".join(
        f'<option value="{group}">{GROUP_NAMES.get(group, f"group {group}")}</option>'
        for group in sorted(set(annotations.frequencies))
    )
    return (
        _PAGE.replace("{title}", html.escape(f"{Path(annotations.source).name}: {len(cards)} samples"))
        .replace("{categories}", categories)
        .replace("{groups}", groups)
        .replace("{cards}", "\n".join(cards))
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; color: #181818; background: #fff; }
header { position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #ccc; z-index: 1; }
h1 { font-size: 1.2rem; margin: 0 0 .4rem; } h2 { font-size: 1rem; margin: 1rem 0 .3rem; font-weight: 600; }
section div { display: flex; flex-wrap: wrap; gap: .5rem; } figure { margin: 0; }
img { display: block; max-width: 100%; } figcaption { color: #666; font-size: 12px; }
label { margin-right: 1rem; } [hidden] { display: none; }
</style></head><body>
<header><h1>{title}</h1>
<label>category <select id="category"><option value="">all</option>{categories}</select></label>
<label>frequency <select id="group"><option value="">all</option>{groups}</select></label>
<span id="shown"></span></header>
{cards}
<script>
const category = document.getElementById("category"), group = document.getElementById("group");
function filter() {
  let shown = 0;
  for (const card of document.querySelectorAll("section")) {
    const fits = (category.value === "" || JSON.parse(card.dataset.labels).includes(Number(category.value)))
      && (group.value === "" || JSON.parse(card.dataset.groups).includes(group.value));
    card.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = shown + " shown";
}
category.onchange = group.onchange = filter;
filter();
</script></body></html>
"""


def _set(config: Any, assignment: str) -> None:
    """Changes a setting by NAME=VALUE, in the type that it has.

    Raises:
        ValueError: there is no such setting, or its type has no such value.
    """
    path, _, text = assignment.partition("=")
    *sections, name = path.removeprefix("config.").split(".")
    try:
        for section in sections:
            config = config[section]
        before = config[name]
    except (KeyError, TypeError) as error:
        raise ValueError(f"--set {assignment}: there is no setting {path}") from error
    try:
        if isinstance(before, bool):
            config[name] = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        elif isinstance(before, tuple):
            config[name] = tuple(json.loads(value) for value in text.split(",") if value)
        else:
            config[name] = type(before)(text)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--set {assignment}: {text!r} is no value for {path}, which is {before!r}") from error


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html")
    parser.add_argument("--count", type=int, default=24, help="samples at most [24]")
    parser.add_argument("--augmented", type=int, default=2, help="examples as in training beside each [2]")
    parser.add_argument("--category", nargs="+", default=[], metavar="NAME", help="only samples with one of these")
    parser.add_argument("--frequency", nargs="+", default=[], metavar="GROUP", help="r, c, f; OpenImages 1 to 5")
    parser.add_argument("--set", action="append", default=[], metavar="data.NAME=VALUE", help="a setting of the recipe")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="the pictures as one image, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=480, help="of a picture, pixels [480]")
    given = parser.parse_args(arguments)
    if not (given.config or given.json or given.source):
        parser.error("name a data set: --config, --json with --images, or --source")
    try:
        config = config_of(given)
        for assignment in given.set:
            _set(config, assignment)
        count = write_gallery(
            load_split(config.data, given.split),
            config.data,
            given.out,
            count=given.count,
            augmented=given.augmented,
            categories=given.category,
            frequencies=given.frequency,
            seed=given.seed,
            width=given.width,
            sheet=given.sheet,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"browse: {error}")
    print(f"{given.out}: {count} samples, {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
