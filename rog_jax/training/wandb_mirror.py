"""Weights & Biases beside TensorBoard, by `train.py --wandb PROJECT`."""

import importlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rog_jax.training.storage import whole_file

logger = logging.getLogger(__name__)

RUN_FILE = "wandb_run.txt"
"""In the run's folder: the id with which a resumed run goes on there, too."""


class WandbMirror:
    """Sends scalars and pictures to a run of Weights & Biases.

    A resumed run sends the steps after its checkpoint once more. Weights & Biases ignores steps that it has passed, and
    they are the same ones. An error there ends the mirroring, with a warning, and never the training.

    Args:
        wandb: the package.
        run: from its `init`.
    """

    def __init__(self, wandb: Any, run: Any):
        self._wandb, self._run, self._failed = wandb, run, False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the scalars of a step."""
        self._send(lambda: self._run.log(dict(values), step=step))

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Sends a picture [H, W, 3] of a step."""
        self._send(lambda: self._run.log({name: self._wandb.Image(pixels)}, step=step))

    def close(self) -> None:
        """Ends the run there."""
        self._send(self._run.finish)

    def _send(self, call: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # of many types, by what its network or its server does
            self._failed = True
            logger.warning("Weights & Biases is sent nothing more of this run: %s: %s", type(error).__name__, error)


def wandb_opener(project: str, workdir: Path, config: ConfigDict) -> Callable[[], WandbMirror | None]:
    """What opens a run in a project, the same one for the same folder, once this one is known to be able to start.

    Raises:
        ImportError: the package is missing.
        RuntimeError: by the call: the run cannot be opened; one that was opened before goes on without.
        StorageError: by the call: the folder cannot be written to.
    """
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise ImportError("--wandb needs the package wandb: pip install wandb, and once wandb login") from error

    def opened() -> WandbMirror | None:
        file = workdir / RUN_FILE
        known = file.read_text().strip() if file.is_file() else None
        settings = json.loads(config.to_json_best_effort())
        try:
            run = wandb.init(project=project, name=workdir.name, id=known, resume="allow", config=settings)
        except Exception as error:
            if known is None:
                raise RuntimeError(
                    f"--wandb {project}: the run cannot be opened ({error}): wandb login, or leave --wandb out"
                ) from error
            logger.warning("Weights & Biases cannot be reached, and the run goes on without it: %s", error)
            return None
        if known is None:
            with whole_file(file) as partial:
                partial.write_text(run.id + "\n")
        return WandbMirror(wandb, run)

    return opened
