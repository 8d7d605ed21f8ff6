"""Repeat factors against a naive twin and the golden file; epochs against their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.data import epoch_indices, repeat_factors
from rog_jax.data.samplers import CategorySampler, RepeatSampler, Sampler, instance_aware_factors, make_sampler
from tests.reference.data import naive_instance_aware_factors, naive_repeat_factors, sampler_config


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


def test_hand_computed_factors():
    """Category 0 is in 4 of 5 images, 1 in one image with three objects, 2 in one with one; 5 images, 8 objects."""
    images = [[0], [0], [0, 1, 1, 1], [0], [2]]
    np.testing.assert_allclose(repeat_factors(images, 0.8), [1, 1, 2, 1, 2])
    # Geometric means: 0: sqrt(0.8 * 0.5) = 0.6325, 1: sqrt(0.2 * 0.375) = 0.2739, 2: sqrt(0.2 * 0.125) = 0.1581.
    expected = np.sqrt(0.8 / np.array([0.632456, 0.632456, 0.273861, 0.632456, 0.158114]))
    np.testing.assert_allclose(instance_aware_factors(images, 0.8), expected, rtol=1e-5)


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=12), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_instance_aware_factors_equal_naive(image_categories, threshold):
    got = instance_aware_factors(image_categories, threshold)
    np.testing.assert_allclose(got, naive_instance_aware_factors(image_categories, threshold), rtol=1e-12)


def long_tail() -> list[list[int]]:
    """60 images: category 0 in all but one, category 1 in ten, category 2 three times in a single one; one is empty."""
    return [[0, 0] if i else [] for i in range(50)] + [[0, 1] for _ in range(9)] + [[0, 1, 2, 2, 2]]


def test_class_aware_shows_each_category_equally_often():
    categories = long_tail()
    sampler = CategorySampler(categories, by_objects=False)
    epoch = sampler.epoch(3, 5)
    np.testing.assert_array_equal(epoch, CategorySampler(categories, by_objects=False).epoch(3, 5))
    assert (epoch != sampler.epoch(3, 6)).any()
    times = np.bincount(epoch, minlength=60)
    assert times.sum() == sampler.mean_length == 60
    assert times[0] == 0
    # Twenty draws for each category: the tail's only image takes all of category 2's, and two of category 1's.
    assert 22 <= times[59] <= 23
    np.testing.assert_array_equal(times[50:59], 2 + (times[50:59] > 2))
    assert (times[1:50] <= 1).all()
    assert times[50:].sum() >= 40


def test_bi_level_shows_images_by_their_objects():
    # Of category 0 two images have one object, and one has six; category 1 has as many draws.
    categories = [[0], [0], [0] * 6, [1], *[[] for _ in range(12)]]
    times = np.bincount(CategorySampler(categories, by_objects=True).epoch(0, 0), minlength=16)
    np.testing.assert_array_equal(times, [1, 1, 6, 8] + [0] * 12)


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=15), st.booleans(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_category_draws_are_even_and_of_images_that_have_the_category(categories, by_objects, epoch):
    if not any(categories):
        with pytest.raises(ValueError, match="no objects"):
            CategorySampler(categories, by_objects)
        return
    drawn = CategorySampler(categories, by_objects).epoch(1, epoch)
    assert len(drawn) == len(categories)
    assert all(categories[image] for image in drawn)
    for category in {c for image in categories for c in image}:
        only = [image for image, found in enumerate(categories) if set(found) == {category}]
        others = {c for image in categories for c in image} - {category}
        most = -(-len(categories) // (len(others) + 1))
        assert np.isin(drawn, only).sum() <= most


def test_samplers_by_name():
    for name in ("random", "repeat_factor", "instance_aware", "class_aware", "bi_level"):
        sampler = make_sampler(sampler_config(name=name), long_tail())
        assert isinstance(sampler, Sampler)
        assert len(sampler.epoch(0, 0)) == sampler.mean_length
    stochastic = make_sampler(sampler_config(name="repeat_factor", rounding="stochastic"), long_tail())
    lengths = [len(stochastic.epoch(0, epoch)) for epoch in range(200)]
    np.testing.assert_allclose(np.mean(lengths), stochastic.mean_length, rtol=0.01)


def test_bad_settings():
    for factors in (repeat_factors, instance_aware_factors):
        for threshold in (-1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="threshold"):
                factors([[0]], threshold)
    for rounding in (lambda: epoch_indices(np.ones(2), "floor", 0, 0), lambda: RepeatSampler(np.ones(2), "floor")):
        with pytest.raises(ValueError, match="rounding is 'floor'"):
            rounding()
    with pytest.raises(ValueError, match="name is 'balanced'"):
        make_sampler(sampler_config(name="balanced"), [np.array([0])])
