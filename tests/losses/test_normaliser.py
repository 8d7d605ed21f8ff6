import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses.normaliser import normaliser


def test_mean_over_devices_of_at_least_one():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    for counts, expected in ((np.arange(8), 28 / 8), (np.zeros(8, int), 1 / 8)):
        shard = jax.shard_map(
            lambda x: normaliser(x.sum(), "data")[None],
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
        )
        np.testing.assert_allclose(jax.jit(shard)(counts), np.full(8, expected))


def test_one_device_counts_at_least_one():
    assert float(normaliser(jax.numpy.asarray(5))) == 5
    assert float(normaliser(jax.numpy.asarray(0))) == 1
