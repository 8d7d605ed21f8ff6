"""The detector against the golden files of three projects: every key, through the program that users call."""

import numpy as np
import pytest

from rog_jax.tools.compare_detector import compare_file, family_of
from rog_jax.tools.golden_measures import compare, disorder, matching_rows
from rog_jax.tools.golden_weights import detectron2_state, mmdet_state, torchvision_state

FILES = {
    "torchvision_maskrcnn_r50": 135,
    "mmdet_maskrcnn_r50": 270,
    "detectron2_maskrcnn_r50_msra": 144,
    "detectron2_maskrcnn_r50_torchvision": 144,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_key_is_within_its_tolerance(shared, name):
    checks = compare_file(shared / "golden" / f"{name}.npz")
    assert len(checks) == FILES[name]
    assert not [check for check in checks if not check.passed]


@pytest.mark.parametrize("depth", [50, 101])
def test_states_have_the_projects_numbers_of_tensors(depth):
    count = {50: 307, 101: 562}[depth]
    for state in (torchvision_state(depth, 4), mmdet_state(depth, 3), detectron2_state(depth, 3)):
        assert len(state) == count


def test_weights_equal_detectron2s(shared):
    golden = np.load(shared / "golden" / "detectron2_maskrcnn_r50_msra.npz")
    state = detectron2_state(50, 20, 0, "msra")
    for name, shape, sums in zip(golden["names"], golden["shapes"], golden["weight_sums"], strict=True):
        tensor = state[str(name)].astype(np.float64)
        assert tensor.shape == tuple(map(int, str(shape).replace(",", " ").split()))
        np.testing.assert_array_equal([tensor.sum(), np.abs(tensor).sum()], sums)


def test_measures_notice_what_they_should():
    theirs = np.float32([1, -4, 0])
    assert compare("a", theirs + 0.1, theirs, "absolute", 0.2).passed
    assert not compare("a", theirs + 0.3, theirs, "absolute", 0.2).passed
    assert compare("a", theirs + 0.1, theirs, "of largest", 0.03).passed
    assert not compare("a", theirs + 0.1, theirs, "relative", 0.2).passed
    assert not compare("a", theirs[:2], theirs, "absolute", 9).passed  # another shape
    assert not compare("a", np.float32([1, np.nan, 0]), theirs, "absolute", 9).passed
    assert compare("a", np.array([1, 2]), np.array([1, 3]), "different", 0).error == 1
    bits = np.packbits(np.ones((2, 16, 64), bool), axis=-1)
    assert compare("a", bits, bits, "mask pixels", 1).error == 0
    half = bits.copy()
    half[0, :4] = 0
    assert compare("a", half, bits, "mask pixels", 1).error > 30


def test_rows_are_matched_by_place_and_label():
    theirs = np.float32([[0, 0, 9, 9], [5, 5, 9, 9], [0, 0, 9, 9]])
    ours = theirs[[1, 0, 2]] + 0.01
    np.testing.assert_array_equal(matching_rows(ours, theirs), [1, 0, 2])
    labels = np.array([3, 1, 7])
    np.testing.assert_array_equal(matching_rows(ours, theirs, labels[[1, 2, 0]], labels), [2, 0, 1])
    assert disorder(np.array([3.0, 2.0, 2.5, 1.0])) == 0.5


def test_other_files_are_refused():
    with pytest.raises(ValueError, match=r"x\.npz: its key 'names' is not that of a torchvision"):
        family_of({"names": np.array(["encoder.weight"])}, "x.npz")
