"""What every benchmark's json has: the machine, medians with their spread, memory; and two of them side by side."""

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from rog_jax.training.loop import git_commit

MEMORY = ("argument_size", "output_size", "alias_size", "temp_size", "generated_code_size")
"""Of the compiler's figures, all in bytes of one device: a program takes their sum, less `alias_size` once (results
that are written over arguments)."""


def machine() -> dict[str, Any]:
    """What figures of two machines, or of two days, may differ by.

    Returns:
        "device_kind", "devices" (of all hosts), "processes", "platform", "processor", "cores" (that this process may
        use), "jax", "jaxlib", "python", "commit" (with "+" where the tree has changes besides docs/; None outside
        a checkout).
    """
    device = jax.devices()[0]
    return {
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "platform": device.platform,
        "processor": platform.machine(),
        "cores": available_cores(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "commit": git_commit(),
    }


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(once: Callable[[], Any], repeats: int, warm_up: int = 1) -> dict[str, float | int]:
    """Runs a function, waits for the arrays that it returns, and sums up the times; the first runs do not count."""
    seconds = []
    for _ in range(warm_up + repeats):
        started = time.perf_counter()
        jax.block_until_ready(once())
        seconds.append(time.perf_counter() - started)
    return spread(seconds[warm_up:])


def spread(seconds: Sequence[float | int]) -> dict[str, float | int]:
    """Median, least and most of some times, and how far apart their quartiles are as a share of the median."""
    low, median, high = np.percentile(seconds, (25, 50, 75))
    return {
        "median_s": float(median),
        "least_s": float(min(seconds)),
        "most_s": float(max(seconds)),
        "spread": float((high - low) / median) if median else 0.0,
        "repeats": len(seconds),
    }


def memory(compiled: Any = None) -> dict[str, Any]:
    """Memory in bytes.

    Args:
        compiled: a compiled program, for the compiler's own account.

    Returns:
        "compiler", one of `MEMORY` each, None without a program; "device_peak", the most that was in use on the first
        device so far, None where its backend keeps no account, as CPUs do; "process_peak", the most of this process
        that was resident, where a CPU's arrays are too.
    """
    account = None
    if compiled is not None:
        analysis = compiled.memory_analysis()
        account = {name: getattr(analysis, f"{name}_in_bytes") for name in MEMORY}
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {
        "compiler": account,
        "device_peak": statistics.get("peak_bytes_in_use"),
        "process_peak": process_peak(),
    }


def process_peak() -> int:
    """The most bytes of this process that were resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def compare(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Two benchmarks' figures side by side, as a Markdown table; what the machines differ in stands before it."""
    machines = [figures.get("machine", {}) for figures in (first, second)]
    differing = [
        f"{name}: {machines[0].get(name)} and {machines[1].get(name)}"
        for name in sorted(machines[0].keys() | machines[1].keys())
        if machines[0].get(name) != machines[1].get(name)
    ]
    ours, theirs = (dict(_numbers({k: v for k, v in figures.items() if k != "machine"})) for figures in (first, second))
    rows = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        values = ours.get(name), theirs.get(name)
        ratio = f"{values[1] / values[0]:.3f}" if None not in values and values[0] else "–"
        rows.append(
            f"| {name} | {' | '.join('–' if value is None else f'{value:.6g}' for value in values)} | {ratio} |"
        )
    heading = "The machines differ: " + "; ".join(differing) if differing else "The same machine and commit."
    return "\n".join([heading, "", "| figure | first | second | second / first |", "|---|---|---|---|", *rows])


def _numbers(figures: Any, path: str = "") -> list[tuple[str, float | int]]:
    """Every number of a json with its path."""
    if isinstance(figures, bool) or figures is None or isinstance(figures, str):
        return []
    if not isinstance(figures, dict | list):
        return [(path, figures)]
    inner = figures.items() if isinstance(figures, dict) else enumerate(figures)
    return [pair for key, value in inner for pair in _numbers(value, f"{path}.{key}" if path else str(key))]


def read_figures(path: str | Path) -> dict[str, Any]:
    """A benchmark's json.

    Raises:
        ValueError: it cannot be read, or is no such json.
    """
    try:
        figures = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no benchmark's json ({error}): write one with --json {path}") from error
    if not isinstance(figures, dict) or "machine" not in figures:
        raise ValueError(f"{path} is no benchmark's json (it names no machine): write one with --json {path}")
    return figures
