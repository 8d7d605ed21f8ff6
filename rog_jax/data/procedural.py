"""Objects and backgrounds drawn from formulae: a long-tailed data set that needs no download.

A category is a combination of a shape, a texture and a colour. `synthetic` orders categories by falling image count;
the first third of them have combinations of their own, and every later one is one of those with exactly one attribute
changed. So a rare category always has a frequent double that differs in its colour only, its texture only or its shape
only, which is what makes a detector forget it.
"""

import colorsys
import itertools
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

SUPERSAMPLING = 2
"""Drawn pixels a side for each pixel of the rendered object: what makes its edges smooth."""


class Look(NamedTuple):
    """What tells one category from another."""

    shape: str
    texture: str
    colour: str

    @property
    def name(self) -> str:
        """For example `red striped star`; a plain texture is not named."""
        words = (self.colour, self.shape) if self.texture == "plain" else (self.colour, self.texture, self.shape)
        return " ".join(words)


def _polar(radii: list[float], start: float = -90.0) -> np.ndarray:
    """Corners at equal angles around the origin, the first at `start` degrees (-90 is up), at the given radii."""
    angles = np.deg2rad(start + np.arange(len(radii)) * 360 / len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None]


def _circle(radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return _polar([radius] * 48) + np.array(centre)


def _crescent() -> np.ndarray:
    outer, inner = np.deg2rad(np.linspace(40, 320, 40)), np.deg2rad(np.linspace(300, 60, 32))
    # The inner arc starts where the outer one ends: both circles pass through the two horns.
    horn = np.array([np.cos(outer[0]), np.sin(outer[0])])
    radius = horn[1] / np.sin(inner[-1])
    centre = horn[0] - radius * np.cos(inner[-1])
    moon = np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1),
        ]
    )
    return moon * (1.2, 1.0) + (0.15, 0.0)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.5) / 16], axis=1)


def _drop() -> np.ndarray:
    arc = np.deg2rad(np.linspace(-20, 200, 36))
    return np.concatenate([[(0.0, -1.0)], np.stack([0.68 * np.cos(arc), 0.3 + 0.68 * np.sin(arc)], axis=1)])


def _cross(arm: float) -> np.ndarray:
    a = arm
    return np.array(
        [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    )


# Contours in [-1, 1] x [-1, 1], y down; where two overlap, the inner one is a hole.
SHAPES: dict[str, list[np.ndarray]] = {
    "disk": [_circle(0.95)],
    "star": [_polar([1.0, 0.44] * 5)],
    "square": [np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])],
    "ring": [_circle(1.0), _circle(0.5)],
    "triangle": [np.array([(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)])],
    "cross": [_cross(0.34)],
    "heart": [_heart()],
    "arrow": [np.array([(0, -1), (0.8, -0.1), (0.34, -0.1), (0.34, 1), (-0.34, 1), (-0.34, -0.1), (-0.8, -0.1)])],
    "crescent": [_crescent()],
    "hourglass": [np.array([(-0.8, -1), (0.8, -1), (0.22, 0), (0.8, 1), (-0.8, 1), (-0.22, 0)])],
    "drop": [_drop()],
    "gear": [_polar([1.0, 1.0, 0.7, 0.7] * 8), _circle(0.3)],
    "bolt": [np.array([(0.25, -1), (-0.65, 0.15), (-0.1, 0.15), (-0.3, 1), (0.65, -0.25), (0.1, -0.25), (0.6, -1)])],
    "hexagon": [_polar([0.95] * 6)],
    "frame": [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * s for s in (0.9, 0.5)],
    "elbow": [np.array([(-0.85, -0.95), (-0.1, -0.95), (-0.1, 0.25), (0.85, 0.25), (0.85, 0.95), (-0.85, 0.95)])],
}
TEXTURES = ("plain", "striped", "dotted", "checkered", "rimmed", "speckled")
# Hue in degrees, saturation, value.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (356, 0.86, 0.86),
    "blue": (218, 0.80, 0.90),
    "yellow": (52, 0.85, 0.97),
    "green": (128, 0.70, 0.68),
    "white": (40, 0.05, 0.97),
    "purple": (276, 0.65, 0.80),
    "orange": (24, 0.88, 0.98),
    "cyan": (184, 0.70, 0.90),
    "pink": (326, 0.50, 0.98),
    "brown": (22, 0.62, 0.50),
}
_ATTRIBUTES = (tuple(SHAPES), TEXTURES, tuple(COLOURS))
MAX_CATEGORIES = len(SHAPES) * len(TEXTURES) * len(COLOURS)


