"""What is finished, what remains, and how long that may take."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rog_jax.tools.reproduce.records import read_record
from rog_jax.tools.reproduce.runs import Run
from rog_jax.tools.reproduce.targets import Target

UNKNOWN_SECONDS = 900.0
"""Of a run, before one has been measured: what the recipe is made for."""


def status(targets: Sequence[Target], out: Path, seeds: int | None = None) -> str:
    """A line for each target, and one for all; runs that several targets share are counted for the first.

    Times are by the clock, from the median of the finished runs, for the number of epochs that a run sets.
    """
    known: set[tuple[str, int]] = set()
    seconds, lines, left = seconds_of_a_run(out), [], 0.0
    for target in targets:
        wanted = [(run, seed) for run, seed in target.wanted(seeds) if (run.name, seed) not in known]
        known |= {(run.name, seed) for run, seed in wanted}
        missing = [(run, seed) for run, seed in wanted if read_record(out, run, seed) is None]
        time = sum(seconds * length_of(run) for run, _ in missing)
        left += time
        names = ", ".join(f"{run.name}.seed{seed}" for run, seed in missing[:3]) + (" ..." if missing[3:] else "")
        lines.append(
            f"{target.name:<12} {len(wanted) - len(missing):>3} of {len(wanted):>3} finished"
            + (f", {time / 3600:.1f} h left: {names}" if missing else "")
        )
    return "\n".join([*lines, f"{'in all':<12} {left / 3600:.1f} h left, at {seconds / 60:.0f} min a run"])


def seconds_of_a_run(out: Path) -> float:
    """The median of the finished runs by the clock, as if each had the recipe's number of epochs."""
    found = []
    for path in sorted((out / "runs").glob("*.json")):
        content = json.loads(path.read_text())
        spent = sum(part["seconds"] for part in content["spent"].values())
        found.append(spent / _length(content["run"]["settings"]))
    return statistics.median(found) if found else UNKNOWN_SECONDS


def length_of(run: Run) -> float:
    """The run's schedule as a multiple of the recipe's."""
    return _length(run.settings)


def _length(settings: dict) -> float:
    return settings.get("train.epochs", RECIPE_EPOCHS) / RECIPE_EPOCHS


RECIPE_EPOCHS = 6
"""Of configs/mini_lvis.py."""
