"""Losses that draw at random, and those with a cut-off: DropLoss, GOL, federated, Gumbel cross-entropy, ECM."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import classification_loss
from rog_jax.losses.classification import droploss
from tests.losses.classification_cases import CLASSES, DEVICES, FREQUENCY, ROWS, on_devices, value_and_gradient
from tests.reference import classification as reference

C = 30
IMAGE_COUNTS = np.arange(C) ** 2.0  # class 0 is in no image
MANY = DEVICES * ROWS


def some_rows(columns, seed=0, classes=CLASSES):
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 1, 4, classes], MANY)
    return jnp.asarray(generator.normal(-1, 2, (MANY, columns)).astype(np.float32)), jnp.asarray(labels)


@pytest.mark.parametrize("name", ["droploss", "gol"])
def test_draws_of_an_image_do_not_depend_on_its_device(name):
    loss = classification_loss(name, num_classes=CLASSES, frequency=FREQUENCY)
    logits, labels = some_rows(CLASSES)
    keys = jax.random.split(jax.random.key(3), 2 * DEVICES)  # two images a device
    value, gradient, _ = value_and_gradient(loss, logits, labels, image_keys=keys)
    values, on_eight, _ = on_devices(loss, logits, labels, inputs={"image_keys": keys}, per_row=("image_keys",))
    np.testing.assert_allclose(np.mean(values), value, rtol=1e-5)
    np.testing.assert_allclose(on_eight / DEVICES, gradient, rtol=1e-4, atol=1e-6)
    other, _, _ = value_and_gradient(loss, logits, labels, image_keys=jax.random.split(jax.random.key(4), 2 * DEVICES))
    assert other != value


def test_one_key_draws_differently_on_each_device():
    loss = classification_loss("droploss", num_classes=C, frequency=np.where(np.arange(C) < C - 1, 1e-4, 0.5))
    logits = jnp.zeros((MANY, C))
    labels = jnp.asarray(np.tile([0, C - 1, C, C], DEVICES))  # rho is a half
    _, gradient, _ = on_devices(loss, logits, labels, inputs={"key": jax.random.key(0)})
    dropped = np.asarray(gradient).reshape(DEVICES, ROWS, C)[:, 2] == 0
    assert len({tuple(row) for row in dropped}) == DEVICES


def test_share_of_negatives_that_are_left_is_rho():
    loss = classification_loss("droploss", num_classes=C, frequency=[1e-4] * 20 + [0.5] * 10)
    labels = np.full(2048, C)
    labels[:100] = 25
    labels[:30] = 3  # rho 0.3
    drop = jax.jit(lambda key: loss.left_out(jnp.asarray(labels), None, jnp.float32, key=key))
    dropped = np.stack([drop(jax.random.key(seed)) for seed in range(4)])
    assert dropped[:, :100, :20].all()
    assert not dropped[:, :, 20:].any()
    background = dropped[:, 100:, :20]
    expected, deviation = 0.7, np.sqrt(0.21 / background.size)
    assert abs(background.mean() - expected) < 4 * deviation
    # Neither rows nor columns share draws.
    assert abs(background.mean(axis=(0, 2)) - expected).max() < 5.5 * np.sqrt(0.21 / 80)
    correlation = np.corrcoef(background.reshape(-1, 20).T)
    assert np.abs(correlation - np.eye(20)).max() < 5 / np.sqrt(background.size / 20)


def test_draws_are_uniform_and_independent_in_blocks():
    """Also the four of two rows and two columns, whose words before the hash say each other."""
    draws = np.asarray(jax.jit(droploss._uniform, static_argnums=(1, 2))(jax.random.key(0), 1024, 600))
    assert 0 <= draws.min() <= draws.max() < 1
    cells, _ = np.histogram(draws, 256, (0, 1))
    assert abs(cells - draws.size / 256).max() < 5 * np.sqrt(draws.size / 256)
    halves = np.where(draws < 0.5, -1.0, 1.0).reshape(512, 2, 300, 2)
    corner, right, below, opposite = (halves[:, i, :, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    for product in (corner * right, corner * below, corner * opposite, corner * right * below * opposite):
        assert abs(product.mean()) < 4 / np.sqrt(product.size)


def test_draws_of_ones_stay_below_1():
    words = jnp.asarray([2**32 - 1], jnp.uint32)
    assert float(droploss._fraction(words)[0]) == 1 - 2.0**-24


def test_nothing_is_dropped_on_background_without_objects():
    loss = classification_loss("droploss", num_classes=CLASSES, frequency=FREQUENCY)
    logits, _ = some_rows(CLASSES)
    labels = jnp.full(MANY, CLASSES)
    value, _, _ = value_and_gradient(loss, logits, labels, key=jax.random.key(0))
    expected, _ = reference.binary(logits, labels, lambda i, c, t: 1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_droploss_needs_one_source_of_randomness():
    loss = classification_loss("gol", num_classes=CLASSES, frequency=FREQUENCY)
    logits, labels = some_rows(CLASSES)
    with pytest.raises(ValueError, match="give one of image_keys"):
        loss(logits, labels, None, ())
    with pytest.raises(ValueError, match="give one of image_keys"):
        loss(logits, labels, None, (), key=jax.random.key(0), uniform=np.zeros((MANY, CLASSES)))
    with pytest.raises(ValueError, match=r"uniform of GOL must be \(32, 5\), got \(3, 5\)"):
        loss(logits, labels, None, (), uniform=np.zeros((3, CLASSES)))
    with pytest.raises(ValueError, match="32 rows are not the same number for each of 5 image_keys"):
        loss(logits, labels, None, (), image_keys=jax.random.split(jax.random.key(0), 5))


def test_federated_draws_without_replacement_by_the_power_of_the_counts():
    loss = classification_loss("federated", num_classes=C, image_counts=IMAGE_COUNTS, num_sample_cats=10)
    labels = jnp.asarray([5, 5, 29, C, -1])
    draw = jax.jit(jax.vmap(lambda key: loss.sample_classes(labels, key=key)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    assert (drawn.sum(axis=1) == 9).all()  # the background is the tenth
    assert drawn[:, [5, 29]].all()
    assert not drawn[:, 0].any()
    # The same draw by NumPy, whose chances follow square roots of counts, that is 0, 1, 2, ...
    chances = np.arange(C, dtype=float)
    chances[[5, 29]] = 0
    generator = np.random.default_rng(0)
    expected = np.zeros(C)
    for _ in range(4000):
        expected[generator.choice(C, 7, replace=False, p=chances / chances.sum())] += 1
    difference = drawn.mean(axis=0) - np.where(np.isin(np.arange(C), [5, 29]), 1, expected / 4000)
    assert np.abs(difference).max() < 5 * np.sqrt(0.5 / 4000)


def test_federated_with_more_classes_than_wanted_draws_none():
    loss = classification_loss("federated", num_classes=C, image_counts=IMAGE_COUNTS, num_sample_cats=3)
    drawn = loss.sample_classes(jnp.asarray([1, 2, 3, 4, C]), key=jax.random.key(0))
    np.testing.assert_array_equal(np.flatnonzero(drawn), [1, 2, 3, 4])


def test_federated_uses_the_classes_of_all_devices():
    loss = classification_loss("federated", num_classes=C, image_counts=IMAGE_COUNTS, num_sample_cats=20)
    logits, _ = some_rows(C)
    labels = jnp.asarray(np.random.default_rng(5).integers(1, C + 1, MANY))
    key = jax.random.key(7)
    value, gradient, _ = value_and_gradient(loss, logits, labels, key=key)
    values, on_eight, _ = on_devices(loss, logits, labels, inputs={"key": key})
    np.testing.assert_allclose(np.mean(values), value, rtol=1e-5)
    np.testing.assert_allclose(on_eight / DEVICES, gradient, rtol=1e-4, atol=1e-6)
    assert 0 < (np.asarray(gradient) == 0).all(axis=0).sum() < C


def test_verified_negatives_by_image_or_by_row():
    loss = classification_loss("federated", num_classes=CLASSES, negatives="verified")
    assert loss.extra_inputs == ("verified",)
    logits, labels = some_rows(CLASSES)
    known = np.random.default_rng(2).random((DEVICES, CLASSES)) < 0.4
    by_row = np.repeat(known, ROWS, axis=0)
    value, gradient, _ = value_and_gradient(loss, logits, labels, verified=known)
    again, _, _ = value_and_gradient(loss, logits, labels, verified=by_row)
    expected = reference.federated(logits, labels, by_row)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(again, value, rtol=1e-6)


def test_federated_errors():
    logits, labels = some_rows(CLASSES)
    sampled = classification_loss("federated", num_classes=CLASSES, image_counts=np.ones(CLASSES))
    with pytest.raises(ValueError, match="give one of key= and uniform="):
        sampled(logits, labels, None, ())
    verified = classification_loss("federated", num_classes=CLASSES, negatives="verified")
    with pytest.raises(ValueError, match="neg_category_ids"):
        verified(logits, labels, None, ())
    with pytest.raises(ValueError, match=r"\[B, 5\] or \[N, 5\] with N = 32 a multiple of B, got \(7, 5\)"):
        verified(logits, labels, None, (), verified=np.ones((7, CLASSES), bool))
    with pytest.raises(ValueError, match="sampled, verified, not 'all'"):
        classification_loss("federated", num_classes=CLASSES, negatives="all")


@pytest.mark.parametrize(("exceeding", "binds"), [(1, False), (DEVICES, True)])
def test_gumbel_cut_off_is_that_of_the_joined_batch(exceeding, binds):
    """The first device's rows alone exceed 20 in both cases, the joined batch only where all do."""
    loss = classification_loss("gumbel_ce", num_classes=CLASSES)
    logits = np.full((MANY, CLASSES + 1), -3.0, np.float32)
    logits[:, 0] = 6.0
    logits[: exceeding * ROWS] = 6.0
    labels, weights = jnp.zeros(MANY, jnp.int32), np.ones(MANY, np.float32)
    alone, _ = reference.binary(logits[:ROWS], labels[:ROWS], lambda i, c, t: 1.0, reference.gumbel_entry)
    assert alone > 20
    value, expected = reference.gumbel_ce(logits, labels, weights)
    values, gradient, _ = on_devices(loss, logits, labels, weights)
    np.testing.assert_allclose(np.mean(values), value, rtol=1e-5)
    np.testing.assert_allclose(gradient / DEVICES, expected, rtol=1e-4, atol=1e-7)
    assert (value == 20) == binds
    assert np.any(gradient) != binds


