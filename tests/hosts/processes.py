"""Programs of this repository as several processes on this machine, each of them a host with simulated devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPATIENT = "Gloo context initialization failed"
"""What a process says that has waited for another for 30 seconds, which JAX gives no way to change: on a busy machine
one compiles that much longer than the other. At the second try the program is in the cache of compilations."""
TRIES = 3
SECONDS = 500
"""After which a run is ended: it hangs."""


def start(
    program: str,
    arguments: list[str],
    processes: int,
    devices: int,
    *,
    own: Sequence[list[str]] = (),
    slurm: bool = False,
) -> list[subprocess.Popen]:
    """Starts `python PROGRAM ARGUMENTS` in several processes that join each other.

    Args:
        program: such as "train.py".
        arguments: of all processes.
        processes: hosts.
        devices: of all hosts together.
        own: further arguments of each process.
        slurm: they find each other by `--multihost` and the variables that Slurm sets, not by flags.
    """
    flags = f"--xla_force_host_platform_device_count={devices // processes} --xla_backend_optimization_level=0"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    address = f"127.0.0.1:{free_port()}"
    started = []
    for process_id in range(processes):
        joined, variables = [], {}
        if slurm:
            joined, variables = ["--multihost"], slurm_variables(address, processes, process_id)
        elif processes > 1:
            names = f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={process_id}"
            joined = [*names, "--heartbeat_seconds=20"]
        command = [sys.executable, program, *arguments, *joined, *(own[process_id] if own else [])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment | variables, **pipes))
    return started


def slurm_variables(address: str, processes: int, process_id: int) -> dict[str, str]:
    """What JAX reads of the variables that Slurm sets for a task."""
    of_job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(processes)}
    of_task = {"SLURM_LOCALID": "0", "SLURM_PROCID": str(process_id)}
    return of_job | of_task | {"JAX_COORDINATOR_ADDRESS": address}


def finish(hosts: list[subprocess.Popen], seconds: float = SECONDS) -> list[tuple[int, str]]:
    """Exit status and output of each process; all are ended after that time at the latest."""

    def ended(host: subprocess.Popen) -> tuple[int, str]:
        try:
            output, _ = host.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            host.kill()
            output = host.communicate()[0] + "\n(ended: it hung)"
        return host.returncode, output

    with ThreadPoolExecutor(len(hosts)) as threads:  # one whose output nobody read would wait, and the others for it
        return list(threads.map(ended, hosts))


def run(program: str, arguments: list[str], processes: int, devices: int, **options: bool) -> list[str]:
    """Outputs of processes that all have to end well."""
    for _ in range(TRIES):
        results = finish(start(program, arguments, processes, devices, **options))
        if not any(IMPATIENT in output for _, output in results):
            break
    assert all(status == 0 for status, _ in results), "\n\n".join(output[-4000:] for _, output in results)
    return [output for _, output in results]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
