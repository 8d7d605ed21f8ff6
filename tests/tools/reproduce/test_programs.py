"""Programs of their own: signals, locks, and what a failing one said."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from rog_jax.tools.reproduce import runner
from rog_jax.tools.reproduce.places import ROOT, alone_in
from rog_jax.tools.reproduce.programs import ProgramError, call, timed


def test_two_programs_do_not_share_a_folder(places):
    with alone_in(places.work), pytest.raises(RuntimeError, match="another program"), alone_in(places.work):
        pass


def test_a_failing_program_is_shown_with_its_last_lines(tmp_path):
    log = tmp_path / "log.txt"
    with pytest.raises(ProgramError, match="ZeroDivisionError"), timed(tmp_path / "spent.json", "a"):
        call(["-c", "1 / 0"], log)
    with timed(tmp_path / "spent.json", "a"):
        call(["-c", "import rog_jax, time; time.sleep(0.1); print(rog_jax.__file__)"], log)
    assert str(ROOT) in log.read_text()
    assert json.loads((tmp_path / "spent.json").read_text())["a"]["seconds"] > 0


STOPPED = """
import os, signal, sys
from pathlib import Path
from rog_jax.tools.reproduce import runner
from rog_jax.tools.reproduce.places import alone_in
from rog_jax.tools.reproduce.programs import call
program = "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved')))" + chr(10)
program += "print('training', os.getpid(), flush=True)" + chr(10) + "time.sleep(600)"
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which these tests may be told to ignore, as in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with alone_in(Path(sys.argv[1])), runner._Terminated():
        call(["-c", program], Path(sys.argv[1]) / "log.txt")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.fixture
def at_work(tmp_path):
    """A program that has called another one, in a process group of its own, as a terminal's; and the other's id."""
    log, command = tmp_path / "log.txt", [sys.executable, "-c", STOPPED, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (log.is_file() and (found := re.search(r"\ntraining (\d+)\n", log.read_text()))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process, int(found[1])
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_training_and_waits_for_it(at_work, tmp_path, number):
    process, _ = at_work
    os.killpg(process.pid, number)  # SIGINT as the terminal's Ctrl-C: the training must hear of it as SIGTERM
    assert process.communicate(timeout=300)[0] == "stopped\n"
    assert (tmp_path / "log.txt").read_text().endswith("saved\n")


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runner._Terminated():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_whose_parent_was_killed_keeps_the_folder(at_work, tmp_path):
    process, training = at_work
    for ends, holders in ((False, {process.pid, training}), (True, {training})):
        if ends:
            process.kill()
            process.wait()
        with pytest.raises(RuntimeError, match="another program") as refused, alone_in(tmp_path):
            pass
        named = re.search(r"\(process ([\d, ]+)\)", str(refused.value))[1]
        assert set(map(int, named.split(", "))) == holders
    os.kill(training, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while True:
        try:
            with alone_in(tmp_path):
                break
        except RuntimeError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (tmp_path / "log.txt").read_text().endswith("saved\n")
