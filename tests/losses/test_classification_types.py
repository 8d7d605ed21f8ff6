"""Types, shapes and inputs that every classification loss accepts or refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import classification_loss
from tests.losses.classification_cases import CASES, CLASSES, FREQUENCY, padded_batch, value_and_gradient


def unchecked(loss):
    """The loss without the type checks of tests, which catch some wrong shapes before it does."""
    function = type(loss).__call__
    return getattr(function, "__wrapped__", function)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_results_have_the_type_of_the_logits_under_x64(name, dtype):
    case = CASES[name]
    with jax.enable_x64(True):
        loss = case.loss()
        logits, labels, weights = padded_batch(loss.num_outputs)
        logits = jnp.asarray(logits, dtype)
        computed = jnp.float64 if dtype == "float64" else jnp.float32
        state = loss.init_state()
        for _ in range(2):
            after = state
            value, gradient, state = value_and_gradient(loss, logits, labels, weights, state, **case.inputs)
            assert value.dtype == computed
            assert gradient.dtype == logits.dtype
            assert jax.tree.map(_abstract, after) == jax.tree.map(_abstract, state)
        logits = jnp.nan_to_num(logits)
        assert loss.scores(logits).dtype == computed
        assert loss.foreground_logits(logits).dtype == logits.dtype


def _abstract(x):
    return x.shape, x.dtype, x.weak_type


@pytest.mark.parametrize("name", CASES)
def test_second_step_compiles_nothing(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    traces = []

    @jax.jit
    def step(logits, labels, weights, state):
        traces.append(state)
        return loss(logits, labels, weights, state, **case.inputs)

    state = loss.init_state()
    for _ in range(3):
        _, state = step(logits, labels, weights, state)
    assert len(traces) == 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("axis_name", [None, "data"])
def test_zero_rows_give_zero_and_leave_the_state(name, axis_name):
    case = CASES[name]
    loss = case.loss()
    inputs = {key: value[:0] if key in case.per_row else value for key, value in case.inputs.items()}
    before = loss.init_state()

    def function(logits):
        labels, weights = jnp.zeros(len(logits), jnp.int32), jnp.ones(len(logits))
        return loss(logits, labels, weights, before, axis_name=axis_name, **inputs)

    run = jax.value_and_grad(function, has_aux=True)
    run = jax.vmap(run, axis_name="data") if axis_name else run
    (value, after), gradient = run(jnp.zeros((2, 0, loss.num_outputs) if axis_name else (0, loss.num_outputs)))
    assert not np.any(value)
    assert gradient.shape[-2:] == (0, loss.num_outputs)
    if name != "eqlv2":  # whose ratio of nothing to nothing is no longer the first step's
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(np.broadcast_to(old, new.shape), new)
    assert loss.scores(np.zeros((0, loss.num_outputs), np.float32)).shape == (0, CLASSES)


@pytest.mark.parametrize("name", ["gol", "droploss"])
@pytest.mark.parametrize("columns", [CLASSES, 8])
def test_zero_rows_with_draws_of_their_own(name, columns):
    loss = classification_loss(name, num_classes=columns, frequency=np.resize(FREQUENCY, columns))
    logits, labels = jnp.zeros((0, columns)), jnp.zeros(0, jnp.int32)
    keys = jax.random.split(jax.random.key(0), 2)
    for inputs in ({"key": keys[0]}, {"image_keys": keys}, {"image_keys": keys[:0]}):
        value, _ = loss(logits, labels, None, (), **inputs)
        assert value == 0


def test_zero_rows_of_verified_images():
    loss = classification_loss("federated", num_classes=CLASSES, negatives="verified")
    for images in (0, 2):
        value, _ = loss(
            jnp.zeros((0, CLASSES)), jnp.zeros(0, jnp.int32), None, (), verified=np.ones((images, CLASSES), bool)
        )
        assert value == 0


def test_zero_rows_of_loce_with_memory_rows():
    loss = classification_loss("loce", num_classes=CLASSES)
    memory = {"memory_logits": jnp.ones((3, CLASSES + 1)), "memory_labels": jnp.array([0, 0, -1])}
    nothing = jnp.zeros(0, jnp.int32)
    for gt_ids, same in ((nothing, False), (None, True)):
        value, after = loss(jnp.zeros((0, CLASSES + 1)), nothing, None, loss.init_state(), gt_ids=gt_ids, **memory)
        assert value > 0
        assert (after[0] == loss.initial_score) == same


@pytest.mark.parametrize("name", CASES)
def test_numpy_and_jax_arrays_alike(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    one, _ = loss(logits, labels, weights, loss.init_state(), **case.inputs)
    inputs = {key: jnp.asarray(value) for key, value in case.inputs.items()}
    other, _ = loss(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights), loss.init_state(), **inputs)
    np.testing.assert_array_equal(one, other)
    logits = np.nan_to_num(logits)
    for function in (loss.scores, loss.foreground_logits):
        np.testing.assert_array_equal(function(logits), function(jnp.asarray(logits)))
    short = jnp.asarray(logits, jnp.bfloat16)
    np.testing.assert_array_equal(loss.scores(short), loss.scores(short.astype(jnp.float32)))


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_named(name):
    case = CASES[name]
    loss = case.loss()
    logits, labels, weights = padded_batch(loss.num_outputs)
    with pytest.raises(ValueError, match=r"one weight a row, \[32\], or None for 1 each; got \(31,\)"):
        unchecked(loss)(loss, logits, labels, weights[1:], loss.init_state(), **case.inputs)
    with pytest.raises(ValueError, match=r"labels \[N\], got .* and \(31,\)"):
        unchecked(loss)(loss, logits, labels[1:], weights, loss.init_state(), **case.inputs)
    for function in (loss.scores, loss.foreground_logits):
        with pytest.raises(ValueError, match=rf"\[N, {loss.num_outputs}\], got \(32, {loss.num_outputs + 3}\)"):
            function(np.zeros((32, loss.num_outputs + 3), np.float32))
    with pytest.raises(TypeError, match="unifrom"):
        loss(logits, labels, weights, loss.init_state(), unifrom=np.zeros(3), **case.inputs)


def test_settings_out_of_range_are_named():
    for ratio in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"background_ratio of ECM is .* above 0"):
            classification_loss("ecm", num_classes=2, counts=[1, 2], background_ratio=ratio)
    for eps in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"eps of Seesaw is .* from 0 to 1"):
            classification_loss("seesaw", num_classes=2, eps=eps)
