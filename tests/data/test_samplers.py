"""Repeat factors against a naive twin and the golden file; epochs against their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.data import epoch_indices, repeat_factors
from rog_jax.data.samplers import sampling_factors
from tests.reference.data import naive_repeat_factors


@given(st.lists(st.lists(st.integers(-3, 40), max_size=5), min_size=1, max_size=20), st.floats(0, 2), st.booleans())
@settings(max_examples=100, deadline=None)
def test_repeat_factors_equal_naive(image_categories, threshold, count_empty):
    got = repeat_factors(image_categories, threshold, count_empty)
    np.testing.assert_allclose(got, naive_repeat_factors(image_categories, threshold, count_empty), rtol=1e-12)


@pytest.mark.parametrize("threshold", [0.001, 0.1, 0.3])
@pytest.mark.parametrize("empty", ["skipempty", "countempty"])
def test_repeat_factors_and_epoch_equal_golden(shared, threshold, empty):
    golden = np.load(shared / "golden" / "losses" / "rfs.npz")
    images = np.split(golden["cat_ids"], golden["cat_offsets"][1:-1])
    factors = repeat_factors(images, threshold, count_empty=empty == "countempty")
    np.testing.assert_allclose(factors, golden[f"repeat_factors_t{threshold}_{empty}"], rtol=1e-12)
    drawn = epoch_indices(factors, "ceil", seed=3, epoch=1)
    np.testing.assert_array_equal(np.sort(drawn), np.sort(golden[f"repeat_indices_t{threshold}_{empty}"]))


def test_negative_category_ids_do_not_collide():
    np.testing.assert_allclose(repeat_factors([[-1], [5], [5], [5]], 1.0), [2.0, *[np.sqrt(4 / 3)] * 3])


def test_an_epoch_is_a_function_of_seed_and_epoch():
    factors = np.ones(50)
    first = epoch_indices(factors, "ceil", 0, 0)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    np.testing.assert_array_equal(first, epoch_indices(factors, "ceil", 0, 0))
    assert (first != epoch_indices(factors, "ceil", 0, 1)).any()
    assert (first != epoch_indices(factors, "ceil", 1, 0)).any()


def test_stochastic_rounding_keeps_the_mean_and_is_redrawn():
    factors = np.array([1.0, 1.25, 2.5, 3.75])
    counts = np.array([np.bincount(epoch_indices(factors, "stochastic", 7, e), minlength=4) for e in range(2000)])
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.ceil(factors)).all()
    np.testing.assert_allclose(counts.mean(axis=0), factors, atol=0.05)


def test_bad_settings():
    with pytest.raises(ValueError, match="threshold"):
        repeat_factors([[0]], -1.0)
    with pytest.raises(ValueError, match="rounding is 'floor'"):
        epoch_indices(np.ones(2), "floor", 0, 0)
    with pytest.raises(ValueError, match="name is 'class_aware'"):
        sampling_factors("class_aware", 0.1, [np.array([0])])
    np.testing.assert_array_equal(sampling_factors("random", 0.1, [[0], [1]]), [1, 1])
