"""What is finished, what remains, and how long that may take."""

import logging
import statistics
from collections.abc import Iterator, Sequence

from rog_jax.tools.reproduce.places import Places
from rog_jax.tools.reproduce.records import Record, RecordError, open_record, read_record
from rog_jax.tools.reproduce.targets import Target

logger = logging.getLogger(__name__)

RECIPE_EPOCHS = {"ccp": 28, "drawn": 6, "sprites": 6, "openimages": 6}
"""Of the sets' recipes."""
UNKNOWN_SECONDS = 150.0
"""Of an epoch, before one has been measured: what the recipe is made for."""


def status(targets: Sequence[Target], places: Places, seeds: int | None = None) -> str:
    """A line for each target, and one for all; runs that several targets share are counted for the first.

    Times are by the clock: the median of the run's own records, or else of those of the same set, or of all, epoch by
    epoch. Records that tell no time are warned of.

    Raises:
        RecordError: a target's own record is broken, or another run's.
    """
    known: set[tuple[str, int]] = set()
    records = list(_timed_records(places))
    lines, left = [], 0.0
    for target in targets:
        wanted = [(run, seed) for run, seed in target.wanted(seeds) if (run.name, seed) not in known]
        known |= {(run.name, seed) for run, seed in wanted}
        missing = [(run, seed) for run, seed in wanted if read_record(places, run, seed) is None]
        time = sum(expected_seconds(run.description(), records) for run, _ in missing)
        left += time
        names = ", ".join(f"{run.name}.seed{seed}" for run, seed in missing[:3]) + (" ..." if missing[3:] else "")
        lines.append(
            f"{target.name:<12} {len(wanted) - len(missing):>3} of {len(wanted):>3} finished"
            + (f", {time / 3600:.1f} h left: {names}" if missing else "")
        )
    measured = f", at {statistics.median(map(_seconds, records)) / 60:.0f} min a run so far" if records else ""
    return "\n".join([*lines, f"{'in all':<12} {left / 3600:.1f} h left{measured}"])


def _timed_records(places: Places) -> Iterator[Record]:
    """Those of any target, or none: what is wrong with one that nobody asked for must not end the queue."""
    for path in sorted((places.out / "runs").glob("*.json")):
        try:
            record = open_record(path)
        except RecordError as error:
            logger.warning("not counted for the time: %s", error)
            continue
        if record.content["run"].get("data") in RECIPE_EPOCHS:
            yield record
        else:
            logger.warning("not counted for the time: %s is of a set that is not known", path)


def expected_seconds(run: dict, records: Sequence[Record]) -> float:
    """Of a run by its description, from finished ones."""
    own = [_seconds(record) for record in records if record.content["run"]["name"] == run["name"]]
    if own:
        return statistics.median(own)
    alike = [record for record in records if record.content["run"]["data"] == run["data"]] or records
    an_epoch = [_seconds(record) / _epochs(record.content["run"]) for record in alike]
    return _epochs(run) * (statistics.median(an_epoch) if an_epoch else UNKNOWN_SECONDS)


def _seconds(record: Record) -> float:
    return sum(part["seconds"] for part in record.content["spent"].values())


def _epochs(run: dict) -> int:
    return run["settings"].get("train.epochs", RECIPE_EPOCHS[run["data"]])
