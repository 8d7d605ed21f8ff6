"""Mask R-CNN state dicts of three projects whose every number is a function of the tensor's name.

The golden files were made with them, so that no weight file is needed: each tensor is drawn by a generator seeded with
the checksum of its name, and scaled by a rule of the project's file.
"""

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from rog_jax.models.resnet import BLOCKS

State = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
STAGE_CHANNELS = (64, 128, 256, 512)
EXPANSION = 4
STAGE_OUTPUTS = tuple(EXPANSION * channels for channels in STAGE_CHANNELS)
PYRAMID, HIDDEN, ANCHORS = 256, 1024, 3


def torchvision_state(depth: int, num_classes_with_background: int, seed: int = 0) -> State:
    """`MaskRCNN` with `resnet_fpn_backbone`, by torchvision's names and shapes; depth 50 or 101."""
    shapes = _torch_resnet_shapes("backbone.body.", depth)
    for level, channels in enumerate(STAGE_OUTPUTS):
        shapes |= _conv(f"backbone.fpn.inner_blocks.{level}.0", PYRAMID, channels, 1)
        shapes |= _conv(f"backbone.fpn.layer_blocks.{level}.0", PYRAMID, PYRAMID, 3)
    shapes |= _conv("rpn.head.conv.0.0", PYRAMID, PYRAMID, 3)
    shapes |= _conv("rpn.head.cls_logits", ANCHORS, PYRAMID, 1)
    shapes |= _conv("rpn.head.bbox_pred", 4 * ANCHORS, PYRAMID, 1)
    shapes |= _linear("roi_heads.box_head.fc6", HIDDEN, 49 * PYRAMID)
    shapes |= _linear("roi_heads.box_head.fc7", HIDDEN, HIDDEN)
    shapes |= _linear("roi_heads.box_predictor.cls_score", num_classes_with_background, HIDDEN)
    shapes |= _linear("roi_heads.box_predictor.bbox_pred", 4 * num_classes_with_background, HIDDEN)
    for layer in range(4):
        shapes |= _conv(f"roi_heads.mask_head.{layer}.0", PYRAMID, PYRAMID, 3)
    shapes |= _deconv("roi_heads.mask_predictor.conv5_mask")
    shapes |= _conv("roi_heads.mask_predictor.mask_fcn_logits", num_classes_with_background, PYRAMID, 1)
    return _filled(shapes, seed, _torchvision_rule)


def mmdet_state(depth: int, num_classes: int, seed: int = 0) -> State:
    """`configs/_base_/models/mask-rcnn_r50_fpn.py`, by MMDetection's names; classes without background."""
    shapes = _torch_resnet_shapes("backbone.", depth)
    for level, channels in enumerate(STAGE_OUTPUTS):
        shapes |= _conv(f"neck.lateral_convs.{level}.conv", PYRAMID, channels, 1)
        shapes |= _conv(f"neck.fpn_convs.{level}.conv", PYRAMID, PYRAMID, 3)
    shapes |= _conv("rpn_head.rpn_conv", PYRAMID, PYRAMID, 3)
    shapes |= _conv("rpn_head.rpn_cls", ANCHORS, PYRAMID, 1)
    shapes |= _conv("rpn_head.rpn_reg", 4 * ANCHORS, PYRAMID, 1)
    shapes |= _linear("roi_head.bbox_head.shared_fcs.0", HIDDEN, 49 * PYRAMID)
    shapes |= _linear("roi_head.bbox_head.shared_fcs.1", HIDDEN, HIDDEN)
    shapes |= _linear("roi_head.bbox_head.fc_cls", num_classes + 1, HIDDEN)
    shapes |= _linear("roi_head.bbox_head.fc_reg", 4 * num_classes, HIDDEN)
    for layer in range(4):
        shapes |= _conv(f"roi_head.mask_head.convs.{layer}.conv", PYRAMID, PYRAMID, 3)
    shapes |= _deconv("roi_head.mask_head.upsample")
    shapes |= _conv("roi_head.mask_head.conv_logits", num_classes, PYRAMID, 1)
    return _filled(shapes, seed, _mmdet_rule)


