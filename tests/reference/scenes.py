"""Naive twin of the polygons of `rog_jax.data.scenes`."""

import numpy as np


def polygons_to_mask(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """Pixels whose centre lies inside one of the polygons, by counting the edges that a ray to the right crosses."""
    mask = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width] + 0.5
    for polygon in polygons:
        corners = np.reshape(polygon, (-1, 2))
        inside = np.zeros_like(mask)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if y0 != y1:
                crossed = (y > min(y0, y1)) & (y < max(y0, y1))
                inside ^= crossed & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        mask |= inside
    return mask
