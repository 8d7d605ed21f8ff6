from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import gap_loss
from tests.reference import losses as reference

COPIED = Path(__file__).parents[1] / "data" / "losses"
METHODS = ("interval", "one_hot", "dense")
VARIANTS = ("paper", "published")


def value_and_gradient(logits, *arguments, **options):
    # Slots for all rows, unless a test says otherwise, compile one path where there would be two.
    return compiled(logits, *arguments, **{"max_positives": len(logits)} | options)


@partial(jax.jit, static_argnames=("delta", "variant", "exclude_foreground", "method", "max_positives"))
def compiled(logits, labels, counts, gamma=1.0, weight=1.0, out_grad=1.0, **static):
    value, pull = jax.vjp(lambda s: gap_loss(s, labels, counts, gamma=gamma, weight=weight, **static), logits)
    return value, pull(jnp.asarray(out_grad, value.dtype))[0]


def random_batch(rows=14, classes=6, positives=6, padding=2, seed=0, scale=0.6):
    generator = np.random.default_rng(seed)
    labels = np.full(rows, classes)
    labels[:positives] = generator.integers(0, classes, positives)
    labels[positives : positives + padding] = -1
    generator.shuffle(labels)
    return generator.normal(0, scale, (rows, classes)), labels, generator.integers(0, 50, classes)


