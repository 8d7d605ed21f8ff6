"""Runs a trained detector on pictures: `python -m rog_jax.tools.predict PICTURES --checkpoint RUN --out DIR`.

PICTURES are files and folders, which are searched with all that is below them. RUN is the --workdir of train.py, one of
its checkpoints (RUN/checkpoints/5000), or a folder of rog_jax.tools.import_weights. Written are

    DIR/pictures/...           each picture with its best detections; rare categories have a thick box
    DIR/predictions.json       {"file", "height", "width", "objects": [{"category", "category_id", "score", "bbox":
                               [x, y, width, height], "segmentation": COCO's run lengths}]} of each picture, all
                               detections
    DIR/results_bbox.json      with --annotations: LVIS results, as eval.py writes them, of the pictures that the
    DIR/results_segm.json      annotations know by name

Examples:
    python -m rog_jax.tools.predict photo.jpg --checkpoint runs/r50 --out predicted
    python -m rog_jax.tools.predict holiday/ --checkpoint runs/r50 --out predicted --top 30 --min-score 0.1
    python -m rog_jax.tools.predict photo.jpg --checkpoint weights/maskrcnn --out predicted --set test.flip=True
"""

import argparse
import ast
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from rog_jax.data.annotations import DataError
from rog_jax.data.images import read_picture
from rog_jax.evaluation.results import ImageDetections, ResultWriter, box_records, mask_records, merge_shards
from rog_jax.inference import Predictions, Predictor
from rog_jax.tools.recipe_file import load_config
from rog_jax.training import runtime
from rog_jax.training.out_of_memory import OutOfMemory

logger = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_JPEG_QUALITY = 92


class NoPictures(ValueError):
    """There is nothing to run the detector on."""


def find_pictures(paths: Sequence[str | Path]) -> dict[Path, Path]:
    """Each picture file with the path that it has below what was asked for.

    Raises:
        NoPictures: a path does not exist, or a folder holds no picture.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_file():
            found[path] = Path(path.name)
            continue
        if not path.is_dir():
            raise NoPictures(f"{path}: there is no such file or folder")
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if not inside:
            raise NoPictures(f"{path} holds no picture ({', '.join(ENDINGS)})")
        found |= {file: file.relative_to(path) for file in inside}
    return found


def predict(
    predictor: Predictor,
    pictures: dict[Path, Path],
    out: str | Path,
    *,
    top: int = 20,
    least_score: float = 0.0,
    annotations: str | Path | None = None,
) -> int:
    """Writes what the tool's description says; returns the number of pictures that could be read.

    Args:
        predictor: the detector.
        pictures: of `find_pictures`.
        out: folder, made if it is not there.
        top: detections drawn on a picture at the most; 0 draws none and writes no pictures.
        least_score: of detections that are drawn.
        annotations: a json in LVIS's or COCO's format, whose image ids the LVIS results have.

    Raises:
        DataError: the annotations cannot be read, or know none of the pictures.
        OutOfMemory: a device's memory is too small.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    image_ids = None if annotations is None else _image_ids(Path(annotations), pictures)
    results = _Results(out, predictor, image_ids)
    done = 0
    with contextlib.ExitStack() as stack:
        records = stack.enter_context(_JsonList(out / "predictions.json"))
        stack.enter_context(results)
        for path, found in tqdm(predictor.predict_files(pictures), total=len(pictures), unit="picture"):
            records.write(
                {"file": str(path), "height": found.size[0], "width": found.size[1], "objects": _objects(found)}
            )
            results.write(path, found)
            if top:
                _draw(predictor, path, found, out / "pictures" / pictures[path], top, least_score)
            done += 1
    results.join()
    return done


def _objects(found: Predictions) -> list[dict[str, Any]]:
    corners = np.round(found.boxes, 2)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(2).tolist()
    codes = found.run_lengths()
    return [
        {"category": name, "category_id": number, "score": float(str(score)), "bbox": box}
        | ({} if codes is None else {"segmentation": codes[place]})
        for place, (name, number, score, box) in enumerate(
            zip(found.names, found.category_ids.tolist(), found.scores, boxes, strict=True)
        )
    ]


