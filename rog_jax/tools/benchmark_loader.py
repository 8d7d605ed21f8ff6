"""Speed of the data loader: on the annotations and settings of a run, or on JPEGs that it makes for the purpose.

  python -m rog_jax.tools.benchmark_loader [--workers 0 1 2] [--seconds 10] [--reduced]

makes 640x480 JPEGs of ten objects each and reads them as the LVIS recipes do: short side 640 to 800 pixels, flip,
padding to 832x1344, masks. With --reduced, large-scale jitter of 0.1 to 0.5 on 1600x1200 JPEGs, which are decoded at a
part of their size. On a machine that others use, too, processor time says more than the clock.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from configs import common
from rog_jax.data import load_lvis
from rog_jax.data.annotations import Annotations
from rog_jax.data.loader import train_loader
from rog_jax.data.plan import TrainPlan
from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.tools.benchmark_figures import available_cores, process_peak, spread


def benchmark_loader(annotations: Annotations, config: Any, seconds: float | int = 10.0) -> dict[str, Any]:
    """Reads training batches for some seconds and measures the rate.

    The first batches do not count: workers start for them, or have them ready before the clock starts.

    Args:
        annotations: of the training images.
        config: a recipe; its data, sampler, train.batch_size, train.seed and model.masks are used.
        seconds: to measure for.

    Returns:
        "images_per_second"; "images_per_second_and_core", for the cores that the loader can use; "cores", their
        number; "cpu_ms_per_image", processor time of this process and the workers together, and
        "cpu_ms_per_image_here", of this process alone (0 where there is no /proc); "workers"; "batch_size"; "batches",
        measured; "batch", their times as in `benchmark_figures.spread`; "start_seconds", until the first batch;
        "process_peak", bytes of this process alone.
    """
    batch_size = config.train.batch_size
    plan = TrainPlan(annotations, config.data, config.sampler, batch_size, config.train.seed)
    start = time.perf_counter()
    others = set(multiprocessing.active_children())
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
        pids = [os.getpid(), *(child.pid for child in set(multiprocessing.active_children()) - others)]
        ends, spent = [time.perf_counter()], [_cpu_seconds(pid) for pid in pids]
        while ends[-1] - ends[0] < seconds:
            next(loader)
            ends.append(time.perf_counter())
        spent = [_cpu_seconds(pid) - before for pid, before in zip(pids, spent, strict=True)]
    finally:
        loader.close()
    cores = available_cores()
    if config.data.workers:
        cores = min(cores, config.data.workers)
    batches = len(ends) - 1
    rate = batches * batch_size / (ends[-1] - ends[0])
    return {
        "images_per_second": rate,
        "images_per_second_and_core": rate / cores,
        "cores": cores,
        "cpu_ms_per_image": 1e3 * sum(spent) / (batches * batch_size),
        "cpu_ms_per_image_here": 1e3 * spent[0] / (batches * batch_size),
        "workers": config.data.workers,
        "batch_size": batch_size,
        "batches": batches,
        "batch": spread([end - start for start, end in itertools.pairwise(ends)]),
        "start_seconds": start_seconds,
        "process_peak": process_peak(),
    }


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in user and in system mode
    return 0.0


def make_pictures(out: Path, height: int, width: int, images: int = 96) -> Annotations:
    """A set of JPEGs with ten objects each."""
    small = min(height, width)
    settings = SyntheticSettings(
        train_images=images,
        val_images=2,
        num_categories=12,
        height=height,
        width=width,
        objects=(10, 10),
        object_size=(small // 12, small // 3),
        val_instances=1,
        counts=(40, 40, 30, 20, 20, 10, 10, 5, 5, 2, 2, 1),
    )
    paths = make_dataset(out, settings, overwrite=True)
    return load_lvis(paths["train_json"], paths["images"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--reduced", action="store_true", help="large pictures shown small")
    given = parser.parse_args(arguments)
    config = common.get_config()
    config.train.batch_size = given.batch_size
    if given.reduced:
        config.data.scale_jitter = (0.1, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        annotations = make_pictures(Path(folder), *((1200, 1600) if given.reduced else (480, 640)))
        figures = []
        for workers in given.workers:
            config.data.workers = workers
            figures.append(benchmark_loader(annotations, config, given.seconds))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