def check_golden(path, dtype, method, value_tolerance, gradient_tolerance):
    data = np.load(path)
    value, gradient = value_and_gradient(
        data["cls_score"].astype(dtype),
        data["labels"],
        data["num_samples"],
        data["gamma"],
        data["lam"],
        data["out_grad"],
        delta=float(data["delta"]),
        variant="published",
        method=method,
    )
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(value, data["loss"], rtol=value_tolerance, atol=1e-12)
    scale = np.abs(data["grad"]).max()
    np.testing.assert_allclose(gradient, data["grad"], rtol=gradient_tolerance, atol=gradient_tolerance * scale * 1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_copied_golden_files(method):
    paths = sorted(COPIED.glob("gap_*.npz"))
    assert len(paths) == 3
    with jax.enable_x64(True):
        for path in paths:
            check_golden(path, np.float64, method, 1e-9, 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_every_golden_file_in_float64(shared, method):
    paths = sorted((shared / "golden" / "losses").glob("gap_*.npz"))
    assert len(paths) >= 18
    with jax.enable_x64(True):
        for path in paths:
            loose = 1e-5 if path.stem == "gap_f32" else 0  # made in float32
            check_golden(path, np.float64, method, max(1e-9, loose), max(1e-7, loose))


def test_every_golden_file_in_float32(shared):
    for path in sorted((shared / "golden" / "losses").glob("gap_*.npz")):
        check_golden(path, np.float32, "interval", 1e-4, 1e-4)


@pytest.mark.parametrize("exclude_foreground", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_agrees_with_the_double_loop(variant, exclude_foreground, delta):
    logits, labels, counts = random_batch()
    options = {"delta": delta, "variant": variant, "exclude_foreground": exclude_foreground}
    value, gradient = reference.gap(logits, labels, counts, gamma=0.7, weight=0.3, **options)
    assert value > 0
    for method in METHODS:
        with jax.enable_x64(True):
            result = value_and_gradient(logits, labels, counts, 0.7, 0.3, method=method, **options)
        np.testing.assert_allclose(result[0], value, rtol=1e-12)
        np.testing.assert_allclose(result[1], gradient, rtol=1e-11, atol=1e-14)


def test_ties_and_breakpoints_agree_with_the_double_loop():
    logits, labels, counts = random_batch(seed=1)
    logits = np.round(logits * 2) / 2  # differences of exactly -delta, 0 and delta
    for variant in VARIANTS:
        value, gradient = reference.gap(logits, labels, counts, variant=variant)
        with jax.enable_x64(True):
            result = value_and_gradient(logits, labels, counts, variant=variant)
        np.testing.assert_allclose(result[0], value, rtol=1e-12)
        np.testing.assert_allclose(result[1], gradient, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_more_positives_than_slots_stay_positives(method):
    logits, labels, counts = random_batch(positives=9)
    expected = reference.gap(logits, labels, counts)
    for slots in (8, 9):
        value, gradient = value_and_gradient(
            logits.astype(np.float32), labels, counts, method=method, max_positives=slots
        )
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


def test_default_slots_overflow_agrees_with_the_double_loop():
    logits, labels, counts = random_batch(positives=12)
    value, gradient = value_and_gradient(logits.astype(np.float32), labels, counts, max_positives=None)
    expected = reference.gap(logits, labels, counts)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


def test_padding_rows_take_part_in_nothing_whatever_they_hold():
    logits, labels, counts = random_batch(padding=3)
    logits = logits.astype(np.float32)
    filled = np.where(labels[:, None] == -1, np.nan, logits)
    kept = labels >= 0
    value, gradient = value_and_gradient(filled, labels, counts)
    expected = value_and_gradient(logits[kept], labels[kept], counts)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[kept], expected[1], rtol=1e-5, atol=1e-8)
    assert not np.any(gradient[~kept])


def lvis_batch(mean, std, positives=256):
    generator = np.random.default_rng(2)
    logits = generator.normal(mean, std, (2048, 1203)).astype(np.float32)
    labels = np.full(2048, 1203)
    labels[:positives] = generator.integers(0, 1203, positives)
    return logits, labels, generator.integers(0, 10_000, 1203)


@pytest.mark.parametrize("mean_std", [(0.0, 0.01), (-4.0, 3.0)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_sums_to_zero_at_full_size(mean_std, variant):
    value, gradient = value_and_gradient(*lvis_batch(*mean_std), variant=variant, max_positives=None)
    gradient = np.asarray(gradient, np.float64)
    assert np.isfinite(value)
    assert np.abs(gradient).sum() > 0
    assert abs(gradient.sum()) < 1e-6 * np.abs(gradient).sum()


def test_gradient_sums_to_zero_with_millions_of_equal_logits():
    logits, labels, counts = lvis_batch(0, 1)
    logits[:] = np.float32(-4.595)
    logits[:200, :] = np.float32(-4.4001)
    value, gradient = value_and_gradient(logits, labels, counts, max_positives=None)
    gradient = np.asarray(gradient, np.float64)
    assert value > 0
    assert abs(gradient.sum()) < 1e-6 * np.abs(gradient).sum()


def test_interval_agrees_with_the_sorted_ranks_of_millions_of_scores():
    logits, labels, counts = lvis_batch(-4.0, 3.0, positives=16)
    value, gradient = value_and_gradient(logits, labels, counts, gamma=0.0, variant="published", max_positives=None)
    scores = logits.astype(np.float64)
    own = scores[np.arange(16), labels[:16]]
    negatives = np.ma.array(scores, mask=labels[:, None] == np.arange(1203)).compressed()
    above = np.array([np.clip(negatives - p + 0.5, 0, 1).sum() for p in own])
    assert len(set(labels[:16])) == 16  # every positive is alone in its class
    np.testing.assert_allclose(value, np.mean(above / (0.5 + above)), rtol=1e-5)
    np.testing.assert_allclose(gradient[np.arange(16), labels[:16]], -above / (0.5 + above) / 16, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_finite_at_huge_logits(method):
    logits, labels, counts = random_batch()
    logits = np.sign(logits).astype(np.float32) * 1e4
    for variant in VARIANTS:
        expected = reference.gap(logits, labels, counts, variant=variant)
        value, gradient = value_and_gradient(logits, labels, counts, method=method, variant=variant)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_no_positives_give_zero(method):
    logits, labels, counts = random_batch(positives=0)
    value, gradient = value_and_gradient(logits.astype(np.float32), labels, counts, method=method)
    assert value == 0
    assert not np.any(gradient)


def test_value_without_omega_and_weight_only_when_published():
    logits, labels, counts = random_batch()
    logits = logits.astype(np.float32)
    plain = {v: value_and_gradient(logits, labels, counts, 0.0, 1.0, variant=v) for v in VARIANTS}
    weighted = {v: value_and_gradient(logits, labels, counts, 1.0, 0.1, variant=v) for v in VARIANTS}
    assert weighted["published"][0] == plain["published"][0]
    assert weighted["paper"][0] < 0.5 * plain["paper"][0]


def test_bfloat16_logits_are_ranked_in_float32():
    logits, labels, counts = random_batch()
    logits = jnp.asarray(logits, jnp.bfloat16)
    value, gradient = value_and_gradient(logits, labels, counts)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    expected = reference.gap(np.asarray(logits, np.float64), labels, counts)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), expected[1], rtol=1e-2, atol=1e-6)


def test_labels_and_counts_get_no_gradient():
    logits, labels, counts = random_batch()
    gradient = jax.grad(gap_loss, argnums=2)(jnp.asarray(logits, jnp.float32), labels, jnp.asarray(counts, jnp.float32))
    assert not np.any(gradient)
    gradient = jax.grad(gap_loss, argnums=1, allow_int=True)(
        jnp.asarray(logits, jnp.float32), jnp.asarray(labels), counts
    )
    assert gradient.dtype == jax.dtypes.float0


def test_memory_is_linear_in_the_logits():
    def sizes(rows):
        shapes = [((rows, 301), jnp.float32), ((rows,), jnp.int32), ((301,), jnp.int32)]
        arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        run = jax.jit(jax.value_and_grad(partial(gap_loss, max_positives=64))).lower(*arguments).compile()
        return run.memory_analysis().temp_size_in_bytes / (rows * 301 * 4)

    few, many = sizes(1024), sizes(4096)
    assert many < 6
    assert many < 1.5 * few


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "best"}, "paper, published"),
        ({"method": "fast"}, "auto, interval, one_hot, dense"),
        ({"delta": -0.1}, "negative"),
        ({"labels": np.zeros(3, np.int32)}, r"\[N, C\]"),
        ({"class_counts": np.ones(7)}, r"\[N, C\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    logits, labels, counts = random_batch()
    arguments = {"logits": logits, "labels": labels, "class_counts": counts} | change
    unchecked = getattr(gap_loss, "__wrapped__", gap_loss)  # shapes are also caught by the type checks of tests
    with pytest.raises(ValueError, match=message):
        unchecked(**arguments)
