"""Mask head (He et al., ICCV 2017): four convolutions, a doubling deconvolution, one mask a class."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from rog_jax.data.batch import MASK_CROP
from rog_jax.losses.cross_entropy import binary_cross_entropy
from rog_jax.models.layers import ConvNorm, ParameterDraws, kaiming_normal, own_set, unit, wide
from rog_jax.ops.masks import crop_masks, roi_align_masks


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
    """Mask logits at twice the pooled resolution, one map a class or one for all.

    Only the mask of one given class is computed for each RoI: with 1,203 categories the full output of one image
    would take hundreds of megabytes, and all but one of its 1,203 channels would be thrown away.

    Args:
        channels_in: of the pooled features.
        channels: of the convolutions.
        convs: how many there are.
        maps: C, or 1 for masks that are the same for all classes.
        predictor: `conv`, a 1x1 convolution, or `normed`, temperature times the cosine of features and weights plus a
            bias (the published code's NormedConv2d), in float32.
        temperature: of the normed predictor.

    Raises:
        ValueError: unknown predictor.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        convs: int,
        maps: int,
        *,
        predictor: str = "conv",
        temperature: float = 20.0,
        norm: str | None,
        dtype: Any,
        rngs: ParameterDraws,
    ):
        if predictor not in ("conv", "normed"):
            raise ValueError(f"config.roi.mask_predictor={predictor!r} is unknown; choose one of conv, normed")
        self.predictor, self.temperature = predictor, temperature
        sizes = [channels_in] + [channels] * convs
        self.convs = nnx.List(
            [ConvNorm(a, b, 3, norm=norm, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(sizes)]
        )
        self.deconv = Deconv(sizes[-1], channels, dtype=dtype, rngs=rngs)
        self.weight = nnx.Param(kaiming_normal(rngs.params(), (channels, maps), np.float32))
        self.bias = nnx.Param(np.zeros(maps, np.float32))
        self.dtype = dtype

    @jax.named_scope("mask_head")
    def __call__(self, pooled: Float[Array, "P S S D"], labels: Int[Array, "P"]) -> Float[Array, "P 2*S 2*S"]:
        """Logits of the mask of each RoI's class; any valid class may stand in an empty slot."""
        return self.predict(self.embed(pooled), labels)

    def embed(self, pooled: Float[Array, "P S S D"]) -> Float[Array, "P 2*S 2*S E"]:
        """What the predictor sees."""
        x = pooled
        for layer in self.convs:
            x = jax.nn.relu(layer(x))
        return jax.nn.relu(self.deconv(x))

    def predict(self, x: Float[Array, "P M M E"], labels: Int[Array, "P"]) -> Float[Array, "P M M"]:
        """The map of each RoI's class."""
        weight, bias = jnp.asarray(self.weight[...]), jnp.asarray(self.bias[...])
        own = own_set(labels, weight.shape[1])
        if self.predictor == "normed":
            x, weight = self.temperature * unit(x, -1), unit(weight, 0)
        weight = weight.T[own].astype(x.dtype)  # [P, E]
        logits = jnp.einsum("pyxd,pd->pyx", x, weight, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
        return wide(logits) + bias[own][:, None, None]


def mask_targets(
    packed_masks: UInt8[Array, "P _h _w"],
    gt_boxes: Float[Array, "P 4"],
    rois: Float[Array, "P 4"],
    size: int,
    kind: str = "binary",
) -> Float[Array, "P {size} {size}"]:
    """What the maps of the positive RoIs should be, in size x size cells.

    From masks inside their boxes, as the loader gives them, the share of each cell that the object covers is taken
    (`rog_jax.ops.masks.crop_masks`). From masks of whole images it is what the published detectors compute, RoIAlign of
    the mask; a `Batch` may hold those where no bit may differ, at a hundred times the memory.

    Args:
        packed_masks: each RoI's ground truth, bits packed along x: [P, 112, 14] inside its box, or [P, H, W / 8].
        gt_boxes: those boxes.
        rois: the regions.
        size: cells a side.
        kind: `binary` (1 from a share of one half on: MMDetection, Detectron2), or `soft`, the share itself with
            RoIAlign's older rule (torchvision).

    Raises:
        ValueError: unknown kind.
    """
    if kind not in ("binary", "soft"):
        raise ValueError(f"config.roi.mask_targets={kind!r} is unknown; choose one of binary, soft")
    soft = kind == "soft"
    if packed_masks.shape[1:] == (MASK_CROP, MASK_CROP // 8):
        return crop_masks(packed_masks, gt_boxes, rois, size, soft=soft)
    shares = roi_align_masks(packed_masks, rois, size, aligned=not soft)
    return shares if soft else (shares >= 0.5).astype(shares.dtype)


@jax.named_scope("mask_loss")
def mask_loss(
    logits: Float[Array, "P M M"],
    targets: Float[Array, "P M M"],
    positive: Bool[Array, "P"],
    positives: Float[Array, ""],
) -> Float[Array, ""]:
    """Binary cross-entropy, the mean over pixels and positive RoIs.

    Args:
        logits: of each RoI's class.
        targets: from `mask_targets`.
        positive: which rows count.
        positives: the number of positives to divide by (its mean over devices).
    """
    loss = binary_cross_entropy(logits, targets.astype(logits.dtype)).mean(axis=(1, 2))
    return jnp.where(positive, loss, 0).sum() / positives
