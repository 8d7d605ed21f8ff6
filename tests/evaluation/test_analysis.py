import math

import numpy as np
import pytest

from rog_jax.evaluation.analysis import (
    CUT_OFF,
    FOUND,
    MISSED,
    OTHER_CATEGORY,
    calibration,
    confused_categories,
    confusion_of_groups,
    object_outcomes,
    outcomes_by_group,
    precision_curves,
)
from rog_jax.evaluation.lvis import evaluate_lvis, read_both
from rog_jax.evaluation.matching import candidates, match
from rog_jax.evaluation.results_file import keep_best
from tests.evaluation.cases import random_case, with_areas, with_pixels, written
from tests.reference.evaluation import best_of_each, box_iou, fate_of_objects, mask_iou


def scene() -> tuple[dict, list[dict]]:
    """A cup found, a rare teapot behind the cut of 3, a rare kettle taken for a cup and for a teapot, a spoon missed;
    a fork that may be ignored."""
    boxes = {1: [0, 0, 20, 20], 2: [30, 0, 20, 20], 3: [0, 30, 20, 20], 4: [30, 30, 20, 20], 5: [60, 0, 20, 20]}
    objects = [
        {"image_id": 1, "category_id": key, "bbox": box, "area": 400} | ({"ignore": 1} if key == 5 else {})
        for key, box in boxes.items()
    ]
    names = ["cup", "teapot", "kettle", "spoon", "fork"]
    truth = {
        "images": [{"id": 1, "height": 90, "width": 90, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "categories": [
            {"id": key, "name": name, "frequency": group}
            for key, (name, group) in enumerate(zip(names, "frrcf", strict=True), start=1)
        ],
        "annotations": objects,
    }
    found = [(1, boxes[1], 0.95), (1, boxes[3], 0.8), (2, boxes[3], 0.85), (2, boxes[2], 0.15), (1, boxes[5], 0.1)]
    records = [{"image_id": 1, "category_id": key, "bbox": box, "score": score} for key, box, score in found]
    return truth, records


def test_the_causes_worked_out_by_hand(tmp_path):
    truth, results = read_both(*written(tmp_path, *scene()), "bbox")
    found = object_outcomes(truth, results, 3)
    assert found.labels.tolist() == [0, 1, 2, 3]  # without the fork
    assert found.outcomes.tolist() == [FOUND, CUT_OFF, OTHER_CATEGORY, MISSED]
    assert found.taken_for.tolist() == [-1, -1, 1, -1]  # the kettle for a teapot: the better of the two
    table = outcomes_by_group(truth, found)
    assert table["all"] == {"found": 1, "cut_off": 1, "other_category": 1, "missed": 1}
    assert table["r"] == {"found": 0, "cut_off": 1, "other_category": 1, "missed": 0}
    assert table["f"]["found"] == 1
    assert confusion_of_groups(truth, found)["r"] == {"r": 1, "c": 0, "f": 0}
    assert confused_categories(truth, found) == [{"category_id": 3, "taken_for": 2, "objects": 1}]
    without_cut = object_outcomes(truth, results, -1)
    assert without_cut.outcomes.tolist() == [FOUND, FOUND, OTHER_CATEGORY, MISSED]


@pytest.mark.parametrize("seed", range(60, 64))
@pytest.mark.parametrize("cap", [6, -1])
def test_outcomes_against_the_naive_twin(tmp_path, seed, cap):
    truth, boxes, masks = random_case(seed, side=100)
    confused = np.random.default_rng(seed).random(len(boxes)) < 0.7
    for place in np.flatnonzero(confused).tolist():
        boxes[place]["category_id"] = masks[place]["category_id"] = (boxes[place]["category_id"] + 1) % 6
    for kind, records, twin, iou in (
        ("bbox", boxes, (truth, with_areas(boxes)), box_iou),
        ("segm", masks, with_pixels(truth, masks), mask_iou),
    ):
        loaded, results = read_both(*written(tmp_path, truth, records), kind)
        found = object_outcomes(loaded, results, cap)
        twin_truth, every = twin
        kept = every if cap == -1 else best_of_each("image_id", every, cap)
        expected = fate_of_objects(twin_truth, every, kept, iou)
        assert list(zip(found.outcomes.tolist(), found.taken_for.tolist(), strict=True)) == expected
        assert len(set(found.outcomes.tolist())) >= (4 if cap == 6 else 3)


def test_calibration_worked_out_by_hand(tmp_path):
    """In the bins from 0.8: the cup is right (0.95), the kettle a wrong cup (0.8) and a wrong teapot (0.85). At 0.15,
    the teapot is right. The detection of an ignored fork as a cup is wrong, at 0.1."""
    truth, results = read_both(*written(tmp_path, *scene()), "bbox")
    found = candidates(truth, results)
    measured = calibration(truth, found, match(found))
    every = measured["all"]
    assert every.counts.tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 2, 1]
    np.testing.assert_allclose(every.scores[[1, 8, 9]], [0.125, 0.825, 0.95])
    np.testing.assert_allclose(every.precision[[1, 8, 9]], [0.5, 0.0, 1.0])
    assert every.error == pytest.approx((2 * 0.375 + 2 * 0.825 + 0.05) / 5)
    assert np.isnan(every.precision[0])
    assert measured["r"].counts.sum() == 2
    assert math.isnan(measured["c"].error)


def test_curves_have_the_area_of_ap50(tmp_path):
    truth, boxes, _ = random_case(70)
    files = written(tmp_path, truth, boxes)
    loaded, results = read_both(*files, "bbox")
    found = candidates(loaded, keep_best(results, 20))
    curves = precision_curves(loaded, found, match(found))
    expected = evaluate_lvis(*files, "bbox", 20)
    assert curves["all"].mean() == pytest.approx(expected["AP50"])
    assert set(curves) == {"all", "r", "c", "f"}
    assert (np.diff(curves["all"]) <= 1e-12).all()
    hand, found_by_hand = read_both(*written(tmp_path, *scene()), "bbox")
    sorted_out = candidates(hand, found_by_hand)
    rare = precision_curves(hand, sorted_out, match(sorted_out))["r"]
    np.testing.assert_allclose(rare, 0.25)  # the teapot behind a wrong one, the kettle not at all
