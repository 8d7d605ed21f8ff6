"""What belongs to a classification loss: the settings that its authors trained and tested it with.

A recipe or the command line leaves a setting open (`configs/common.py`), and the loss fills it in; what is set stays.
"""

from typing import Any

from ml_collections import ConfigDict

from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.models.objective import extra_inputs

MMDET_DEFAULTS = {"optim.warmup_ratio": 1e-3, "optim.clip_norm": 0.0}
"""What MMDetection's schedules have where an author's config says nothing."""

COMMON: dict[str, Any] = {
    "optim.warmup_steps": 500,
    "optim.warmup_ratio": 1e-4,
    "optim.clip_norm": 5.0,
    "test.nms_iou": 0.5,
    "roi.mask_predictor": "conv",
    "roi.init": "mmdet",
    "model.trained_parts": (),
}
"""The published ROG config (clip and warm-up ratio are not in the paper); losses differ from it as said below."""

GUMBEL = MMDET_DEFAULTS | {"test.nms_iou": 0.3, "roi.mask_predictor": "normed", "roi.init": "pytorch"}
"""GOL's configs; their own initialisation of the classifier makes MMDetection skip its rules for the other layers."""

LOSS_SETTINGS: dict[str, dict[str, Any]] = {
    "sigmoid_ce": {},
    "softmax_ce": {},
    "none": {},
    "seesaw": {"roi.mask_predictor": "normed"},
    "ecm": {"roi.mask_predictor": "normed", "optim.warmup_steps": 10_000},
    "eql": MMDET_DEFAULTS,
    "eqlv2": MMDET_DEFAULTS,
    "gol": GUMBEL,
    "droploss": GUMBEL,
    "eql_gumbel": GUMBEL,
    "gumbel_ce": GUMBEL,
    "federated": {"optim.warmup_steps": 1000, "optim.warmup_ratio": 1e-3, "optim.clip_norm": 0.0},
    "loce": MMDET_DEFAULTS
    | {
        "roi.mask_predictor": "normed",
        "model.trained_parts": ("rpn", "box_head/classifier", "box_head/deltas", "mask_head"),
    },
}
"""Sources: the configs of each loss's authors (docs/losses.md); "federated" is Detectron2's defaults; LOCE's is its
second stage, which starts from a finished softmax run (`config.init_from`)."""

MILESTONES = {("loce", 6): (3, 5), ("ecm", 24): (20, 22)}
"""Published schedules that differ from the usual one, by loss and epochs."""


def with_recipe(config: ConfigDict) -> ConfigDict:
    """A copy of the config in which every setting left open has the value that belongs to the classification loss.

    `rog_jax.training.state.ModelDefinition` applies it: its `config` is what a run is made of and what it saves.

    Raises:
        ValueError: the classification loss is unknown, or one of its options has no meaning.
    """
    config = config.copy_and_resolve_references()
    loss = config.loss.classification
    if loss not in CLASSIFICATION_LOSSES:
        known = ", ".join(CLASSIFICATION_LOSSES)
        raise ValueError(f"config.loss.classification={loss!r} is unknown; choose one of {known}")
    own = {"roi.predictor": CLASSIFICATION_LOSSES[loss].predictor}
    for path, value in (COMMON | own | LOSS_SETTINGS.get(loss, {})).items():
        section, name = path.split(".")
        if config[section][name] in (None, "auto"):
            config[section][name] = value
    if not config.model.masks:
        config.model.trained_parts = tuple(part for part in config.model.trained_parts if part != "mask_head")
    if "verified" in extra_inputs(config.loss):
        config.data.negatives = True  # each batch says which categories are verified
    if config.optim.milestones is None:
        length = config.train.steps if config.optim.milestone_unit == "steps" else config.train.epochs
        config.optim.milestones = MILESTONES.get((loss, length), usual_milestones(length))
    return config


def usual_milestones(length: int) -> tuple[int, ...]:
    """After 8 and 11 of 12 epochs, 16 and 22 of 24 (the published 1x and 2x); other lengths in proportion."""
    return tuple(sorted({round(length * share) for share in (8 / 12, 11 / 12)} - {0, length}))
