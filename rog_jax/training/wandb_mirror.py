"""Weights & Biases beside TensorBoard, by `train.py --wandb PROJECT`."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rog_jax.training.storage import whole_file

RUN_FILE = "wandb_run.txt"
"""In the run's folder: the id with which a resumed run goes on there, too."""


class WandbMirror:
    """Sends scalars and pictures to a run of Weights & Biases.

    Args:
        wandb: the package.
        run: from its `init`.
    """

    def __init__(self, wandb: Any, run: Any):
        self._wandb, self._run, self._closed = wandb, run, False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the scalars of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Sends a picture [H, W, 3] of a step."""
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        """Ends the run there, once."""
        if not self._closed:
            self._closed = True
            self._run.finish()


def open_mirror(project: str, workdir: Path, config: ConfigDict) -> WandbMirror | None:
    """A run in a project, the same one for the same folder; None on all hosts but the first.

    Raises:
        ImportError: the package is missing.
        StorageError: the folder cannot be written to.
    """
    if jax.process_index() != 0:
        return None
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise ImportError("--wandb needs the package wandb: pip install wandb, and once wandb login") from error
    file = workdir / RUN_FILE
    known = file.read_text().strip() if file.is_file() else None
    settings = json.loads(config.to_json_best_effort())
    run = wandb.init(project=project, name=workdir.name, id=known, resume="allow", config=settings)
    if known is None:
        with whole_file(file) as partial:
            partial.write_text(run.id + "\n")
    return WandbMirror(wandb, run)
