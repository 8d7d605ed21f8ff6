import math

import pytest

from rog_jax.evaluation import evaluate_lvis, evaluate_lvis_fixed, evaluate_lvis_pooled
from tests.evaluation.cases import random_case, with_areas, with_pixels, written
from tests.reference.evaluation import (
    THRESHOLDS,
    best_of_each,
    box_iou,
    lvis_average_precision,
    mask_iou,
    mean_defined,
)

GROUPS = {"r": {0, 1}, "c": {2, 3}, "f": {4, 5}}


def two_cups_and_a_teapot(teapot_score: float) -> tuple[dict, list[dict]]:
    """One image; both cups found at 0.9 and 0.8, with a wrong one at 0.7; the teapot found."""
    places = {"cup a": (1, [0, 0, 20, 20]), "cup b": (1, [30, 0, 20, 20]), "teapot": (2, [0, 30, 20, 20])}
    truth = {
        "images": [{"id": 1, "height": 60, "width": 60, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "categories": [{"id": 1, "name": "cup", "frequency": "f"}, {"id": 2, "name": "teapot", "frequency": "r"}],
        "annotations": [
            {"image_id": 1, "category_id": category, "bbox": bbox, "area": 400} for category, bbox in places.values()
        ],
    }
    records = [
        {"image_id": 1, "category_id": category, "bbox": bbox, "score": score}
        for (category, bbox), score in [
            (places["cup a"], 0.9),
            (places["cup b"], 0.8),
            ((1, [30, 30, 20, 20]), 0.7),
            (places["teapot"], teapot_score),
        ]
    ]
    return truth, records


@pytest.mark.parametrize(("teapot_score", "pooled"), [(0.85, 1.0), (0.5, (67 + 34 * 3 / 4) / 101)])
def test_the_pool_sees_what_no_category_does(tmp_path, teapot_score, pooled):
    """Each category alone is perfect. Behind the wrong cup, the teapot is the third right of four: precision 3/4 at
    the recalls over 2/3, which are 34 of the 101."""
    files = written(tmp_path, *two_cups_and_a_teapot(teapot_score))
    assert evaluate_lvis(*files, "bbox")["AP"] == pytest.approx(1.0)
    figures = evaluate_lvis_pooled(*files, "bbox")
    expected = {"AP": pooled, "AP50": pooled, "AP75": pooled, "APr": 1.0, "APc": math.nan, "APf": 1.0}
    assert figures == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(20, 24))
def test_pools_against_the_naive_twin(tmp_path, seed):
    truth, boxes, masks = random_case(seed, side=100)
    pixels = with_pixels(truth, masks)
    for kind, records, twin_input, iou in (
        ("bbox", boxes, (truth, with_areas(boxes)), box_iou),
        ("segm", masks, pixels, mask_iou),
    ):
        ours = evaluate_lvis_pooled(*written(tmp_path, truth, records), kind)
        by_threshold = [lvis_average_precision(*twin_input, iou, set(range(6)), threshold) for threshold in THRESHOLDS]
        expected = {"AP": mean_defined(by_threshold), "AP50": by_threshold[0], "AP75": by_threshold[5]}
        for group, members in GROUPS.items():
            expected[f"AP{group}"] = mean_defined(
                lvis_average_precision(*twin_input, iou, members, threshold) for threshold in THRESHOLDS
            )
        assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert 0.01 < ours["AP"] < 0.99


@pytest.mark.parametrize("seed", range(24, 28))
@pytest.mark.parametrize("limit", [5, 10_000])
def test_fixed_against_the_naive_twin(tmp_path, seed, limit):
    truth, boxes, _ = random_case(seed)
    ours = evaluate_lvis_fixed(*written(tmp_path, truth, boxes), "bbox", limit)
    kept = with_areas(best_of_each("category_id", boxes, limit))
    expected = {
        category: mean_defined(
            lvis_average_precision(truth, kept, box_iou, {category}, threshold) for threshold in THRESHOLDS
        )
        for category in range(6)
    }
    defined = {category: value for category, value in expected.items() if not math.isnan(value)}
    assert ours["per_category"] == pytest.approx(defined, abs=1e-12)
    assert ours["AP"] == pytest.approx(mean_defined(expected.values()), abs=1e-12)
    for group, members in GROUPS.items():
        value = mean_defined(expected[category] for category in members)
        assert ours[f"AP{group}"] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_fixed_gives_each_category_its_own_places(tmp_path):
    """Of two places an image, both go to cups; with two places a category, the teapot is found too."""
    files = written(tmp_path, *two_cups_and_a_teapot(0.5))
    assert evaluate_lvis(*files, "bbox", 2)["APr"] == 0.0
    fixed = evaluate_lvis_fixed(*files, "bbox", 2)
    assert (fixed["APr"], fixed["APf"]) == pytest.approx((1.0, 1.0))
    assert evaluate_lvis_fixed(*files, "bbox", 1)["APf"] == pytest.approx(51 / 101)  # one cup of two


def test_a_limit_must_be_positive(tmp_path):
    files = written(tmp_path, *two_cups_and_a_teapot(0.5))
    with pytest.raises(ValueError, match="max_per_category is 0"):
        evaluate_lvis_fixed(*files, "bbox", 0)
