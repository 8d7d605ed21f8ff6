"""Mask head (He et al., ICCV 2017): four convolutions, a doubling deconvolution, one mask a class."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rog_jax.losses.localization import binary_cross_entropy
from rog_jax.models.layers import ConvNorm, ParameterDraws, kaiming_normal, linear, wide
from rog_jax.ops.masks import crop_masks


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
        # The kernel of a 2x2 deconvolution with stride 2 reaches each output pixel once: a linear layer per pixel.
        self.deconv = linear(sizes[-1], 4 * channels, init=kaiming_normal, dtype=dtype, rngs=rngs)
        self.weight = nnx.Param(kaiming_normal(rngs.params(), (channels, num_classes), np.float32))
        self.bias = nnx.Param(np.zeros(num_classes, np.float32))
        self.dtype = dtype

    def __call__(self, pooled: Float[Array, "P S S D"], labels: Int[Array, "P"]) -> Float[Array, "P 2*S 2*S"]:
        """Logits of the mask of each RoI's class; any valid class may stand in an empty slot."""
        x = pooled
        for layer in self.convs:
            x = jax.nn.relu(layer(x))
        x = jax.nn.relu(double(self.deconv(x)))
        weight = self.weight[...].T[labels].astype(self.dtype)  # [P, D]
        logits = jnp.einsum("pyxd,pd->pyx", x, weight, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
        return wide(logits) + self.bias[...][labels][:, None, None]


def double(x: Float[Array, "P S S E"]) -> Float[Array, "P 2*S 2*S E//4"]:
    """Channels (dy, dx, E / 4) of each pixel laid out as a square of two by two pixels."""
    rois, size, _, channels = x.shape
    x = x.reshape(rois, size, size, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(rois, 2 * size, 2 * size, channels // 4)


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
