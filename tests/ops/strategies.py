"""Random boxes that look for trouble. Coordinates are multiples of 1/4, so areas and overlaps are exact in float32."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def boxes(draw, count, side=64):
    """float32 [count, 4] in an image of `side` pixels: empty, inverted, touching, equal and outside ones among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["any", "coarse", "clustered", "inside"]))
    step = {"any": 1, "coarse": side // 2, "clustered": 1, "inside": 4}[kind]  # quarters of a pixel
    corner = rng.integers(-side, 5 * side, (count, 2)) // step * step
    size = rng.integers(-side // 4, 3 * side, (count, 2)) // step * step
    if kind == "clustered":
        corner, size = corner % 8, side + size % 8
    if kind == "inside":
        corner, size = np.clip(corner, 0, 3 * side), np.clip(size, 0, side)
    result = np.concatenate([corner, corner + size], axis=1) / 4
    if count > 1 and draw(st.booleans()):
        result[rng.integers(count)] = result[0]
    if draw(st.booleans()):
        result[rng.integers(count)] = 0
    return result.astype(np.float32)


def masks(count):
    """bool [count]."""
    return st.integers(0, 2**count - 1).map(lambda bits: np.array([bits >> i & 1 for i in range(count)], bool))
