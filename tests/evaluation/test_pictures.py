import json
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from rog_jax.evaluation.drawing import Objects, class_color, draw_comparison, draw_objects
from rog_jax.evaluation.pictures import choose_images, predictions, save_pictures, truths

NAMES = ("cup", "teapot, blue", "spoon")
IMAGE = np.full((60, 80, 3), 128, np.uint8)
NOTHING = Objects(np.zeros((0, 4)), np.zeros(0, np.int32), np.zeros(0), [])


def one_object(mask: np.ndarray | None = None) -> Objects:
    return Objects(np.array([[10.0, 20.0, 50.0, 50.0]]), np.array([1], np.int32), np.array([0.75]), [mask])


def test_colors_of_classes_differ():
    colors = [class_color(label) for label in range(1203)]
    assert colors == [class_color(label) for label in range(1203)]
    near = [np.abs(np.subtract(one, other)).max() for one, other in pairwise(colors)]
    assert min(near) > 60


def test_drawing_marks_the_object_and_leaves_the_rest():
    mask = np.zeros((60, 80), np.uint8)
    mask[20:50, 10:50] = 1
    picture = draw_objects(IMAGE, one_object(mask), NAMES)
    assert picture.shape == (480, 640, 3)  # enlarged
    assert (picture[200, 80] == class_color(1)).all()  # the box's edge
    blend = 0.55 * 128 + 0.45 * np.array(class_color(1))
    np.testing.assert_allclose(picture[350, 240], blend, atol=2)
    assert (picture[430:, 440:] == 128).all()
    without_mask = draw_objects(IMAGE, one_object(), NAMES)
    assert (without_mask[350, 240] == 128).all()


def test_rare_classes_are_marked():
    plain, rare = (draw_objects(IMAGE, one_object(), NAMES, marked) for marked in (frozenset(), frozenset({1})))
    assert (rare[300, 83] == class_color(1)).all()
    assert (plain[300, 83] == 128).all()


def test_comparison_is_two_panels_wide_and_takes_nothing():
    picture = draw_comparison(IMAGE, one_object(), NOTHING, NAMES, title="image 3")
    panel = draw_objects(IMAGE, NOTHING, NAMES)
    assert picture.shape[1] == 2 * panel.shape[1] + 8
    np.testing.assert_array_equal(picture[-panel.shape[0] :, -panel.shape[1] :], panel)


def test_many_labels_in_one_place_stay_apart():
    boxes = np.tile([[5.0, 5.0, 60.0, 55.0]], (5, 1))
    objects = Objects(boxes, np.arange(5, dtype=np.int32), np.linspace(0, 1, 5), [None] * 5)
    picture = draw_objects(IMAGE, objects, [f"class {number}" for number in range(5)])
    shown = [(picture == class_color(label)).all(axis=2).sum() for label in range(5)]
    assert min(shown) > 300  # the ground of each label is there, though the boxes hide each other


def test_truths_and_predictions_as_objects(annotations, case):
    truth = truths(annotations, 1)
    assert truth.labels.tolist() == [1]  # not the cup without area
    assert truth.masks[0].sum() == 2500
    boxes, masks = (json.loads((case / f"results_{kind}.json").read_text()) for kind in ("bbox", "segm"))
    of_image = [[record for record in records if record["image_id"] == 11] for records in (boxes, masks)]
    found = predictions(annotations, *of_image, best=2)
    np.testing.assert_array_equal(found.boxes, [[60, 60, 80, 80], [0, 0, 40, 40]])
    assert found.labels.tolist() == [0, 2]
    assert [mask.sum() for mask in found.masks] == [400, 1600]
    assert predictions(annotations, of_image[0], [], best=9).masks == [None] * 4


def test_half_of_the_images_have_rare_classes(annotations):
    assert choose_images(annotations, 2) == [0, 1]
    assert all(1 in choose_images(annotations, 2, seed) for seed in range(5))
    assert choose_images(annotations, 9) == [0, 1]


@pytest.mark.parametrize("with_masks", [True, False])
def test_pictures_are_saved(annotations, case, tmp_path, with_masks):
    masks = case / "results_segm.json" if with_masks else None
    paths = save_pictures(annotations, case / "results_bbox.json", masks, tmp_path, count=2)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "pictures/000000000011.jpg",
        "pictures/000000000012.jpg",
    ]
    assert cv2.imread(str(paths[0])).shape == (640 + 23, 2 * 640 + 8, 3)


def test_an_unreadable_image_is_left_out(annotations, case, tmp_path):
    cv2.imwrite(str(tmp_path / "12.jpg"), np.zeros((100, 100, 3), np.uint8))
    elsewhere = replace(annotations, image_folder=str(tmp_path))
    paths = save_pictures(elsewhere, case / "results_bbox.json", None, tmp_path)
    assert [path.stem for path in paths] == ["000000000012"]
