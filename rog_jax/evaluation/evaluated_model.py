"""The model that is evaluated: of a run's checkpoint, or imported."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from rog_jax.data import Annotations, ClassStatistics, check_categories
from rog_jax.training.best import BEST, best_folder, best_step, read_best
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.config import check_config
from rog_jax.training.initial import (
    InitialWeights,
    check_conventions,
    load_initial,
    overwritten,
    restored,
    with_settings,
)
from rog_jax.training.state import ModelDefinition, TrainState, data_mesh, inference_state

NO_STEP = -1


class EvaluatedModel(NamedTuple):
    """A model with its arrays, ready to predict.

    Attributes:
        config: with what the weights need; its `test.max_detections` is that of the figures.
        definition: of the model, which gives `test.written_detections` if these are more.
        state: its parameters on the devices; what only training needs is left out.
        facts: what the figures' file says of it.
    """

    config: ConfigDict
    definition: ModelDefinition
    state: TrainState
    facts: dict[str, Any]


def evaluated_model(
    config: ConfigDict, workdir: Path, annotations: Annotations, step: int | str | None = None
) -> EvaluatedModel:
    """The model of a run's checkpoint; with `init_from` and no checkpoint in the folder, the imported detector.

    Args:
        config: the recipe.
        workdir: folder of the run.
        annotations: what it is evaluated on.
        step: of the checkpoint; `BEST` for the best one so far, None for the newest; of several hosts, for the first.

    Raises:
        CheckpointError: there is no such checkpoint, or it is another model's.
        DataError: its categories are not those of the annotations.
    """
    if step != BEST and config.init_from and not (workdir / "checkpoints").is_dir():
        return imported_model(config, annotations.num_classes)
    folder = best_folder(workdir) if step == BEST else workdir
    if jax.process_count() > 1:
        return trained_model(config, folder, annotations, _step_of_all_hosts(workdir, step))
    if step == BEST:
        best_step(workdir)  # says so where there is none
        return read_best(folder, lambda best: trained_model(config, folder, annotations, best))
    return trained_model(config, folder, annotations, step)


def _step_of_all_hosts(workdir: Path, step: int | str | None) -> int | None:
    """What the first host finds; another one that looks a moment later may find another checkpoint."""
    if step == BEST:
        step = best_step(workdir) if jax.process_index() == 0 else None
    elif step is None:
        with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
            step = checkpoints.latest()
    found = int(multihost_utils.broadcast_one_to_all(np.int32(NO_STEP if step is None else step)))
    return None if found == NO_STEP else found


def trained_model(
    config: ConfigDict, workdir: Path, annotations: Annotations | None, step: int | None
) -> EvaluatedModel:
    """The model of a run's checkpoint, whatever devices it was trained on: parameters are all that is read.

    Without annotations its categories are not compared with any.

    Raises:
        CheckpointError: there is no such checkpoint, or it is another model's.
        DataError: its categories are not those of the annotations.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    about = checkpoints.about(step)
    if annotations is not None:
        check_categories(annotations, about["category_ids"])
    config = with_settings(config, about.get("conventions") or {}, str(workdir))
    config.model.num_classes = config.model.num_classes or len(about["category_ids"])
    statistics = about.get("statistics")  # runs of the first versions have none, and their losses need none
    config, definition = untrained(config, None if statistics is None else ClassStatistics.from_json(statistics))
    definition.initial = restored(definition.initial, checkpoints.parameters(step), str(workdir))
    step = checkpoints.latest() if step is None else step
    sums = checkpoints.gradient_sums(step)
    checkpoints.close()
    check_conventions(config, about["config"], str(workdir))
    facts = {"step": step, "training": training_facts(about)}
    state = inference_state(definition, data_mesh(), step)._replace(gradients=sums)
    return EvaluatedModel(config, definition, state, facts)


def training_facts(about: dict[str, Any]) -> dict[str, Any]:
    """What figures need beside them to be compared: of a checkpoint's `about`, the settings that change figures most
    by name, then the whole config."""
    config = about["config"]
    train, optim = config["train"], config["optim"]
    return {
        "seed": train["seed"],
        "batch_size": train["batch_size"],
        "learning_rate": optim["lr"] * train["batch_size"] / optim["lr_batch_size"],
        **{key: about.get(key) for key in ("commit", "jax", "devices", "config")},
    }


def imported_model(config: ConfigDict, num_classes: int) -> EvaluatedModel:
    """The detector of `config.init_from`, with all of its own project's settings.

    Raises:
        CheckpointError: it has no heads, or for another number of categories than the annotations.
    """
    initial = load_initial(config.init_from)
    classes = initial.settings["model"].get("num_classes")
    if classes != num_classes:
        found = "no heads" if classes is None else f"heads for {classes} categories"
        remedy = "; torchvision's COCO detectors want --coco-91-to-80 when imported" if classes == 90 else ""
        raise CheckpointError(
            f"{config.init_from} has {found}, and the annotations have {num_classes} categories: train it on them "
            f"first (train.py --config.init_from){remedy}"
        )
    return model_of_weights(with_settings(config, initial.settings, config.init_from, everything=True), initial)


def model_of_weights(config: ConfigDict, initial: InitialWeights) -> EvaluatedModel:
    """The detector that imported weights are, with a config that has the settings they need."""
    config, definition = untrained(config, None)
    definition.initial = overwritten(definition.initial, initial.parameters, config.init_from)
    return EvaluatedModel(config, definition, inference_state(definition, data_mesh()), {"imported": initial.about})


def untrained(config: ConfigDict, statistics: ClassStatistics | None) -> tuple[ConfigDict, ModelDefinition]:
    """The config with all of its settings, and the model that writes `written_detections`, untrained."""
    limit = config.test.max_detections
    writing = config.copy_and_resolve_references()  # the limit of the figures is applied by the evaluation
    writing.test.max_detections = max(limit, config.test.written_detections)
    definition = ModelDefinition(writing, statistics)
    config = definition.config.copy_and_resolve_references()
    config.test.max_detections = limit
    check_config(config, data_mesh().size, trains=False)
    return config, definition
