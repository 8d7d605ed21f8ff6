"""Time and memory of reading annotations of LVIS's size: makes such a file, then starts from it as a run would.

  python -m rog_jax.tools.benchmark_annotations make --categories lvis_v1_categories.json --out SCRATCH
  python -m rog_jax.tools.benchmark_annotations measure SCRATCH

`make` writes SCRATCH/annotations.json with the image and instance counts of each category in the list, on 100,170
images unless told otherwise: about a gigabyte. All image records share a few small JPEGs. `measure` prints one json
object: a first start that parses, a second that finds the parsed arrays, both in processes of their own, and the memory
that a loader's worker processes have of their own, compared with workers of a data set of a few images and with an idle
worker, which has loaded the same programs and reads nothing.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from configs import common
from rog_jax.data import Annotations, load_lvis
from rog_jax.data.cache import cache_places
from rog_jax.data.loader import train_loader
from rog_jax.data.plan import TrainPlan

LVIS_IMAGES = 100_170
_PICTURES = ((480, 640), (640, 480), (427, 640), (500, 375))
_MEAN_POINTS = 47
_CHUNK = 4096


def make(categories: list[dict[str, Any]], out: Path, num_images: int, seed: int = 0) -> Path:
    """Writes `annotations.json` and a few JPEGs into `out`.

    Args:
        categories: LVIS's, each with `id`, `image_count` and `instance_count`.
        out: made if absent.
        num_images: at least the largest `image_count`.
        seed: the same seed gives the same bytes.
    """
    rng = np.random.default_rng(seed)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for i, (height, width) in enumerate(_PICTURES):
        picture = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(out / "images" / f"{i}.jpg"), picture)
    images, labels = _place_objects(categories, num_images, rng)
    path = out / "annotations.json"
    with path.open("wb") as file:
        file.write(b'{"categories":' + msgspec.json.encode(categories) + b',"images":[')
        file.write(b",".join(_image(i, categories, rng) for i in range(num_images)))
        file.write(b'],"annotations":[')
        for start in range(0, len(images), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            ids = [categories[label]["id"] for label in labels[chunk]]
            file.write(b"," if start else b"")
            file.write(b",".join(_annotations(start, images[chunk], ids, rng)))
        file.write(b"]}")
    return path


def _place_objects(
    categories: list[dict[str, Any]], num_images: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image and the category of each object, as many of each as its counts say, in the order of the images."""
    images, labels = [], []
    for label, category in enumerate(categories):
        chosen = rng.choice(num_images, category["image_count"], replace=False)
        more = rng.choice(chosen, category["instance_count"] - len(chosen))
        images += [chosen, more]
        labels.append(np.full(category["instance_count"], label))
    order = np.argsort(np.concatenate(images), kind="stable")
    return np.concatenate(images)[order], np.concatenate(labels)[order]


def _image(i: int, categories: list[dict[str, Any]], rng: np.random.Generator) -> bytes:
    height, width = _PICTURES[i % len(_PICTURES)]
    return msgspec.json.encode(
        {
            "id": i + 1,
            "file_name": f"{i % len(_PICTURES)}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{i + 1:012d}.jpg",
            "height": height,
            "width": width,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [categories[label]["id"] for label in rng.integers(0, len(categories), 2)],
        }
    )


def _annotations(start: int, images: np.ndarray, category_ids: list[int], rng: np.random.Generator) -> list[bytes]:
    """Outlines around the centres of random boxes, each of a random number of points."""
    sizes = np.array(_PICTURES)[images % len(_PICTURES)][:, ::-1]  # [n, 2]: width, height
    sides = sizes * rng.uniform(0.02, 0.5, (len(images), 2))
    corners = rng.uniform(0, 1, (len(images), 2)) * (sizes - sides)
    points = np.clip(rng.lognormal(np.log(_MEAN_POINTS) - 0.25, 0.7, len(images)), 3, 600).astype(int)
    owner = np.repeat(np.arange(len(images)), points)
    turn = (np.arange(len(owner)) - np.repeat(np.cumsum(points) - points, points)) / points[owner] * 2 * np.pi
    radius = rng.uniform(0.6, 1, len(owner))[:, None]
    unit = 0.5 + 0.5 * radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    outlines = np.round(corners[owner] + unit * sides[owner], 2)
    ends = np.cumsum(points)
    records = []
    for i, (image, category_id) in enumerate(zip(images.tolist(), category_ids, strict=True)):
        outline = outlines[ends[i] - points[i] : ends[i]]
        (left, top), (right, bottom) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
        box = [left, top, round(right - left, 2), round(bottom - top, 2)]
        records.append(
            msgspec.json.encode(
                {
                    "id": start + i + 1,
                    "image_id": image + 1,
                    "category_id": category_id,
                    "bbox": box,
                    "area": round(0.6 * box[2] * box[3], 2),
                    "segmentation": [outline.reshape(-1).tolist()],
                }
            )
        )
    return records


