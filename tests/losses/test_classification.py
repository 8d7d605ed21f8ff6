import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import accumulate_counts, classification_loss, gap_loss
from tests.reference import losses as reference

FAMILIES = {"sigmoid_ce": "sigmoidce", "softmax_ce": "softmaxce"}


def value_and_gradient(loss, logits, labels, weights=None):
    return jax.jit(jax.value_and_grad(lambda s: loss(s, labels, weights, loss.init_state())[0]))(logits)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_golden_file(shared, name, dtype):
    paths = sorted((shared / "golden" / "losses").glob(f"{FAMILIES[name]}_*.npz"))
    assert len(paths) >= 6
    value_tolerance, gradient_tolerance = (1e-9, 1e-7) if dtype == np.float64 else (1e-4, 1e-4)
    with jax.enable_x64(dtype == np.float64):
        for path in paths:
            data = np.load(path)
            logits = jnp.asarray(data["cls_score"].astype(dtype))
            loss = classification_loss(name, num_classes=logits.shape[1] - 1)
            weights = data["label_weights"].astype(dtype) if "label_weights" in data else None
            value, gradient = value_and_gradient(loss, logits, data["labels"], weights)
            assert value.dtype == gradient.dtype == dtype
            np.testing.assert_allclose(value, data["loss"], rtol=value_tolerance)
            scale = np.abs(data["grad"]).max()
            np.testing.assert_allclose(gradient, data["grad"], rtol=gradient_tolerance, atol=gradient_tolerance * scale)
            expected = data["activation"][:, :-1]
            np.testing.assert_allclose(loss.scores(logits), expected, rtol=gradient_tolerance, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_with_gap_as_the_published_head(shared, name):
    data = np.load(shared / "golden" / "losses" / f"head_{name.removesuffix('_ce')}_gap.npz")
    with jax.enable_x64(True):
        loss = classification_loss(name, num_classes=data["cls_score"].shape[2] - 1)
        gamma, weight, delta = (float(data[key]) for key in ("gamma", "lam", "delta"))

        @jax.jit
        def step(logits, labels, counts):
            classification, _ = loss(logits, labels, None, loss.init_state())
            options = {"gamma": gamma, "weight": weight, "delta": delta, "variant": "published"}
            ranking = gap_loss(loss.foreground_logits(logits), labels, counts, max_positives=len(labels), **options)
            return classification + ranking, (classification, ranking)

        counts = jnp.zeros(loss.num_classes, jnp.int32)
        for i, (logits, labels) in enumerate(zip(data["cls_score"], data["labels"], strict=True)):
            counts = accumulate_counts(counts, labels)
            gradient, values = jax.grad(step, has_aux=True)(jnp.asarray(logits), labels, counts)
            np.testing.assert_allclose(values[0], data["loss_cls"][i], rtol=1e-9)
            np.testing.assert_allclose(values[1], data["loss_rank"][i], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(gradient, data["grad_total"][i], rtol=1e-7, atol=1e-12)


def padded_batch():
    generator = np.random.default_rng(4)
    logits = generator.normal(0, 2, (16, 6)).astype(np.float32)
    labels = generator.integers(-1, 6, 16)
    return logits, labels, generator.choice([0.0, 0.5, 2.0], 16).astype(np.float32)


def naive(name, logits, labels, weights):
    if name == "sigmoid_ce":
        return reference.sigmoid_ce(logits, labels)
    return reference.softmax_ce(logits, labels, weights)


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_rows_are_no_rows(name):
    logits, labels, weights = padded_batch()
    logits = np.where(labels[:, None] < 0, np.nan, logits)
    assert np.any(labels < 0)
    value, gradient = value_and_gradient(classification_loss(name, num_classes=5), logits, labels, weights)
    expected = naive(name, logits, labels, weights)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_over_devices_is_the_joined_loss(name):
    logits, labels, weights = padded_batch()
    loss = classification_loss(name, num_classes=5)

    def step(logits, labels, weights):
        value, gradient = jax.value_and_grad(lambda s: loss(s, labels, weights, (), axis_name="data")[0])(logits)
        return value[None], gradient

    rows = PartitionSpec("data")
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(rows, rows, rows), out_specs=(rows, rows), check_vma=False)
    values, gradient = jax.jit(mapped)(logits, labels, weights)
    expected = naive(name, logits, labels, weights)
    np.testing.assert_allclose(np.mean(values), expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient / 8, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_model_asks_for(name):
    loss = classification_loss(name, num_classes=5)
    assert loss.num_outputs == 6
    assert loss.predictor == "linear"
    assert loss.weight_init == ("normal", 0.01)
    assert loss.bias_init == 0
    logits = jnp.asarray(padded_batch()[0])
    value, state = loss(logits, padded_batch()[1], None, loss.init_state())
    assert np.isfinite(value)
    assert state == ()
    np.testing.assert_array_equal(loss.foreground_logits(logits), logits[:, :5])
    assert loss.scores(logits).shape == (16, 5)


def test_no_rows_give_zero():
    for name in FAMILIES:
        loss = classification_loss(name, num_classes=5)
        value, gradient = value_and_gradient(loss, jnp.ones((3, 6)), jnp.full(3, -1))
        assert value == 0
        assert not np.any(gradient)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="sigmoid_ce, softmax_ce"):
        classification_loss("sigmoid", num_classes=5)


def test_wrong_number_of_columns_is_named():
    loss = classification_loss("sigmoid_ce", num_classes=5)
    with pytest.raises(ValueError, match=r"\[N, 6\]"):
        loss(jnp.ones((3, 5)), jnp.zeros(3, jnp.int32), None, ())
