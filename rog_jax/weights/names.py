"""Where each project keeps the layers of a ResNet and of a detector, and how its older names became today's."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

State = Mapping[str, np.ndarray]
LayerNames = tuple[str, str]
"""Roots of a convolution's and of its norm's tensors."""


@dataclass(frozen=True)
class BackboneNames:
    """A ResNet's names.

    Attributes:
        prefix: of all of them.
        stem: of the first convolution and its norm.
        block: of a layer ("conv1" ... "shortcut") from stage (0..3), block and layer.
        classifier: tensors of the ImageNet classifier.
    """

    prefix: str
    stem: LayerNames
    block: Callable[[int, int, str], LayerNames]
    classifier: tuple[str, ...]


@dataclass(frozen=True)
class HeadNames:
    """A detector's names beyond the backbone, without ".weight" and ".bias"; `{}` is the number of a level or layer.

    Attributes:
        lateral, output: the pyramid's convolutions.
        first_level: number of the finest level.
        rpn_conv, objectness, rpn_deltas: the RPN head.
        fc1, fc2, classifier, deltas: the box head.
        mask_conv: the mask head's convolutions.
        first_mask_conv: number of the first.
        deconv, mask_predictor: the mask head's end.
    """

    lateral: str
    output: str
    first_level: int
    rpn_conv: str
    objectness: str
    rpn_deltas: str
    fc1: str
    fc2: str
    classifier: str
    deltas: str
    mask_conv: str
    first_mask_conv: int
    deconv: str
    mask_predictor: str


def torch_backbone(prefix: str) -> BackboneNames:
    """torchvision's names, which MMDetection uses too."""

    def block(stage: int, index: int, layer: str) -> LayerNames:
        root = f"{prefix}layer{stage + 1}.{index}"
        if layer == "shortcut":
            return f"{root}.downsample.0", f"{root}.downsample.1"
        return f"{root}.{layer}", f"{root}.{layer.replace('conv', 'bn')}"

    return BackboneNames(prefix, (f"{prefix}conv1", f"{prefix}bn1"), block, (f"{prefix}fc.weight", f"{prefix}fc.bias"))


def detectron2_backbone(prefix: str) -> BackboneNames:
    """Detectron2's names."""

    def block(stage: int, index: int, layer: str) -> LayerNames:
        root = f"{prefix}res{stage + 2}.{index}.{layer}"
        return root, f"{root}.norm"

    stem = f"{prefix}stem.conv1"
    classifiers = ("linear", "stem.fc", "fc1000", "pred")
    tensors = tuple(f"{prefix}{name}.{leaf}" for name in classifiers for leaf in ("weight", "bias"))
    return BackboneNames(prefix, (stem, f"{stem}.norm"), block, tensors)


TORCHVISION = HeadNames(
    lateral="backbone.fpn.inner_blocks.{}.0",
    output="backbone.fpn.layer_blocks.{}.0",
    first_level=0,
    rpn_conv="rpn.head.conv.0.0",
    objectness="rpn.head.cls_logits",
    rpn_deltas="rpn.head.bbox_pred",
    fc1="roi_heads.box_head.fc6",
    fc2="roi_heads.box_head.fc7",
    classifier="roi_heads.box_predictor.cls_score",
    deltas="roi_heads.box_predictor.bbox_pred",
    mask_conv="roi_heads.mask_head.{}.0",
    first_mask_conv=0,
    deconv="roi_heads.mask_predictor.conv5_mask",
    mask_predictor="roi_heads.mask_predictor.mask_fcn_logits",
)
MMDETECTION = HeadNames(
    lateral="neck.lateral_convs.{}.conv",
    output="neck.fpn_convs.{}.conv",
    first_level=0,
    rpn_conv="rpn_head.rpn_conv",
    objectness="rpn_head.rpn_cls",
    rpn_deltas="rpn_head.rpn_reg",
    fc1="roi_head.bbox_head.shared_fcs.0",
    fc2="roi_head.bbox_head.shared_fcs.1",
    classifier="roi_head.bbox_head.fc_cls",
    deltas="roi_head.bbox_head.fc_reg",
    mask_conv="roi_head.mask_head.convs.{}.conv",
    first_mask_conv=0,
    deconv="roi_head.mask_head.upsample",
    mask_predictor="roi_head.mask_head.conv_logits",
)
DETECTRON2 = HeadNames(
    lateral="backbone.fpn_lateral{}",
    output="backbone.fpn_output{}",
    first_level=2,
    rpn_conv="proposal_generator.rpn_head.conv",
    objectness="proposal_generator.rpn_head.objectness_logits",
    rpn_deltas="proposal_generator.rpn_head.anchor_deltas",
    fc1="roi_heads.box_head.fc1",
    fc2="roi_heads.box_head.fc2",
    classifier="roi_heads.box_predictor.cls_score",
    deltas="roi_heads.box_predictor.bbox_pred",
    mask_conv="roi_heads.mask_head.mask_fcn{}",
    first_mask_conv=1,
    deconv="roi_heads.mask_head.deconv",
    mask_predictor="roi_heads.mask_head.predictor",
)

OLD_TORCHVISION = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}"),
)
"""Names of torchvision before 0.13, when the files of its detectors were written."""

_BRANCHES = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_LEAVES = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",
}
CAFFE2 = (
    (r"(?:res_)?conv1_(w|b|bn_s|bn_b|bn_rm|bn_riv)", lambda m: f"stem.conv1.{_LEAVES[m[1]]}"),
    (
        r"(res\d)_(\d+)_(branch1|branch2[abc])_(w|b|bn_s|bn_b|bn_rm|bn_riv)",
        lambda m: f"{m[1]}.{m[2]}.{_BRANCHES[m[3]]}.{_LEAVES[m[4]]}",
    ),
    (r"(fc1000|pred)_(w|b)", lambda m: f"{m[1]}.{_LEAVES[m[2]]}"),
)
"""Names of Detectron's first version, in which Detectron2's MSRA files are written."""


def renamed(state: State, patterns: tuple) -> dict[str, np.ndarray]:
    """The state under new names: each name that a pattern matches as a whole is rewritten by the first that does."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in patterns:
            match = re.fullmatch(pattern, name)
            if match:
                name = replacement(match) if callable(replacement) else match.expand(replacement)
                break
        result[name] = tensor
    return result
