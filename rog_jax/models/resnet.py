"""ResNet-18/34/50/101 with PyTorch's arithmetic (He et al., CVPR 2016)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rog_jax.models.layers import ConvNorm, FrozenBatchNorm, ParameterDraws

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def silenced(layer: ConvNorm) -> ConvNorm:
    """The last layer of a block, starting at zero where its norm does not normalise.

    Without pretrained statistics a frozen norm lets each block add to the variance, and a ResNet-50's logits start in
    the hundreds. Pretrained weights overwrite this.
    """
    if isinstance(layer.norm, FrozenBatchNorm):
        layer.norm.scale[...] = np.zeros_like(layer.norm.scale[...])
    return layer


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions, the first with the stride; ResNet-18 and -34."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, *, stride: int, **kwargs: Any):
        self.conv1 = ConvNorm(channels_in, channels, 3, stride=stride, **kwargs)
        self.conv2 = silenced(ConvNorm(channels, channels, 3, **kwargs))
        shortcut = stride != 1 or channels_in != channels
        self.shortcut = ConvNorm(channels_in, channels, 1, stride=stride, **kwargs) if shortcut else None

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        residual = x if self.shortcut is None else self.shortcut(x)
        x = jax.nn.relu(self.conv1(x))
        return jax.nn.relu(self.conv2(x) + residual)


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 to four times the channels; ResNet-50 and -101.

    The stride is in the 3x3 convolution, as in torchvision, or in the first 1x1, as in the authors' own weights.
    """

    expansion = 4

    def __init__(self, channels_in: int, channels: int, *, stride: int, stride_in_1x1: bool = False, **kwargs: Any):
        out = channels * self.expansion
        strides = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(channels_in, channels, 1, stride=strides[0], **kwargs)
        self.conv2 = ConvNorm(channels, channels, 3, stride=strides[1], **kwargs)
        self.conv3 = silenced(ConvNorm(channels, out, 1, **kwargs))
        shortcut = stride != 1 or channels_in != out
        self.shortcut = ConvNorm(channels_in, out, 1, stride=stride, **kwargs) if shortcut else None

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        residual = x if self.shortcut is None else self.shortcut(x)
        x = jax.nn.relu(self.conv1(x))
        x = jax.nn.relu(self.conv2(x))
        return jax.nn.relu(self.conv3(x) + residual)


class ResNet(nnx.Module):
    """The four stages' features, at strides 4, 8, 16 and 32.

    Args:
        depth: 18, 34, 50 or 101.
        width: channels of the stem; stage l has `width * 2**l` (times 4 for bottlenecks).
        stride_in_1x1: the bottlenecks' stride is in their first convolution.
        norm: `frozen_batch` or `group`.
        dtype: of the features.

    Raises:
        ValueError: unknown depth, or stride_in_1x1 for a depth without bottlenecks.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: int = 64,
        stride_in_1x1: bool = False,
        norm: str,
        dtype: Any,
        rngs: ParameterDraws,
    ):
        if depth not in BLOCKS:
            raise ValueError(f"config.model.depth={depth} is unknown; choose one of {sorted(BLOCKS)}")
        if stride_in_1x1 and depth < 50:
            raise ValueError(f"config.model.stride_in_1x1: a ResNet-{depth} has no 1x1 convolution in its blocks")
        block = BasicBlock if depth < 50 else functools.partial(Bottleneck, stride_in_1x1=stride_in_1x1)
        kwargs = {"norm": norm, "dtype": dtype, "rngs": rngs}
        expansion = 1 if depth < 50 else Bottleneck.expansion
        self.stem = ConvNorm(3, width, 7, stride=2, **kwargs)
        stages, channels_in = [], width
        for level, count in enumerate(BLOCKS[depth]):
            channels = width * 2**level
            blocks = []
            for index in range(count):
                stride = 2 if level > 0 and index == 0 else 1
                blocks.append(block(channels_in, channels, stride=stride, **kwargs))
                channels_in = channels * expansion
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.channels = tuple(width * 2**level * expansion for level in range(4))

    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B _h _w _d"]]:
        x = jax.nn.relu(self.stem(x))
        x = max_pool(x)
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            features.append(x)
        return features


def max_pool(x: Float[Array, "B H W D"]) -> Float[Array, "B (H+1)//2 (W+1)//2 D"]:
    """Maximum over 3x3 pixels at every second pixel of a map padded by one pixel.

    A window reduction on TPUs, which moves a quarter of the bytes or less (docs/pods.md); elsewhere the maximum of nine
    slices, whose gradient is far faster on a CPU. Where pixels of a window are equal, the first one gets the gradient
    in one form, and all of them a part of it in the other.
    """
    return jax.lax.platform_dependent(x, tpu=max_pool_by_window, default=max_pool_by_slices)


def max_pool_by_window(x: Float[Array, "B H W D"]) -> Float[Array, "B (H+1)//2 (W+1)//2 D"]:
    """`max_pool` by XLA's window reduction."""
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, np.asarray(-np.inf, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def max_pool_by_slices(x: Float[Array, "B H W D"]) -> Float[Array, "B (H+1)//2 (W+1)//2 D"]:
    """`max_pool` by the maximum of nine slices."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    slices = [padded[:, y : y + height : 2, x : x + width : 2] for y in range(3) for x in range(3)]
    return functools.reduce(jnp.maximum, slices)


def frozen_path(path: tuple, stages: int) -> bool:
    """Whether the backbone's variable at `path` belongs to the stem or to one of the first `stages` stages.

    Args:
        path: keys from the ResNet's root, such as ("stages", 0, 1, "conv1", "conv", "kernel").
        stages: how many stages are frozen with the stem; -1 freezes nothing.
    """
    if stages < 0:
        return False
    return path[0] == "stem" or (path[0] == "stages" and int(path[1]) < stages)


def normalise_image(
    image: Array, image_size: Float[Array, "B 2"], mean: tuple, std: tuple, dtype: Any, *, order: str = "rgb"
) -> Float[Array, "B H W 3"]:
    """RGB pixels in 0..255 to the network's input: (x - mean) / std inside the image and 0 in the padding.

    Padding with zeros after normalisation is what the published detectors do; doing it here lets uint8 travel.
    Channels are turned to `order` ("rgb" or "bgr"), in which mean and std stand.
    """
    if order not in ("rgb", "bgr"):
        raise ValueError(f"config.model.pixel_order={order!r} is unknown; choose one of bgr, rgb")
    image = image[..., ::-1] if order == "bgr" else image
    height, width = image.shape[1:3]
    wide = jnp.promote_types(dtype, jnp.float32)
    x = (image.astype(wide) - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)
    inside_y = jnp.arange(height) < image_size[:, :1]  # [B, H]
    inside_x = jnp.arange(width) < image_size[:, 1:]  # [B, W]
    inside = inside_y[:, :, None, None] & inside_x[:, None, :, None]  # [B, H, W, 1]
    return jnp.where(inside, x, 0).astype(dtype)
