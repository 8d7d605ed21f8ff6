"""The image files of a data set in a few large ones (ArrayRecord): some file systems are slow with many small ones."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from rog_jax.data.annotations import Annotations, DataError
from rog_jax.data.image_records import ArrayRecordImages

logger = logging.getLogger(__name__)

INDEX = "index.json"
_VERSION = 1


def pack_images(annotations: Annotations, out: Path, shard_bytes: int = 1 << 30) -> dict[str, int]:
    """Copies the image files, as they are, into `out`, in the order of the annotations.

    A file that cannot be read becomes an empty record, which reads as an unreadable image. The index is written last,
    so that a folder without it is one that was not finished.

    Args:
        annotations: of the data set.
        out: made if absent; what an earlier packing left there is replaced.
        shard_bytes: about the size of each file.

    Returns:
        "images", "missing", "bytes" and "shards".
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    out.mkdir(parents=True, exist_ok=True)
    (out / INDEX).unlink(missing_ok=True)
    for path in out.glob("images-*.array_record"):
        path.unlink()
    shards: list[str] = []
    writer, filled, total, missing = None, 0, 0, 0
    for data in _files(annotations):
        if writer is None or filled >= shard_bytes:
            if writer is not None:
                writer.close()
            shards.append(f"images-{len(shards):05d}.array_record")
            # A record a group: each image is read by itself, and JPEGs do not get smaller by compression.
            writer, filled = ArrayRecordWriter(str(out / shards[-1]), "group_size:1,uncompressed"), 0
        writer.write(data or b"")
        filled += len(data or b"")
        total += len(data or b"")
        missing += data is None
    if writer is not None:
        writer.close()
    index = {"version": _VERSION, "images": annotations.num_images, "names": _digest(annotations), "shards": shards}
    unfinished = out / f".{INDEX}"
    unfinished.write_text(json.dumps(index, indent=1))
    os.replace(unfinished, out / INDEX)
    return {"images": annotations.num_images, "missing": missing, "bytes": total, "shards": len(shards)}


def packed_images(annotations: Annotations, folder: Path) -> ArrayRecordImages:
    """The images that `pack_images` wrote for these annotations.

    Raises:
        DataError: the folder was not finished, is of other images, or has lost a file.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        version, names, shards = index["version"], index["names"], index["shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no packed images: {error}. Write them: {_command()}") from error
    if version != _VERSION or index["images"] != annotations.num_images or names != _digest(annotations):
        raise DataError(f"{folder} holds other images than those of {annotations.source}. Write them: {_command()}")
    lost = [name for name in shards if not (folder / name).is_file()]
    if lost:
        raise DataError(f"{folder} has lost {len(lost)} of its files, the first is {lost[0]}. Write them: {_command()}")
    return ArrayRecordImages([str(folder / name) for name in shards])


def _files(annotations: Annotations) -> Iterator[bytes | None]:
    for image in range(annotations.num_images):
        try:
            yield annotations.image_bytes(image)
        except (OSError, ValueError) as error:
            logger.warning("%s is packed as an empty record: %s", annotations.image_path(image), error)
            yield None


def _digest(annotations: Annotations) -> str:
    """Tells one list of images from another."""
    ids, names = annotations.image_ids.tolist(), annotations.file_names.tolist()
    return hashlib.sha256(json.dumps([ids, names]).encode()).hexdigest()


def _command() -> str:
    return "python -m rog_jax.tools.pack_images --help tells how."
