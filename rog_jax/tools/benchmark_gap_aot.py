"""What compilers say of GAP ahead of time, for machines that are not there: part of `benchmark_gap`."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import gap_loss
from rog_jax.losses.gap import Reading, judge
from rog_jax.losses.gap_positives import pack_positives
from rog_jax.losses.ranking import RANKINGS, Settings, rank_packed
from rog_jax.tools.estimated_time import estimate, seconds_of
from rog_jax.tools.program_cost import collectives
from rog_jax.tools.topology import chip_of, topology_devices


def compile_ahead(topology: str, rows: int, classes: int, slots: int, delta: float = 0.5) -> dict[str, dict]:
    """Compiles each way of ranking for one device of a TPU topology.

    Args:
        topology: such as "v5e:2x2".
        rows: proposals N.
        classes: foreground classes C.
        slots: static slots for positives.
        delta: half width of the step, in logits.

    Returns:
        For each method, of one ranking and one spreading of weights: flops and bytes accessed by the compiler's own
        model, where the body of a loop counts once; the milliseconds that it expects, and of how many operations
        it expects none (`estimated_time`). Of the whole loss with its gradient: memory beyond its arguments,
        in sizes of the logits.

    Raises:
        TopologyError: where libtpu is not installed or does not know the topology, or nothing is known of the chip.
    """
    device, chip = jax.sharding.SingleDeviceSharding(topology_devices(topology)[0]), chip_of(topology)
    logits = jax.ShapeDtypeStruct((rows, classes), jnp.float32, sharding=device)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=device)
    counts = np.ones(classes, np.int32)

    def figures(method: str) -> dict[str, Any]:
        def rank(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            above, spread = RANKINGS[method](logits, labels, pack_positives(logits, labels, slots, None), delta)
            return above, spread(above)

        def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
            return gap_loss(logits, labels, counts, delta=delta, method=method, max_positives=slots)

        ranking = jax.jit(rank).lower(logits, labels).compile()
        cost = ranking.cost_analysis()
        expected = estimate(ranking.as_text(), chip.hertz)
        memory = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile().memory_analysis()
        return {
            "milliseconds": round(1e3 * seconds_of(expected.operations), 2),
            "untimed": dict(expected.unknown),
            "gigaflops": round(cost["flops"] / 1e9, 2),
            "gigabytes": round(cost["bytes accessed"] / 1e9, 2),
            "memory": round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / (4 * rows * classes), 2),
        }

    return {method: figures(method) for method in RANKINGS}


def simulate_devices(devices: int) -> None:
    """Makes this processor pass for several devices; before anything else has used a device."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


def compile_global(devices: int, rows: int, classes: int, slots: int) -> dict[str, dict]:
    """Compiles GAP over the joined batches of simulated devices, by intervals.

    Args:
        devices: of the mesh; as many must be there, see `simulate_devices`.
        rows: proposals N of each device.
        classes: foreground classes C.
        slots: static slots for positives of each device.

    Returns:
        For the usual path, and for that of a batch with more positives than slots, which takes a slot a row: temporary
        memory of a device in MB and in sizes of its logits, and the 32-bit words that its collectives yield, in all and
        for each slot of the union of the devices' positives.
    """
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    spread, whole = PartitionSpec("data"), PartitionSpec()
    shapes = [((devices * rows, classes), jnp.float32), ((devices * rows,), jnp.int32), ((classes,), jnp.float32)]

    def figures(slots: int) -> dict[str, float]:
        settings, reading = Settings(0.5, "interval", slots, slots, "data"), Reading("paper", True)

        def step(logits: jax.Array, labels: jax.Array, omega: jax.Array) -> tuple[jax.Array, jax.Array]:
            positives = pack_positives(logits, labels, slots, "data")
            verdict = partial(judge, reading=reading, delta=0.5, omega=omega, weight=jnp.float32(1))
            value, gradient = rank_packed(settings, logits, labels, positives, verdict)
            return value[None], gradient

        run = jax.shard_map(
            step, mesh=mesh, in_specs=(spread, spread, whole), out_specs=(spread, spread), check_vma=False
        )
        compiled = jax.jit(run).lower(*[jax.ShapeDtypeStruct(*shape) for shape in shapes]).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        words = sum(exchange.elements for exchange in collectives(compiled.as_text()))
        return {
            "megabytes": round(memory / 1e6, 1),
            "memory": round(memory / (4 * rows * classes), 2),
            "words": words,
            "words_per_slot": round(words / (devices * slots), 1),
        }

    return {"usual": figures(slots), "overflow": figures(rows)}
