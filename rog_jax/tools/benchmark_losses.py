"""Time of each classification loss beside sigmoid cross-entropy.

    python -m rog_jax.tools.benchmark_losses [--rows 2048] [--classes 1203] [--positives 256] [--rounds 21]

The losses take turns within a round, so that a busy machine slows all of them alike; medians over rounds are given. The
yardstick is sigmoid cross-entropy as the GAP benchmark writes it, on the same rows and C columns.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.losses import classification_loss
from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.tools.benchmark_gap import sigmoid_cross_entropy

YARDSTICK = "yardstick"
IMAGES, MOST, TAIL = 100_000, 57_000, 16
"""Made-up image counts: from 1 to 57,000 of 100,000, two classes of three under the 0.0011 that make a class rare."""


def benchmark_losses(rows: int = 2048, classes: int = 1203, positives: int = 256, rounds: int = 21) -> dict:
    """Forward and backward pass of every classification loss, its next state included, on the default device.

    Args:
        rows: proposals N, four images of them.
        classes: foreground classes C.
        positives: rows with a foreground label.
        rounds: runs of each loss.

    Returns:
        For each loss milliseconds, and the median over rounds of its time over the yardstick's in the same round.
    """
    generator = np.random.default_rng(0)
    labels = np.full(rows, classes, np.int32)
    labels[:positives] = generator.integers(0, classes, positives)
    labels = jnp.asarray(labels)
    runs: dict[str, Callable] = {}
    for name in (YARDSTICK, *CLASSIFICATION_LOSSES):
        if name == YARDSTICK:
            function, width, state = lambda logits, labels, _: (sigmoid_cross_entropy(logits, labels), ()), classes, ()
        else:
            function, width, state = _of_loss(name, rows, classes)
        logits = jnp.asarray(generator.normal(-4, 3, (rows, width)).astype(np.float32))
        compiled = jax.jit(jax.value_and_grad(function, has_aux=True)).lower(logits, labels, state).compile()
        runs[name] = lambda compiled=compiled, arguments=(logits, labels, state): compiled(*arguments)

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    times = {name: np.array(values[1:]) for name, values in seconds.items()}  # the first run warms up
    settings = {"rows": rows, "classes": classes, "positives": positives, "device": jax.devices()[0].device_kind}
    return settings | {
        name: {
            "ms": round(1e3 * float(np.median(values)), 2),
            "over_sigmoid_ce": round(float(np.median(values / times[YARDSTICK])), 2),
        }
        for name, values in times.items()
    }


def _of_loss(name: str, rows: int, classes: int) -> tuple[Callable, int, Any]:
    """The loss as a function of logits, labels and state, to a value and the next state; its columns; its state."""
    counts = np.ceil(MOST * ((np.arange(classes) + 1) / classes) ** TAIL)
    statistics = {"counts": counts, "image_counts": counts, "frequency": counts / IMAGES}
    options = {option: statistics[option] for option in CLASSIFICATION_LOSSES[name].data_options}
    loss = classification_loss(name, num_classes=classes, **options)
    generator = np.random.default_rng(1)
    memory_rows = 32
    inputs = {
        "key": jax.random.key(0),
        "image_keys": jax.random.split(jax.random.key(0), 4),
        "gt_ids": jnp.asarray(generator.integers(0, rows // 16, rows)),
        "memory_logits": jnp.asarray(generator.normal(-4, 3, (memory_rows, loss.num_outputs)).astype(np.float32)),
        "memory_labels": jnp.asarray(np.repeat(np.arange(memory_rows // 4), 4)),
    }
    inputs = {key: inputs[key] for key in loss.extra_inputs}
    return (
        lambda logits, labels, state: loss(logits, labels, None, state, **inputs),
        loss.num_outputs,
        loss.init_state(),
    )


def main() -> None:
    """Prints the benchmark as json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--positives", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=21)
    print(json.dumps(benchmark_losses(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