def detectron2_state(depth: int, num_classes: int, seed: int = 0, variant: str = "msra") -> State:
    """`mask_rcnn_R_50_FPN_1x`, by Detectron2's names; classes without background; variant `msra` or `torchvision`."""
    shapes = {"backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7)} | _norm("backbone.bottom_up.stem.conv1.norm", 64)
    for stage, block, conv, shape in _convolutions(depth):
        name = f"backbone.bottom_up.res{stage + 2}.{block}.{conv}"
        shapes |= {f"{name}.weight": shape} | _norm(f"{name}.norm", shape[0])
    for level, channels in enumerate(STAGE_OUTPUTS, 2):
        shapes |= _conv(f"backbone.fpn_lateral{level}", PYRAMID, channels, 1)
        shapes |= _conv(f"backbone.fpn_output{level}", PYRAMID, PYRAMID, 3)
    shapes |= _conv("proposal_generator.rpn_head.conv", PYRAMID, PYRAMID, 3)
    shapes |= _conv("proposal_generator.rpn_head.objectness_logits", ANCHORS, PYRAMID, 1)
    shapes |= _conv("proposal_generator.rpn_head.anchor_deltas", 4 * ANCHORS, PYRAMID, 1)
    shapes |= _linear("roi_heads.box_head.fc1", HIDDEN, 49 * PYRAMID)
    shapes |= _linear("roi_heads.box_head.fc2", HIDDEN, HIDDEN)
    shapes |= _linear("roi_heads.box_predictor.cls_score", num_classes + 1, HIDDEN)
    shapes |= _linear("roi_heads.box_predictor.bbox_pred", 4 * num_classes, HIDDEN)
    for layer in range(1, 5):
        shapes |= _conv(f"roi_heads.mask_head.mask_fcn{layer}", PYRAMID, PYRAMID, 3)
    shapes |= _deconv("roi_heads.mask_head.deconv")
    shapes |= _conv("roi_heads.mask_head.predictor", num_classes, PYRAMID, 1)
    return _filled(shapes, seed, lambda name, z: _detectron2_rule(name, z, variant))


def resnet_state(depth: int, seed: int = 0) -> State:
    """An ImageNet ResNet-50 or -101 by torchvision's names, with its classifier, filled by the rule of its file."""
    shapes = _torch_resnet_shapes("", depth) | _linear("fc", 1000, STAGE_OUTPUTS[-1])
    return _filled(shapes, seed, lambda name, z: _torchvision_rule(f"backbone.body.{name}", z))


def _convolutions(depth: int) -> Iterator[tuple[int, int, str, tuple[int, ...]]]:
    """(stage, block, name, shape) of the convolutions of a bottleneck ResNet, by Detectron2's names."""
    inputs = 64
    for stage, (channels, count) in enumerate(zip(STAGE_CHANNELS, BLOCKS[depth], strict=True)):
        outputs = EXPANSION * channels
        for block in range(count):
            if block == 0:
                yield stage, block, "shortcut", (outputs, inputs, 1, 1)
            yield stage, block, "conv1", (channels, inputs, 1, 1)
            yield stage, block, "conv2", (channels, channels, 3, 3)
            yield stage, block, "conv3", (outputs, channels, 1, 1)
            inputs = outputs


def _torch_resnet_shapes(prefix: str, depth: int) -> Shapes:
    shapes = {f"{prefix}conv1.weight": (64, 3, 7, 7)} | _norm(f"{prefix}bn1", 64)
    for stage, block, conv, shape in _convolutions(depth):
        root = f"{prefix}layer{stage + 1}.{block}"
        shortcut = conv == "shortcut"
        name, norm = ("downsample.0", "downsample.1") if shortcut else (conv, conv.replace("conv", "bn"))
        shapes |= {f"{root}.{name}.weight": shape} | _norm(f"{root}.{norm}", shape[0])
    return shapes


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{leaf}": (channels,) for leaf in NORM_LEAVES}


def _conv(name: str, outputs: int, inputs: int, size: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, size, size), f"{name}.bias": (outputs,)}


