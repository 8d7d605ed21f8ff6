"""What a program sets up before the first JAX computation."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 60
"""Silence of a host after which JAX ends the others: it died, or its machine hangs."""

SHUTDOWN_SECONDS = 24 * 3600
"""For which hosts that have finished wait for the first one, which joins results and draws figures after an evaluation;
JAX's own five minutes would end it in the midst of that. A first host that died is found by its silence."""

LAST_WORDS_SECONDS = 5
"""For which a host that failed stays, so that others that fail at the same step say so before its end is theirs."""


class HostFlags(NamedTuple):
    """Command-line flags of a program that may run on several hosts."""

    multihost: flags.FlagHolder
    coordinator_address: flags.FlagHolder
    num_processes: flags.FlagHolder
    process_id: flags.FlagHolder
    heartbeat_seconds: flags.FlagHolder


def define_host_flags() -> HostFlags:
    """Defines the flags; once in a program, before they are parsed."""
    return HostFlags(
        flags.DEFINE_bool("multihost", False, "Join the other hosts that JAX finds (Slurm, GKE, TPU pod)."),
        flags.DEFINE_string(
            "coordinator_address", None, "HOST:PORT of the first process, where nothing tells JAX of the hosts."
        ),
        flags.DEFINE_integer("num_processes", None, "Processes of the run; with --coordinator_address."),
        flags.DEFINE_integer("process_id", None, "This process, 0 for the first; with --coordinator_address."),
        flags.DEFINE_integer(
            "heartbeat_seconds", HEARTBEAT_SECONDS, "Silence of a host after which the others end.", lower_bound=1
        ),
    )


def start(hosts: HostFlags | None = None, *, traced: bool = False) -> None:
    """Logging, the persistent compilation cache, and the other hosts of the run.

    The cache lies in `$JAX_COMPILATION_CACHE_DIR`, or in `~/.cache/rog_jax/jax`.

    Args:
        hosts: parsed flags; waits for the other hosts if they name any, or ask for those that JAX finds.
        traced: whether programs will be traced: then none is taken from the cache that another version of this code
            compiled to the same instructions, whose names of parts may be others.

    Raises:
        ValueError: some of the flags that name the hosts are missing.
    """
    line = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S", force=True)  # absl has put its own first
    for noisy in ("absl", "orbax", "jax", "grain"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "rog_jax" / "jax"))
    jax.config.update("jax_compilation_cache_include_metadata_in_key", traced)
    if hosts is not None:
        _join_hosts(hosts)


def _join_hosts(hosts: HostFlags) -> None:
    names = ("coordinator_address", "num_processes", "process_id")
    given = {name: getattr(hosts, name).value for name in names}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(names) and not hosts.multihost.value:
        return
    if missing and len(missing) < len(names):
        raise ValueError(f"several processes are named by three flags together; {' and '.join(missing)} not given")
    # None of the three: JAX asks the environment.
    jax.distributed.initialize(
        **given, heartbeat_timeout_seconds=hosts.heartbeat_seconds.value, shutdown_timeout_seconds=SHUTDOWN_SECONDS
    )


@contextlib.contextmanager
def ends_all_hosts() -> Iterator[None]:
    """Ends the process at once by an exception in its body, where it is one of several; to be entered after `start`.

    JAX would have it wait for the others at the exit, up to `SHUTDOWN_SECONDS`, and tell them meanwhile that it is
    alive; they wait for its part of a step. Once it is gone, they end as they do where a host dies.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or isinstance(error, SystemExit):
            raise
        logger.critical("process %d ends, and by it the others", jax.process_index(), exc_info=True)
        time.sleep(LAST_WORDS_SECONDS)
        os._exit(1)
