"""Runs train.py, eval.py and others as programs of their own: memory is freed, and devices can be simulated."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rog_jax.evaluation.summary import write_json
from rog_jax.tools.plot_log import read_log
from rog_jax.tools.reproduce.places import ROOT


class ProgramError(RuntimeError):
    """A program ended with an error, or before its work was done."""


@contextlib.contextmanager
def timed(path: Path, part: str) -> Iterator[None]:
    """Adds what happens inside to the times in a json file, whether it ends well, by an error or by a signal.

    Args:
        path: {part: {"seconds": by the clock, "cpu_seconds": of the processors, for the programs that ended}}.
        part: under which the times are added up.
    """
    start, before = time.perf_counter(), _processor_time()
    try:
        yield
    finally:
        parts = json.loads(path.read_text()) if path.is_file() else {}
        known = parts.get(part, {"seconds": 0.0, "cpu_seconds": 0.0})
        spent = {"seconds": time.perf_counter() - start, "cpu_seconds": _processor_time() - before}
        parts[part] = {name: round(known[name] + value, 1) for name, value in spent.items()}
        write_json(path, parts)


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Config overrides as train.py and eval.py take them."""
    return [f"--config.{path}={value}" for path, value in settings.items()]


def call(arguments: Sequence[str], log: Path, devices: int = 1) -> None:
    """Runs `python ARGUMENTS` in the source tree; what it prints is added to a log.

    Where this program is stopped, the other is told by SIGTERM and waited for: training then saves a checkpoint. It is
    out of reach of the terminal's own Ctrl-C and SIGHUP, and holds the lock of `alone_in` as long as it runs.

    Args:
        arguments: of Python.
        log: made if absent.
        devices: that JAX simulates on the CPU, where more than 1.

    Raises:
        ProgramError: it failed; says where its log is.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))}
    if devices > 1:
        more = f"--xla_force_host_platform_device_count={devices}"
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.getenv('XLA_FLAGS', '')} {more}".strip()}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = [sys.executable, *arguments]
        print("$", *command, file=file, flush=True)
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            close_fds=False,  # of what Python opened, the lock alone is inheritable
        )
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if code:
        last = "\n  ".join(log.read_text(errors="replace").replace("\r", "\n").splitlines()[-5:])
        raise ProgramError(f"{' '.join(arguments[:3])} ... ended with {code}; {log} has it all:\n  {last}")


def check_trained(workdir: Path) -> None:
    """Refuses a run that is not at the end of its schedule: train.py ends well after a SIGTERM too.

    Raises:
        ProgramError: says how far it is.
    """
    done, steps = read_log(workdir)[-1]["step"], json.loads((workdir / "config.json").read_text())["steps"]
    if done != steps:
        raise ProgramError(
            f"the training in {workdir} was stopped at step {done} of {steps}: the same command goes on from there"
        )


def _processor_time() -> float:
    """Of all programs that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
