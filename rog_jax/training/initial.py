"""Weights to start from, `config.init_from`: written by `rog_jax.tools.import_weights`, or another run's."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.training.best import read_best
from rog_jax.training.checkpoint import (
    AS_NUMPY,
    CheckpointError,
    Checkpoints,
    another_model,
    compare,
    describe,
    flattened,
    nested,
)

logger = logging.getLogger(__name__)
Tree = dict[Any, Any]
Settings = dict[str, dict[str, Any]]

CONVENTIONS = {
    "model": (
        "width",
        "norm",
        "stride_in_1x1",
        "pixel_order",
        "pixel_mean",
        "pixel_std",
        "fpn_channels",
        "fpn_extra_level",
        "box_clamp",
    ),
    "rpn": ("anchor_scale", "ratios", "anchor_rounding", "anchor_offset", "anchor_strides", "box_stds"),
    "roi": (
        "box_pool",
        "mask_pool",
        "aligned",
        "level_epsilon",
        "box_stds",
        "class_agnostic_boxes",
        "class_agnostic_masks",
        "hidden",
        "mask_channels",
        "mask_convs",
    ),
}
"""What a network's weights mean depends on these; a run that starts from weights takes them over. Losses, samples,
thresholds and the points of RoIAlign stay the recipe's."""
PREDICTORS = {"predictor": "box_head/classifier/kernel", "mask_predictor": "mask_head/weight"}
"""Settings of `roi` that say what kind of layer an array belongs to: the shapes of either kind are the same."""
HEADS = ("box_head/classifier/", "box_head/deltas/", "mask_head/weight", "mask_head/bias")
"""Arrays that depend on the number of categories: left fresh where a recipe has another."""


class InitialWeights(NamedTuple):
    """Imported weights.

    Attributes:
        parameters: nested dicts of a detector's arrays, or of a part of it.
        settings: sections of a config, all that the checkpoint's own project fixes.
        about: where they came from.
    """

    parameters: Tree
    settings: Settings
    about: dict[str, Any]


def save_initial(folder: str | Path, initial: InitialWeights, *, overwrite: bool = False) -> None:
    """Writes weights as an Orbax checkpoint, whole or not at all.

    Raises:
        CheckpointError: the folder is not empty, and is none of ours or `overwrite` is not set.
    """
    folder = Path(folder).absolute()
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file: choose another folder")
    if folder.exists() and any(folder.iterdir()):
        if not (overwrite and (folder / "parameters").is_dir() and (folder / "about").is_dir()):
            remedy = "add --overwrite" if (folder / "parameters").is_dir() else "choose another folder"
            raise CheckpointError(f"{folder} is not empty: {remedy}")
    elif folder.exists():
        folder.rmdir()
    about = {"settings": initial.settings, "about": initial.about, "arrays": sorted(flattened(initial.parameters))}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            folder,
            args=ocp.args.Composite(
                parameters=ocp.args.PyTreeSave(_with_text_keys(initial.parameters)), about=ocp.args.JsonSave(about)
            ),
            force=overwrite,
        )


