"""Mask head (He et al., ICCV 2017): four convolutions, a doubling deconvolution, one mask a class."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rog_jax.losses.localization import binary_cross_entropy
from rog_jax.models.layers import ConvNorm, ParameterDraws, kaiming_normal, wide
from rog_jax.ops.masks import crop_masks


class Deconv(nnx.Module):
    """A 2x2 deconvolution with stride 2, whose kernel reaches each output pixel once: one matrix product a pixel."""

    def __init__(self, channels_in: int, channels_out: int, *, dtype: Any, rngs: ParameterDraws):
        kernel = kaiming_normal(rngs.params(), (channels_in, 4 * channels_out), np.float32)
        self.kernel = nnx.Param(kernel.reshape(channels_in, 2, 2, channels_out))
        self.bias = nnx.Param(np.zeros(channels_out, np.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "P S S D"]) -> Float[Array, "P 2*S 2*S E"]:
        x = jnp.einsum("pyxd,dabe->pyaxbe", x, self.kernel[...].astype(self.dtype))
        rois, size, _, _, _, channels = x.shape
        return x.reshape(rois, 2 * size, 2 * size, channels) + self.bias[...].astype(self.dtype)


class MaskHead(nnx.Module):
    """Class-specific mask logits at twice the pooled resolution.

    Only the mask of one given class is computed for each RoI: with 1,203 categories the full output of one image
    would take hundreds of megabytes, and all but one of its 1,203 channels would be thrown away.
    """

    def __init__(
        self, channels_in: int, channels: int, convs: int, num_classes: int, *, norm, dtype, rngs: ParameterDraws
    ):
        sizes = [channels_in] + [channels] * convs
        self.convs = nnx.List(
            [ConvNorm(a, b, 3, norm=norm, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(sizes)]
        )
        self.deconv = Deconv(sizes[-1], channels, dtype=dtype, rngs=rngs)
        self.weight = nnx.Param(kaiming_normal(rngs.params(), (channels, num_classes), np.float32))
        self.bias = nnx.Param(np.zeros(num_classes, np.float32))
        self.dtype = dtype

    def __call__(self, pooled: Float[Array, "P S S D"], labels: Int[Array, "P"]) -> Float[Array, "P 2*S 2*S"]:
        """Logits of the mask of each RoI's class; any valid class may stand in an empty slot."""
        x = pooled
        for layer in self.convs:
            x = jax.nn.relu(layer(x))
        x = jax.nn.relu(self.deconv(x))
        weight = jnp.asarray(self.weight[...]).T[labels].astype(self.dtype)  # [P, D]
        logits = jnp.einsum("pyxd,pd->pyx", x, weight, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
        return wide(logits) + jnp.asarray(self.bias[...])[labels][:, None, None]


def mask_loss(
    logits: Float[Array, "P M M"],
    packed_masks: Array,
    gt_boxes: Float[Array, "P 4"],
    rois: Float[Array, "P 4"],
    positive: Array,
    positives: Float[Array, ""],
) -> Float[Array, ""]:
    """Binary cross-entropy, the mean over pixels and positive RoIs.

    Args:
        logits: of each RoI's class.
        packed_masks: uint8 [P, 112, 14], each RoI's ground truth inside its box.
        gt_boxes: those boxes.
        rois: the regions that the logits stand for.
        positive: bool [P].
        positives: the number of positives to divide by (its mean over devices).
    """
    targets = crop_masks(packed_masks, gt_boxes, rois, logits.shape[-1]).astype(logits.dtype)
    loss = binary_cross_entropy(logits, targets).mean(axis=(1, 2))
    return jnp.where(positive, loss, 0).sum() / positives
