"""Scenes composed of cut-out objects on a background, with the exact mask of what stays visible of each."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Generator = np.random.Generator
Range = tuple[float, float]


@runtime_checkable
class ObjectSource(Protocol):
    """Where the objects come from."""

    names: Sequence[str]
    definitions: Sequence[str]

    def render(self, category: int, size: int, rotation: float, rng: Generator) -> UInt8[np.ndarray, "h w 4"]:
        """One object of `category` as RGBA, about `size` pixels across, turned by `rotation` degrees."""
        ...


@runtime_checkable
class BackgroundSource(Protocol):
    """Where the backgrounds come from."""

    def render(self, height: int, width: int, rng: Generator) -> UInt8[np.ndarray, "h w 3"]:
        """One background as RGB."""
        ...


class Conditions(NamedTuple):
    """How a scene is seen; each range is drawn from uniformly."""

    rotation: Range  # degrees to either side of upright
    gain: Range  # factor on the brightness
    noise: Range  # standard deviation of the pixel noise, 0..255
    blur: Range  # standard deviation in pixels


USUAL = Conditions(rotation=(0, 30), gain=(0.8, 1.15), noise=(0, 6), blur=(0.0, 0.6))
SHIFTED = Conditions(rotation=(30, 90), gain=(0.5, 0.8), noise=(6, 16), blur=(0.6, 1.2))
"""Pose, light and noise that `USUAL` never has."""


class SceneSettings(NamedTuple):
    """How objects are laid out in a scene."""

    height: int
    width: int
    object_size: tuple[int, int]  # pixels across, smallest and largest
    small_share: float  # share of the objects that are half as large
    min_visible: float  # least visible share of an object's pixels
    min_pixels: int  # least number of visible pixels


class Scene(NamedTuple):
    """An image, and for each object its category and its visible mask, back to front."""

    image: UInt8[np.ndarray, "h w 3"]
    categories: list[int]
    masks: list[Bool[np.ndarray, "h w"]]


class _Placed(NamedTuple):
    rgba: np.ndarray
    top: int
    left: int
    pixels: int  # of the whole object, those outside the image included


def compose(
    categories: Sequence[int],
    objects: ObjectSource,
    backgrounds: BackgroundSource,
    settings: SceneSettings,
    conditions: Conditions,
    rng: Generator,
) -> Scene:
    """Draws objects of `categories`, later ones in front of earlier ones, on a background.

    No object is left out: one that would be hidden too much, or hide another too much, is drawn and placed anew,
    smaller as the attempts go on. Where that does not do, the scene is begun anew.

    Raises:
        RuntimeError: no room for all objects was found.
    """
    for _ in range(_SCENES - 1):
        with contextlib.suppress(_NoRoom):
            return _compose(categories, objects, backgrounds, settings, conditions, rng)
    return _compose(categories, objects, backgrounds, settings, conditions, rng)


class _NoRoom(RuntimeError):
    pass


_SCENES = 20
"""Scenes begun before a set is given up. Of a hundred thousand images some are unlucky with thin, large objects."""


def _compose(
    categories: Sequence[int],
    objects: ObjectSource,
    backgrounds: BackgroundSource,
    settings: SceneSettings,
    conditions: Conditions,
    rng: Generator,
) -> Scene:
    owner = np.full((settings.height, settings.width), -1, np.int16)  # which object each pixel shows
    image = backgrounds.render(settings.height, settings.width, rng)
    placed: list[_Placed] = []
    for category in categories:
        sprite, owner = _place(category, objects, owner, placed, settings, conditions, rng)
        placed.append(sprite)
        _paste(image, sprite)
    masks = [owner == i for i in range(len(placed))]
    return Scene(_photograph(image, conditions, rng), [int(c) for c in categories], masks)


def _place(
    category: int,
    objects: ObjectSource,
    owner: np.ndarray,
    placed: list[_Placed],
    settings: SceneSettings,
    conditions: Conditions,
    rng: Generator,
) -> tuple[_Placed, np.ndarray]:
    drawings, places = 12, 8
    size = rng.uniform(*settings.object_size) * (0.5 if rng.random() < settings.small_share else 1.0)
    for drawing in range(drawings):
        smallest = np.sqrt(6 * settings.min_pixels)  # across: thin shapes fill a sixth of their square
        across = max(round(size * 0.85**drawing), int(np.ceil(smallest)) if drawing < 8 else round(smallest / 1.5))
        rotation = rng.uniform(*conditions.rotation) * rng.choice((-1, 1))
        rgba = _crop(objects.render(category, across, rotation, rng))
        for _ in range(places):
            sprite = _somewhere(rgba, settings, rng)
            after = _cover(owner, sprite, len(placed))
            if _all_visible(after, [*placed, sprite], settings):
                return sprite, after
    raise _NoRoom(
        f"no room for an object of category {objects.names[category]!r} beside {len(placed)} others in "
        f"{settings.width}x{settings.height} pixels: ask for larger images, smaller objects or fewer of them."
    )


def _crop(rgba: np.ndarray) -> np.ndarray:
    """Without the transparent margin."""
    rows, columns = rgba[..., 3].any(axis=1).nonzero()[0], rgba[..., 3].any(axis=0).nonzero()[0]
    if not len(rows):
        return rgba
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _somewhere(rgba: np.ndarray, settings: SceneSettings, rng: Generator) -> _Placed:
    """At a random place, up to an eighth of the object outside the image."""
    height, width = rgba.shape[:2]
    top, left = (
        int(
            rng.integers(min(-(side // 8), extent - side + side // 8), max(-(side // 8), extent - side + side // 8) + 1)
        )
        for side, extent in ((height, settings.height), (width, settings.width))
    )
    return _Placed(rgba, top, left, int(np.count_nonzero(rgba[..., 3] >= 128)))


def _overlap(shape: tuple[int, ...], sprite: _Placed) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the object lies in the image, and which part of the object that is."""
    in_image, in_sprite = [], []
    for start, side, extent in zip((sprite.top, sprite.left), sprite.rgba.shape[:2], shape[:2], strict=True):
        first, last = max(0, start), min(extent, start + side)
        in_image.append(slice(first, last))
        in_sprite.append(slice(first - start, last - start))
    return tuple(in_image), tuple(in_sprite)


