"""Random brightness, contrast, saturation and hue."""

import numpy as np
from jaxtyping import UInt8

from rog_jax.data.images import cv2

BRIGHTNESS = 32.0
"""Added to or taken from values of 0..255, at most."""
CONTRAST = SATURATION = (0.5, 1.5)
"""Factors."""
HUE = 18.0
"""Degrees of the colour circle to either side, at most."""


def distort(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image in other light; each of the four changes happens with probability 1/2.

    The strengths are those of SSD (Liu et al. 2016), which MMDetection's PhotoMetricDistortion has, too.
    """
    values = np.arange(256, dtype=np.float32)
    table = values.copy()
    if rng.random() < 0.5:
        table += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    if rng.random() < 0.5:
        table *= rng.uniform(*CONTRAST)
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-HUE, HUE) if rng.random() < 0.5 else 0.0
    image = cv2.LUT(image, _to_bytes(table))
    if saturation == 1 and hue == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 256 steps
    turned = np.round(values + hue * 256 / 360).astype(np.int64) % 256
    tables = np.stack([turned.astype(np.uint8), _to_bytes(values * saturation), values.astype(np.uint8)], axis=-1)
    return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB_FULL)


def _to_bytes(table: np.ndarray) -> np.ndarray:
    return np.clip(np.round(table), 0, 255).astype(np.uint8)
