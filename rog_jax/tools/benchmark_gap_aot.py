"""What a TPU compiler says of GAP's methods, ahead of time and without a TPU: part of `benchmark_gap`."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from rog_jax.losses import gap_loss
from rog_jax.losses.gap import RANKINGS
from rog_jax.losses.gap_positives import pack_positives

WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""Keeps libtpu from asking a cloud for the machine that it runs on; the topology compiled for is given apart."""


class TopologyError(ValueError):
    """The compiler for a topology is missing, or it does not know the topology."""


def compile_ahead(topology: str, rows: int, classes: int, slots: int, delta: float = 0.5) -> dict[str, dict]:
    """Compiles each method of GAP for one device of a TPU topology.

    Args:
        topology: such as "v5e:2x2".
        rows: proposals N.
        classes: foreground classes C.
        slots: static slots for positives.
        delta: half width of the step, in logits.

    Returns:
        For each method: flops, bytes accessed and seconds by the compiler's own model of one ranking and one spreading
        of weights, where the bodies of loops count once; and the temporary memory of the whole loss with its gradient,
        in sizes of the logits.

    Raises:
        TopologyError: where libtpu is not installed or does not know the topology.
    """
    device = jax.sharding.SingleDeviceSharding(topology_devices(topology)[0])
    logits = jax.ShapeDtypeStruct((rows, classes), jnp.float32, sharding=device)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=device)
    counts = np.ones(classes, np.int32)

    def figures(method: str) -> dict[str, float]:
        def rank(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            above, spread = RANKINGS[method](logits, labels, pack_positives(logits, labels, slots, None), delta)
            return above, spread(above)

        def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
            return gap_loss(logits, labels, counts, delta=delta, method=method, max_positives=slots)

        cost = jax.jit(rank).lower(logits, labels).compile().cost_analysis()
        memory = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile().memory_analysis()
        return {
            "flops": cost["flops"],
            "bytes": cost["bytes accessed"],
            "seconds_of_the_model": cost["optimal_seconds"],
            "memory": round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / (4 * rows * classes), 2),
        }

    return {method: figures(method) for method in RANKINGS}


def topology_devices(topology: str) -> list:
    """Descriptions of the devices of a TPU topology, for which programs can be compiled but not run."""
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(f"compiling for {topology} needs libtpu: pip install -e '.[tpu-compile]'")
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # of many types, by version
        raise TopologyError(f"libtpu knows no topology {topology!r}, such as v5e:2x2: {error}") from error