def _draw(predictor: Predictor, path: Path, found: Predictions, target: Path, top: int, least_score: float) -> None:
    picture, _ = read_picture(path, lambda size: size)
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = predictor.draw(picture, found, top, least_score)
    _, data = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    target.with_name(target.name + ".jpg").write_bytes(data.tobytes())


class _JsonList:
    """A json list that is written as it comes, a record a line, and has its name once it is whole."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._first = True

    def __enter__(self) -> "_JsonList":
        self._file = self._partial.open("w", encoding="utf-8")
        self._file.write("[")
        return self

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(("\n" if self._first else ",\n") + json.dumps(record))
        self._first = False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.write("\n]\n")
        self._file.close()
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink()


class _Results(contextlib.ExitStack):
    """LVIS results of the pictures that have an image id; nothing without `image_ids`."""

    def __init__(self, out: Path, predictor: Predictor, image_ids: dict[Path, int] | None):
        super().__init__()
        self._out, self._ids, self._categories = out, image_ids or {}, predictor.categories.ids
        kinds = ("bbox", "segm") if predictor.config.model.masks else ("bbox",)
        self._writers = {kind: self.enter_context(ResultWriter(out, kind)) for kind in kinds} if image_ids else {}

    def write(self, path: Path, found: Predictions) -> None:
        if path not in self._ids:
            return
        image = ImageDetections(found.boxes, found.scores, found.labels, found.mask_probabilities)
        self._writers["bbox"].write(box_records(image, self._ids[path], self._categories))
        if "segm" in self._writers:
            place = self._ids[path], self._categories, np.array(found.size), found.mask_threshold
            self._writers["segm"].write(mask_records(image, *place))

    def join(self) -> None:
        for kind in self._writers:
            merge_shards(self._out, kind)


def _image_ids(annotations: Path, pictures: Iterable[Path]) -> dict[Path, int]:
    """The ids of the pictures whose file names the annotations know.

    Raises:
        DataError: they cannot be read, or know none.
    """
    try:
        images = json.loads(annotations.read_text(encoding="utf-8"))["images"]
        ids = {Path(image.get("file_name") or image["coco_url"]).name: image["id"] for image in images}
    except OSError as error:
        raise DataError(f"{annotations} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{annotations} is no file in LVIS's or COCO's format ({type(error).__name__}: {error})"
        ) from error
    found = {path: ids[path.name] for path in pictures if path.name in ids}
    if not found:
        raise DataError(f"{annotations} knows none of the pictures by name: its first is {next(iter(ids), 'missing')}")
    return found


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Overrides from "PATH=VALUE", values as Python writes them, or text.

    Raises:
        ValueError: there is no "=".
    """
    overrides = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: it must be PATH=VALUE, such as test.flip=True")
        try:
            overrides[path.removeprefix("config.")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[path.removeprefix("config.")] = value
    return overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE_OR_FOLDER")
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder, checkpoint, or imported weights"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument("--step", type=int, help="checkpoint of the run; default: the newest")
    parser.add_argument("--top", type=int, default=20, help="detections drawn on a picture at the most; 0: no pictures")
    parser.add_argument("--min-score", type=float, default=0.0, help="of detections that are drawn")
    parser.add_argument("--batch-size", type=int, help="pictures at once; default: one for each device")
    parser.add_argument(
        "--names", metavar="JSON", help="annotations with the categories' names, where others are wanted"
    )
    parser.add_argument("--annotations", metavar="JSON", help="image ids for LVIS results of the pictures")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="a setting, e.g. test.flip=True"
    )
    options = parser.parse_args(arguments)
    runtime.start()
    try:
        if options.config:
            load_config(options.config)
        pictures = find_pictures(options.pictures)
        predictor = Predictor.from_checkpoint(
            options.checkpoint,
            step=options.step,
            batch_size=options.batch_size,
            names=options.names,
            overrides=settings(options.set),
        )
        places = {"top": options.top, "least_score": options.min_score, "annotations": options.annotations}
        done = predict(predictor, pictures, options.out, **places)
    except (ValueError, OutOfMemory) as error:
        sys.exit(f"predict: {error}")
    print(f"{options.out}: {done} of {len(pictures)} pictures")
    if not done:
        sys.exit("predict: none of the pictures could be read")


if __name__ == "__main__":
    main()
