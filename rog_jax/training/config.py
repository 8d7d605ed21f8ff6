"""Checks of a config that would otherwise fail late or not at all."""

import logging

from ml_collections import ConfigDict

from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.models.objective import uses_memory
from rog_jax.models.tta import views_of

logger = logging.getLogger(__name__)

CHOICES = {
    "data.format": ("lvis", "coco", "openimages"),
    "sampler.name": ("random", "repeat_factor", "instance_aware", "class_aware", "bi_level"),
    "sampler.rounding": ("ceil", "stochastic"),
    "model.norm": ("frozen_batch", "group"),
    "model.dtype": ("float32", "bfloat16"),
    "model.fpn_extra_level": ("max_pool", "on_input", "on_output"),
    "model.box_clamp": ("both", "above"),
    "model.pixel_order": ("rgb", "bgr"),
    "rpn.anchor_strides": ("level", "image"),
    "rpn.low_quality": ("reassign", "keep", "none"),
    "rpn.loss_divisor": ("sampled", "samples"),
    "roi.low_quality": ("reassign", "none"),
    "roi.mask_targets": ("binary", "soft"),
    "roi.predictor": ("auto", "linear", "normed"),
    "roi.mask_predictor": ("auto", "conv", "normed"),
    "roi.init": ("auto", "mmdet", "pytorch"),
    "loss.classification": CLASSIFICATION_LOSSES,  # and what a recipe of the user's adds to it
    "loss.ranking": ("none", "gap", "ap", "rank_sort"),
    "loss.gap.variant": ("paper", "published"),
    "loss.gap.method": ("auto", "interval", "one_hot", "dense"),
    "loss.gap.scope": ("device", "global"),
    "loss.gap.counts_scope": ("device", "global"),
    "loss.ap.scope": ("device", "global"),
    "loss.rank_sort.scope": ("device", "global"),
    "loss.frequency": ("images", "instances"),
    "loss.gap.omega": ("online", "offline", "none"),
    "roi.align_method": ("auto", "gather", "windows"),
    "optim.milestone_unit": ("epochs", "steps"),
    "test.protocol": ("auto", "lvis", "coco", "openimages"),
    "test.norcal.variant": ("exps", "probs", "logits"),
    "test.evaluator": ("hotcoco", "official"),
}
SHAPE_MULTIPLE = 32
"""Padded sides are multiples of the coarsest backbone stride, so that each pyramid level doubles the next exactly."""


def check_config(config: ConfigDict, num_devices: int, *, trains: bool = True) -> None:
    """Raises ValueError, naming the setting and the remedy, where a setting has no meaning.

    Args:
        config: with all overrides.
        num_devices: of the mesh, over all hosts.
        trains: False where the batch of training does not matter: it may have been made on other devices.
    """
    for path, choices in CHOICES.items():
        section, _, name = path.rpartition(".")
        value = getattr(_section(config, section), name)
        if value not in choices:
            raise ValueError(f"config.{path}={value!r} is unknown; choose one of {', '.join(choices)}")
    if config.loss.rank_sort.balance_heads:
        _check_balanced_heads(config)
    if trains:
        if config.train.accumulate < 1:
            raise ValueError(f"config.train.accumulate={config.train.accumulate}: a step has 1 micro-batch or more")
        _check_batch(config, "train", num_devices, config.train.accumulate)
    _check_batch(config, "test", num_devices)
    views_of(config.test)
    for height, width in config.data.shapes:
        if height % SHAPE_MULTIPLE or width % SHAPE_MULTIPLE:
            raise ValueError(f"config.data.shapes: {height}x{width} must be multiples of {SHAPE_MULTIPLE} pixels")
    if config.train.steps < 0 or (config.train.steps == 0 and config.train.epochs < 1):
        raise ValueError("config.train: set steps, or epochs of at least 1")


def _check_batch(config: ConfigDict, section: str, num_devices: int, micro_batches: int = 1) -> None:
    size = config[section].batch_size
    if size < 1 or size % (num_devices * micro_batches):
        times = f", times config.train.accumulate={micro_batches}" if micro_batches > 1 else ""
        raise ValueError(
            f"config.{section}.batch_size={size} is the batch of all devices and must be a multiple of their number, "
            f"{num_devices}{times}"
        )


def _check_balanced_heads(config: ConfigDict) -> None:
    setting, remedy = "config.loss.rank_sort.balance_heads=True", "--config.loss.rank_sort.balance_heads=False"
    if config.loss.ranking != "rank_sort":
        raise ValueError(
            f"{setting} weighs boxes and masks by Rank & Sort, and config.loss.ranking is {config.loss.ranking}: add "
            f"--config.loss.ranking=rank_sort, or {remedy}"
        )
    if uses_memory(config):
        raise ValueError(
            f"{setting} has no place for the boxes of config.loss.classification={config.loss.classification}'s "
            f"feature memory: add {remedy}, or --config.loss.memory.slots=0"
        )


def check_fresh_start(config: ConfigDict) -> None:
    """Refuses a run from random weights that would train only a part of them; warns where the recipe wants others.

    Args:
        config: with nothing left open and without `init_from`.

    Raises:
        ValueError: naming the remedies.
    """
    if config.model.trained_parts:
        raise ValueError(
            f"config.model.trained_parts={config.model.trained_parts} leaves the rest of the network as it starts, and "
            "config.init_from is empty, so that it would stay random: add --config.init_from=RUN, a run to start from "
            "(for loce its first stage, docs/recipes.md), or train everything by --config.model.trained_parts='()'"
        )
    if config.model.norm == "frozen_batch":
        logger.warning(
            "config.init_from is empty: a backbone with norms that stay as they are (model.norm=frozen_batch) and "
            "model.frozen_stages=%d starts at random; recipes want weights of ImageNet (docs/weights.md)",
            config.model.frozen_stages,
        )


def _section(config: ConfigDict, path: str) -> ConfigDict:
    for name in path.split("."):
        config = config[name]
    return config
