import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.evaluation import norcal_scores

COUNTS = np.array([1, 10, 1000, 0, 57_000, 3, 80])
compiled = jax.jit(norcal_scores, static_argnames=("variant", "renormalise", "method"))


def naive(logits, counts, gamma, variant, renormalise, method):
    """One box and one class after the other, from the formulae as published."""
    scores = np.zeros((len(logits), len(counts)))
    factors = [1 / n**gamma if method == "gamma" else (1 - gamma) / (1 - gamma**n) for n in np.maximum(counts, 1.0)]
    for i, row in enumerate(np.asarray(logits, np.float64)):
        if variant == "logits":
            row = [x * f for x, f in zip(row[:-1], factors, strict=True)] + [row[-1]]
        values = [np.exp(x) for x in row]
        if variant != "exps":
            values = [x / sum(values) for x in values]
        if variant != "logits":
            values = [x * f for x, f in zip(values[:-1], factors, strict=True)] + [values[-1]]
        total = sum(values) if renormalise else 1.0
        scores[i] = [x / total for x in values[:-1]]
    return scores


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_golden_file(shared, dtype):
    paths = sorted((shared / "golden" / "losses").glob("norcal_*.npz"))
    assert len(paths) >= 9
    with jax.enable_x64(dtype == np.float64):
        for path in paths:
            data = np.load(path)
            options = {"variant": str(data["calibrate_on"]), "method": str(data["method"])}
            logits, counts, gamma = data["scores"].astype(dtype), data["counts"], float(data["gamma"])
            scores = norcal_scores(logits, counts, gamma, renormalise=bool(data["renorm"]), **options)
            assert scores.dtype == dtype
            expected = data["probs"][:, :-1]
            tolerance = 1e-9 if dtype == np.float64 else 1e-4
            np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=1e-9 * expected.max(), err_msg=path.name)


@pytest.mark.parametrize("variant", ["exps", "probs", "logits"])
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("method", ["gamma", "cb"])
def test_twin(variant, renormalise, method):
    logits = np.random.default_rng(0).normal(0, 3, (6, len(COUNTS) + 1)).astype(np.float32)
    for gamma in (0.0, 0.3, 0.9):
        scores = compiled(logits, COUNTS, gamma, variant=variant, renormalise=renormalise, method=method)
        expected = naive(logits, COUNTS, gamma, variant, renormalise, method)
        np.testing.assert_allclose(scores, expected, rtol=2e-5)


def test_gamma_0_is_the_plain_softmax_and_calibration_lifts_rare_classes():
    logits = np.zeros((1, len(COUNTS) + 1), np.float32)
    np.testing.assert_allclose(norcal_scores(logits, COUNTS, 0), np.full((1, 7), 1 / 8), rtol=1e-6)
    scores = norcal_scores(logits, COUNTS, 0.6)[0]
    assert scores[0] > 1 / 8
    assert np.array_equal(np.argsort(-scores, stable=True), np.argsort(COUNTS.clip(1), stable=True))


def test_class_balanced_factor_ends_at_one_over_the_count():
    logits = np.random.default_rng(1).normal(0, 1, (3, len(COUNTS) + 1)).astype(np.float32)
    limit = norcal_scores(logits, COUNTS, 1.0, method="cb")
    np.testing.assert_allclose(limit, norcal_scores(logits, COUNTS, 1.0), rtol=1e-6)
    # Between them, a gamma so near 1 that float32 would lose 1 - gamma.
    for gamma in (0.9999, 0.999999, 1 - 1e-9):
        scores = norcal_scores(logits, COUNTS, gamma, method="cb")
        expected = naive(logits, COUNTS, gamma, "exps", True, "cb")
        np.testing.assert_allclose(scores, expected, rtol=2e-6)
        traced = compiled(logits, COUNTS, gamma, method="cb")
        np.testing.assert_allclose(traced, expected, rtol=2 * 2.0**-24 / (1 - gamma) + 2e-6)
    np.testing.assert_allclose(scores, limit, rtol=5e-5)  # 1 / n to n (1 - gamma) / 2


def test_class_balanced_factor_of_gamma_0_is_none():
    logits = np.random.default_rng(1).normal(0, 1, (3, len(COUNTS) + 1)).astype(np.float32)
    for scores in (norcal_scores(logits, COUNTS, 0, method="cb"), compiled(logits, COUNTS, 0.0, method="cb")):
        np.testing.assert_allclose(scores, jax.nn.softmax(logits, axis=1)[:, :-1], rtol=1e-6)


def test_a_sweep_over_gamma_compiles_once():
    traces = []

    @jax.jit
    def scores(logits, gamma):
        traces.append(gamma)
        return norcal_scores(logits, COUNTS, gamma)

    logits = jnp.asarray(np.random.default_rng(2).normal(0, 2, (4, len(COUNTS) + 1)), jnp.float32)
    results = [np.asarray(scores(logits, gamma)) for gamma in np.linspace(0, 1, 11)]
    assert len(traces) == 1
    assert not np.allclose(results[0], results[-1])
    swept = jax.vmap(scores, in_axes=(None, 0))(logits, jnp.linspace(0, 1, 11))
    np.testing.assert_allclose(swept, results, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, -60.0, 89.0, -89.0, 1e4, -1e4]), min_size=8, max_size=8),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_finite_at_huge_logits(row, gamma):
    logits = jnp.asarray([row, row[::-1]], jnp.float32)
    for variant in ("exps", "probs", "logits"):
        for renormalise in (True, False):
            for method in ("gamma", "cb"):
                options = {"variant": variant, "renormalise": renormalise, "method": method}
                scores = compiled(logits, COUNTS, gamma, **options)
                assert np.isfinite(scores).all()
                slopes = _gradient(logits, gamma, tuple(options.items()))
                assert np.isfinite(slopes).all()


_gradients = {}


def _gradient(logits, gamma, options):
    if options not in _gradients:

        def total(logits, gamma):
            return jnp.sum(norcal_scores(logits, COUNTS, gamma, **dict(options)))

        _gradients[options] = jax.jit(jax.grad(total))
    return _gradients[options](logits, gamma)


def test_errors_name_what_there_is():
    logits = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="variants exps, probs, logits, not 'softmax'"):
        norcal_scores(logits, np.ones(3), 0.5, variant="softmax")
    with pytest.raises(ValueError, match="methods gamma, cb, not 'power'"):
        norcal_scores(logits, np.ones(3), 0.5, method="power")
    with pytest.raises(ValueError, match=r"\[B, C \+ 1\].*\(2, 4\) and \(4,\)"):
        norcal_scores(logits, np.ones(4), 0.5)