def load_initial(folder: str | Path) -> InitialWeights:
    """Weights that `save_initial` wrote, or those of the newest checkpoint of a run, or of its best one (`RUN/best`).

    Raises:
        CheckpointError: the folder is missing or of another kind.
    """
    folder = Path(folder).absolute()
    if (folder / "checkpoints").is_dir():
        return _from_run(folder)
    if not (folder / "parameters").is_dir() or not (folder / "about").is_dir():
        raise CheckpointError(
            f"config.init_from: {folder} holds no imported weights and no run's checkpoints; write them "
            "with python -m rog_jax.tools.import_weights FILE --to DIR"
        )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        about = checkpointer.restore(folder, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        as_numpy = nested(dict.fromkeys(about["arrays"], AS_NUMPY))
        restore = ocp.args.Composite(parameters=ocp.args.PyTreeRestore(restore_args=as_numpy))
        parameters = checkpointer.restore(folder, args=restore)["parameters"]
    return InitialWeights(_with_number_keys(parameters), about["settings"], about["about"])


def _from_run(folder: Path) -> InitialWeights:
    return read_best(folder, lambda step: _from_step(folder, step))


def _from_step(folder: Path, step: int | None) -> InitialWeights:
    """Of a checkpoint, the newest for None."""
    checkpoints = Checkpoints(folder, read_only=True)
    step = checkpoints.latest() if step is None else step
    about, parameters = checkpoints.about(step), checkpoints.parameters(step)
    checkpoints.close()
    kept = CONVENTIONS | {"model": ("depth", *CONVENTIONS["model"])}
    config = about["config"]
    settings = {
        section: {name: config[section][name] for name in names if name in config[section]}
        for section, names in kept.items()
    }
    settings["roi"] |= predictors_of(config)
    return InitialWeights(_with_number_keys(parameters), settings, {"run": str(folder), "step": step})


def with_settings(config: ConfigDict, settings: Settings, source: str, *, everything: bool = False) -> ConfigDict:
    """A copy of the config with a checkpoint's conventions; each setting that changes is logged.

    Args:
        config: a recipe with its overrides.
        settings: of the weights.
        source: where they come from, for the log.
        everything: also losses, thresholds and sample numbers, so that a detector gives its own project's detections;
            else only what the weights' meaning depends on.

    Raises:
        CheckpointError: the backbone's depth is another.
    """
    config = config.copy_and_resolve_references()
    depth = settings.get("model", {}).get("depth", config.model.depth)
    if depth != config.model.depth and not everything:
        raise CheckpointError(
            f"{source} holds a ResNet-{depth}, and config.model.depth is {config.model.depth}: use the recipe of that "
            f"depth, or --config.model.depth={depth}"
        )
    for section, values in settings.items():
        for name, value in values.items():
            if everything or name in CONVENTIONS.get(section, ()):
                _set(config[section], section, name, value, source)
    return config


def _set(section: ConfigDict, path: str, name: str, value: Any, source: str) -> None:
    value = _plain(value)
    before = section[name]
    if value != before:
        logger.info("config.%s.%s: %s -> %s, from %s", path, name, before, value, source)
        section[name] = value


def predictors_of(config: dict[str, Any]) -> dict[str, str]:
    """The kinds of the last layers that a saved config has; "auto", of an older program, is what the loss wanted."""
    kinds = {name: config["roi"][name] for name in PREDICTORS if name in config["roi"]}
    if kinds.get("predictor") == "auto":
        kinds["predictor"] = CLASSIFICATION_LOSSES[config["loss"]["classification"]].predictor
    return kinds


def check_predictors(config: ConfigDict, fresh: tuple[Tree, Tree], initial: InitialWeights, source: str) -> None:
    """Refuses weights of a layer of another kind (linear, conv; normed), which have the same shape and no meaning.

    Args:
        config: with nothing left open.
        fresh: trainable and fixed arrays of its model.
        initial: the weights.
        source: where they come from.

    Raises:
        CheckpointError: naming the setting.
    """
    own, imported = flattened(fresh[0]) | flattened(fresh[1]), flattened(initial.parameters)
    for name, path in PREDICTORS.items():
        kind = initial.settings.get("roi", {}).get(name)
        is_taken = path in own and path in imported and own[path].shape == imported[path].shape
        if kind is not None and is_taken and kind != config.roi[name]:
            raise CheckpointError(
                f"{path} in {source} is that of a {kind} layer, and config.roi.{name} is {config.roi[name]}: add "
                f"--config.roi.{name}={kind}, or start from weights trained with --config.roi.{name}={config.roi[name]}"
            )


def check_conventions(config: ConfigDict, saved: dict[str, Any], source: str) -> None:
    """Refuses settings that give the arrays of a run's checkpoint another meaning than they were trained with.

    Args:
        config: with nothing left open.
        saved: the run's own config.
        source: the run, for the message.

    Raises:
        CheckpointError: naming the settings.
    """
    known = {(section, name): saved[section].get(name) for section, names in CONVENTIONS.items() for name in names}
    known |= {("roi", name): kind for name, kind in predictors_of(saved).items()}
    differences = [
        f"config.{section}.{name}: checkpoint {value}, here {config[section][name]}"
        for (section, name), value in known.items()
        if value is not None and _plain(value) != _plain(config[section][name])
    ]
    if differences:
        raise another_model(source, differences)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def restored(fresh: tuple[Tree, Tree], parameters: Tree, source: str) -> tuple[Tree, Tree]:
    """The arrays of a checkpoint in the places of fresh trainable and fixed ones, each of them.

    Raises:
        CheckpointError: the checkpoint has more, fewer or other arrays.
    """
    own = flattened(fresh[0]) | flattened(fresh[1])
    differences = compare(describe(parameters), describe(own))
    if differences:
        raise another_model(source, differences)
    return overwritten(fresh, parameters, source)


def overwritten(fresh: tuple[Tree, Tree], parameters: Tree, source: str) -> tuple[Tree, Tree]:
    """Fresh trainable and fixed arrays, with those that imported weights have in their place.

    Raises:
        CheckpointError: an array has another shape, and not because of another number of categories.
    """
    imported = flattened(parameters)
    taken, left = set(), []

    def replace(tree: Tree, prefix: str = "") -> Tree:
        result = {}
        for key, value in tree.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict):
                result[key] = replace(value, f"{path}/")
            elif path in imported and _fits(path, imported[path], value, source):
                result[key] = np.asarray(imported[path], np.float32)
                taken.add(path)
            else:
                result[key] = value
                left.append(path)
        return result

    trees = replace(fresh[0]), replace(fresh[1])
    unused = sorted(imported.keys() - taken)
    logger.info("%d arrays from %s; %d start fresh: %s", len(taken), source, len(left), _parts(left))
    if unused:
        logger.info("%d arrays of %s have no place in this model: %s", len(unused), source, _parts(unused))
    return trees


def _fits(path: str, imported: np.ndarray, fresh: np.ndarray, source: str) -> bool:
    if imported.shape == fresh.shape:
        return True
    if path.startswith(HEADS):
        return False
    raise CheckpointError(
        f"{path} is {list(imported.shape)} in {source} and {list(fresh.shape)} in this config's model: the recipe "
        "describes another architecture"
    )


def _parts(paths: list[str]) -> str:
    """The modules that the arrays belong to, in short."""
    return ", ".join(sorted({"/".join(path.split("/")[:2]) for path in paths})) or "none"


def _with_text_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _with_text_keys(value) for key, value in tree.items()}
    return np.ascontiguousarray(tree)


def _with_number_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {int(key) if key.isdecimal() else key: _with_number_keys(value) for key, value in tree.items()}
    return tree
