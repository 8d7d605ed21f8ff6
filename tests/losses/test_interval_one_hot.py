"""Intervals by one-hot products are those by look-ups, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import interval_one_hot, interval_search, interval_tally
from rog_jax.losses.exact_sums import to_float

LARGEST = np.finfo(np.float32).max


def some_edges(size, seed=0, unused=3):
    """Ascending without ties; the last ones are none."""
    generator = np.random.default_rng(seed)
    edges = np.unique(np.float32(generator.normal(0, 3, size)))
    edges = np.concatenate([edges, np.full(size - len(edges), LARGEST, np.float32)])
    edges[max(1, size - unused) :] = LARGEST
    return jnp.asarray(edges)


def some_scores(edges, seed=1):
    """On edges, a digit beside them, between and beyond, and what is no number."""
    generator = np.random.default_rng(seed)
    used = np.asarray(edges)[np.asarray(edges) < LARGEST]
    beside = np.concatenate([used, np.nextafter(used, np.float32(-np.inf)), np.nextafter(used, np.float32(np.inf))])
    odd = np.float32([-np.inf, np.inf, np.nan, 0, -0.0, 1e4, -1e4, 1e30, 1e-40])
    scores = np.concatenate([beside, odd, np.float32(generator.normal(0, 4, 500))])
    return jnp.asarray(np.resize(scores, (-(-len(scores) // 7), 7)))


SIZES = [1, 2, 3, 63, 64, 65, 500, 4096, 4097]


@pytest.mark.parametrize("size", SIZES)
def test_the_same_intervals_are_found(size):
    edges = some_edges(size)
    scores = some_scores(edges)
    wanted = np.random.default_rng(2).random(scores.shape) < 0.9
    found, expected = (
        jax.jit(form.make_search(edges), static_argnums=1)(scores, lambda: jnp.asarray(wanted))
        for form in (interval_one_hot, interval_search)
    )
    infinite = wanted & (scores == np.inf)  # lies beyond the last edge; which of those that are none it passes is open
    np.testing.assert_array_equal(found[~infinite], expected[~infinite])
    used = np.sum(np.asarray(edges) < LARGEST)
    for intervals in (found, expected):
        assert np.all((intervals[infinite] >= used) & (intervals[infinite] <= size))


@pytest.mark.parametrize("size", SIZES)
def test_tables_are_read_exactly(size):
    generator = np.random.default_rng(size)
    digits = generator.uniform(-1, 1, size + 1)
    tables = tuple(jnp.asarray(digits * 10.0**power, jnp.float32) for power in (0, 25, -25))
    interval = jnp.asarray(generator.integers(0, size + 1, (90, 7)), jnp.int32)
    for read, table in zip(jax.jit(interval_one_hot.look_up)(tables, interval), tables, strict=True):
        np.testing.assert_array_equal(read, table[interval])


def test_what_is_infinite_spoils_nothing_else():
    table = jnp.asarray([-1, 2, LARGEST, np.inf, -np.inf, 3], jnp.float32)
    (read,) = interval_one_hot.look_up((table,), jnp.arange(6))
    np.testing.assert_array_equal(read, [-1, 2, LARGEST, LARGEST, -LARGEST, 3])
    found = interval_one_hot.make_search(jnp.asarray([-np.inf, 0, 1, LARGEST], jnp.float32))
    scores = jnp.asarray([[-0.5, 0.5, 2]], jnp.float32)
    np.testing.assert_array_equal(found(scores, lambda: jnp.ones((1, 3), bool)), [[1, 2, 3]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 65, 500])
def test_counts_and_sums_are_the_same(size, dtype, monkeypatch):
    """In many lanes; what falls into interval 0 is counted by none."""
    monkeypatch.setattr(interval_one_hot, "LANE", 1 << 10)
    generator = np.random.default_rng(size)
    with jax.enable_x64(dtype == "float64"):
        interval = jnp.asarray(generator.integers(0, size + 1, 5000), jnp.int32)
        offset = jnp.asarray(np.append(generator.random(4998), [0, 1]), dtype)
        sums = interval_tally.zero_sums(size + 1, 5000, jnp.dtype(dtype))
        found, expected = (form.add_entries(sums, interval, offset) for form in (interval_one_hot, interval_tally))
        for limbs, others in zip(found, expected, strict=True):
            for limb, other in zip(limbs, others, strict=True):
                np.testing.assert_array_equal(limb[1:], other[1:])
        assert to_float(found.counts, 0, jnp.dtype(dtype))[1:].sum() == np.sum(np.asarray(interval) > 0)


def test_a_full_lane_is_counted_exactly():
    """The largest sum of digits that one product has to give: each a whole one, in one interval."""
    entries = interval_one_hot.LANE
    sums = interval_tally.zero_sums(2, entries, jnp.dtype("float32"))
    ones = jnp.ones(entries, jnp.int32)
    found = jax.jit(interval_one_hot.add_entries)(sums, ones, jnp.ones(entries, jnp.float32))
    assert to_float(found.counts, 0, jnp.dtype("float32"))[1] == entries
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    total = sum(int(limb[1]) << (16 * k) for k, limb in enumerate(found.fractions))
    assert total == entries * int(below_one * 2**27)
