from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.losses import rank_sort_loss, rank_sort_loss_of_rows
from tests.losses.ranking import COPIED, METHODS, check, flat_logits, padded, rows
from tests.reference import ranking as reference

STATIC = ("delta", "method", "max_positives")


@partial(jax.jit, static_argnames=STATIC)
def flat(logits, targets, **static):
    return _pull(lambda s: rank_sort_loss(s, targets, **static), logits)


@partial(jax.jit, static_argnames=STATIC)
def of_rows(logits, labels, ious, weight=1.0, **static):
    return _pull(lambda s: rank_sort_loss_of_rows(s, labels, ious, weight=weight, **static), logits)


def _pull(loss, logits):
    """Both values, and the gradient of their sum."""
    (rank, sort), pull = jax.vjp(loss, logits)
    return rank, sort, pull((jnp.ones_like(rank), jnp.ones_like(sort)))[0]


def check_golden(path, dtype, method, value_tolerance, gradient_tolerance):
    data = np.load(path)
    logits, targets = padded(data["logits"].astype(dtype), data["targets"])
    for suffix, delta, name in (("", float(data["delta"]), "grad_of_sum"), ("_d0", 0.0, "grad_d0")):
        rank, sort, gradient = flat(logits, targets, delta=delta, method=method)
        assert rank.dtype == sort.dtype == gradient.dtype == dtype
        expected = data["ranking_loss" + suffix], data["sorting_loss" + suffix]
        np.testing.assert_allclose((rank, sort), expected, rtol=value_tolerance, atol=1e-12)
        expected = np.pad(data[name], (0, len(logits) - len(data["logits"])))
        atol = 1e-3 * gradient_tolerance * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=gradient_tolerance, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_copied_golden_files(method):
    paths = sorted(COPIED.glob("rsloss_*.npz"))
    assert len(paths) == 2
    with jax.enable_x64(True):
        for path in paths:
            check_golden(path, np.float64, method, 1e-9, 1e-7)


@pytest.mark.parametrize(
    ("dtype", "method"), [(np.float64, "interval"), (np.float64, "dense"), (np.float32, "interval")]
)
def test_every_golden_file(shared, dtype, method):
    paths = sorted((shared / "golden" / "losses").glob("rsloss_*.npz"))
    assert len(paths) >= 7
    tolerances = (1e-9, 1e-7) if dtype == np.float64 else (1e-4, 1e-4)
    with jax.enable_x64(dtype == np.float64):
        for path in paths:
            check_golden(path, dtype, method, *tolerances)


COUNT = 12
TARGETS = st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.5, 0.5, 0.75, 0.875, 1.0]), min_size=COUNT, max_size=COUNT)


@pytest.mark.parametrize("delta", [0.5, 0.0])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(logits=flat_logits(COUNT), targets=TARGETS, few_slots=st.booleans())
def test_agrees_with_the_double_loop(method, delta, logits, targets, few_slots):
    targets = np.float32(targets)
    slots = 2 if few_slots else COUNT
    result = flat(logits, targets, delta=delta, method=method, max_positives=slots)
    assert all(np.all(np.isfinite(x)) for x in result)
    check(result, reference.rank_sort(logits, targets, delta=delta), 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_the_flat_list_of_their_entries(method):
    logits, labels, ious = rows()
    assert np.any((ious == 0) & (labels >= 0) & (labels < logits.shape[1]))  # a foreground row that is a negative
    targets = reference.flat_targets(labels, logits.shape[1], ious)
    rank, sort, gradient = reference.rank_sort(logits.ravel(), targets.ravel())
    assert rank > 0.1
    assert sort > 0.01
    for slots in (6, 4, 1):
        with jax.enable_x64(True):
            result = of_rows(logits, labels, ious, method=method, max_positives=slots)
        check(result, (rank, sort, gradient.reshape(logits.shape)), 1e-11)


def test_small_sorting_errors_keep_their_digits_in_float32():
    logits, targets = np.float32([0.25, 0.0, -1.0]), np.float32([0.9, 0.90001, 0])
    expected = reference.rank_sort(logits, targets)
    assert 0 < expected[1] < 1e-5
    np.testing.assert_allclose(flat(logits, targets)[1], expected[1], rtol=1e-6)


def test_the_gradient_of_both_parts_comes_with_the_ranking_loss():
    logits, labels, ious = rows()
    logits = logits.astype(np.float32)
    both = of_rows(logits, labels, ious)[2]
    loss = partial(rank_sort_loss_of_rows, labels=labels, ious=ious)
    assert np.any(both)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda s: loss(s)[0]))(logits), both, rtol=1e-5)
    assert not np.any(jax.jit(jax.grad(lambda s: loss(s)[1]))(logits))


def test_takes_part_in_nothing_whatever_it_holds():
    logits, labels, ious = rows(padding=3)
    logits = logits.astype(np.float32)
    *values, gradient = of_rows(np.where(labels[:, None] == -1, np.nan, logits), labels, ious)
    kept = labels >= 0
    *expected, expected_gradient = of_rows(logits[kept], labels[kept], ious[kept])
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[kept], expected_gradient, rtol=1e-5, atol=1e-8)
    assert not np.any(gradient[~kept])


@pytest.mark.parametrize("targets", [[0, 0, 0], [-1, -1, -1], [0.7, -1, -1]])
def test_zero_without_positives_or_without_others(targets):
    *values, gradient = flat(np.float32([0.3, 0.1, -4.0]), np.float32(targets))
    assert not np.any(values)
    assert not np.any(gradient)


@pytest.mark.parametrize("target", [1, 0.5, 0, -1])
def test_one_entry(target):
    *values, gradient = flat(np.float32([0.3]), np.float32([target]))
    assert not np.any(values)
    assert gradient[0] == 0


def test_many_positives_in_groups_of_the_default_slots():
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, 1500).astype(np.float32)
    targets = np.where(generator.random(1500) < 0.5, generator.uniform(0.5, 1, 1500), 0).astype(np.float32)
    result = flat(logits, targets)
    check(result, flat(logits, targets, method="dense", max_positives=1500), 1e-5)
    assert abs(np.asarray(result[2], np.float64).sum()) < 1e-6


def test_weight_acts_on_values_and_gradient():
    batch = rows()
    for plain, weighted in zip(of_rows(*batch), of_rows(*batch, 0.1), strict=True):
        np.testing.assert_allclose(weighted, 0.1 * plain, rtol=1e-6)


def test_ious_get_no_gradient():
    logits, labels, ious = rows()
    pull = jax.jit(jax.grad(lambda y: rank_sort_loss_of_rows(logits, labels, y)[0]))
    assert not np.any(pull(ious.astype(np.float32)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fast"}, "auto, interval, one_hot, dense"),
        ({"delta": -0.1}, "negative"),
        ({"max_positives": 0}, "at least one slot"),
        ({"iou_targets": np.zeros(3, np.float32)}, r"iou_targets \[M\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"logits": np.zeros(4, np.float32), "iou_targets": np.zeros(4, np.float32)} | change
    unchecked = getattr(rank_sort_loss, "__wrapped__", rank_sort_loss)  # shapes are also caught by the type checks
    with pytest.raises(ValueError, match=message):
        unchecked(**arguments)
