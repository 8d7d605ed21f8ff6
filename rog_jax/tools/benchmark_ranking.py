"""Time and memory of AP loss and of Rank & Sort beside sigmoid cross-entropy on the same logits.

    python -m rog_jax.tools.benchmark_ranking [--positives 256] [--rounds 15] [--dense]

The losses take turns within a round, so that a busy machine slows all of them alike; medians over rounds are given.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.losses import ap_loss_of_rows, rank_sort_loss_of_rows

SHAPES = {"anchors": (24060, 1), "proposals": (2048, 1203)}
"""Rows and columns of the logits: anchors of an RPN, and sampled proposals of four LVIS images."""
SCENES = {"start of training": (0.0, 0.01), "late training": (-4.0, 3.0)}
"""Mean and standard deviation of the logits."""


def benchmark_ranking(positives: int = 256, rounds: int = 15, dense: bool = False) -> dict:
    """Forward and backward pass of each loss, compiled, on the default device.

    Args:
        positives: rows with a foreground label.
        rounds: runs of each loss.
        dense: also times the pairwise method, which is far slower.

    Returns:
        For each shape and each scene of the logits: milliseconds and extra memory (MB, the gradient included) of each
        loss, and each ratio to cross-entropy's time.
    """
    report: dict = {"positives": positives, "device": jax.devices()[0].device_kind}
    for name, shape in SHAPES.items():
        scenes = {scene: _run(shape, *moments, positives, rounds, dense) for scene, moments in SCENES.items()}
        megabytes = round(4e-6 * shape[0] * shape[1], 2)
        report[name] = {"rows": shape[0], "columns": shape[1], "logits_mb": megabytes, **scenes}
    return report


def _sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array, ious: jax.Array) -> jax.Array:
    targets = labels[:, None] == jnp.arange(logits.shape[1])  # [N, C]
    entries = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(entries) / logits.shape[0]


def _ap(logits: jax.Array, labels: jax.Array, ious: jax.Array, method: str) -> jax.Array:
    return ap_loss_of_rows(logits, labels, method=method)


def _rank_sort(logits: jax.Array, labels: jax.Array, ious: jax.Array, method: str) -> jax.Array:
    return sum(rank_sort_loss_of_rows(logits, labels, ious, method=method))


def _run(shape: tuple[int, int], mean: float, std: float, positives: int, rounds: int, dense: bool) -> dict[str, float]:
    rows, columns = shape
    generator = np.random.default_rng(0)
    logits = jnp.asarray(generator.normal(mean, std, shape).astype(np.float32))
    labels = np.full(rows, columns, np.int32)
    labels[generator.permutation(rows)[:positives]] = generator.integers(0, columns, positives)
    ious = generator.uniform(0.5, 1, rows).astype(np.float32)
    arguments = logits, jnp.asarray(labels), jnp.asarray(ious)

    losses: dict[str, Callable] = {"sigmoid_ce": _sigmoid_cross_entropy}
    for method in ("interval", "dense") if dense else ("interval",):
        losses[f"ap_{method}"] = partial(_ap, method=method)
        losses[f"rank_sort_{method}"] = partial(_rank_sort, method=method)
    compiled = {name: jax.jit(jax.value_and_grad(f)).lower(*arguments).compile() for name, f in losses.items()}

    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(rounds + 1):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            times[name].append(time.perf_counter() - start)

    report = {}
    for name, run in compiled.items():
        report[f"{name}_ms"] = round(1e3 * float(np.median(times[name][1:])), 3)  # the first run warms up
        memory = run.memory_analysis()
        report[f"{name}_mb"] = round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6, 2)
    for loss in ("ap", "rank_sort"):
        report[f"{loss}_over_sigmoid_ce"] = round(report[f"{loss}_interval_ms"] / report["sigmoid_ce_ms"], 2)
    return report


def main() -> None:
    """Prints the benchmark as json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positives", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dense", action="store_true", help="also time the pairwise method")
    print(json.dumps(benchmark_ranking(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