def category_looks(num_categories: int, disjoint_from: int = 0) -> list[Look]:
    """The looks of the categories, in order of falling image count.

    With H = max(1, num_categories // 3), category k >= H is category k % H with one attribute changed: which one turns
    with k, so that all three kinds of doubles occur. All looks differ, and they depend on the arguments alone.

    Args:
        num_categories: C.
        disjoint_from: not 0 gives C of the looks, evenly spread, that a set of so many categories does not have.

    Raises:
        ValueError: more categories than there are combinations.
    """
    most = MAX_CATEGORIES - disjoint_from
    if disjoint_from < 0 or not 1 <= num_categories <= most:
        raise ValueError(
            f"num_categories is {num_categories}, but shape x texture x colour give 1 to {max(0, most)} categories"
            f"{f' beside {disjoint_from} others' if disjoint_from else ''}: ask for fewer, or take the objects from a "
            "folder of sprites."
        )
    if disjoint_from:
        taken = set(category_looks(disjoint_from))
        left = [look for look in itertools.starmap(Look, itertools.product(*_ATTRIBUTES)) if look not in taken]
        return [left[k * len(left) // num_categories] for k in range(num_categories)]
    heads = max(1, num_categories // 3)
    codes: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    for k in range(heads):
        code = (k, k + k // len(SHAPES), k + k // len(COLOURS))
        codes[_first_unused(code, codes, turn=k)] = None
    parents = list(codes)
    for k in range(heads, num_categories):
        codes[_first_unused(parents[k % heads], codes, turn=k + k // heads)] = None
    return [Look(*(values[i] for values, i in zip(_ATTRIBUTES, code, strict=True))) for code in codes]


def _first_unused(code: tuple[int, ...], used: dict[tuple[int, ...], None], turn: int) -> tuple[int, ...]:
    """`code` if unused, else with one attribute changed, else (all those are used) the first unused of all."""
    sizes = [len(values) for values in _ATTRIBUTES]
    code = tuple(i % size for i, size in zip(code, sizes, strict=True))
    if code not in used:
        return code
    order = [(2, 1, 0)[(turn + i) % 3] for i in range(3)]  # colour, texture, shape, from a place that turns
    for attribute in order:
        for step in range(1, sizes[attribute]):
            changed = list(code)
            changed[attribute] = (code[attribute] + step) % sizes[attribute]
            if tuple(changed) not in used:
                return tuple(changed)
    return next(other for other in np.ndindex(*sizes) if other not in used)


class ProceduralObjects:
    """Draws categories that are combinations of shape, texture and colour; see `scenes.ObjectSource`."""

    def __init__(self, num_categories: int, disjoint_from: int = 0):
        self.looks = category_looks(num_categories, disjoint_from)
        self.names = tuple(look.name for look in self.looks)
        self.definitions = tuple(
            f"a drawn {look.shape} in {look.colour}, its surface {look.texture}" for look in self.looks
        )

    def render(self, category: int, size: int, rotation: float, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 4"]:
        """One object of `category`, `size` pixels across before it is turned by `rotation` degrees; RGBA."""
        look = self.looks[category]
        to_pixels, side = _placement(size, rotation, rng)
        alpha = _fill(SHAPES[look.shape], to_pixels, side)
        pattern = _texture(look.texture, alpha, to_pixels, rng)
        alpha = cv2.resize(alpha, (side // SUPERSAMPLING,) * 2, interpolation=cv2.INTER_AREA)
        first, second = _tones(look.colour, rng)
        colour = first + (pattern * np.float32(1 / 255))[..., None] * (second - first)
        colour *= _shading(len(alpha), rng)[..., None] * np.float32(255)
        return np.dstack([np.minimum(colour, 255).astype(np.uint8), alpha])


def _placement(size: int, rotation: float, rng: np.random.Generator) -> tuple[Float[np.ndarray, "2 3"], int]:
    """The affine map from the shape's unit square to drawn pixels (with a random aspect), and the canvas side."""
    angle, aspect = np.deg2rad(rotation), np.exp(rng.uniform(-0.2, 0.2))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    stretch = np.array([min(1.0, aspect), min(1.0, 1 / aspect)]) * size * SUPERSAMPLING / 2
    side = SUPERSAMPLING * (int(np.ceil(size * np.sqrt(2))) + 2)  # holds the unit square however it is turned
    return np.column_stack([turn * stretch, (side / 2, side / 2)]), side


def _fill(contours: list[np.ndarray], to_pixels: Float[np.ndarray, "2 3"], side: int) -> UInt8[np.ndarray, "s s"]:
    shift = 4  # fractional bits of the corners
    corners = [np.rint((c @ to_pixels[:, :2].T + to_pixels[:, 2]) * 2**shift).astype(np.int32) for c in contours]
    alpha = np.zeros((side, side), np.uint8)
    return cv2.fillPoly(alpha, corners, 255, shift=shift)


def _texture(
    name: str, alpha: UInt8[np.ndarray, "s s"], to_pixels: Float[np.ndarray, "2 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h h"]:
    """How much of its second tone each pixel of the rendered object has. The pattern turns with the object."""
    side = len(alpha) // SUPERSAMPLING
    if name == "plain":
        return np.zeros((side, side), np.uint8)
    if name == "rimmed":
        width = 0.16 * np.linalg.norm(to_pixels[:, :2], axis=0).max()
        rim = (cv2.distanceTransform(alpha, cv2.DIST_L2, 3) < width).astype(np.uint8) * 255
        return cv2.resize(rim, (side, side), interpolation=cv2.INTER_AREA)
    turn = to_pixels[:, :2] / (SUPERSAMPLING * _SWATCH_SCALE)
    centre = rng.uniform(0.35, 0.65, 2) * _SWATCH_SIDE  # the point of the swatch that the object's centre shows
    to_object = np.column_stack([turn, np.array((side / 2, side / 2)) - turn @ centre])
    return cv2.warpAffine(_swatch(name), to_object, (side, side), flags=cv2.INTER_LINEAR)


_SWATCH_SCALE, _SWATCH_SIDE = 32, 320  # pixels a unit (a shape is two units wide), and pixels a side


@lru_cache(maxsize=len(TEXTURES))
def _swatch(name: str) -> UInt8[np.ndarray, "320 320"]:
    """A piece of texture, large enough for any object; 255 where the second tone is."""
    v, u = np.mgrid[:_SWATCH_SIDE, :_SWATCH_SIDE] / _SWATCH_SCALE
    if name == "striped":
        pattern = v * 2.2 % 1 < 0.45
    elif name == "dotted":
        pattern = (u * 2.4 % 1 - 0.5) ** 2 + (v * 2.4 % 1 - 0.5) ** 2 < 0.3**2
    elif name == "checkered":
        pattern = (u * 1.9 % 1 < 0.5) != (v * 1.9 % 1 < 0.5)
    else:  # speckled: cells at random, the same in every run
        pattern = (np.random.default_rng(0).random((50, 50)) < 0.3)[(v * 5).astype(int), (u * 5).astype(int)]
    return pattern.astype(np.uint8) * 255


def _tones(colour: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The colour with a jitter of hue and lightness, and a dark tone of the same hue; RGB, 0..1."""
    hue, saturation, value = COLOURS[colour]
    hue = (hue + rng.uniform(-7, 7)) / 360 % 1
    saturation, value = saturation * rng.uniform(0.85, 1.1), value * rng.uniform(0.85, 1.05)
    tones = [(min(1.0, saturation), min(1.0, value)), (min(1.0, saturation * 1.05), value * 0.3)]
    first, second = (np.array(colorsys.hsv_to_rgb(hue, s, v), np.float32) for s, v in tones)
    return first, second


def _shading(side: int, rng: np.random.Generator) -> Float[np.ndarray, "s s"]:
    """Light that falls from a random side."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18)
    line = np.linspace(-strength, strength, side, dtype=np.float32)
    return 1 + np.float32(np.cos(angle)) * line + np.float32(np.sin(angle)) * line[:, None]


class BackgroundRanges(NamedTuple):
    """What backgrounds vary in; each pair is drawn from uniformly."""

    brightness: tuple[float, float]  # of the ground, 0..255, before each channel differs from it
    cells: tuple[int, ...]  # a side, of the layers of noise from coarse to fine
    weave_share: float  # share of the backgrounds with regular waves
    weave_period: tuple[float, float]  # pixels
    strokes: tuple[int, int]  # lines, arcs and blobs, fewest and most


USUAL_BACKGROUNDS = BackgroundRanges(
    brightness=(70.0, 180.0), cells=(3, 10, 40), weave_share=0.4, weave_period=(6.0, 30.0), strokes=(2, 7)
)
SHIFTED_BACKGROUNDS = BackgroundRanges(
    brightness=(180.0, 225.0), cells=(6, 20, 64), weave_share=1.0, weave_period=(30.0, 60.0), strokes=(8, 12)
)
"""Ground, grain, waves and clutter that `USUAL_BACKGROUNDS` never has."""


class ProceduralBackgrounds:
    """Textured backgrounds with strokes and blobs that belong to no category; see `scenes.BackgroundSource`."""

    def __init__(self, ranges: BackgroundRanges = USUAL_BACKGROUNDS):
        self.ranges = ranges

    def render(self, height: int, width: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """One background; RGB."""
        ranges = self.ranges
        base = rng.uniform(*ranges.brightness) + rng.uniform(-35, 35, 3)
        image = base.astype(np.float32) + _gradient(height, width, rng)[..., None] * rng.uniform(-40, 40, 3).astype(
            np.float32
        )
        for cells, strength in zip(ranges.cells, (30, 20, 14), strict=True):
            noise = rng.normal(0, strength * rng.uniform(0.3, 1), (cells, cells, 3)).astype(np.float32)
            noise[..., 1:] = 0.7 * noise[..., :1] + 0.3 * noise[..., 1:]  # neighbouring channels vary together
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        if rng.random() < ranges.weave_share:
            image += _weave(height, width, ranges.weave_period, rng)[..., None]
        image = np.clip(image, 0, 255).astype(np.uint8)
        for _ in range(rng.integers(*ranges.strokes, endpoint=True)):
            _distract(image, rng)
        return image


def _gradient(height: int, width: int, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    return np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y[:, None]


def _weave(height: int, width: int, periods: tuple[float, float], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Regular waves, as of planks, tiles or cloth."""
    period, strength = rng.uniform(*periods), np.float32(rng.uniform(5, 18))
    waves = _gradient(height, width, rng) * np.float32(max(height, width) * np.pi / period)
    return strength * np.sign(np.sin(waves)) if rng.random() < 0.5 else strength * np.sin(waves)


def _distract(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> None:
    """Draws a line, an arc or an irregular blob on `image`: half of them greyish, half as colourful as the objects."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.4, 0.9), rng.uniform(0.5, 1)
    else:
        hue, saturation, value = rng.uniform(0.05, 0.15), rng.uniform(0, 0.3), rng.uniform(0.1, 0.9)
    colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    centre = rng.uniform(0, 1, 2) * (width, height)
    kind = rng.integers(3)
    if kind == 0:
        points = centre + np.cumsum(rng.normal(0, 0.12 * max(height, width), (4, 2)), axis=0)
        cv2.polylines(image, [points.astype(np.int32)], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    elif kind == 1:
        axes = tuple(int(a) for a in rng.uniform(0.05, 0.35, 2) * max(height, width))
        start, turn = rng.uniform(0, 360, 2)
        place = tuple(int(c) for c in centre)
        end, thickness = start + rng.uniform(40, 160), int(rng.integers(1, 4))
        cv2.ellipse(image, place, axes, turn, start, end, colour, thickness, cv2.LINE_AA)
    else:
        blob = _polar(list(rng.uniform(0.3, 1.0, 9))) * rng.uniform(0.03, 0.1) * max(height, width) + centre
        cv2.fillPoly(image, [blob.astype(np.int32)], colour, cv2.LINE_AA)