def _deconv(name: str) -> Shapes:
    return {f"{name}.weight": (PYRAMID, PYRAMID, 2, 2), f"{name}.bias": (PYRAMID,)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _filled(shapes: Shapes, seed: int, rule: Callable[[str, np.ndarray], np.ndarray]) -> State:
    return {name: rule(name, _draw(name, seed, shape)).astype(np.float32) for name, shape in shapes.items()}


def _draw(name: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng([zlib.crc32(name.encode()), seed])
    return generator.standard_normal(shape).astype(np.float32)


def _statistics(name: str, z: np.ndarray) -> np.ndarray | None:
    """Stored means and variances, alike in all files; None for anything else."""
    leaf = name.rpartition(".")[2]
    if leaf == "running_mean":
        return 0.1 * z
    return 0.5 + np.abs(z) if leaf == "running_var" else None


def _torch_vector(name: str, z: np.ndarray) -> np.ndarray:
    if ".bn" not in name and "downsample.1" not in name:
        return 0.05 * z
    return np.abs(z) * (0.2 if ".bn3" in name else 0.5) + 0.1 if name.endswith("weight") else 0.1 * z


def _torchvision_rule(name: str, z: np.ndarray) -> np.ndarray:
    statistics = _statistics(name, z)
    if statistics is not None:
        return statistics
    if z.ndim == 1:
        return _torch_vector(name, z)
    n = z[0].size
    if name.startswith("backbone.body"):
        return z * np.sqrt(2 / n)
    for part, factor in (("bbox_pred", 0.2), ("cls_score", 3)):
        if part in name:
            return z * factor / np.sqrt(n)
    return z * np.sqrt(1 / n)


def _mmdet_rule(name: str, z: np.ndarray) -> np.ndarray:
    statistics = _statistics(name, z)
    if statistics is not None:
        return statistics
    if z.ndim == 1:
        return _torch_vector(name, z)
    n = z[0].size
    if name.startswith("backbone."):
        return z * np.sqrt(2 / n)
    z = z - z.mean(axis=tuple(range(1, z.ndim)), keepdims=True, dtype=np.float64).astype(np.float32)
    if "mask_head" in name:
        return z * np.sqrt(2 / n)
    if "fpn_convs" in name:
        return z * (1, 3, 10, 16)[int(name.split(".")[2])] / np.sqrt(n)
    for part, factor in (("rpn_reg", 0.3), ("fc_reg", 2), ("fc_cls", 5)):
        if part in name:
            return z * factor / np.sqrt(n)
    return z * np.sqrt(1 / n)


def _detectron2_rule(name: str, z: np.ndarray, variant: str) -> np.ndarray:
    z = z.astype(np.float64)
    statistics = _statistics(name, z)
    if statistics is not None:
        return statistics
    if z.ndim == 1:
        return _detectron2_vector(name, z)
    n = z[0].size
    if name.startswith("backbone.bottom_up."):
        stem = name == "backbone.bottom_up.stem.conv1.weight"
        return z * np.sqrt(2 / n) / (58 if stem and variant == "msra" else 1)
    if name.startswith("backbone.fpn_output"):
        return z * np.sqrt(1 / n) * (0.4, 0.7, 1.2, 2.0)[int(name.removeprefix("backbone.fpn_output")[0]) - 2]
    if "anchor_deltas" in name:
        return z * 0.2 / np.sqrt(n)
    if "bbox_pred" in name:
        return z / np.sqrt(n)
    if "cls_score" in name:
        return (z - z.mean(axis=1, keepdims=True)) * 3 / np.sqrt(n)
    return z * np.sqrt(1 / n)


def _detectron2_vector(name: str, z: np.ndarray) -> np.ndarray:
    if ".norm." not in name:
        return 0.05 * z
    if name.endswith("bias"):
        return 0.1 * z
    return np.abs(z) * (0.2 if "conv3.norm" in name else 1.0 if "shortcut.norm" in name else 0.5) + 0.1
