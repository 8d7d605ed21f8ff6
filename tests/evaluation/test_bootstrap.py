"""Figures of images drawn anew, against the evaluator on a data set in which drawn images stand several times."""

import numpy as np
import pytest

from rog_jax.evaluation import evaluate_lvis
from rog_jax.evaluation.bootstrap import bootstrap_figures, drawn_images, figures_of_draws
from rog_jax.evaluation.lvis import read_both
from rog_jax.evaluation.matching import candidates, match
from rog_jax.evaluation.truth import load_truth
from tests.evaluation.cases import random_case, written

NAMES = ("AP", "APr", "APc", "APf")


def repeated(truth: dict, records: list[dict], times: dict[int, int]) -> tuple[dict, list[dict]]:
    """Each image as often as `times` says of its id, with an id of its own each time, and all that belongs to it.

    Scores of the copies are as they were: copies of an image are neighbours in every ranking, first by image.
    """
    copies = [
        (image["id"], image["id"] * 100 + copy) for image in truth["images"] for copy in range(times[image["id"]])
    ]
    by_id = {image["id"]: image for image in truth["images"]}
    annotations = [a | {"image_id": new} for old, new in copies for a in truth["annotations"] if a["image_id"] == old]
    annotations = [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)]
    images = [by_id[old] | {"id": new} for old, new in copies]
    found = [r | {"image_id": new} for old, new in copies for r in records if r["image_id"] == old]
    return {**truth, "images": images, "annotations": annotations}, found


def distinct_scores(records: list[dict]) -> list[dict]:
    """Without ties, whose order no evaluator promises; steps of 1e-6 leave the ranking of the rest."""
    return [record | {"score": record["score"] + 1e-6 * place} for place, record in enumerate(records)]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [40, 41, 42])
def test_draws_against_images_written_out(tmp_path, seed, kind):
    truth_json, boxes, masks = random_case(seed, side=100)
    records = distinct_scores(boxes if kind == "bbox" else masks)
    files = written(tmp_path, truth_json, records)
    truth, results = read_both(load_truth(files[0]), files[1], kind, "hotcoco")
    found = candidates(truth, results)
    times = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 0, 2], [0, 3, 0, 2, 0]])
    ours = figures_of_draws(truth, found, match(found), times)
    for place, draw in enumerate(times.tolist()):
        of_image = dict(zip(truth.image_ids.tolist(), draw, strict=True))
        theirs = evaluate_lvis(*written(tmp_path, *repeated(truth_json, records, of_image)), kind, -1)
        assert {name: ours[name][place] for name in NAMES} == pytest.approx(
            {name: theirs[name] for name in NAMES}, abs=1e-9, nan_ok=True
        )
    assert len({round(value, 6) for value in ours["AP"].tolist()}) == 3


def test_every_results_file_sees_the_same_draws(tmp_path):
    truth_json, boxes, _ = random_case(43)
    files = written(tmp_path, truth_json, boxes)
    truth, results = read_both(load_truth(files[0]), files[1], "bbox", "hotcoco")
    first, again, other = (bootstrap_figures(truth, results, 50, 20, seed)["AP"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 0
    times = drawn_images(5, 1000)
    assert (times.sum(axis=1) == 5).all()
    assert times.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)
