"""A run that hangs ends; one that was only stopped for a while, or is slow, does not."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from rog_jax.training.stall import StallGuard


def test_no_step_for_too_long_ends_the_run_once():
    said, ended = [], threading.Event()
    with StallGuard(0.2, lambda message: (said.append(message), ended.set())) as guard:
        guard.beat(7)
        assert ended.wait(60)
        time.sleep(0.5)
    assert len(said) == 1
    assert "process 0 has been at step 7 for 0.2 seconds (config.train.stall_seconds)" in said[0]


@pytest.mark.parametrize("seconds", [2.0, 0])
def test_steps_in_time_end_nothing(seconds):
    said = []
    with StallGuard(seconds, said.append) as guard:
        for step in range(30):
            time.sleep(0.1)
            guard.beat(step)
    time.sleep(1.2 * seconds)  # nor what comes after it
    assert said == []


PROGRAM = """
import sys
from rog_jax.training.stall import StallGuard
with StallGuard(float(sys.argv[1])) as guard:
    print("open", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


def start(seconds: float) -> subprocess.Popen:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(seconds)], text=True, **pipes)
    assert program.stdout.readline() == "open\n"
    return program


def test_a_program_that_hangs_shows_its_stacks():
    with start(0.5) as program:
        assert program.wait(60) == 1
        assert program.stdout.read() == ""
        error = program.stderr.read()
    assert "has been at step 0 for 0.5 seconds" in error
    assert "most recent call first" in error


def test_a_program_that_was_stopped_for_a_while_does_not_hang():
    with start(5) as program:
        program.send_signal(signal.SIGSTOP)
        time.sleep(6)
        program.send_signal(signal.SIGCONT)
        assert program.communicate("\n", timeout=60) == ("done\n", "")
    assert program.returncode == 0
