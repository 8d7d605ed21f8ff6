import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rog_jax.evaluation import evaluate_boundary, evaluate_lvis
from rog_jax.evaluation.boundary import boundary_code
from tests.evaluation.cases import code_of, random_case, with_pixels, written
from tests.reference.evaluation import (
    THRESHOLDS,
    best_of_each,
    boundary_iou,
    boundary_of,
    lvis_average_precision,
    mean_defined,
)


def square(size: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    pixels = np.zeros(size, np.uint8)
    pixels[top : top + side, left : left + side] = 1
    return pixels


def test_a_boundary_worked_out_by_hand():
    """An image of 30 by 40 has a diagonal of 50, so a boundary is one pixel wide."""
    boundary = coco_mask.decode(boundary_code(code_of(square((30, 40), 5, 5, 6))))
    expected = square((30, 40), 5, 5, 6) - square((30, 40), 6, 6, 4)
    np.testing.assert_array_equal(boundary, expected)
    at_the_edge = coco_mask.decode(boundary_code(code_of(square((30, 40), 0, 0, 6))))
    np.testing.assert_array_equal(at_the_edge, square((30, 40), 0, 0, 6) - square((30, 40), 1, 1, 4))


@pytest.mark.parametrize("size", [(30, 40), (120, 90), (64, 210)])
def test_boundaries_against_the_naive_twin(size):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.9, 0.999, 1.0):
        pixels = (rng.random(size) < share).astype(np.uint8)
        boundary = coco_mask.decode(boundary_code(code_of(pixels)))
        np.testing.assert_array_equal(boundary, boundary_of(pixels.astype(bool)))


def test_boundary_ap_of_a_case_worked_out_by_hand(tmp_path):
    """A square of 20 and one of 18 inside of it: mask IoU 0.81, but the boundaries, one pixel wide, do not meet."""
    truth, record = one_square(18)
    assert evaluate_lvis(*written(tmp_path, truth, [record]), "segm")["AP50"] == pytest.approx(1.0)
    assert evaluate_boundary(*written(tmp_path, truth, [record]))["AP50"] == 0.0
    truth, record = one_square(20)
    figures = evaluate_boundary(*written(tmp_path, truth, [record]))
    assert (figures["AP"], figures["APs"], figures["AR@300"]) == pytest.approx((1.0, 1.0, 1.0))


def one_square(side: int) -> tuple[dict, dict]:
    corners = [[5, 5, 25, 5, 25, 25, 5, 25]]
    truth = {
        "images": [{"id": 1, "height": 30, "width": 40, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "categories": [{"id": 1, "name": "tile", "frequency": "r"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "segmentation": corners}
        ],
    }
    pixels = square((30, 40), 5 + (20 - side) // 2, 5 + (20 - side) // 2, side)
    return truth, {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": code_of(pixels)}


@pytest.mark.parametrize("seed", range(30, 34))
@pytest.mark.parametrize("cap", [300, 15])
def test_boundary_ap_against_the_naive_twin(tmp_path, seed, cap):
    truth, _, masks = random_case(seed, side=100, solid=0.999)
    ours = evaluate_boundary(*written(tmp_path, truth, masks), cap)
    twin_truth, records = with_pixels(truth, best_of_each("image_id", masks, cap))
    expected = {
        category: mean_defined(
            lvis_average_precision(twin_truth, records, boundary_iou, {category}, threshold) for threshold in THRESHOLDS
        )
        for category in range(6)
    }
    defined = {category: value for category, value in expected.items() if value == value}
    assert ours["per_category"] == pytest.approx(defined, abs=1e-12)
    assert ours["AP"] == pytest.approx(mean_defined(expected.values()), abs=1e-12)
    assert 0.01 < ours["AP"] < 0.99


def test_objects_without_a_mask_are_named(tmp_path):
    truth, record = one_square(20)
    del truth["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match=r"object of image 1 has no segmentation"):
        evaluate_boundary(*written(tmp_path, truth, [record]))
