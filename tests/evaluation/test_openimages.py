import json
import math

import numpy as np
import pytest

from rog_jax.evaluation.openimages import (
    OpenImagesDetections,
    OpenImagesTruth,
    openimages_ap50,
    openimages_figures,
)
from tests.reference.evaluation import openimages_average_precision


def arrays_of(images: list[dict], classes: int) -> tuple[OpenImagesTruth, OpenImagesDetections]:
    """From records of images, as the golden file has them."""
    columns = ("boxes", "labels", "group_of")
    truths = [
        (place, label, box, group)
        for place, image in enumerate(images)
        for box, label, group in zip(*(image["ground_truth"][key] for key in columns), strict=True)
    ]
    found = [
        (place, record["label"], record["bbox"], record["score"])
        for place, image in enumerate(images)
        for record in image["detections"]
    ]
    image, label, box, group = (np.array(column) for column in zip(*truths, strict=True))
    truth = OpenImagesTruth(image, label, box.astype(float), group, None, len(images), classes)
    image, label, box, score = (np.array(column) for column in zip(*found, strict=True))
    return truth, OpenImagesDetections(image, label, box.astype(float), score.astype(float))


@pytest.mark.parametrize("treatment", ["group_of", "plain"])
def test_golden(shared, treatment):
    golden = json.loads((shared / "golden" / "openimages" / "ap50.json").read_text())
    expected = golden["expected"][treatment]
    truth, detections = arrays_of(golden["images"], golden["num_classes"])
    ap = openimages_ap50(truth, detections, group_of=treatment == "group_of")
    np.testing.assert_array_equal(np.bincount(truth.labels), expected["num_gts"])
    np.testing.assert_allclose(ap, expected["AP"], atol=1e-6)
    assert openimages_figures(ap, ["1"] * len(ap))["AP50"] == pytest.approx(expected["mAP"], abs=1e-6)


def one_image(**changes) -> tuple[OpenImagesTruth, OpenImagesDetections]:
    """A box and a group-of box of class 0: the box found twice, three detections in the group, and a wrong one."""
    truth = OpenImagesTruth(
        images=np.zeros(2, int),
        labels=np.zeros(2, int),
        boxes=np.array([[0.0, 0, 10, 10], [50, 0, 100, 50]]),
        group_of=np.array([False, True]),
        verified=None,
        num_images=1,
        num_classes=2,
    )
    boxes = [[0, 0, 10, 9], [0, 0, 10, 10], [60, 0, 70, 10], [60, 20, 70, 30], [95, 0, 105, 10], [20, 20, 30, 30]]
    detections = OpenImagesDetections(
        images=np.zeros(6, int),
        labels=np.zeros(6, int),
        boxes=np.array(boxes, float),
        scores=np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.75]),
    )
    return truth._replace(**changes), detections


def test_a_group_worked_out_by_hand():
    """Ranking: the box (right), its second finder (wrong), the one beside everything (wrong), the group (right, at 0.7,
    with the three that lie in it by half). Precision 1 and then 2/4."""
    truth, detections = one_image()
    np.testing.assert_allclose(openimages_ap50(truth, detections), [(1 + 2 / 4) / 2, np.nan])


def test_a_group_as_any_box_is_not_found():
    truth, detections = one_image()
    np.testing.assert_allclose(openimages_ap50(truth, detections, group_of=False), [1 / 2, np.nan])


def test_labels_that_nobody_verified_do_not_count():
    truth, detections = one_image(verified=np.array([[True, False]]), labels=np.array([0, 1]))
    detections.labels[2:] = 1
    assert openimages_ap50(truth, detections)[1] == 0.0
    truth = truth._replace(verified=np.array([[True, True]]))
    np.testing.assert_allclose(openimages_ap50(truth, detections), [1.0, 1 / 2])


def test_no_detection_finds_nothing():
    truth, detections = one_image()
    np.testing.assert_array_equal(openimages_ap50(truth, detections.take(np.zeros(0, int))), [0.0, np.nan])


def random_images(seed: int, images: int = 8, classes: int = 4) -> list[dict]:
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(images):
        boxes = [random_box(rng) for _ in range(rng.integers(0, 9))]
        labels = rng.integers(0, classes, len(boxes)).tolist()
        groups = (rng.random(len(boxes)) < 0.4).tolist()
        detections = []
        for _ in range(rng.integers(0, 25)):
            if boxes and rng.random() < 0.7:
                place = int(rng.integers(len(boxes)))
                left, top, right, bottom = boxes[place]
                scale = rng.choice([1.0, 0.6])
                shift = rng.normal(0, 4, 2)
                box = [left + shift[0], top + shift[1], left + shift[0] + scale * (right - left)]
                box.append(top + shift[1] + scale * (bottom - top))
                label = labels[place]
            else:
                box, label = random_box(rng), int(rng.integers(classes))
            detections.append({"label": label, "bbox": box, "score": float(rng.integers(1, 12)) / 12})
        truth = {"boxes": boxes, "labels": labels, "group_of": groups}
        records.append({"ground_truth": truth, "detections": detections})
    return records


def random_box(rng: np.random.Generator) -> list[float]:
    left, top, width, height = rng.uniform([0, 0, 10, 10], [60, 60, 50, 50]).tolist()
    return [left, top, left + width, top + height]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("group_of", [True, False])
def test_against_the_naive_twin(seed, group_of):
    images = random_images(seed)
    ap = openimages_ap50(*arrays_of(images, 4), group_of=group_of)
    expected = [openimages_average_precision(images, label, group_of) for label in range(4)]
    np.testing.assert_allclose(ap, expected, atol=1e-12)
    assert 0.01 < np.nanmean(ap) < 0.99


def test_means_of_the_groups():
    figures = openimages_figures(np.array([0.2, 0.4, np.nan, 0.9]), ["1", "1", "2", "5"])
    assert figures["AP50"] == pytest.approx(0.5)
    assert figures["AP50_1"] == pytest.approx(0.3)
    assert figures["AP50_5"] == pytest.approx(0.9)
    assert math.isnan(figures["AP50_2"])
    assert math.isnan(figures["AP50_3"])
