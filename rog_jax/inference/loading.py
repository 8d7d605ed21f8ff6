"""A detector from a folder alone: no recipe and no annotations are needed."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common
from rog_jax.evaluation.evaluated_model import EvaluatedModel, model_of_weights, trained_model
from rog_jax.inference.categories import (
    Categories,
    categories_of_coco,
    categories_of_run,
    check_number,
    read_categories,
)
from rog_jax.models.recipe import with_recipe
from rog_jax.training.best import read_best
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.initial import check_conventions, load_initial, with_settings

_CHECKPOINTS = "checkpoints"


class Loaded(NamedTuple):
    """A detector and what its labels mean."""

    model: EvaluatedModel
    categories: Categories


def load(
    path: str | Path,
    step: int | None = None,
    batch_size: int = 1,
    names: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> Loaded:
    """The detector of a run's folder, of one of its checkpoints, or of imported weights.

    Args:
        path: `runs/r50`, `runs/r50/best`, `runs/r50/checkpoints/90000`, or a folder of `rog_jax.tools.import_weights`.
        step: of the checkpoint; the newest if None.
        batch_size: pictures at once.
        names: a json with the categories; by default those of training, or COCO's.
        overrides: settings by path, such as {"test.max_detections": 100}, in place of those that training saved or the
            weights' own project fixes.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit the overrides.
        DataError: the file of the names is not what it should be.
        ValueError: an override names no setting, or has no meaning.
    """
    folder = Path(path).absolute()
    if folder.parent.name == _CHECKPOINTS and folder.name.isdecimal():
        folder, step = folder.parents[1], int(folder.name) if step is None else step
    if not folder.is_dir():
        raise CheckpointError(f"{path}: there is no such folder; give a run's --workdir, or imported weights")
    overrides = overrides or {}
    # Detections beyond the limit are written for eval.py's report; who asks for a limit wants no more than that.
    limit = {"test.written_detections": 0} if "test.max_detections" in overrides else {}
    overrides = {"test.batch_size": batch_size} | limit | overrides
    if (folder / _CHECKPOINTS).is_dir():
        return read_best(folder, lambda best: _trained(folder, best if step is None else step, names, overrides))
    return _imported(folder, names, overrides)


def _trained(folder: Path, step: int | None, names: str | Path | None, overrides: dict[str, Any]) -> Loaded:
    checkpoints = Checkpoints(folder, read_only=True)
    about = checkpoints.about(step)
    checkpoints.close()
    config = overridden(saved_config(about["config"]), overrides)
    check_conventions(with_recipe(config), about["config"], str(folder))
    categories = read_categories(names) if names else categories_of_run(about)
    check_number(categories, config.model.num_classes, names or folder)
    return Loaded(trained_model(config, folder, None, step), categories)


def _imported(folder: Path, names: str | Path | None, overrides: dict[str, Any]) -> Loaded:
    initial = load_initial(folder)
    num_classes = initial.settings["model"].get("num_classes")
    if num_classes is None:
        raise CheckpointError(f"{folder} has no heads to detect with: it is there to start training from")
    config = common.get_config()
    config.init_from = str(folder)
    config = overridden(with_settings(config, initial.settings, str(folder), everything=True), overrides)
    check_conventions(config, initial.settings, str(folder))
    config = with_settings(config, initial.settings, str(folder))  # refuses another depth
    categories = read_categories(names) if names else categories_of_coco(num_classes)
    if categories is None:
        raise CheckpointError(
            f"{folder} has {num_classes} categories whose names are not known: give the annotations that have them "
            "(names=, or --names)"
        )
    check_number(categories, config.model.num_classes, names or folder)
    return Loaded(model_of_weights(config, initial), categories)


def saved_config(saved: dict[str, Any]) -> ConfigDict:
    """A config from a checkpoint's json; settings that an older program did not have are as in configs/common.py."""
    config = common.get_config()
    with config.unlocked(), config.ignore_type():
        config.update(_with_tuples(saved))
    return config


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def overridden(config: ConfigDict, overrides: dict[str, Any]) -> ConfigDict:
    """A copy of the config with other settings.

    Raises:
        ValueError: there is no such setting, or it has another type.
    """
    config = config.copy_and_resolve_references()
    config.lock()  # so that there is an error where a setting is new
    for path, value in overrides.items():
        *sections, name = path.split(".")
        try:
            setattr(functools.reduce(getattr, sections, config), name, value)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"config.{path}={value!r}: {error}".replace("\n", " ")) from error
    return config.unlock()
