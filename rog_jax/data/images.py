"""Reading image files as 8-bit RGB."""

import io
from collections.abc import Callable
from pathlib import Path

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


def read_annotated(annotations: Annotations, image: Place) -> UInt8[np.ndarray, "H W 3"]:
    """An image of a data set, as `read_image` gives it, wherever it lies.

    Raises:
        UnreadableImage: as `read_image`.
    """
    size = (int(annotations.image_sizes[image, 0]), int(annotations.image_sizes[image, 1]))
    return decode_image(_bytes(lambda: annotations.image_bytes(image)), size)


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
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return picture.height, picture.width
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
