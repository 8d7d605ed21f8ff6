"""From the state dict of another project to our parameters and the settings that they need."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rog_jax.weights import names
from rog_jax.weights.archive import WeightsError
from rog_jax.weights.backbone import pixels_of, resnet, with_our_epsilon
from rog_jax.weights.conventions import DETECTORS, LVIS_CLASSES, LVIS_TEST, PIXELS, Pixels, Settings
from rog_jax.weights.heads import Classes, detector_heads
from rog_jax.weights.names import HeadNames
from rog_jax.weights.tensors import NORM_EPSILON, Tensors

logger = logging.getLogger(__name__)
State = Mapping[str, np.ndarray]

CONSTANTS = ("pixel_mean", "pixel_std", "anchor_generator")
"""Parts of names of tensors that are no weights: the settings say what they hold."""


class Conversion(NamedTuple):
    """A converted checkpoint.

    Attributes:
        family: torchvision, mmdet or detectron2.
        settings: sections of a config with what this checkpoint's conventions fix.
        parameters: nested dicts, as `nnx.to_pure_dict` gives them for our detector or for a part of it.
        used: names of the tensors that became parameters.
        dropped: reason by tensor, or part of one, that has no place here.
        notes: what else was decided.
    """

    family: str
    settings: Settings
    parameters: dict[str, Any]
    used: list[str]
    dropped: dict[str, str]
    notes: list[str]


def from_torchvision(
    state: State,
    *,
    num_classes: int | None = None,
    classes: Sequence[int] | None = None,
    norm_epsilon: float | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """Settings and parameters of a torchvision ResNet, Faster R-CNN or Mask R-CNN with FPN.

    A ResNet under torchvision's names whose stem takes pixels as they are gets the settings of Caffe's: so are
    MMDetection's files of the MSRA weights.

    Args:
        state: tensors by name, as `read_weights` gives them.
        num_classes: heads for another number of foreground classes are dropped, with a note in the log.
        classes: foreground classes (the first after the background is 0) to keep, in this order; all if None.
        norm_epsilon: what the norms add to their variance. None: 0 for detectors under the names of before
            torchvision 0.13, as torchvision sets it for its published COCO files, which were trained so; else 1e-5.

    Raises:
        WeightsError: a tensor is missing, has another shape, or has no place; the message names it.
    """
    options = {"num_classes": num_classes, "classes": classes, "norm_epsilon": norm_epsilon}
    return _logged(convert("torchvision", state, **options))


def from_mmdet(
    state: State,
    *,
    style: Pixels | None = None,
    num_classes: int | None = None,
    classes: Sequence[int] | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """The same for MMDetection 2 and 3.

    Args:
        state: tensors by name.
        style: `pytorch` or `caffe` (BGR, no division by standard deviations, stride in the 1x1), as the backbone's
            setting of that name; told from the stem if None.
        num_classes: see `from_torchvision`.
        classes: see `from_torchvision`.

    Raises:
        WeightsError: as `from_torchvision`.
    """
    return _logged(convert("mmdet", state, style=style, num_classes=num_classes, classes=classes))


def from_detectron2(
    state: State,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[int] | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """The same for Detectron2, and for ResNets under the names of the first Detectron (Caffe2).

    Args:
        state: tensors by name.
        variant: `msra` (BGR, stride in the 1x1: the configs' default) or `torchvision`; told from the stem if None.
        num_classes: see `from_torchvision`.
        classes: see `from_torchvision`.

    Raises:
        WeightsError: as `from_torchvision`.
        ValueError: unknown variant.
    """
    styles = {None: None, "msra": "caffe", "torchvision": "pytorch"}
    if variant not in styles:
        raise ValueError(f"variant={variant!r} is unknown; choose one of msra, torchvision")
    return _logged(convert("detectron2", state, style=styles[variant], num_classes=num_classes, classes=classes))


def convert(
    family: str,
    state: State,
    *,
    style: Pixels | None = None,
    num_classes: int | None = None,
    classes: Sequence[int] | None = None,
    norm_epsilon: float | None = None,
) -> Conversion:
    """What `from_torchvision`, `from_mmdet` and `from_detectron2` do, with an account of every tensor."""
    if family not in _FAMILIES:
        raise ValueError(f"family={family!r} is unknown; choose one of {', '.join(_FAMILIES)}")
    if style is not None and style not in PIXELS:
        raise ValueError(f"style={style!r} is unknown; choose one of {', '.join(PIXELS)}")
    patterns, detector_prefix, backbone_names, head_names = _FAMILIES[family]
    given, state = state, names.renamed(state, patterns)
    is_detector = any(name.startswith(detector_prefix) for name in state)
    where = backbone_names(detector_prefix if is_detector else "")
    tensors = Tensors(state, family)
    tensors.drop([name for name in state if any(part in name for part in CONSTANTS)], "a constant, set in the config")
    tensors.drop(where.classifier, "the classifier of ImageNet")
    depth, parameters = resnet(tensors, where)
    style = style or _style(family, is_detector, parameters["stem"])
    settings = {"model": {"depth": depth, "width": 64, "norm": "frozen_batch", **PIXELS[style]}}
    if norm_epsilon is None:
        norm_epsilon = 0.0 if family == "torchvision" and is_detector and set(given) != set(state) else NORM_EPSILON
    notes = []
    if norm_epsilon != NORM_EPSILON:
        parameters = with_our_epsilon(parameters, norm_epsilon)
        notes.append(f"the norms add {norm_epsilon:g} to their variance; ours were set to give the same")
    parameters = {"backbone": parameters}
    if is_detector:
        chosen = Classes(background_first=family == "torchvision", number=num_classes, kept=classes)
        heads, found = detector_heads(tensors, head_names, parameters["backbone"], chosen)
        parameters |= heads
        settings = _merged(DETECTORS[family], settings, found, _other_configs(family, style, found["model"]))
    tensors.finish()
    return Conversion(family, settings, parameters, tensors.used, tensors.dropped, notes)


def family_of(state: State) -> str:
    """Whose checkpoint this is, by the names of its tensors.

    An ImageNet ResNet with torchvision's names counts as torchvision's, whoever trained it.

    Raises:
        WeightsError: it is nobody's.
    """
    for name in state:
        for family, beginnings in _BEGINNINGS.items():
            if name.startswith(beginnings):
                return family
    first = next(iter(state), None)
    raise WeightsError(
        f"no tensor has a name of torchvision, MMDetection or Detectron2 (the first is {first!r}); "
        "docs/weights.md lists what is read"
    )


_FAMILIES: dict[str, tuple[tuple, str, Any, HeadNames]] = {
    "torchvision": (names.OLD_TORCHVISION, "backbone.body.", names.torch_backbone, names.TORCHVISION),
    "mmdet": ((), "backbone.", names.torch_backbone, names.MMDETECTION),
    "detectron2": (names.CAFFE2, "backbone.bottom_up.", names.detectron2_backbone, names.DETECTRON2),
}
"""Old names, prefix of a detector's backbone, the backbone's names, the heads' names."""
_BEGINNINGS = {
    "torchvision": ("backbone.body.", "backbone.fpn.", "layer1.0."),
    "mmdet": ("neck.", "rpn_head.", "roi_head.", "backbone.layer1."),
    "detectron2": ("backbone.bottom_up.", "backbone.fpn_", "proposal_generator.", "stem.conv1.", "res2.0.", "res2_0_"),
}


def _style(family: str, is_detector: bool, stem: dict[str, Any]) -> Pixels:
    """Of the pixels, told from the stem; torchvision itself has but one, others use its names for ResNets."""
    if family != "torchvision":
        return pixels_of(stem)
    return "pytorch" if is_detector else pixels_of(stem, unclear="pytorch")


def _other_configs(family: str, style: Pixels, model: dict[str, Any]) -> Settings:
    """Where a project's configs for such a detector differ from its Mask R-CNN on COCO."""
    settings: Settings = {"model": {}, "roi": {}, "test": {}}
    if family == "mmdet" and style == "caffe":
        settings["model"]["norm_trained"] = False
    if family == "mmdet" and not model["masks"]:
        settings["roi"]["low_quality"] = "none"
    if family != "torchvision" and model.get("num_classes") in LVIS_CLASSES:
        settings["test"] |= LVIS_TEST
    return settings


def _merged(*parts: Settings) -> Settings:
    """Sections joined; later values win."""
    sections = {section for part in parts for section in part}
    return {
        section: {key: value for part in parts for key, value in part.get(section, {}).items()}
        for section in sorted(sections)
    }


def _logged(conversion: Conversion) -> tuple[Settings, dict[str, Any]]:
    for name, reason in conversion.dropped.items():
        logger.info("%s is left out: %s", name, reason)
    for note in conversion.notes:
        logger.info("%s", note)
    return conversion.settings, conversion.parameters
