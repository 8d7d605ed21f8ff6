"""The grid search and the packed tally against NumPy's searchsorted and bincount."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import interval_tally
from rog_jax.losses.exact_sums import to_float
from rog_jax.losses.interval_search import COMPARED, make_search
from rog_jax.losses.interval_tally import FRACTION_BITS, add_entries, to_floats, zero_sums

LARGEST = np.finfo(np.float32).max


@jax.jit
def search(edges, scores, wanted):
    return make_search(edges)(scores, lambda: wanted)


def edges_of(kind, generator):
    if kind == "spread":
        return generator.normal(-4, 3, 64)
    if (
        kind == "clusters"
    ):  # hundreds of edges in few cells, as where two groups of logits differ by far more than delta
        return np.concatenate([generator.normal(0, 1e-5, 200), [1.0], generator.normal(1e4, 1e-2, 200)])
    if kind == "few":
        return np.array([0.25])
    return np.array([])


@pytest.mark.parametrize("kind", ["spread", "clusters", "few", "none"])
@pytest.mark.parametrize("empty", [0, 9])
def test_search_counts_the_edges_at_or_below(kind, empty):
    generator = np.random.default_rng(0)
    used = np.unique(edges_of(kind, generator).astype(np.float32))
    edges = np.concatenate([used, np.full(empty or int(len(used) == 0), LARGEST, np.float32)])
    special = [np.nan, np.inf, -np.inf, 1e4, -1e4, 3e38, 0.0]
    beside = np.concatenate([used, np.nextafter(used, np.float32(np.inf)), np.nextafter(used, np.float32(-np.inf))])
    scores = np.concatenate([beside, generator.normal(-4, 3, 300), generator.normal(0, 1e-5, 300), special])
    scores = np.resize(scores.astype(np.float32), (40, 50))
    wanted = generator.random(scores.shape) < 0.9
    found = search(edges, scores, wanted)
    expected = np.where(np.isnan(scores), 0, np.searchsorted(edges, scores, side="right"))
    # What lies beyond the last edge may count the places of missing edges or not.
    found, expected = (np.minimum(x, len(used)) for x in (found, expected))
    np.testing.assert_array_equal(found, np.where(wanted, expected, 0))


def test_fuller_cells_than_are_compared_are_found_by_bisection():
    edges = np.concatenate([np.arange(1, COMPARED + 40) * 1e-6, [10.0]]).astype(np.float32)
    scores = np.linspace(-1e-6, 1e-4, 200, dtype=np.float32).reshape(10, 20)
    found = search(edges, scores, np.ones(scores.shape, bool))
    np.testing.assert_array_equal(found, np.searchsorted(edges, scores, side="right"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("few", "long"), [(9, 18), (8, 18), (8, 14)])  # short lanes, one long lane, two of them
def test_tally_counts_and_sums_exactly(dtype, few, long, monkeypatch):
    monkeypatch.setattr(interval_tally, "FEW_INTERVALS", few)
    monkeypatch.setattr(interval_tally, "LONG_LANE", long)
    generator = np.random.default_rng(1)
    interval = generator.integers(0, 9, 20_000).astype(np.int32)
    interval[:9000] = 3  # more than a lane holds
    with jax.enable_x64(dtype == "float64"):
        # Multiples of 2^-20 are summed without any rounding, and so are those of numbers just below 1.
        offset = (generator.integers(0, 2**20, 20_000) / 2**20).astype(dtype)
        offset[:5000] = 1 - 2.0**-24
        sums = zero_sums(9, 2 * len(interval), jnp.dtype(dtype))
        for _ in range(2):
            sums = add_entries(sums, jnp.asarray(interval), jnp.asarray(offset))
        counts, totals = (to_float(limbs, 0, jnp.dtype(jnp.float64 if dtype == "float64" else dtype)) for limbs in sums)
        half = 32 if dtype == "float64" else 16
        exact = sum(np.asarray(limb).astype(object) << (half * k) for k, limb in enumerate(sums.fractions))
    np.testing.assert_array_equal(counts, 2 * np.bincount(interval, minlength=9))
    units = (offset.astype(np.float64) * 2.0 ** FRACTION_BITS[dtype]).astype(np.int64).astype(object)
    np.testing.assert_array_equal(exact, [2 * units[interval == b].sum() for b in range(9)])
    np.testing.assert_allclose(totals, exact.astype(np.float64), rtol=1e-6)


def test_offsets_of_one_stay_below_it_and_nan_does_no_harm():
    offset = jnp.asarray([1.0, 1.0, np.nan, 0.0], jnp.float32)
    sums = add_entries(zero_sums(3, 4, offset.dtype), jnp.asarray([1, 1, 0, 2]), offset)
    counts, totals = to_floats(sums, 4, offset.dtype, None)
    np.testing.assert_array_equal(counts, [1, 2, 1])
    np.testing.assert_allclose(totals[1:], [2, 0], rtol=1e-7)
