"""All figures of a results file, read once: those of a protocol and those that are asked for beside them."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rog_jax.data.annotations import Annotations
from rog_jax.evaluation.boundary import evaluate_boundary
from rog_jax.evaluation.coco import coco_figures
from rog_jax.evaluation.evaluators import COCO_CAPS, Evaluator, coco_curves, lvis_curves
from rog_jax.evaluation.lvis import (
    FIXED_LIMIT,
    category_figures,
    evaluate_lvis_fixed,
    precision_figures,
    read_both,
    recall_figures,
)
from rog_jax.evaluation.openimages_files import evaluate_openimages, read_openimages_results
from rog_jax.evaluation.pooled import evaluate_lvis_pooled
from rog_jax.evaluation.results_file import IouType, Results, keep_best
from rog_jax.evaluation.summary import COLUMNS, OPENIMAGES_COLUMNS
from rog_jax.evaluation.truth import Truth

logger = logging.getLogger(__name__)

PROTOCOLS = ("lvis", "coco", "openimages")
EXTRAS = ("fixed", "pooled", "boundary")
"""Figures beside those of LVIS: AP-fixed, AP-pool, boundary AP (masks only; by far the slowest)."""

RECALLS = ("AR", "ARs", "ARm", "ARl")


class Protocol(NamedTuple):
    """How a results file is evaluated.

    Attributes:
        name: "lvis", "coco" or "openimages".
        max_detections: LVIS's limit for an image, -1 for none; COCO has its own, OpenImages has none.
        evaluator: "hotcoco" or "official"; OpenImages has one alone.
        extras: some of `EXTRAS`, for LVIS.
        expand_detections: OpenImages: a detection counts for the ancestors of its category too.
    """

    name: str = "lvis"
    max_detections: int = 300
    evaluator: Evaluator = "hotcoco"
    extras: Sequence[str] = ("fixed", "pooled")
    expand_detections: bool = False

    def check(self) -> None:
        """Raises a ValueError that names the setting where one has no meaning."""
        if self.name not in PROTOCOLS:
            raise ValueError(f"config.test.protocol={self.name!r} is unknown; choose auto, {', '.join(PROTOCOLS)}")
        unknown = sorted(set(self.extras) - set(EXTRAS))
        if unknown:
            raise ValueError(f"config.test.figures has {unknown[0]!r}; choose from {', '.join(EXTRAS)}")


class Supply(NamedTuple):
    """How many detections a results file has, which says whether AP-fixed means what its name says.

    Attributes:
        per_category: {category id: number} of every category.
        scarce: categories with objects that have fewer than 10,000.
        evaluated: categories with objects.
        most_of_an_image: the largest number of an image.
        images_at_most: images with that number.
    """

    per_category: dict[int, int]
    scarce: int
    evaluated: int
    most_of_an_image: int
    images_at_most: int

    @property
    def limited(self) -> bool:
        """Whether categories seem to have lost detections to a limit for an image: several images stand at it."""
        return self.scarce > 0 and self.images_at_most > 1


def supply_of(truth: Truth, results: Results) -> Supply:
    """Counts the detections of a file, before any limit."""
    counts = _detections_of_categories(truth.category_ids, results)
    with_objects = np.isin(truth.category_ids, [found["category_id"] for found in truth.solid])
    _, of_image = np.unique(results.image_ids, return_counts=True)
    return Supply(
        per_category=dict(zip(truth.category_ids.tolist(), counts.tolist(), strict=True)),
        scarce=int(np.sum(counts[with_objects] < FIXED_LIMIT)),
        evaluated=int(with_objects.sum()),
        most_of_an_image=int(of_image.max()),
        images_at_most=int(np.sum(of_image == of_image.max())),
    )


def _detections_of_categories(category_ids: np.ndarray, results: Results) -> np.ndarray:
    return np.bincount(np.searchsorted(category_ids, results.category_ids), minlength=len(category_ids))


def figures_of_file(
    truth: Truth | Annotations, results_json: str | Path | Results, kind: IouType, protocol: Protocol
) -> dict[str, Any]:
    """All figures of a results file.

    Args:
        truth: the ground truth; for OpenImages the expanded annotations.
        results_json: the detections, or what `read_results` made of them.
        kind: "bbox" or "segm".
        protocol: what is asked for.

    Returns:
        The protocol's figures, as `evaluate_lvis`, `evaluate_coco` or `evaluate_openimages` names them,
        "per_category", "per_category_AP50", "detections_per_category" (in the file), "seconds", and, by name, the
        figures of `protocol.extras`; under "fixed" also "scarce_categories" and "evaluated_categories", the numbers of
        categories with fewer than 10,000 detections and of all with objects. docs/evaluation.md describes them.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `evaluate_lvis`; a setting without meaning.
    """
    protocol.check()
    started = time.perf_counter()
    if isinstance(truth, Annotations):
        figures = _openimages(truth, results_json, protocol)
    else:
        figures = _lvis_or_coco(truth, results_json, kind, protocol)
    return figures | {"seconds": time.perf_counter() - started}


def figure_names(protocol: Protocol, kind: IouType) -> list[str]:
    """The single numbers among what `figures_of_file` returns that say how good a detector is: AP and AR of all kinds.

    Those of `protocol.extras` have their name before a slash, "fixed/AP".
    """
    if protocol.name == "openimages":
        return list(OPENIMAGES_COLUMNS)
    if protocol.name == "coco":
        caps = [f"AR@{cap}" for cap in COCO_CAPS]
        return [*COLUMNS, *caps, *(f"{name}@{COCO_CAPS[-1]}" for name in RECALLS[1:])]
    names = [*COLUMNS, *(f"{name}@{protocol.max_detections}" for name in RECALLS)]
    extras = {
        "fixed": [*COLUMNS, *RECALLS],
        "pooled": [name for name in COLUMNS if name not in ("APs", "APm", "APl")],
        "boundary": names if kind == "segm" else [],
    }
    return names + [f"{extra}/{name}" for extra in EXTRAS if extra in protocol.extras for name in extras[extra]]


def _openimages(annotations: Annotations, results_json: str | Path | Results, protocol: Protocol) -> dict[str, Any]:
    results = read_openimages_results(annotations, results_json)
    counts = _detections_of_categories(annotations.category_ids, results)
    of_category = dict(zip(annotations.category_ids.tolist(), counts.tolist(), strict=True))
    figures = evaluate_openimages(annotations, results, expand_detections=protocol.expand_detections)
    return figures | {"detections_per_category": of_category}


def _lvis_or_coco(
    truth: Truth, results_json: str | Path | Results, kind: IouType, protocol: Protocol
) -> dict[str, Any]:
    truth, results = read_both(truth, results_json, kind, protocol.evaluator)
    supply = supply_of(truth, results)
    figures = {"lvis": _lvis, "coco": _coco}[protocol.name](truth, results, protocol)
    figures["detections_per_category"] = supply.per_category
    if protocol.name == "lvis":
        for name in EXTRAS:
            if name in protocol.extras and (name != "boundary" or kind == "segm"):
                figures[name] = _EXTRA_FIGURES[name](truth, results, protocol)
        if "fixed" in protocol.extras:
            figures["fixed"] |= {"scarce_categories": supply.scarce, "evaluated_categories": supply.evaluated}
            _warn_of_a_limit(kind, supply)
    return figures


def _lvis(truth: Truth, results: Results, protocol: Protocol) -> dict[str, Any]:
    limit = protocol.max_detections
    precision, recall = lvis_curves(truth, keep_best(results, limit), protocol.evaluator)
    figures = precision_figures(truth, precision) | recall_figures(recall, f"@{limit}")
    return figures | _by_category(truth, precision)


def _coco(truth: Truth, results: Results, protocol: Protocol) -> dict[str, Any]:
    precision, recall = coco_curves(truth, results, protocol.evaluator)
    return coco_figures(truth, precision, recall) | _by_category(truth, precision[..., len(COCO_CAPS) - 1])


def _by_category(truth: Truth, precision: np.ndarray) -> dict[str, dict[int, float]]:
    ap, ap50 = category_figures(truth, precision)
    return {"per_category": ap, "per_category_AP50": ap50}


def _fixed(truth: Truth, results: Results, protocol: Protocol) -> dict[str, Any]:
    return evaluate_lvis_fixed(truth, results, results.iou_type, FIXED_LIMIT, protocol.evaluator)


def _pooled(truth: Truth, results: Results, protocol: Protocol) -> dict[str, Any]:
    return evaluate_lvis_pooled(truth, results, results.iou_type)


def _boundary(truth: Truth, results: Results, protocol: Protocol) -> dict[str, Any]:
    return evaluate_boundary(truth, results, protocol.max_detections)


_EXTRA_FIGURES: dict[str, Callable] = {"fixed": _fixed, "pooled": _pooled, "boundary": _boundary}


def _warn_of_a_limit(kind: IouType, supply: Supply) -> None:
    if supply.limited:
        logger.warning(
            "%s: %d images have %d detections and none has more, so they were written with that limit, and %d of the "
            "%d categories have fewer than the %d detections that AP-fixed counts: it is a lower bound. Raise "
            "config.test.written_detections for the inference.",
            kind,
            supply.images_at_most,
            supply.most_of_an_image,
            supply.scarce,
            supply.evaluated,
            FIXED_LIMIT,
        )
