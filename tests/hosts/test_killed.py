"""A run that is killed at any moment and started again ends as if it had never stopped."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rog_jax.data.synthetic import make_dataset
from tests.hosts import processes
from tests.hosts.test_hosts import SETTINGS, arguments, saved
from tests.run_logs import read_log, without_timings

STEPS = 60
OVERRIDES = (
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=2",
    "--config.train.log_every=3",  # lines and checkpoints fall apart: means go on over a kill
    "--config.train.keep_checkpoints=2",
    "--config.data.workers=1",
)
AT_START, IN_STEPS, IN_WRITING, IN_EVALUATION = 4, 6, 6, 4
"""Kills of each kind: twenty in all."""


@pytest.mark.slow
def test_a_run_killed_twenty_times_is_the_run_that_was_not(tmp_path):
    """Killed while it starts, in its steps, while a checkpoint is being written, and in evaluation."""
    data, whole, killed = (tmp_path / name for name in ("data", "whole", "killed"))
    paths = make_dataset(data, SETTINGS)
    for split in ("train", "val"):
        paths[f"{split}_json"].replace(data / f"{split}.json")
    processes.run("train.py", arguments(data, whole, *OVERRIDES), 1, 2)
    moments = random.Random(0)
    ways = [at_start] * AT_START + [in_steps] * IN_STEPS + [in_writing] * IN_WRITING
    moments.shuffle(ways)
    half_written = 0
    for way in ways:
        kill("train.py", arguments(data, killed, *OVERRIDES), way(killed, moments))
        half_written += bool(unfinished(killed))
    assert half_written >= IN_WRITING // 2, "checkpoints were written too fast to be hit"
    processes.run("train.py", arguments(data, killed, *OVERRIDES), 1, 2)

    arrays, wanted = saved(killed, STEPS), saved(whole, STEPS)
    assert arrays.keys() == wanted.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, wanted[path], err_msg=path)
    lines, expected = read_log(killed), read_log(whole)
    assert [line["step"] for line in lines] == list(range(3, STEPS + 1, 3))
    for line, other in zip(lines, expected, strict=True):
        assert without_timings(line) == without_timings(other)
    assert_evaluation_can_be_killed(data, whole, killed, moments)


def assert_evaluation_can_be_killed(data: Path, whole: Path, killed: Path, moments: random.Random) -> None:
    """At moments spread from its first file, before it has read anything, to its last figure."""
    processes.run("eval.py", arguments(data, whole), 1, 2)  # compiles
    (host,) = processes.start("eval.py", arguments(data, whole), 1, 2)
    (whole / "eval" / ".lock").unlink()
    wait_for((whole / "eval" / ".lock").exists, host)
    before = time.monotonic()
    host.communicate()
    lasts = time.monotonic() - before
    for part in range(IN_EVALUATION):
        (killed / "eval" / ".lock").unlink(missing_ok=True)
        seconds = 0.9 * lasts * (part + moments.random()) / IN_EVALUATION
        kill("eval.py", arguments(data, killed), after((killed / "eval" / ".lock").exists, seconds))
    processes.run("eval.py", arguments(data, killed), 1, 2)
    for name in ("results_bbox.json", "results_segm.json"):
        results = [json.loads((workdir / "eval" / name).read_text()) for workdir in (killed, whole)]
        assert results[0] == results[1]
    figures = [json.loads((workdir / "eval" / "metrics.json").read_text()) for workdir in (killed, whole)]
    for kind in ("bbox", "segm"):
        of_kind = [{name: value for name, value in of_run[kind].items() if name != "seconds"} for of_run in figures]
        np.testing.assert_equal(*of_kind)


Moment = Callable[[subprocess.Popen], None]
"""Returns when the process is to be killed."""


def kill(program: str, of_program: list[str], moment: Moment) -> None:
    (host,) = processes.start(program, of_program, 1, 2)
    moment(host)
    host.send_signal(signal.SIGKILL)
    output, _ = host.communicate()
    assert host.returncode == -signal.SIGKILL, f"it was over before it could be killed: {output[-3000:]}"


def after(condition: Callable[[], bool], seconds: float) -> Moment:
    def moment(host: subprocess.Popen) -> None:
        wait_for(condition, host)
        time.sleep(seconds)

    return moment


def at_start(workdir: Path, moments: random.Random) -> Moment:
    """While it imports, reads the data, restores a checkpoint, or compiles."""
    return after(lambda: True, moments.uniform(0, 8))


def in_steps(workdir: Path, moments: random.Random) -> Moment:
    """Some moments after it has written a line of its own."""
    log = workdir / "train_log.jsonl"
    sizes = [np.inf]  # a resumed run first cuts the log back

    def grown() -> bool:
        sizes.append(log.stat().st_size if log.exists() else 0)
        return sizes[-1] > sizes[-2]

    return after(grown, moments.uniform(0, 0.5))


def in_writing(workdir: Path, moments: random.Random) -> Moment:
    """At once when a new checkpoint is there under its first name."""
    left = unfinished(workdir)
    return after(lambda: bool(unfinished(workdir) - left), moments.uniform(0, 0.01))


def unfinished(workdir: Path) -> set[str]:
    folder = workdir / "checkpoints"
    return {path.name for path in folder.iterdir() if "tmp" in path.name} if folder.is_dir() else set()


def wait_for(condition: Callable[[], bool], host: subprocess.Popen) -> None:
    while not condition():
        assert host.poll() is None, host.communicate()[0][-3000:]
        time.sleep(0.001)
