"""Time and memory of the GAP loss beside sigmoid cross-entropy on the same logits.

    python -m rog_jax.tools.benchmark_gap [--rows 2048] [--classes 1203] [--positives 256] [--rounds 15] [--dense]

The methods take turns within a round, so that a busy machine slows all of them alike; medians over rounds are given.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.losses import gap_loss

SCENES = {"start of training": (0.0, 0.01), "late training": (-4.0, 3.0)}
"""Mean and standard deviation of the logits."""


def benchmark_gap(
    rows: int = 2048, classes: int = 1203, positives: int = 256, rounds: int = 15, dense: bool = False
) -> dict:
    """Forward and backward pass of GAP and of sigmoid cross-entropy, compiled, on the default device.

    Args:
        rows: proposals N.
        classes: foreground classes C.
        positives: rows with a foreground label.
        rounds: runs of each method.
        dense: also times the pairwise method, which is far slower.

    Returns:
        For each scene of `SCENES`: milliseconds and extra memory (in sizes of the logits) of each method, and the ratio
        of the interval method's time to cross-entropy's.
    """
    settings = {"rows": rows, "classes": classes, "positives": positives, "device": jax.devices()[0].device_kind}
    scenes = {
        name: _run_scene(mean, std, rows, classes, positives, rounds, dense) for name, (mean, std) in SCENES.items()
    }
    return settings | scenes


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The yardstick: max(s, 0) - s t + log1p(exp(-|s|)), summed over all entries and divided by the rows."""
    targets = labels[:, None] == jnp.arange(logits.shape[1])  # [N, C]
    entries = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(entries) / logits.shape[0]


def _run_scene(
    mean: float, std: float, rows: int, classes: int, positives: int, rounds: int, dense: bool
) -> dict[str, float]:
    generator = np.random.default_rng(0)
    logits = jnp.asarray(generator.normal(mean, std, (rows, classes)).astype(np.float32))
    labels = np.full(rows, classes, np.int32)
    labels[:positives] = generator.integers(0, classes, positives)
    labels = jnp.asarray(labels)
    counts = jnp.asarray(generator.integers(1, 10_000, classes).astype(np.int32))

    losses: dict[str, Callable] = {"sigmoid_ce": sigmoid_cross_entropy}
    for method in ("interval", "dense") if dense else ("interval",):
        losses[method] = partial(gap_loss, class_counts=counts, method=method)
    compiled = {name: jax.jit(jax.value_and_grad(f)).lower(logits, labels).compile() for name, f in losses.items()}

    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(rounds + 1):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(logits, labels))
            times[name].append(time.perf_counter() - start)

    report = {}
    for name, run in compiled.items():
        report[f"{name}_ms"] = round(1e3 * float(np.median(times[name][1:])), 2)  # the first run warms up
        memory = run.memory_analysis()
        report[f"{name}_memory"] = round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / logits.nbytes, 2)
    report["interval_over_sigmoid_ce"] = round(report["interval_ms"] / report["sigmoid_ce_ms"], 2)
    return report


def main() -> None:
    """Prints the benchmark as json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--positives", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dense", action="store_true", help="also time the pairwise method")
    print(json.dumps(benchmark_gap(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
