import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from rog_jax.evaluation.paste import encode_crop, encode_detection_mask, paste_crop
from tests.reference.evaluation import paste_mask, paste_mask_as_torchvision

HEIGHT, WIDTH = 23, 31
BOXES = {
    "inside": (3.2, 4.7, 20.1, 17.9),
    "whole image": (0.0, 0.0, 31.0, 23.0),
    "full height": (5.5, 0.0, 12.25, 23.0),
    "full width": (0.0, 7.3, 31.0, 9.1),
    "corner": (24.9, 15.0, 31.0, 23.0),
    "beyond the edges": (-6.5, -3.25, 40.0, 30.75),
    "outside": (40.0, 2.0, 50.0, 9.0),
    "thinner than a pixel, no centre": (4.6, 3.0, 5.4, 12.0),
    "thinner than a pixel, one centre": (4.3, 3.0, 4.7, 12.0),
    "no width": (9.0, 3.0, 9.0, 12.0),
    "edges on pixel centres": (2.5, 3.5, 9.5, 11.5),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("side", [1, 4, 28])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_equals_whole_image_pasted_and_encoded(box, side, threshold):
    rng = np.random.default_rng(side)
    probabilities = rng.random((side, side), np.float32)
    expected = paste_mask(probabilities, np.array(box), HEIGHT, WIDTH, threshold)
    code = encode_detection_mask(probabilities, np.array(box), HEIGHT, WIDTH, threshold)
    np.testing.assert_array_equal(coco_mask.decode(code), expected)
    whole = coco_mask.encode(np.asfortranarray(expected))
    assert code == {"size": [HEIGHT, WIDTH], "counts": whole["counts"].decode("ascii")}


@st.composite
def pastes(draw):
    """A map and a box: anywhere, empty, inverted, huge, on pixel edges and centres."""
    side = draw(st.sampled_from([1, 3, 7]))
    coordinate = st.one_of(st.integers(-20, 100).map(lambda x: x / 2), st.floats(-40, 80), st.sampled_from([-1e4, 1e4]))
    box = np.array([draw(coordinate) for _ in range(4)])
    return np.random.default_rng(draw(st.integers(0, 10**6))).random((side, side)), box


@given(pastes())
@settings(max_examples=200, deadline=None)
def test_any_box_is_pasted_as_pixel_by_pixel(paste):
    probabilities, box = paste
    expected = paste_mask(probabilities, box, HEIGHT, WIDTH, 0.5)
    code = encode_detection_mask(probabilities.astype(np.float32), box, HEIGHT, WIDTH)
    np.testing.assert_array_equal(coco_mask.decode(code), expected)


@given(pastes())
@settings(max_examples=100, deadline=None)
def test_torchvisions_pasting_equals_its_twin(paste):
    probabilities, box = paste
    box = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])]).clip(-60, 120)
    expected = paste_mask_as_torchvision(probabilities, box, HEIGHT, WIDTH, 0.5)
    crop, top, left = paste_crop(probabilities, box, HEIGHT, WIDTH, method="torchvision")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    np.testing.assert_array_equal(mask, expected)


def test_torchvision_enlarges_boxes_in_float32():
    """30 / 28 of 476 pixels is 510, so the map's frame begins at -17; torchvision's float32 makes that -16.99998."""
    rising = np.tile(np.linspace(0, 1, 28, dtype=np.float32), (28, 1))
    crop, _, left = paste_crop(rising, np.array([0, 0, 476, 20], np.float32), 20, 476, method="torchvision")
    position = (np.arange(476) + 16 + 0.5) * 30 / 510 - 0.5  # cells of the framed map: pixels -16 to 493
    assert left == 0
    np.testing.assert_array_equal(crop[10], np.interp(position, np.arange(30), [0, *np.linspace(0, 1, 28), 0]) >= 0.5)


def test_unknown_way_of_pasting_is_refused():
    with pytest.raises(ValueError, match="method='paint'"):
        paste_crop(np.ones((2, 2)), np.array([0, 0, 4, 4.0]), HEIGHT, WIDTH, method="paint")


def test_a_case_worked_out_by_hand():
    left_half = np.array([[1.0, 0.0], [1.0, 0.0]])
    mask = coco_mask.decode(encode_detection_mask(left_half, np.array([0.0, 0.0, 8.0, 8.0]), 8, 8))
    expected = np.zeros((8, 8))
    expected[:, :4] = 1
    expected[[0, 0, 7, 7], [0, 3, 0, 3]] = 0  # 0.625 along each axis is 0.39 in the corner
    np.testing.assert_array_equal(mask, expected)


def test_touching_columns_are_one_run():
    for crop, top, left in [
        (np.ones((5, 3), bool), 0, 0),
        (np.ones((5, 3), bool), 0, 1),
        (np.zeros((2, 2), bool), 3, 2),
        (np.eye(5, 4, dtype=bool), 0, 0),
    ]:
        image = np.zeros((5, 4), np.uint8)
        image[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        expected = coco_mask.encode(np.asfortranarray(image))["counts"].decode("ascii")
        assert encode_crop(crop, top, left, 5, 4)["counts"] == expected