def test_ecm_is_the_published_expression_where_that_does_not_overflow(shared):
    """The two exponentials of the authors' program, in float64, and their float32 weights."""
    categories = json.loads((shared / "data" / "lvis_v1_categories.json").read_text())
    counts = np.array([category["instance_count"] for category in categories], np.float64)
    loss = classification_loss("ecm", num_classes=len(counts), counts=counts)
    published = classification_loss("ecm", num_classes=len(counts), counts=counts, exact=False)
    error = published.class_weights / loss.class_weights - 1
    assert loss.class_weights[-1] == pytest.approx(0.3147, abs=1e-4)
    assert 0.1 < np.abs(error).max() < 0.12  # 11 % too much for a class with one instance
    assert np.abs(error[:-1][counts > 1000]).max() < 1e-3

    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 4, (6, len(counts) + 1)), np.array([0, 5, 1203, 1203, 700, 3])
    all_counts = np.asarray(loss.counts)
    others = all_counts.sum() - all_counts
    share = all_counts**0.25 / (all_counts**0.25 + others**0.25)
    positive, negative = np.exp(logits - np.log(1 - share)), np.exp(-logits - np.log(share))
    p = positive / (positive + negative)
    targets = labels[:, None] == np.arange(len(counts) + 1)
    entries = -np.where(targets, np.log(p), np.log1p(-p))
    with jax.enable_x64(True):
        for which in (loss, published):
            value, _ = which(jnp.asarray(logits), labels, None, ())
            np.testing.assert_allclose(value, (entries * which.class_weights).sum() / 6, rtol=1e-9)


def test_ecm_weights_of_extreme_counts():
    """Where the published expression would lose all digits in float64 too."""
    loss = classification_loss("ecm", num_classes=2, counts=[1, 10**16])
    np.testing.assert_allclose(loss.class_weights[0], 1, rtol=1e-15)
    value, gradient, _ = value_and_gradient(loss, jnp.zeros((1, 3)), jnp.array([0]))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
