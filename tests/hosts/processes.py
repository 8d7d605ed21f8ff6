"""Programs of this repository as several processes on this machine, each of them a host with simulated devices."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 900
"""After which a run is ended: it hangs."""


def start(program: str, arguments: list[str], processes: int, devices: int) -> list[subprocess.Popen]:
    """Starts `python PROGRAM ARGUMENTS`, with the flags that join the processes where there are several.

    Args:
        program: such as "train.py".
        arguments: of all processes.
        processes: hosts.
        devices: of all hosts together.
    """
    flags = f"--xla_force_host_platform_device_count={devices // processes} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    address = f"127.0.0.1:{free_port()}"

    def host(process_id: int) -> list[str]:
        if processes == 1:
            return []
        joined = f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={process_id}"
        return [*joined, "--heartbeat_seconds=10"]

    return [
        subprocess.Popen(
            [sys.executable, program, *arguments, *host(process_id)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process_id in range(processes)
    ]


def finish(hosts: list[subprocess.Popen], seconds: float = SECONDS) -> list[tuple[int, str]]:
    """Exit status and output of each process; all are ended after that time at the latest."""
    end = time.monotonic() + seconds
    results = []
    for host in hosts:
        try:
            output, _ = host.communicate(timeout=max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            host.kill()
            output = host.communicate()[0] + "\n(ended: it hung)"
        results.append((host.returncode, output))
    return results


def run(program: str, arguments: list[str], processes: int, devices: int) -> list[str]:
    """Outputs of processes that all have to end well."""
    results = finish(start(program, arguments, processes, devices))
    assert all(status == 0 for status, _ in results), "\n\n".join(output[-4000:] for _, output in results)
    return [output for _, output in results]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
