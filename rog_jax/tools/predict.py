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
import contextlib
import itertools
import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from tqdm import tqdm

from rog_jax.data.annotations import DataError
from rog_jax.data.images import read_picture
from rog_jax.evaluation.results import ImageDetections, ResultWriter, box_records, mask_records, merge_shards
from rog_jax.inference import Predictions, Predictor
from rog_jax.tools.detector_arguments import add_detector_arguments, overrides_of
from rog_jax.training import runtime
from rog_jax.training.out_of_memory import OutOfMemory
from rog_jax.training.storage import check_writable, whole_file

logger = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
DRAWINGS, DRAWN = "pictures", ".jpg"
"""Folder in DIR, and what its files' names have after the picture's own."""
_JPEG_QUALITY = 92


class NoPictures(ValueError):
    """There is nothing to run the detector on."""


def find_pictures(paths: Sequence[str | Path], out: str | Path | None = None) -> dict[Path, Path]:
    """Each picture file with the path that it has below what was asked for, under that one's name if several were.

    Args:
        paths: files and folders.
        out: of this tool, whose drawings of an earlier call are not looked at.

    Raises:
        NoPictures: a path does not exist, a folder holds no picture, or two pictures would have the same name.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise NoPictures(f"{path}: there is no such file or folder")
        inside = [path] if path.is_file() else _pictures_below(path, out)
        below = Path(path.resolve().name) if len(paths) > 1 and path.is_dir() else Path()
        found |= {file: below / (file.name if file == path else file.relative_to(path)) for file in inside}
    names = Counter(found.values())
    twice = next((file for file, name in found.items() if names[name] > 1), None)
    if twice is not None:
        raise NoPictures(f"{twice}: another picture has the same name there; call this once for each, with --out's own")
    return found


def _pictures_below(folder: Path, out: str | Path | None) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    files = [file for file in files if out is None or not _is_drawn(file, Path(out))]
    if not files:
        raise NoPictures(f"{folder} holds no picture ({', '.join(ENDINGS)})")
    return files


def _is_drawn(file: Path, out: Path) -> bool:
    """Whether `_draw` wrote it; another picture in such a folder is the user's own."""
    has_two_endings = file.suffix == DRAWN and Path(file.stem).suffix.lower() in ENDINGS
    return has_two_endings and (out / DRAWINGS).resolve() in file.resolve().parents


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
    check_writable(out)
    image_ids = None if annotations is None else _image_ids(Path(annotations), pictures)
    results = _Results(out, predictor, image_ids)
    done = 0
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(whole_file(out / "predictions.json"))
        records = _JsonList(stack.enter_context(partial.open("w", encoding="utf-8")))
        stack.enter_context(results)
        for path, found in tqdm(predictor.predict_files(pictures), total=len(pictures), unit="picture"):
            records.write(
                {"file": str(path), "height": found.size[0], "width": found.size[1], "objects": _objects(found)}
            )
            results.write(path, found)
            if top:
                _draw(predictor, path, found, out / DRAWINGS / pictures[path], top, least_score)
            done += 1
        records.finish()
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
    drawn = predictor.draw(picture, found, top, least_score)
    _, data = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    with whole_file(target.with_name(target.name + DRAWN)) as partial:
        partial.write_bytes(data.tobytes())


class _JsonList:
    """A json list that is written as it comes, a record a line."""

    def __init__(self, file: IO[str]):
        self._file, self._before = file, "[\n"

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(self._before + json.dumps(record))
        self._before = ",\n"

    def finish(self) -> None:
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")


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
    """The ids of the pictures that the annotations know, by as much of their path as the annotations give.

    Of several pictures with an image's file name, the one that shares most of its path has the id.

    Raises:
        DataError: they cannot be read, know none, or two images or two pictures fit each other equally well.
    """
    try:
        images = json.loads(annotations.read_text(encoding="utf-8"))["images"]
        known: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for image in images:
            path = image.get("file_name") or image["coco_url"]
            known[Path(path).name].append((path, image["id"]))
    except OSError as error:
        raise DataError(f"{annotations} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{annotations} is no file in LVIS's or COCO's format ({type(error).__name__}: {error})"
        ) from error
    matches: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    for path in pictures:
        if path.name in known:
            number, parts = _best_match(path, known[path.name], annotations)
            matches[number].append((parts, path))
    if not matches:
        first = next(iter(known), "missing")
        raise DataError(f"{annotations} knows none of the pictures by name: its first is {first}")
    return {_best_picture(number, found, annotations): number for number, found in matches.items()}


def _best_match(picture: Path, candidates: list[tuple[str, int]], annotations: Path) -> tuple[int, int]:
    """The id of the image whose path ends as the picture's does over the most parts, and how many these are."""

    def shared(path: str) -> int:
        pairs = zip(reversed(Path(path).parts), reversed(picture.resolve().parts), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(shared(path) for path, _ in candidates)
    best = [number for path, number in candidates if shared(path) == most]
    if len(best) > 1:
        raise DataError(f"{annotations} has several images for {picture}: {', '.join(map(str, best[:3]))}")
    return best[0], most


def _best_picture(number: int, found: list[tuple[int, Path]], annotations: Path) -> Path:
    """The picture that shares most parts of its path with an image, of those with its file's name."""
    most = max(parts for parts, _ in found)
    best = [path for parts, path in found if parts == most]
    if len(best) > 1:
        raise DataError(
            f"{annotations} has one image, {number}, for {best[0]} and {best[1]}: give one of these pictures only, or "
            "annotations with more folders in their file names"
        )
    return best[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE_OR_FOLDER")
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder, checkpoint, or imported weights"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument("--top", type=int, default=20, help="detections drawn on a picture at the most; 0: no pictures")
    parser.add_argument("--min-score", type=float, default=0.0, help="of detections that are drawn")
    parser.add_argument("--batch-size", type=int, help="pictures at once; default: one for each device")
    parser.add_argument("--annotations", metavar="JSON", help="image ids for LVIS results of the pictures")
    add_detector_arguments(parser)
    options = parser.parse_args(arguments)
    runtime.start()
    try:
        overrides = overrides_of(options)
        pictures = find_pictures(options.pictures, options.out)
        predictor = Predictor.from_checkpoint(
            options.checkpoint,
            step=options.step,
            batch_size=options.batch_size,
            names=options.names,
            overrides=overrides,
        )
        places = {"top": options.top, "least_score": options.min_score, "annotations": options.annotations}
        done = predict(predictor, pictures, options.out, **places)
    except (ValueError, OSError, OutOfMemory) as error:
        sys.exit(f"predict: {error}")
    print(f"{options.out}: {done} of {len(pictures)} pictures")
    if not done:
        sys.exit("predict: none of the pictures could be read")


if __name__ == "__main__":
    main()
