"""Reading image files as 8-bit RGB."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rog_jax.data.annotations import Annotations, Place

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). The package opencv-python wants libGL from the system, the headless one "
        "does not: pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless"
    ) from error


_ORIENTATION = 0x0112
"""EXIF's tag of how a picture is turned."""
_ON_ITS_SIDE = (5, 6, 7, 8)
_JPEG = b"\xff\xd8\xff"
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


class UnreadableImage(Exception):
    """An image file that cannot be used; the message gives the reason."""


def read_image(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image file as RGB in the orientation in which it was annotated.

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB, transparency is left out. An EXIF turn is applied, as
    viewers do, unless only the picture as stored has the annotated size.

    Args:
        path: the file, in any format that OpenCV reads.
        size: (height, width) in pixels, from the annotations.

    Raises:
        UnreadableImage: no such file, no picture, one cut short, or one of another size.
    """
    return decode_image(_bytes(path.read_bytes), size)


def read_annotated(
    annotations: Annotations, image: Place, at_least: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """An image of a data set, as `read_image` gives it, wherever it lies.

    Args:
        annotations: of the data set.
        image: its place.
        at_least: (height, width) that suffice: a JPEG of twice that size or more comes at a half, a quarter or an
            eighth, which is decoded in a fraction of the time.

    Raises:
        UnreadableImage: as `read_image`.
    """
    size = (int(annotations.image_sizes[image, 0]), int(annotations.image_sizes[image, 1]))
    return _decode_at_least(_bytes(lambda: annotations.image_bytes(image)), size, at_least)


def read_picture(
    path: Path, at_least: Callable[[tuple[int, int]], tuple[int, int]]
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """A picture that nothing is known of, as `read_annotated` gives it, and its (height, width) as viewers show it.

    Args:
        path: the file.
        at_least: from the picture's size to the one that suffices.

    Raises:
        UnreadableImage: no such file, no picture, or one cut short.
    """
    data = _bytes(path.read_bytes)
    size = shown_size(data)
    return _decode_at_least(data, size, at_least(size)), size


def _decode_at_least(data: bytes, size: tuple[int, int], at_least: tuple[int, int] | None) -> np.ndarray:
    if at_least is not None and data.startswith(_JPEG):
        reduced = _decode_reduced(data, size, at_least)
        if reduced is not None:
            return reduced
    return decode_image(data, size)


def _decode_reduced(data: bytes, size: tuple[int, int], at_least: tuple[int, int]) -> np.ndarray | None:
    """A JPEG at a part of its size; None where no part suffices, or where the whole has to be looked at."""
    part = next((part for part in _REDUCED if all(a <= b // part for a, b in zip(at_least, size, strict=True))), None)
    if part is None or stored_size(data) not in (size, size[::-1]):
        return None
    for flags in (_REDUCED[part], _REDUCED[part] | cv2.IMREAD_IGNORE_ORIENTATION):
        image = _decode(np.frombuffer(data, np.uint8), flags)
        if image.shape[:2] == (-(-size[0] // part), -(-size[1] // part)):
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return None


def _bytes(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise UnreadableImage(getattr(error, "strerror", None) or str(error)) from error


def decode_image(data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """As `read_image`, from the bytes of the file.

    Raises:
        UnreadableImage: no picture, one cut short, or one of another size.
    """
    buffer = np.frombuffer(data, np.uint8)
    image = _decode(buffer, cv2.IMREAD_COLOR)
    if image.shape[:2] != size:
        image = _decode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image.shape[:2] != size:
        raise UnreadableImage(
            f"it has {image.shape[0]} x {image.shape[1]} pixels (height x width), "
            f"its annotations say {size[0]} x {size[1]}"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes) -> UInt8[np.ndarray, "H W"]:
    """A mask from a picture of it: 1 where any channel is not 0.

    Raises:
        UnreadableImage: no picture.
    """
    mask = _decode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    return (mask.reshape(*mask.shape[:2], -1) > 0).any(axis=2).astype(np.uint8)


def stored_size(source: Path | bytes) -> tuple[int, int]:
    """(height, width) of a picture as stored, whatever its EXIF turn, from the head of a file or of its bytes.

    Raises:
        UnreadableImage: no such file, no picture.
    """
    return _from_head(source, lambda picture: (picture.height, picture.width))


def shown_size(source: Path | bytes) -> tuple[int, int]:
    """(height, width) of a picture as viewers show it, after its EXIF turn.

    Raises:
        UnreadableImage: no such file, no picture.
    """
    size = stored_size(source)
    return size[::-1] if _from_head(source, _is_on_its_side) else size


def _is_on_its_side(picture: Image.Image) -> bool:
    """Whether the EXIF turn exchanges the sides; of a TIFF, Pillow has exchanged them already."""
    return picture.format != "TIFF" and picture.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE


def _from_head(source: Path | bytes, read: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return read(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PIL's reasons for no picture
        raise UnreadableImage(f"it is no picture: {error}") from error


def _decode(buffer: UInt8[np.ndarray, "N"], flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error as error:
        raise UnreadableImage(f"OpenCV cannot decode it: {error.err}") from error
    if image is None:
        raise UnreadableImage("it is empty" if not buffer.size else "it is no picture, or one cut short")
    return image
