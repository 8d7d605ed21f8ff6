import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rog_jax.evaluation import evaluate_coco
from tests.evaluation.cases import code_of, random_case, written

EVALUATORS = ["hotcoco", "official"]
ORDER = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"]


def coco_case(seed: int) -> tuple[dict, list[dict], list[dict]]:
    """The random case in COCO's format, with crowds as run lengths."""
    rng = np.random.default_rng(seed)
    truth, boxes, masks = random_case(seed)
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in truth["categories"]:
        del category["frequency"]
    for place, found in enumerate(truth["annotations"]):
        found["id"] = place + 1  # pycocotools takes a match with number 0 for none
        found.pop("ignore", None)
        found["iscrowd"] = int(rng.random() < 0.2)
        if found["iscrowd"]:
            x, y, width, height = found["bbox"]
            pixels = np.zeros((200, 200), np.uint8)
            pixels[y : y + height, x : x + width] = 1
            found["segmentation"] = code_of(pixels)
    return truth, boxes, masks


@pytest.mark.parametrize("seed", range(40, 44))
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_pycocotools_own_summary(tmp_path, seed, evaluator):
    truth, boxes, masks = coco_case(seed)
    for kind, records in (("bbox", boxes), ("segm", masks)):
        files = written(tmp_path, truth, records)
        ours = evaluate_coco(*files, kind, evaluator)
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth = COCO(str(files[0]))
            evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(files[1])), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        theirs = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
        np.testing.assert_allclose([ours[name] for name in ORDER], theirs, atol=1e-12)
        assert 0.01 < ours["AP"] < 0.99
        assert ours["AP"] == pytest.approx(np.mean(list(ours["per_category"].values())))


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_crowd_worked_out_by_hand(tmp_path, evaluator):
    """The person is found last. What lies on the crowd is forgiven, what lies beside it is not: precision 1/2."""
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [50, 0, 50, 50], "area": 2500, "iscrowd": 1},
        ],
    }
    records = [
        {"image_id": 1, "category_id": 1, "bbox": bbox, "score": score}
        for bbox, score in (
            ([55, 5, 10, 10], 0.9),
            ([75, 5, 10, 10], 0.8),
            ([0, 60, 10, 10], 0.7),
            ([0, 0, 20, 20], 0.6),
        )
    ]
    figures = evaluate_coco(*written(tmp_path, truth, records), "bbox", evaluator)
    expected = {"AP": 0.5, "AP50": 0.5, "AR@1": 0.0, "AR@10": 1.0, "AR@100": 1.0, "APs": 0.5}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(figures["APl"])
    assert math.isnan(figures["APr"])


def test_a_hundred_detections_of_each_category_count(tmp_path):
    """101 of an image and category, of which the right one is last, and one of another category."""
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "pot"}],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": place, "bbox": [0, 0, 20, 20], "area": 400} for place in (1, 2)
        ],
    }
    wrong = [
        {"image_id": 1, "category_id": 1, "bbox": [50, 50, 9, 9], "score": 0.9 - place / 1000} for place in range(100)
    ]
    right = [{"image_id": 1, "category_id": place, "bbox": [0, 0, 20, 20], "score": 0.1} for place in (1, 2)]
    figures = evaluate_coco(*written(tmp_path, truth, wrong + right), "bbox")
    assert figures["per_category"] == {1: 0.0, 2: pytest.approx(1.0)}
