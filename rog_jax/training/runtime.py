"""What a program sets up before the first JAX computation."""

import logging
import os
from pathlib import Path

import jax


def start(*, multihost: bool = False) -> None:
    """Logging, the persistent compilation cache, and the other hosts of the run.

    The cache lies in `$JAX_COMPILATION_CACHE_DIR`, or in `~/.cache/rog_jax/jax`.

    Args:
        multihost: wait for the other hosts, found by JAX from the environment of Slurm, GKE or a TPU pod.
    """
    line = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S", force=True)  # absl has put its own first
    for noisy in ("absl", "orbax", "jax", "grain"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "rog_jax" / "jax"))
    if multihost:
        jax.distributed.initialize()
