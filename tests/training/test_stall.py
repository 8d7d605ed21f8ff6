"""A run that hangs ends; one that was only stopped for a while, or is slow, does not."""

import signal
import subprocess
import sys
import time

import pytest

from rog_jax.training.stall import StallGuard


def test_no_step_for_too_long_ends_the_run_once():
    said = []
    with StallGuard(0.2, said.append) as guard:
        guard.beat(7)
        time.sleep(0.8)
    assert len(said) == 1
    assert "has been at step 7 for 0.2 seconds (config.train.stall_seconds)" in said[0]


def test_steps_in_time_and_a_closed_guard_end_nothing():
    said = []
    with StallGuard(1.0, said.append) as guard:
        for step in range(16):
            time.sleep(0.1)
            guard.beat(step)
    with StallGuard(0, said.append):
        pass
    time.sleep(1.5)
    assert said == []


PROGRAM = """
import sys, time
from rog_jax.training.stall import StallGuard
with StallGuard(float(sys.argv[1])) as guard:
    print("open", flush=True)
    time.sleep(2.5)
print("done", flush=True)
"""


@pytest.mark.parametrize(("seconds", "status"), [(0.5, 1), (2.0, 0)], ids=["hangs", "is stopped for a while"])
def test_a_program_that_hangs_shows_its_stacks(seconds, status):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout.readline() == "open\n"
    if status == 0:  # its sleep goes on meanwhile
        program.send_signal(signal.SIGSTOP)
        time.sleep(2.2)
        program.send_signal(signal.SIGCONT)
    output, error = program.communicate(timeout=60)
    assert program.returncode == status
    assert ("done" in output) == (status == 0)
    assert ("most recent call first" in error) == (status == 1)
