import math

import pytest

from rog_jax.evaluation.lvis import evaluate_lvis, read_both
from rog_jax.evaluation.tide import tide_errors
from tests.evaluation.cases import random_case, written
from tests.evaluation.test_analysis import scene


def test_errors_worked_out_by_hand(tmp_path):
    """AP50: the cup 1, the teapot 1/2, the kettle and the spoon 0. With the right categories, the kettle is found and
    nothing stands before the teapot: a gain of 3/2 of 4. The spoon alone was never detected."""
    truth, records = scene()
    truth["annotations"] = truth["annotations"][:4]
    measured = tide_errors(*read_both(*written(tmp_path, truth, records[:4]), "bbox"))
    assert measured["ap50"] == pytest.approx(3 / 8)
    assert measured["gain"]["Cls"] == pytest.approx(3 / 8)
    assert measured["counts"] == {"Cls": 2, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 1}
    assert measured["share"]["Cls"] == pytest.approx(1.0)


def test_a_second_detection_and_a_shifted_one(tmp_path):
    truth, _ = scene()
    truth["annotations"] = truth["annotations"][:1]
    boxes = [([0, 0, 20, 20], 0.5), ([0, 0, 20, 19], 0.9), ([10, 5, 20, 20], 0.8), ([60, 60, 20, 20], 0.7)]
    records = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in boxes]
    measured = tide_errors(*read_both(*written(tmp_path, truth, records), "bbox"))
    assert measured["counts"] == {"Cls": 0, "Loc": 1, "Both": 0, "Dupe": 1, "Bkg": 1, "Miss": 0}
    assert math.isnan(measured["share"]["Loc"])  # the first detection is right: nothing to gain


@pytest.mark.parametrize("seed", range(3))
def test_the_base_is_ap50(tmp_path, seed):
    truth, boxes, _ = random_case(seed)
    files = written(tmp_path, truth, boxes)
    measured = tide_errors(*read_both(*files, "bbox"))
    # TIDE's area under the curve is not read at 101 recalls.
    assert measured["ap50"] == pytest.approx(evaluate_lvis(*files, "bbox", -1)["AP50"], abs=0.02)
    assert sum(measured["share"].values()) == pytest.approx(1.0)
