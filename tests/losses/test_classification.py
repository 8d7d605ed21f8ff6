"""What holds of every classification loss: twins, padding, devices, range, and what a model asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.losses import classification_loss
from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from tests.losses.classification_cases import (
    CASES,
    CLASSES,
    DEVICES,
    FREQUENCY,
    INSTANCES,
    ROWS,
    on_devices,
    padded_batch,
    value_and_gradient,
)

LOW = -float(np.log(999))
FACTS = {  # columns, predictor, weights, bias
    "sigmoid_ce": (CLASSES + 1, "linear", ("normal", 0.01), 0),
    "softmax_ce": (CLASSES + 1, "linear", ("normal", 0.01), 0),
    "eql": (CLASSES, "linear", ("normal", 0.01), LOW),
    "eqlv2": (CLASSES + 1, "linear", ("normal", 0.01), LOW),
    "seesaw": (CLASSES + 2, "normed", ("normal", 0.01), 0),
    "ecm": (CLASSES + 1, "normed", ("normal", 0.01), 0),
    "gol": (CLASSES, "linear", ("constant", 0.001), -2),
    "droploss": (CLASSES, "linear", ("constant", 0.001), -6.5),
    "eql_gumbel": (CLASSES, "linear", ("constant", 0.001), -2),
    "gumbel_ce": (CLASSES + 1, "linear", ("constant", 0.001), -2),
    "loce": (CLASSES + 1, "linear", ("normal", 0.01), 0),
    "federated": (CLASSES, "linear", ("normal", 0.01), -float(np.log(99))),
    "none": (CLASSES, "linear", ("normal", 0.01), 0),
}


def test_every_loss_has_a_case():
    assert {case.name for case in CASES.values()} == set(CLASSIFICATION_LOSSES) == set(FACTS)


@pytest.mark.parametrize("name", CASES)
def test_twin_with_padding_rows(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    assert np.isnan(logits).any()
    value, gradient, _ = value_and_gradient(loss, logits, labels, weights, **case.inputs)
    expected = case.twin(np.nan_to_num(logits), labels, weights)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)
    assert np.any(expected[1]) or name == "none"


@pytest.mark.parametrize("name", CASES)
def test_mean_over_devices_is_the_joined_loss(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    joined = value_and_gradient(loss, logits, labels, weights, **case.inputs)
    values, gradient, states = on_devices(loss, logits, labels, weights, inputs=case.inputs, per_row=case.per_row)
    expected = case.twin(np.nan_to_num(logits), labels, weights)
    np.testing.assert_allclose(np.mean(values), expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient / DEVICES, expected[1], rtol=1e-4, atol=1e-6)
    for of_devices, of_joined in zip(jax.tree.leaves(states), jax.tree.leaves(joined[2]), strict=True):
        np.testing.assert_array_equal(of_devices, np.broadcast_to(of_devices[0], of_devices.shape))
        if np.size(of_joined) and np.abs(of_joined).max() > 1e-3:  # not what rounding left out
            np.testing.assert_allclose(of_devices[0], of_joined, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_finite_at_huge_logits(name, data):
    case = CASES[name]
    loss = case.loss()
    rows = DEVICES * ROWS
    numbers = st.sampled_from([0.0, 1.0, -3.4, 11.0, -60.0, 60.0, -89.0, 89.0, 1e3, -1e3, 1e4, -1e4])
    flat = data.draw(st.lists(numbers, min_size=16, max_size=16))
    seed = data.draw(st.integers(0, 1000))
    generator = np.random.default_rng(seed)
    logits = generator.choice(np.float32(flat), (rows, loss.num_outputs))
    labels = generator.integers(-1, CLASSES + 1, rows)
    value, gradient, state = _run(name, logits, labels)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    scores = loss.scores(jnp.asarray(logits))
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert (scores <= 1).all()


_compiled = {}


def _run(name, logits, labels):
    """One compiled program a loss, whose second step follows on the first."""
    case = CASES[name]
    if name not in _compiled:
        loss = case.loss()

        def twice(logits, labels):
            def function(logits):
                _, state = loss(logits, labels, None, loss.init_state(), **case.inputs)
                return loss(logits, labels, None, state, **case.inputs)

            (value, state), gradient = jax.value_and_grad(function, has_aux=True)(logits)
            return value, gradient, state

        _compiled[name] = jax.jit(twice)
    return _compiled[name](logits, labels)


@pytest.mark.parametrize("name", CASES)
def test_what_the_model_asks_for(name):
    case = CASES[name]
    loss = case.loss()
    columns, predictor, weight_init, bias_init = FACTS[case.name]
    assert loss.num_outputs == columns
    assert loss.predictor == predictor
    assert loss.weight_init == weight_init
    assert loss.bias_init == pytest.approx(bias_init, abs=1e-12)
    assert not loss.state_is_local
    logits, labels, _ = padded_batch(columns)
    logits = jnp.asarray(np.nan_to_num(logits))
    np.testing.assert_array_equal(loss.foreground_logits(logits), logits[:, :CLASSES])
    assert loss.scores(logits).shape == (len(labels), CLASSES)
    hash(loss)  # part of a model's static description
    assert loss == case.loss()


@pytest.mark.parametrize("name", CASES)
def test_state_keeps_its_types(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    before = loss.init_state()
    _, _, after = value_and_gradient(loss, logits, labels, weights, **case.inputs)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


@pytest.mark.parametrize("name", CASES)
def test_no_rows_give_zero(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels = jnp.ones((DEVICES * ROWS, loss.num_outputs)), jnp.full(DEVICES * ROWS, -1)
    value, gradient, state = value_and_gradient(loss, logits, labels, **case.inputs)
    assert value == 0
    assert not np.any(gradient)
    if case.name != "eqlv2":  # whose ratio of nothing to nothing is no longer the first step's
        for before, after in zip(jax.tree.leaves(loss.init_state()), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_are_computed_with_in_float32(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    short = jnp.asarray(logits, jnp.bfloat16)
    value, gradient, _ = value_and_gradient(loss, short, labels, weights, **case.inputs)
    expected, _, _ = value_and_gradient(loss, short.astype(jnp.float32), labels, weights, **case.inputs)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, expected)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="sigmoid_ce, softmax_ce"):
        classification_loss("sigmoid", num_classes=5)


@pytest.mark.parametrize("name", CASES)
def test_wrong_number_of_columns_is_named(name):
    loss = CASES[name].loss()
    with pytest.raises(ValueError, match=rf"\[N, {loss.num_outputs}\]"):
        loss(jnp.ones((3, 11)), jnp.zeros(3, jnp.int32), None, loss.init_state(), **CASES[name].inputs)


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, loss in CLASSIFICATION_LOSSES.items() for option in loss.data_options],
)
def test_unfit_statistics_are_named(name, option):
    with pytest.raises(ValueError, match=f"needs {option}=, the"):
        classification_loss(name, num_classes=CLASSES)
    with pytest.raises(ValueError, match=rf"{option} .* must have 5.* numbers, got shape \(3,\)"):
        classification_loss(name, num_classes=CLASSES, **{option: [1, 2, 3]})
    with pytest.raises(ValueError, match=rf"{option} .* is -1.0 for class 2"):
        classification_loss(name, num_classes=CLASSES, **{option: [1, 2, -1, 3, 4]})
    with pytest.raises(ValueError, match=rf"{option} .* is nan for class 0"):
        classification_loss(name, num_classes=CLASSES, **{option: [np.nan, 2, 1, 3, 4]})


def test_statistics_may_be_any_array():
    for values in (FREQUENCY, jnp.asarray(FREQUENCY), FREQUENCY.tolist()):
        loss = classification_loss("eql", num_classes=CLASSES, frequency=values)
        np.testing.assert_array_equal(loss.rare, [True, False, True, True, False])
    assert classification_loss("ecm", num_classes=CLASSES, counts=INSTANCES).counts[3] == 1
