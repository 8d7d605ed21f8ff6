import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops.topk import top_k_large
from tests.reference import ops as reference

top_k_jit = jax.jit(top_k_large, static_argnums=1)


@given(
    shape=st.sampled_from([(1, 1), (7, 7), (64, 3), (1000, 9), (1003, 100), (1003, 0)]),
    levels=st.sampled_from([1, 2, 5, 1000]),
    empty=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_equals_twin_with_ties_and_minus_infinity(shape, levels, empty, seed):
    size, k = shape
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, size).astype(np.float32)
    x[rng.random(size) < empty] = -np.inf
    for got, want in zip(top_k_jit(x, k), reference.top_k(x, k), strict=True):
        np.testing.assert_array_equal(got, want)


def test_equals_xla_at_full_size():
    x = jax.random.normal(jax.random.key(0), (1000 * 1203,))
    for got, want in zip(top_k_jit(x, 4000), jax.lax.top_k(x, 4000), strict=True):
        np.testing.assert_array_equal(got, want)


def test_too_large_k_is_refused():
    with pytest.raises(ValueError, match="k = 5 exceeds the 4 entries"):
        top_k_large(np.zeros(4, np.float32), 5)
