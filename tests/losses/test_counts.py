import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import accumulate_counts


def test_counts_foreground_rows_only():
    counts = accumulate_counts(jnp.asarray([5, 0, 2], jnp.int32), jnp.asarray([0, 2, 2, 3, -1, -1, 3]))
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, [6, 0, 4])


def test_counts_stay_exact_beyond_the_integers_of_float32():
    counts = accumulate_counts(jnp.asarray([2**24 + 1], jnp.int32), jnp.asarray([0]))
    np.testing.assert_array_equal(counts, [2**24 + 2])


def test_full_counts_stay_full():
    start = jnp.asarray([2**31 - 2, 2**31 - 1, 5], jnp.int32)
    counts = accumulate_counts(start, jnp.asarray([0, 0, 0, 1, 2]))
    np.testing.assert_array_equal(counts, [2**31 - 1, 2**31 - 1, 6])
    counts = accumulate_counts(jnp.asarray([1.5, 0.0]), jnp.asarray([0, 1, 1]))  # counts of any type
    np.testing.assert_array_equal(counts, [2.5, 2])


def test_follows_the_published_head(shared):
    data = np.load(shared / "golden" / "losses" / "head_sigmoid_gap.npz")
    counts = jnp.zeros(7, jnp.int32)
    for labels, expected in zip(data["labels"], data["num_samples_after"], strict=True):
        counts = accumulate_counts(counts, labels)
        np.testing.assert_array_equal(counts, expected[:7])


def test_sums_over_devices():
    labels = np.random.default_rng(0).integers(-1, 5, 24)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    count = jax.shard_map(
        lambda n, y: accumulate_counts(n, y, "data"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    start = jnp.arange(4, dtype=jnp.int32)
    expected = [i + np.sum(labels == i) for i in range(4)]
    np.testing.assert_array_equal(jax.jit(count)(start, labels), expected)