def measure(folder: Path, workers: int = 2, batches: int = 50) -> dict[str, Any]:
    """Starts twice and reads batches in worker processes, each in a process of its own."""
    path = folder / "annotations.json"
    for place in cache_places([path], "coco json"):
        place.unlink(missing_ok=True)
    own = {"file_GB": path.stat().st_size / 1e9}
    own["first_start"] = _in_process("start", path)
    own["second_start"] = _in_process("start", path)
    own["workers"] = _in_process("workers", path, workers, batches)
    few = make([{"id": 1, "name": "thing", "image_count": 64, "instance_count": 640}], folder / "few", num_images=64)
    own["workers_of_few_images"] = _in_process("workers", few, workers, batches)
    own["idle_worker"] = _in_process("idle")
    own["worker_MB_more_than_idle"] = own["workers"]["worker_own_MB"] - own["idle_worker"]["worker_own_MB"]
    own["worker_MB_more"] = own["workers"]["worker_own_MB"] - own["workers_of_few_images"]["worker_own_MB"]
    return own


def _in_process(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "rog_jax.tools.benchmark_annotations", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def start(path: Path) -> dict[str, float]:
    """Reads the annotations in this process; seconds, and memory in GB before, at the peak and after.

    The clock also runs while other programs have the processor; "processor_seconds" do not.
    """
    before = _status_GB("VmRSS")
    began, spent = time.perf_counter(), time.process_time()
    annotations = load_lvis(path, path.parent / "images")
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    return {
        "seconds": seconds,
        "processor_seconds": spent,
        "GB_before": before,
        "GB_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "GB_after": _status_GB("VmRSS"),
        "GB_after_not_of_the_file": _status_GB("RssAnon"),
        "images": annotations.num_images,
        "objects": annotations.num_objects,
        "categories": annotations.num_classes,
        "vertices": len(annotations.points),
    }


def worker_memory(annotations: Annotations, workers: int, batches: int) -> dict[str, float]:
    """The largest unique set size (USS) among loader workers after they have read some batches."""
    config = common.get_config()
    config.data.update(shapes=((224, 320), (320, 224)), short_sides=(200,), max_long_side=320, workers=workers)
    data = config.data
    plan = TrainPlan(annotations, data, config.sampler, 16, seed=0)
    loader = train_loader(annotations, plan, data, seed=0, start_step=0, num_steps=10**6)
    try:
        for _ in range(batches):
            next(loader)
        sizes = [_own_memory(child.pid) / 1e6 for child in multiprocessing.active_children()]
    finally:
        loader.close()
    return {"worker_own_MB": max(sizes), "workers": len(sizes), "images_read": batches * 16}


def idle_memory() -> dict[str, float]:
    """The unique set size of a process that was started as the loader's workers are, and does nothing."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    worker = context.Process(target=_idle, args=(ready, end))
    worker.start()
    try:
        if not ready.wait(timeout=300):
            raise RuntimeError("the idle worker did not start within 300 seconds")
        return {"worker_own_MB": _own_memory(worker.pid) / 1e6}
    finally:
        end.set()
        worker.join()


def _idle(ready: Any, end: Any) -> None:
    ready.set()
    end.wait()


def _own_memory(pid: int) -> int:
    """Bytes that no other process maps."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _status_GB(key: str) -> float:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1e6


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True, metavar="make | measure")
    writer = parts.add_parser("make")
    writer.add_argument("--categories", type=Path, required=True, help="list of LVIS categories with their counts")
    writer.add_argument("--out", type=Path, required=True)
    writer.add_argument("--images", type=int, default=LVIS_IMAGES)
    parts.add_parser("measure").add_argument("folder", type=Path)
    parts.add_parser("idle")
    parts.add_parser("start").add_argument("path", type=Path)
    reader = parts.add_parser("workers")
    reader.add_argument("path", type=Path)
    reader.add_argument("workers", type=int)
    reader.add_argument("batches", type=int)
    given = parser.parse_args(arguments)
    if given.part == "make":
        categories = json.loads(given.categories.read_text())
        largest = max(categories, key=lambda category: category["image_count"])
        if largest["image_count"] > given.images:
            parser.error(f"--images: {largest['name']} alone is in {largest['image_count']} images")
        print(make(categories, given.out, given.images))
    elif given.part == "measure":
        print(json.dumps(measure(given.folder), indent=2))
    elif given.part == "start":
        print(json.dumps(start(given.path)))
    elif given.part == "idle":
        print(json.dumps(idle_memory()))
    else:
        annotations = load_lvis(given.path, given.path.parent / "images")
        print(json.dumps(worker_memory(annotations, given.workers, given.batches)))


if __name__ == "__main__":
    main()
