"""A run that is killed at any moment and started again ends as if it had never stopped."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rog_jax.data.synthetic import make_dataset
from tests.hosts import processes
from tests.hosts.test_hosts import SETTINGS, arguments, read_log, saved

KILLS = 20
STEPS = 40
OVERRIDES = (f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=2", "--config.train.keep_checkpoints=2")


@pytest.mark.slow
def test_a_run_killed_twenty_times_is_the_run_that_was_not(tmp_path):
    """Killed between its first step and its end, in a step or while a checkpoint is written, and in evaluation."""
    data, whole, killed = (tmp_path / name for name in ("data", "whole", "killed"))
    paths = make_dataset(data, SETTINGS)
    for split in ("train", "val"):
        paths[f"{split}_json"].replace(data / f"{split}.json")
    processes.run("train.py", arguments(data, whole, *OVERRIDES), 1, 2)
    moments = random.Random(0)
    kills = sum(kill_while_training(data, killed, moments) for _ in range(KILLS))
    assert kills >= KILLS // 2, "the run was over before it could be killed often"
    processes.run("train.py", arguments(data, killed, *OVERRIDES), 1, 2)

    arrays, wanted = saved(killed, STEPS), saved(whole, STEPS)
    assert arrays.keys() == wanted.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, wanted[path], err_msg=path)
    lines, expected = read_log(killed), read_log(whole)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line, other in zip(lines, expected, strict=True):
        assert without_timings(line) == without_timings(other)

    (host,) = processes.start("eval.py", arguments(data, killed), 1, 2)
    wait_for_any(killed / "eval", host)
    host.kill()
    host.communicate()
    for workdir in (killed, whole):
        processes.run("eval.py", arguments(data, workdir), 1, 2)
    results = [json.loads((workdir / "eval" / "results_bbox.json").read_text()) for workdir in (killed, whole)]
    assert results[0] == results[1]


def without_timings(line: dict) -> dict:
    return {name: value for name, value in line.items() if name not in ("images_per_second", "data_wait")}


def kill_while_training(data: Path, workdir: Path, moments: random.Random) -> bool:
    """Starts the run and kills it some moments after it has logged a step of its own; False if it ended before."""
    log, size = workdir / "train_log.jsonl", np.inf
    (host,) = processes.start("train.py", arguments(data, workdir, *OVERRIDES), 1, 2)
    while host.poll() is None:
        before, size = size, log.stat().st_size if log.exists() else 0
        if size > before:
            break
        time.sleep(0.005)
    time.sleep(moments.uniform(0, 0.5))
    host.send_signal(signal.SIGKILL)
    host.communicate()
    return host.returncode == -signal.SIGKILL


def wait_for_any(folder: Path, host) -> None:
    """Returns once the folder has a file."""
    while not folder.is_dir() or not any(folder.iterdir()):
        assert host.poll() is None, host.communicate()[0]
        time.sleep(0.01)