def _cover(owner: np.ndarray, sprite: _Placed, number: int) -> np.ndarray:
    in_image, in_sprite = _overlap(owner.shape, sprite)
    after = owner.copy()
    after[in_image][sprite.rgba[in_sprite][..., 3] >= 128] = number
    return after


def _all_visible(owner: np.ndarray, placed: list[_Placed], settings: SceneSettings) -> bool:
    visible = np.bincount(owner.ravel() + 1, minlength=len(placed) + 1)[1:]
    needed = [max(settings.min_pixels, settings.min_visible * sprite.pixels) for sprite in placed]
    return bool((visible >= needed).all())


def _paste(image: np.ndarray, sprite: _Placed) -> None:
    in_image, in_sprite = _overlap(image.shape, sprite)
    part = sprite.rgba[in_sprite]
    alpha = part[..., 3:].astype(np.float32) / 255
    image[in_image] = np.rint(image[in_image] * (1 - alpha) + part[..., :3] * alpha).astype(np.uint8)


def _photograph(image: np.ndarray, conditions: Conditions, rng: Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Light, blur and noise of the camera."""
    sigma = rng.uniform(*conditions.blur)
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    gain = (rng.uniform(*conditions.gain) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*conditions.noise))
    return np.clip(image * gain + noise, 0, 255).astype(np.uint8)


def mask_to_polygons(mask: Bool[np.ndarray, "h w"]) -> list[list[float]]:
    """Polygons along the pixels' edges that cover exactly `mask`: their rasterisation gives the same mask again.

    COCO's polygons have no holes (several are joined), so a mask with a hole is cut through the hole.

    Returns:
        one flat list x1, y1, x2, y2, ... a part, in pixels from the image's top left corner; none for an empty mask.
    """
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    return _trace(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8), np.array((left, top)))


def _trace(mask: UInt8[np.ndarray, "h w"], offset: np.ndarray) -> list[list[float]]:
    # OpenCV's contours run through the centres of a region's outermost pixels. With each pixel doubled, its first and
    # its second half tell its two edges apart.
    contours, tree = cv2.findContours(mask.repeat(2, 0).repeat(2, 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return []
    holes = (tree[0, :, 3] >= 0).nonzero()[0]
    if not len(holes):
        return [((c[:, 0] + 1) // 2 + offset).astype(float).ravel().tolist() for c in contours]
    x = contours[holes[0]][:, 0, 0]
    column = int(x.min() + x.max() + 2) // 4
    return _trace(mask[:, :column], offset) + _trace(mask[:, column:], offset + np.array((column, 0)))


def mask_box(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"]:
    """The box [x1, y1, x2, y2] around the pixels of a mask that is not empty."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
