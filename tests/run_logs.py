"""What tests read of a run's log."""

import json
from pathlib import Path

TIMINGS = ("images_per_second", "data_wait")


def read_log(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "train_log.jsonl").read_text().splitlines()]


def without_timings(line: dict) -> dict:
    """What two runs of the same command have in common."""
    return {name: value for name, value in line.items() if name not in TIMINGS}
