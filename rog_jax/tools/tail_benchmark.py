"""What each loss does to a long tail: AP of rare, common and frequent classes of a made-up set.

    python -m rog_jax.tools.tail_benchmark [--losses sigmoid_ce ...] [--rankings none gap ...] [--seeds 3] [--json FILE]

A small classifier is trained on made-up features (`tail_set`): 120 classes of 1 to 1,500 objects, rare ones close to
frequent ones, backgrounds that are parts of objects. As in a detector, the best scores of an image over all rows and
classes are its detections; the AP of a class is that of its detections over all test images, in which every class is
equally frequent. A softmax classifier is evaluated with NorCal as well.

The set, the number of detections and the schedule were fixed by the plain losses, before a ranking loss was tried.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rog_jax.evaluation.calibration import norcal_scores
from rog_jax.losses import ClassificationLoss
from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.tools.tail_set import (
    COMMON_LIMIT,
    RARE_LIMIT,
    TEST_IMAGES,
    Objects,
    class_counts,
    class_image_counts,
    make_rows,
    make_tail_set,
)
from rog_jax.tools.tail_training import RANKINGS, Parameters, classify, make_loss, make_trainer

STEPS = 1500
DETECTIONS = 32
"""Of an image, which has 8 objects and 64 rows."""
TEST_PARTS_PER_OBJECT = 7
GROUPS = ("AP_r", "AP_c", "AP_f", "AP")
NORCAL_GAMMAS = tuple(round(0.1 * step, 1) for step in range(11))
RECALLS = np.linspace(0, 1, 101)


def benchmark_tail(
    losses: Sequence[str] = tuple(CLASSIFICATION_LOSSES),
    rankings: Sequence[str] = ("none", "gap"),
    seeds: int = 1,
    steps: int = STEPS,
) -> list[dict[str, Any]]:
    """Trains and tests every pair of losses.

    Args:
        losses: names of `classification_loss`; "none" is left out where the ranking is "none" too.
        rankings: names of `RANKINGS`.
        seeds: runs of each pair, of seeds 0, 1, ...: another set, other initial weights and another order.
        steps: updates of a run.

    Returns:
        For each pair, and for NorCal on a softmax: "loss", "ranking", "norcal" (gamma of each seed; None without it),
        and AP_r, AP_c, AP_f, AP in percent, one number a seed.
    """
    sets = [make_tail_set(seed) for seed in range(seeds)]
    results = []
    for name in losses:
        for ranking in rankings:
            if (name, ranking) == ("none", "none"):
                continue
            loss, start = make_loss(name), time.perf_counter()
            train = make_trainer(loss, ranking, steps)
            trained = [train(tail.train, seed)[0] for seed, tail in enumerate(sets)]
            tests = [held_out_logits(loss, params, tail.test) for params, tail in zip(trained, sets, strict=True)]
            row = {"loss": name, "ranking": ranking, "norcal": None}
            results.append(row | _summary([class_precisions(loss.scores(logits), labels) for logits, labels in tests]))
            if name == "softmax_ce":
                tuning = [
                    held_out_logits(loss, params, tail.tuning) for params, tail in zip(trained, sets, strict=True)
                ]
                results.append(row | _with_norcal(tuning, tests))
            print(f"{name} + {ranking}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return results


def held_out_logits(
    loss: ClassificationLoss, params: Parameters, objects: Objects
) -> tuple[Float[Array, "N Q"], Int[Array, " N"]]:
    """Logits and labels of the rows of held-out images."""
    rows = make_rows(jax.random.key(0), objects, TEST_PARTS_PER_OBJECT)
    return classify(loss, params, rows.features), rows.labels


def class_precisions(
    scores: Float[Array | np.ndarray, "N C"],
    labels: Int[Array | np.ndarray, " N"],
    images: int = TEST_IMAGES,
    detections: int = DETECTIONS,
) -> Float[np.ndarray, " C"]:
    """AP of each class by the 101-point rule, where the best scores of each image are its detections.

    A detection (row, class) is right if the row has that class. A class without a row has AP 0.

    Args:
        scores: of the foreground classes; rows stand image by image, the same number for each.
        labels: of the rows, the background is C.
        images: B.
        detections: kept of each image, over all its rows and classes.
    """
    num_classes = scores.shape[1]
    best, place = jax.lax.top_k(jnp.reshape(scores, (images, -1)), detections)  # [B, K]
    row, label = np.asarray(place) // num_classes, np.asarray(place) % num_classes
    labels = np.asarray(labels).reshape(images, -1)
    right = np.take_along_axis(labels, row, axis=1) == label
    order = np.argsort(-np.asarray(best).reshape(-1), kind="stable")
    right, label = right.reshape(-1)[order], label.reshape(-1)[order]
    objects = np.bincount(labels.reshape(-1), minlength=num_classes)
    return np.array([_precision(right[label == c], objects[c]) for c in range(num_classes)])


def _precision(right: np.ndarray, objects: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or a higher one."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    lifted = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)  # 0 where a recall is never reached
    needed = np.ceil(RECALLS * objects - 1e-9)
    return float(lifted[np.searchsorted(hits, needed)].mean())


def _with_norcal(tuning: list[tuple[Array, Array]], tests: list[tuple[Array, Array]]) -> dict[str, Any]:
    """Figures with the gamma that gives the best AP on images that are neither trained on nor tested."""
    calibrate, counts = jax.jit(norcal_scores), class_image_counts()

    def precisions(logits: Array, labels: Array, gamma: float) -> np.ndarray:
        return class_precisions(calibrate(logits, counts, gamma), labels)

    gammas = []
    for rows in tuning:
        mean = {gamma: precisions(*rows, gamma).mean() for gamma in NORCAL_GAMMAS}
        gammas.append(max(mean, key=mean.__getitem__))
    return {"norcal": gammas} | _summary([precisions(*rows, gamma) for rows, gamma in zip(tests, gammas, strict=True)])


def _summary(precisions: list[np.ndarray]) -> dict[str, list[float]]:
    counts = class_counts()
    members = (
        counts <= RARE_LIMIT,
        (counts > RARE_LIMIT) & (counts <= COMMON_LIMIT),
        counts > COMMON_LIMIT,
        counts > 0,
    )
    return {
        group: [100 * float(of_seed[member].mean()) for of_seed in precisions]
        for group, member in zip(GROUPS, members, strict=True)
    }


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over the seeds, in percent."""
    lines = [f"| classification | ranking | {' | '.join(GROUPS)} |", "|---|---|" + "---|" * len(GROUPS)]
    for row in results:
        gammas = row["norcal"]
        calibration = "" if gammas is None else f", NorCal {' '.join(map(str, gammas))}"
        cells = [f"{np.mean(row[group]):.1f} ± {np.std(row[group]):.1f}" for group in GROUPS]
        lines.append(f"| {row['loss']}{calibration} | {row['ranking']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table; with --json, writes every seed's figures as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=CLASSIFICATION_LOSSES, default=list(CLASSIFICATION_LOSSES))
    parser.add_argument("--rankings", nargs="+", choices=RANKINGS, default=["none", "gap"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", type=Path, help="file for the figures of every seed")
    options = parser.parse_args(arguments)
    results = benchmark_tail(options.losses, options.rankings, options.seeds, options.steps)
    print(format_table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
