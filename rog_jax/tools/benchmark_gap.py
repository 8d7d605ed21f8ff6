"""Time and memory of the GAP loss beside sigmoid cross-entropy on the same logits.

    python -m rog_jax.tools.benchmark_gap [--rows 2048] [--classes 1203] [--positives 256] [--rounds 15] [--dense]
    python -m rog_jax.tools.benchmark_gap --published [--rows 8192 --positives 1024 --rounds 1]     # needs .[bench]
    python -m rog_jax.tools.benchmark_gap --aot v5e:2x2                                       # needs .[tpu-compile]
    python -m rog_jax.tools.benchmark_gap --devices 256

The methods take turns within a round, so that a busy machine slows all of them alike; medians over rounds are given.
`--published` adds the loop of the authors' program, written in PyTorch. The last two run nothing: they compile for a
TPU that need not be there, or for the joined batches of simulated devices, and report the compiler's figures. A device
has twice as many slots as positives there: the default of the loss, a quarter of the rows, for the default sizes.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.losses import gap_loss
from rog_jax.tools.benchmark_figures import spread
from rog_jax.tools.benchmark_gap_aot import compile_ahead, compile_global, simulate_devices
from rog_jax.tools.topology import TopologyError

SCENES = {"start of training": (0.0, 0.01), "late training": (-4.0, 3.0)}
"""Mean and standard deviation of the logits."""


def benchmark_gap(
    rows: int = 2048,
    classes: int = 1203,
    positives: int = 256,
    rounds: int = 15,
    dense: bool = False,
    published: bool = False,
) -> dict:
    """Forward and backward pass of GAP and of sigmoid cross-entropy, compiled, on the default device.

    Args:
        rows: proposals N.
        classes: foreground classes C.
        positives: rows with a foreground label.
        rounds: runs of each method.
        dense: also times the pairwise method, which is far slower on a CPU.
        published: also times the loop of the authors' program in PyTorch, and compares its results with ours.

    Returns:
        For each scene of `SCENES`: milliseconds, their spread (`benchmark_figures.spread`) and extra memory (in sizes
        of the logits) of each method, and the ratio
        of the interval method's time to cross-entropy's. With `published` also the loop's milliseconds, its ratio to
        the interval method's time, and the greatest difference of the gradients in units of the greatest gradient.
    """
    settings = {"rows": rows, "classes": classes, "positives": positives, "device": jax.devices()[0].device_kind}
    scenes = {
        name: _run_scene(mean, std, rows, classes, positives, rounds, dense, published)
        for name, (mean, std) in SCENES.items()
    }
    return settings | scenes


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The yardstick: max(s, 0) - s t + log1p(exp(-|s|)), summed over all entries and divided by the rows."""
    targets = labels[:, None] == jnp.arange(logits.shape[1])  # [N, C]
    entries = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(entries) / logits.shape[0]


def _run_scene(
    mean: float, std: float, rows: int, classes: int, positives: int, rounds: int, dense: bool, published: bool
) -> dict[str, float]:
    generator = np.random.default_rng(0)
    logits = generator.normal(mean, std, (rows, classes)).astype(np.float32)
    labels = np.full(rows, classes, np.int32)
    labels[:positives] = generator.integers(0, classes, positives)
    counts = generator.integers(1, 10_000, classes).astype(np.int32)
    batch = (jnp.asarray(logits), jnp.asarray(labels))

    losses: dict[str, Callable] = {"sigmoid_ce": sigmoid_cross_entropy}
    variant = "published" if published else "paper"
    for method in ("interval", "dense") if dense else ("interval",):
        losses[method] = partial(gap_loss, class_counts=counts, method=method, variant=variant)
    compiled = {name: jax.jit(jax.value_and_grad(f)).lower(*batch).compile() for name, f in losses.items()}
    runs: dict[str, Callable] = {name: partial(run, *batch) for name, run in compiled.items()}
    if published:
        from rog_jax.tools.benchmark_gap_published import prepare  # torch is needed nowhere else

        runs["published"] = prepare(logits, labels, counts)

    times: dict[str, list[float]] = {name: [] for name in runs}
    results = {name: jax.block_until_ready(runs[name]()) for name in compiled}  # warm-up
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)

    spreads = {name: spread(seconds) for name, seconds in times.items()}
    medians = {name: figures["median_s"] for name, figures in spreads.items()}
    report = {}
    for name in runs:
        report[f"{name}_ms"] = round(1e3 * medians[name], 2)
        report[f"{name}_spread"] = round(spreads[name]["spread"], 3)
        if name in compiled:
            memory = compiled[name].memory_analysis()
            bytes_used = memory.temp_size_in_bytes + memory.output_size_in_bytes
            report[f"{name}_memory"] = round(bytes_used / logits.nbytes, 2)
    report["interval_over_sigmoid_ce"] = round(medians["interval"] / medians["sigmoid_ce"], 2)
    if published:
        report["published_over_interval"] = round(medians["published"] / medians["interval"], 1)
        (value, gradient), (their_value, their_gradient) = results["interval"], results["published"]
        report["value_difference"] = float(abs(value - their_value) / their_value)
        report["gradient_difference"] = float(np.abs(gradient - their_gradient).max() / np.abs(their_gradient).max())
    return report


def main() -> None:
    """Prints the benchmark as json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--positives", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dense", action="store_true", help="also time the pairwise method")
    parser.add_argument("--published", action="store_true", help="also time the authors' loop, in PyTorch")
    parser.add_argument("--aot", metavar="TOPOLOGY", help="only compile, for one device of a TPU such as v5e:2x2")
    parser.add_argument("--devices", type=int, help="only compile, over the joined batches of simulated devices")
    arguments = vars(parser.parse_args())
    topology, devices = arguments.pop("aot"), arguments.pop("devices")
    sizes = (arguments["rows"], arguments["classes"], 2 * arguments["positives"])
    if arguments["published"] and importlib.util.find_spec("torch") is None:
        sys.exit("benchmark_gap: --published needs PyTorch: pip install -e '.[bench]'")
    try:
        if topology is not None:
            figures = compile_ahead(topology, *sizes)
        elif devices is not None:
            simulate_devices(devices)
            figures = compile_global(devices, *sizes)
        else:
            figures = benchmark_gap(**arguments)
    except TopologyError as error:
        sys.exit(f"benchmark_gap: {error}")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
