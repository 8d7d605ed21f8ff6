"""Reading image files as 8-bit RGB."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
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


def _decode(buffer: UInt8[np.ndarray, "N"], flags: int) -> UInt8[np.ndarray, "H W 3"]:
    try:
        image = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error as error:
        raise UnreadableImage(f"OpenCV cannot decode it: {error.err}") from error
    if image is None:
        raise UnreadableImage("it is empty" if not buffer.size else "it is no picture, or one cut short")
    return image
