"""How long evaluation takes: from files to metrics, and from detections to masks in a results file."""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rog_jax.evaluation.evaluators import Evaluator
from rog_jax.evaluation.figures import Protocol, figures_of_file
from rog_jax.evaluation.lvis import evaluate_lvis
from rog_jax.evaluation.paste import encode_detection_mask
from rog_jax.evaluation.results import ResultWriter, merge_shards
from rog_jax.evaluation.truth import Truth, load_truth
from rog_jax.tools.benchmark_figures import process_peak, spread

FULL_SIZE = 19_809
"""Images of LVIS's validation set."""
_HEIGHT, _WIDTH = 480, 640
_OBJECTS = 12  # an image
_NEGATIVES = 20  # categories an image that were looked for and not found
_TIMEOUT = 3600  # seconds


def benchmark_evaluation(
    images: int = 500,
    detections: int = 300,
    categories: int = 1203,
    evaluator: Evaluator = "hotcoco",
    seed: int = 0,
    repeats: int = 1,
) -> dict[str, Any]:
    """Times box evaluation of made-up data shaped like LVIS, and pasting of its masks, on one process.

    Args:
        images: number of images.
        detections: of each image.
        categories: of the data set.
        evaluator: "hotcoco" or "official".
        seed: of the made-up data.
        repeats: of each evaluation.

    Returns:
        "evaluation_seconds" from truth and results files to LVIS's metrics, in a process of its own that takes
        "evaluation_cpu_seconds" of all cores (what other programs leave it does not change these) and has a peak of
        "evaluation_peak_gb" (10^9 bytes of resident memory, Python and JAX's modules included), medians but for the
        peak, and "evaluation_spread" of the seconds (`benchmark_figures.spread`); the same as "all_figures_..." with
        AP-fixed and AP-pool; "results_mb", the size of the results file; "mask_milliseconds" to
        paste and encode one mask; "AP" of the boxes; and the sizes.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        truth = _made_up_truth(rng, images, categories)
        truth_json = Path(folder) / "truth.json"
        truth_json.write_text(json.dumps(truth.lvis_json()))
        results = _made_up_results(rng, truth, detections, Path(folder))
        del truth
        files = str(truth_json), str(results), detections, evaluator
        one, every = (_repeated(repeats, *files, all_figures) for all_figures in (False, True))
        megabytes = results.stat().st_size / 1e6
    return {
        "images": images,
        "detections_per_image": detections,
        "categories": categories,
        "evaluator": evaluator,
        "results_mb": megabytes,
        **{f"evaluation_{name}": value for name, value in one.items() if name != "AP"},
        **{f"all_figures_{name}": value for name, value in every.items() if name != "AP"},
        "evaluation_detections_per_second": images * detections / one["seconds"],
        "mask_milliseconds": _mask_milliseconds(rng),
        "AP": one["AP"],
    }


def _repeated(repeats: int, *arguments: Any) -> dict[str, float]:
    """Evaluates some times, each in a process of its own."""
    runs = [_in_a_process(_evaluate, *arguments) for _ in range(repeats)]
    times, cpu_times = (spread([run[name] for run in runs]) for name in ("seconds", "cpu_seconds"))
    return {
        "seconds": times["median_s"],
        "spread": times["spread"],
        "cpu_seconds": cpu_times["median_s"],
        "peak_gb": max(run["peak_gb"] for run in runs),
        "AP": runs[0]["AP"],
    }


def _in_a_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What the function returns in a process of its own, whose memory is that of nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(function, arguments).get(_TIMEOUT)


def _evaluate(truth: str, results: str, cap: int, evaluator: Evaluator, all_figures: bool) -> dict[str, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    if all_figures:
        figures = figures_of_file(load_truth(truth), results, "bbox", Protocol("lvis", cap, evaluator))
    else:
        figures = evaluate_lvis(truth, results, "bbox", cap, evaluator)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": process_peak() / 1e9, "AP": figures["AP"]}


def _made_up_truth(rng: np.random.Generator, images: int, categories: int) -> Truth:
    weights = 1.0 / np.arange(1, categories + 1)  # Zipf's law
    names = [
        {"id": c + 1, "name": f"category {c + 1}", "frequency": "fcr"[3 * c // categories]} for c in range(categories)
    ]
    records, annotations = [], []
    for image_id in range(1, images + 1):
        labels = rng.choice(categories, _OBJECTS, p=weights / weights.sum()) + 1
        negatives = sorted(set((rng.choice(categories, _NEGATIVES) + 1).tolist()) - set(labels.tolist()))
        record = {"id": image_id, "height": _HEIGHT, "width": _WIDTH, "neg_category_ids": negatives}
        records.append(record | {"not_exhaustive_category_ids": []})
        for label, box in zip(labels.tolist(), _boxes(rng, _OBJECTS).tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label}
            annotations.append(annotation | {"bbox": box, "area": box[2] * box[3]})
    return Truth(Path("made up"), records, names, annotations)


def _boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes [number, 4], x, y, width, height."""
    sides = rng.uniform(0.02, 0.5, (number, 2)) * (_WIDTH, _HEIGHT)
    corner = rng.uniform(0, 1, (number, 2)) * ((_WIDTH, _HEIGHT) - sides)
    return np.concatenate([corner, sides], axis=1).round(2)


def _made_up_results(rng: np.random.Generator, truth: Truth, detections: int, folder: Path) -> Path:
    """Each truth moved a little, then random boxes of random categories."""
    truths_of = {image["id"]: [] for image in truth.images}
    for annotation in truth.annotations:
        truths_of[annotation["image_id"]].append(annotation)
    with ResultWriter(folder, "bbox") as writer:
        for image_id, objects in truths_of.items():
            boxes, labels = _boxes(rng, detections), rng.integers(1, len(truth.categories) + 1, detections)
            near = min(len(objects), detections)
            boxes[:near] = np.array([found["bbox"] for found in objects[:near]]) * rng.uniform(0.9, 1.1, (near, 4))
            labels[:near] = [found["category_id"] for found in objects[:near]]
            columns = zip(labels.tolist(), boxes.round(2).tolist(), rng.random(detections).tolist(), strict=True)
            writer.write(
                {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                for label, box, score in columns
            )
    return merge_shards(folder, "bbox")


def _mask_milliseconds(rng: np.random.Generator, number: int = 200) -> float:
    probabilities = rng.random((number, 28, 28), np.float32)
    boxes = _boxes(rng, number)
    boxes[:, 2:] += boxes[:, :2]
    start = time.perf_counter()
    for mask, box in zip(probabilities, boxes, strict=True):
        encode_detection_mask(mask, box, _HEIGHT, _WIDTH)
    return 1000 * (time.perf_counter() - start) / number
