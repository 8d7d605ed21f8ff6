"""Whether the image files of a data set are there, can be read, and have the sizes that its annotations say."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rog_jax.data.annotations import Annotations, DataError
from rog_jax.data.findings import Findings
from rog_jax.data.image_files import is_file, missing_folder
from rog_jax.data.images import UnreadableImage, decode_image, stored_size


class ListedImages(NamedTuple):
    """Images that an annotation file lists, whatever is wrong with the rest of it.

    Attributes:
        ids: for messages.
        sizes: (height, width) in pixels, None where nothing says it.
        names_in: their paths relative to a folder; raises DataError where none of the first ten is there.
    """

    ids: list[int] | list[str]
    sizes: list[tuple[int, int] | None]
    names_in: Callable[[Path], list[str]]


def inspect_images(annotations: Annotations, findings: Findings, decode_all: bool = False, threads: int = 8) -> None:
    """Checks that every image is there and has the size that its annotations say.

    Args:
        annotations: of the data set.
        findings: added to.
        decode_all: decodes every picture to its end instead of looking at its head.
        threads: that read; most of the time is waiting for the disk.
    """

    def look(image: int) -> tuple[str, str] | None:
        path, size = annotations.image_path(image), tuple(annotations.image_sizes[image].tolist())
        name = f"{path} (image {annotations.image_ids[image]})"
        packed = annotations.records is not None
        return _fault(name, lambda: annotations.image_bytes(image) if packed else path, size, decode_all)

    _look_at_all(look, annotations.num_images, findings, threads)


def inspect_listed(
    listed: ListedImages, folder: Path, findings: Findings, decode_all: bool = False, threads: int = 8
) -> None:
    """The same for images of annotations that cannot be loaded."""
    if not folder.is_dir():
        text = str(missing_folder(folder))
        if not findings.says(text):
            findings.error("image folder missing", text)
        return
    if not listed.ids:
        return
    try:
        names = listed.names_in(folder)
    except DataError as error:
        if not findings.says(str(error)):
            findings.error("image files not found", str(error))
        return

    def look(image: int) -> tuple[str, str] | None:
        path = folder / names[image]
        return _fault(f"{path} (image {listed.ids[image]})", lambda: path, listed.sizes[image], decode_all)

    _look_at_all(look, len(names), findings, threads)


def _look_at_all(
    look: Callable[[int], tuple[str, str] | None], num_images: int, findings: Findings, threads: int
) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(look, range(num_images), chunksize=32):
            if found is not None:
                findings.error(*found)


def _fault(
    name: str, read: Callable[[], Path | bytes], size: tuple[int, int] | None, decode_all: bool
) -> tuple[str, str] | None:
    """Kind and example of what is wrong with a picture, given as its path or its bytes; None if nothing is."""
    source = None
    try:
        source = read()
        if decode_all:
            data = source if isinstance(source, bytes) else source.read_bytes()
            decode_image(data, size or stored_size(data))
            return None
        stored = stored_size(source)
    except (UnreadableImage, OSError, ValueError) as error:
        if isinstance(source, Path) and not is_file(source):
            return "image file missing", name
        return "image that cannot be read", f"{name}: {error}"
    if size is not None and stored not in (size, size[::-1]):
        said = f"{name} has {stored[0]} x {stored[1]}, not {size[0]} x {size[1]}"
        return "image of another size than annotated", said
    return None
