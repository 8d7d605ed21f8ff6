"""From the state dict of another project to our parameters and the settings that they need."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rog_jax.weights import names
from rog_jax.weights.archive import WeightsError
from rog_jax.weights.backbone import Pixels, pixels_of, resnet
from rog_jax.weights.conventions import DETECTORS, PIXELS, Settings
from rog_jax.weights.heads import Classes, detector_heads
from rog_jax.weights.names import HeadNames
from rog_jax.weights.tensors import Tensors

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
    """

    family: str
    settings: Settings
    parameters: dict[str, Any]
    used: list[str]
    dropped: dict[str, str]


def from_torchvision(
    state: State, *, num_classes: int | None = None, classes: Sequence[int] | None = None
) -> tuple[Settings, dict[str, Any]]:
    """Settings and parameters of a torchvision ResNet, Faster R-CNN or Mask R-CNN with FPN.

    Args:
        state: tensors by name, as `read_weights` gives them.
        num_classes: heads for another number of foreground classes are dropped, with a note in the log.
        classes: foreground classes (the first after the background is 0) to keep, in this order; all if None.

    Raises:
        WeightsError: a tensor is missing, has another shape, or has no place; the message names it.
    """
    return _logged(convert("torchvision", state, num_classes=num_classes, classes=classes))


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
) -> Conversion:
    """What `from_torchvision`, `from_mmdet` and `from_detectron2` do, with an account of every tensor."""
    if family not in _FAMILIES:
        raise ValueError(f"family={family!r} is unknown; choose one of {', '.join(_FAMILIES)}")
    if style is not None and style not in PIXELS:
        raise ValueError(f"style={style!r} is unknown; choose one of {', '.join(PIXELS)}")
    patterns, detector_prefix, backbone_names, head_names = _FAMILIES[family]
    state = names.renamed(state, patterns)
    is_detector = any(name.startswith(detector_prefix) for name in state)
    where = backbone_names(detector_prefix if is_detector else "")
    tensors = Tensors(state, family)
    tensors.drop([name for name in state if any(part in name for part in CONSTANTS)], "a constant, set in the config")
    tensors.drop(where.classifier, "the classifier of ImageNet")
    depth, parameters = resnet(tensors, where)
    style = "pytorch" if family == "torchvision" else style or pixels_of(parameters["stem"])
    settings = {"model": {"depth": depth, "width": 64, "norm": "frozen_batch", **PIXELS[style]}}
    parameters = {"backbone": parameters}
    if is_detector:
        chosen = Classes(background_first=family == "torchvision", number=num_classes, kept=classes)
        heads, found = detector_heads(tensors, head_names, parameters["backbone"], chosen)
        parameters |= heads
        settings = _merged(DETECTORS[family], settings, found)
        if family == "mmdet" and not found["model"]["masks"]:
            settings["roi"]["low_quality"] = "none"  # what its Faster R-CNN configs say, unlike its Mask R-CNN's
    tensors.finish()
    return Conversion(family, settings, parameters, tensors.used, tensors.dropped)


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
    return conversion.settings, conversion.parameters
