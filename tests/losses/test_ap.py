from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.losses import ap_loss, ap_loss_of_rows
from tests.losses.ranking import COPIED, METHODS, check, flat_logits, padded, rows
from tests.reference import ranking as reference

STATIC = ("delta", "method", "max_positives")


@partial(jax.jit, static_argnames=STATIC)
def flat(logits, targets, weight=1.0, **static):
    return jax.value_and_grad(ap_loss)(logits, targets, weight=weight, **static)


@partial(jax.jit, static_argnames=STATIC)
def of_rows(logits, labels, weight=1.0, **static):
    return jax.value_and_grad(ap_loss_of_rows)(logits, labels, weight=weight, **static)


def check_golden(path, dtype, method, value_tolerance, gradient_tolerance):
    data = np.load(path)
    names = {"": 1.0, "_rsrepo_d1": 1.0, "_rsrepo_d05": 0.5}
    for suffix, delta in names.items():
        if "loss" + suffix not in data:
            assert path.stem == "aploss_nopos"
            continue
        logits, targets = padded(data["logits"].astype(dtype), data["targets"])
        value, gradient = flat(logits, targets, delta=delta, method=method)
        assert value.dtype == gradient.dtype == dtype
        np.testing.assert_allclose(value, data["loss" + suffix], rtol=value_tolerance, atol=1e-12)
        expected = np.pad(data["grad" + suffix], (0, len(logits) - len(data["logits"])))
        atol = 1e-3 * gradient_tolerance * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=gradient_tolerance, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_copied_golden_files(method):
    paths = sorted(COPIED.glob("aploss_*.npz"))
    assert len(paths) == 2
    with jax.enable_x64(True):
        for path in paths:
            check_golden(path, np.float64, method, 1e-9, 1e-7)


@pytest.mark.parametrize(
    ("dtype", "method"), [(np.float64, "interval"), (np.float64, "dense"), (np.float32, "interval")]
)
def test_every_golden_file(shared, dtype, method):
    paths = sorted((shared / "golden" / "losses").glob("aploss_*.npz"))
    assert len(paths) >= 8
    tolerances = (1e-9, 1e-7) if dtype == np.float64 else (1e-4, 1e-4)
    with jax.enable_x64(dtype == np.float64):
        for path in paths:
            check_golden(path, dtype, method, *tolerances)


COUNT = 12
TARGETS = st.lists(st.sampled_from([-1, 0, 0, 1, 1]), min_size=COUNT, max_size=COUNT)


@pytest.mark.parametrize("delta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(logits=flat_logits(COUNT), targets=TARGETS, few_slots=st.booleans())
def test_agrees_with_the_double_loop(method, delta, logits, targets, few_slots):
    targets = np.array(targets)
    slots = 2 if few_slots else COUNT
    result = flat(logits, targets, delta=delta, method=method, max_positives=slots)
    assert all(np.all(np.isfinite(x)) for x in result)
    check(result, reference.ap(logits, targets, delta=delta), 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_the_flat_list_of_their_entries(method):
    logits, labels, _ = rows()
    targets = reference.flat_targets(labels, logits.shape[1])
    value, gradient = reference.ap(logits.ravel(), targets.ravel())
    assert value > 0.1
    for slots in (6, 4, 1):
        with jax.enable_x64(True):
            result = of_rows(logits, labels, method=method, max_positives=slots)
        check(result, (value, gradient.reshape(logits.shape)), 1e-11)


def test_lifted_precision_lessens_the_gradient_of_the_negatives():
    # The positive at 2 has precision 2/3; the one at 4, one of 1/2, is lifted to it.
    value, gradient = flat(np.float32([2, 4, 6]), np.array([1, 1, 0]), delta=0.5)
    np.testing.assert_allclose(value, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-1 / 6, -1 / 6, 1 / 3], rtol=1e-6)


def test_takes_part_in_nothing_whatever_it_holds():
    logits, labels, _ = rows(padding=3)
    logits = logits.astype(np.float32)
    value, gradient = of_rows(np.where(labels[:, None] == -1, np.nan, logits), labels)
    expected = of_rows(logits[labels >= 0], labels[labels >= 0])
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[labels >= 0], expected[1], rtol=1e-5, atol=1e-8)
    assert not np.any(gradient[labels < 0])


@pytest.mark.parametrize("targets", [[0, 0, 0], [-1, -1, -1], [1, 1, 1], [1, -1, -1]])
def test_zero_without_positives_or_without_negatives(targets):
    value, gradient = flat(np.float32([0.3, 0.1, -4.0]), np.array(targets))
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("target", [1, 0, -1])
def test_one_entry(target):
    value, gradient = flat(np.float32([0.3]), np.array([target]))
    assert value == gradient[0] == 0


def test_many_positives_in_groups_of_the_default_slots():
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, 1500).astype(np.float32)
    targets = generator.choice([0, 1], 1500)
    result = flat(logits, targets)
    check(result, flat(logits, targets, method="dense", max_positives=1500), 1e-5)
    assert abs(np.asarray(result[1], np.float64).sum()) < 1e-6


def test_memory_of_many_positives_does_not_follow_their_pairs():
    def temporary(count):
        shapes = jax.ShapeDtypeStruct((count,), jnp.float32), jax.ShapeDtypeStruct((count,), jnp.int32)
        return flat.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(50_000), temporary(200_000)
    assert many - few < 40 * 4 * 150_000  # a few dozen numbers an entry, for slots as many as entries


def test_weight_acts_on_value_and_gradient():
    logits, labels, _ = rows()
    plain, weighted = of_rows(logits, labels), of_rows(logits, labels, 0.1)
    np.testing.assert_allclose(weighted[0], 0.1 * plain[0], rtol=1e-6)
    np.testing.assert_allclose(weighted[1], 0.1 * plain[1], rtol=1e-6)


def test_bfloat16_logits_are_ranked_in_float32():
    logits = jnp.asarray(rows()[0].ravel(), jnp.bfloat16)
    targets = np.random.default_rng(1).choice([0, 1], logits.size)
    value, gradient = flat(logits, targets)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    expected = reference.ap(np.asarray(logits, np.float64), targets)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), expected[1], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fast"}, "auto, interval, one_hot, dense"),
        ({"delta": -0.1}, "negative"),
        ({"max_positives": 0}, "at least one slot"),
        ({"targets": np.zeros(3, np.int32)}, r"targets \[M\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"logits": np.zeros(4, np.float32), "targets": np.zeros(4, np.int32)} | change
    unchecked = getattr(ap_loss, "__wrapped__", ap_loss)  # shapes are also caught by the type checks of tests
    with pytest.raises(ValueError, match=message):
        unchecked(**arguments)
