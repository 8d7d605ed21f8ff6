"""Objects drawn on an image: translucent masks, boxes, and labels that keep out of each other's way."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

Image3 = UInt8[np.ndarray, "H W 3"]
_MASK_OPACITY = 0.45
_GOLDEN_RATIO = 0.6180339887498949
_SMALLEST_SIDE = 640  # pixels; smaller pictures are enlarged, so that text stays small beside the objects
_FONT_SIZE = 13  # pixels
_LABEL_HEIGHT = 17.0  # pixels
_PAPER = (255, 255, 255)
_INK = (24, 24, 24)


class Objects(NamedTuple):
    """What is drawn on one image.

    Attributes:
        boxes: [N, 4], x1, y1, x2, y2 in pixels of the image.
        labels: [N], 0..C-1.
        scores: [N], or None for truths.
        masks: N arrays [H, W] that are non-zero on the object, each of them None where there is no mask.
    """

    boxes: Float[np.ndarray, "N 4"]
    labels: Int[np.ndarray, " N"]
    scores: Float[np.ndarray, " N"] | None
    masks: Sequence[np.ndarray | None]


def class_color(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class: the same in every picture, and far from that of the classes beside it."""
    hue = (label * _GOLDEN_RATIO) % 1.0
    saturation, value = ((0.85, 0.95), (0.6, 1.0), (0.95, 0.7))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_comparison(
    image: Image3,
    truth: Objects,
    predictions: Objects,
    names: Sequence[str],
    rare: frozenset[int] = frozenset(),
    title: str = "",
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The truth at the left and the predictions at the right, each under a line that says what it is.

    Args:
        image: [H, W, 3], RGB.
        truth: objects in pixels of the image.
        predictions: the same, with scores.
        names: of the classes.
        rare: labels of the rare classes, whose objects have a thick box and "rare" beside their names.
        title: goes before the headings, e.g. the image's id.
    """
    panels = [
        _with_heading(draw_objects(image, truth, names, rare), f"{title} truth: {_number(len(truth.labels))}"),
        _with_heading(
            draw_objects(image, predictions, names, rare),
            f"{title} predictions: best {_number(len(predictions.labels))}",
        ),
    ]
    gap = np.full((panels[0].shape[0], 8, 3), _PAPER, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def draw_objects(
    image: Image3, objects: Objects, names: Sequence[str], rare: frozenset[int] = frozenset()
) -> UInt8[np.ndarray, "H1 W1 3"]:
    """The image, enlarged if it is small, with masks, boxes and labels; big objects lie below small ones."""
    factor = max(1.0, _SMALLEST_SIDE / max(image.shape[:2]))
    height, width = (round(side * factor) for side in image.shape[:2])
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    boxes = objects.boxes * factor
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()
    for place in order:
        _blend_mask(canvas, objects.masks[place], class_color(int(objects.labels[place])))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for place in order:
        label = int(objects.labels[place])
        corners = np.clip(boxes[place], 0, [width - 1, height - 1] * 2).tolist()
        draw.rectangle(corners, outline=class_color(label), width=4 if label in rare else 2)
    _draw_labels(draw, picture.size, boxes, objects, names, rare, order)
    return np.asarray(picture)


def _blend_mask(canvas: np.ndarray, mask: np.ndarray | None, color: tuple[int, int, int]) -> None:
    if mask is None:
        return
    height, width = canvas.shape[:2]
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    pixels = inside > 0
    canvas[pixels] = (canvas[pixels] * (1 - _MASK_OPACITY) + np.array(color) * _MASK_OPACITY).astype(np.uint8)
    outline, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, color, 1)


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: np.ndarray,
    objects: Objects,
    names: Sequence[str],
    rare: frozenset[int],
    order: list[int],
) -> None:
    font = ImageFont.load_default(_FONT_SIZE)
    taken: list[tuple[float, float, float, float]] = []
    for place in reversed(order):  # small objects have the fewest places for a label, so they choose first
        label = int(objects.labels[place])
        text = names[label] + (" (rare)" if label in rare else "")
        text += "" if objects.scores is None else f" {objects.scores[place]:.2f}"
        tag = _free_place(boxes[place].tolist(), draw.textlength(text, font) + 6, _LABEL_HEIGHT, size, taken)
        taken.append(tag)
        color = class_color(label)
        draw.rectangle(tag, fill=color)
        draw.text((tag[0] + 3, tag[1] + 1), text, fill=_INK if _is_light(color) else _PAPER, font=font)


def _free_place(
    box: list[float], width: float, height: float, size: tuple[int, int], taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, float, float]:
    """Where a label goes: over, in or under its box, or further down in it; the place that hides other labels least."""
    x1, y1, _, y2 = box
    tops = [y1 - height, y1, y2 - height, y2, *np.arange(y1 + height, y2 - height, height)]
    best, least = None, np.inf
    for top in tops:
        left = min(max(x1, 0.0), max(size[0] - width, 0.0))
        top = min(max(top, 0.0), size[1] - height)
        tag = (left, top, left + width, top + height)
        covered = sum(_overlap(tag, other) for other in taken)
        if covered < least:
            best, least = tag, covered
        if covered == 0:
            break
    return best


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _is_light(color: tuple[int, int, int]) -> bool:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140


def _with_heading(picture: np.ndarray, text: str) -> np.ndarray:
    strip = Image.new("RGB", (picture.shape[1], _FONT_SIZE + 10), _PAPER)
    ImageDraw.Draw(strip).text((4, 4), text.strip(), fill=_INK, font=ImageFont.load_default(_FONT_SIZE))
    return np.concatenate([np.asarray(strip), picture])


def _number(objects: int) -> str:
    return f"{objects} object" + ("" if objects == 1 else "s")
