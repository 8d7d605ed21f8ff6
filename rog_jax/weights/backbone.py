"""ResNets of other projects."""

from typing import Any

import numpy as np

from rog_jax.weights.archive import WeightsError
from rog_jax.weights.conventions import Pixels
from rog_jax.weights.names import BackboneNames
from rog_jax.weights.tensors import NORM_EPSILON, Tensors, Tree

STEM, STAGE_CHANNELS = 64, (64, 128, 256, 512)
DEPTHS = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
}
"""By the number of blocks in each stage, and whether they are bottlenecks."""
GAIN_OF_PYTORCH, GAIN_OF_CAFFE = 0.012, 0.005


def resnet(tensors: Tensors, where: BackboneNames) -> tuple[int, dict[str, Any]]:
    """Depth and parameters of a ResNet.

    Raises:
        WeightsError: it has another number of blocks than any ResNet that is read, or a tensor is missing or wrong.
    """
    tensors.shape(f"{where.stem[0]}.weight")
    bottlenecks = f"{where.block(0, 0, 'conv3')[0]}.weight" in tensors
    counts = tuple(_count_blocks(tensors, where, stage) for stage in range(4))
    if (counts, bottlenecks) not in DEPTHS:
        known = ", ".join(map(str, DEPTHS.values()))
        raise WeightsError(f"a ResNet with {counts} blocks in its stages is none of those that are read ({known})")
    stages, inputs = {}, STEM
    for stage, count in enumerate(counts):
        blocks = {}
        for index in range(count):
            blocks[index] = _block(tensors, where, (stage, index), inputs, bottlenecks)
            inputs = STAGE_CHANNELS[stage] * (4 if bottlenecks else 1)
        stages[stage] = blocks
    stem = tensors.conv_norm(*where.stem, (STEM, 3, 7, 7))
    return DEPTHS[counts, bottlenecks], {"stem": stem, "stages": stages}


def _count_blocks(tensors: Tensors, where: BackboneNames, stage: int) -> int:
    count = 0
    while f"{where.block(stage, count, 'conv1')[0]}.weight" in tensors:
        count += 1
    return count


def _block(
    tensors: Tensors, where: BackboneNames, place: tuple[int, int], inputs: int, bottleneck: bool
) -> dict[str, Any]:
    channels = STAGE_CHANNELS[place[0]]
    if bottleneck:
        outputs = 4 * channels
        shapes = {
            "conv1": (channels, inputs, 1, 1),
            "conv2": (channels, channels, 3, 3),
            "conv3": (outputs, channels, 1, 1),
        }
    else:
        outputs = channels
        shapes = {"conv1": (channels, inputs, 3, 3), "conv2": (channels, channels, 3, 3)}
    if place[1] == 0 and (place[0] > 0 or inputs != outputs):
        shapes["shortcut"] = (outputs, inputs, 1, 1)
    return {layer: tensors.conv_norm(*where.block(*place, layer), shape) for layer, shape in shapes.items()}


def pixels_of(stem: dict[str, Any], unclear: Pixels | None = None) -> Pixels:
    """Whether a ResNet reads pixels over their standard deviation (`pytorch`) or as they are (`caffe`).

    Pixels of 0..255 vary by some 58, so the first convolution with its norm multiplies them by a number some 58 times
    smaller. The order of the channels and the place of the strides cannot be told from weights; in the projects'
    files they go with that scale.

    Args:
        stem: parameters of the first convolution and its norm.
        unclear: the answer for a scale between the two.

    Raises:
        WeightsError: the scale is between the two, and there is no answer for that.
    """
    norm = stem["norm"]
    gain = stem["conv"]["kernel"] * norm["scale"] / np.sqrt(norm["var"] + NORM_EPSILON)
    size = float(np.sqrt(np.square(gain, dtype=np.float64).mean()))
    if GAIN_OF_CAFFE <= size <= GAIN_OF_PYTORCH:
        if unclear is None:
            raise WeightsError(
                f"the stem multiplies its input by {size:.2g}: it does not show whether pixels are divided by their "
                'standard deviation; say --style pytorch or --style caffe (variant="torchvision" or "msra" of '
                "from_detectron2)"
            )
        return unclear
    return "pytorch" if size > GAIN_OF_PYTORCH else "caffe"


def with_our_epsilon(tree: Tree, epsilon: float) -> Tree:
    """Norms that add another epsilon to their variance than ours do, as norms of ours that give the same."""
    if "var" not in tree:
        return {key: with_our_epsilon(part, epsilon) if isinstance(part, dict) else part for key, part in tree.items()}
    divisor = np.maximum(tree["var"].astype(np.float64) + epsilon, np.finfo(np.float32).smallest_subnormal)
    var = np.maximum(divisor - NORM_EPSILON, 0)  # a smaller divisor than ours can be moves into the scale
    scale = tree["scale"] * np.sqrt((var + NORM_EPSILON) / divisor)
    return tree | {"scale": scale.astype(np.float32), "var": var.astype(np.float32)}
