"""Speed of the data loader on the annotations and settings of a run."""

import itertools
import os
import time
from typing import Any

from rog_jax.data.annotations import Annotations
from rog_jax.data.loader import train_loader
from rog_jax.data.plan import TrainPlan


def benchmark_loader(annotations: Annotations, config: Any, seconds: float = 10.0) -> dict[str, float]:
    """Reads training batches for some seconds and measures the rate.

    The first batches do not count: workers start for them, or have them ready before the clock starts.

    Args:
        annotations: of the training images.
        config: a recipe; its data, sampler, train.batch_size, train.seed and model.masks are used.
        seconds: to measure for.

    Returns:
        "images_per_second"; "images_per_second_and_core", for the cores that the loader can use; "cores", their
        number; "workers"; "batch_size"; "batches", measured; "start_seconds", until the first batch.
    """
    batch_size = config.train.batch_size
    plan = TrainPlan(annotations, config.data, config.sampler, batch_size, config.train.seed)
    start = time.perf_counter()
    loader = train_loader(
        annotations,
        plan,
        config.data,
        seed=config.train.seed,
        start_step=0,
        num_steps=1_000_000,
        masks=config.model.masks,
    )
    try:
        next(loader)
        start_seconds = time.perf_counter() - start
        for _ in range(config.data.workers * config.data.prefetch + 1):
            next(loader)
        start = time.perf_counter()
        for batches in itertools.count(1):  # noqa: B007  (used after the loop)
            next(loader)
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                break
    finally:
        loader.close()
    cores = available_cores()
    if config.data.workers:
        cores = min(cores, config.data.workers)
    rate = batches * batch_size / elapsed
    return {
        "images_per_second": rate,
        "images_per_second_and_core": rate / cores,
        "cores": cores,
        "workers": config.data.workers,
        "batch_size": batch_size,
        "batches": batches,
        "start_seconds": start_seconds,
    }


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
