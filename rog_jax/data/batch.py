"""What travels between host and device: a batch of images with their truths, and the detections that come back."""

from typing import NamedTuple

import jax
import numpy as np

Array = np.ndarray | jax.Array
MASK_CROP = 112
"""Side of the square to which each ground-truth mask is resampled inside its box, in mask pixels."""


class Batch(NamedTuple):
    """Images of one padded shape with their ground truths: NumPy arrays on the host, JAX arrays on the device.

    Attributes:
        image: uint8 [B, H, W, 3], RGB, resized, padded with zeros at the right and the bottom.
        image_size: float32 [B, 2], (height, width) in pixels of the resized image inside the padding.
        original_size: int32 [B, 2], (height, width) of the image in its file.
        index: int32 [B], place of the image in `Annotations`; -1 for padding and for an image that could not be
            read, which take part in nothing.
        boxes: float32 [B, G, 4], pixels of the padded image.
        labels: int32 [B, G], 0..C-1, or -1 for padding.
        masks: uint8 [B, G, 112, 14], the mask of each object inside its box, bits packed along x; [B, G, 0, 0]
            where the data has no masks.
        dropped: int32 [B], objects beyond the padded maximum G, left out at random.
        unreadable: int32 [B], 1 where the image could not be read.
        verified: bool [B, C], categories of which it is known whether the image has them: found, or looked for and not
            found (`Annotations.verified_categories`). None unless config.data.negatives asks for it.
    """

    image: Array
    image_size: Array
    original_size: Array
    index: Array
    boxes: Array
    labels: Array
    masks: Array
    dropped: Array
    unreadable: Array
    verified: Array | None = None


class Detections(NamedTuple):
    """Detections of a batch, best first.

    Attributes:
        boxes: float32 [B, K, 4], pixels of the padded image, clipped to the image inside it.
        scores: float32 [B, K], descending.
        labels: int32 [B, K], 0..C-1, or -1 for an empty slot.
        masks: float32 [B, K, M, M], probabilities inside the box; None for a model without a mask head.
    """

    boxes: Array
    scores: Array
    labels: Array
    masks: Array | None
