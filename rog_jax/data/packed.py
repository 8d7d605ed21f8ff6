"""A file of arrays and texts that processes share: mapped into memory, not copied.

Layout: eight bytes of magic, the header's length and checksum (two uint64), the header as json, then the arrays, each
at a multiple of 64 bytes.
"""

import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC = b"rogpack1"
_LENGTHS = struct.Struct("<QQ")
_ALIGNMENT = 64


class PackedError(Exception):
    """A file that is no packed file, of another key, or damaged; the message gives the reason."""


class PackedFile:
    """Arrays mapped from a file, read-only.

    Attributes:
        path: of the file.
        key: what the writer said of the contents' origin.
        arrays: by name.
        texts: lists of text by name.
    """

    def __init__(self, path: Path, key: Mapping[str, Any] | None = None, verify: bool = False):
        """Opens a file.

        Args:
            path: written by `write_packed`.
            key: what its key has to be; None takes any.
            verify: compares checksums, which reads the whole file.

        Raises:
            OSError: it cannot be read.
            PackedError: it is damaged, or was written with another key.
        """
        with path.open("rb") as file:
            header, start = _read_header(file)
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise PackedError("it is empty") from error
        if key is not None and header["key"] != dict(key):
            raise PackedError("it was made from another file, or by another version")
        self.path, self.key, self.texts = path, header["key"], header["texts"]
        self.arrays: dict[str, np.ndarray] = {}
        for name, (dtype, shape, offset, checksum) in header["arrays"].items():
            count = int(np.prod(shape, dtype=np.int64))
            size = count * np.dtype(dtype).itemsize
            begin = start + offset
            if begin + size > len(self._map):
                raise PackedError(f"it has {len(self._map)} bytes, fewer than its header says")
            if verify and zlib.crc32(memoryview(self._map)[begin : begin + size]) != checksum:
                raise PackedError(f"the bytes of {name!r} have changed since it was written")
            # An empty array needs no bytes of the file, at whose very end it may stand.
            flat = np.frombuffer(self._map, dtype, count, begin) if size else np.zeros(count, dtype)
            self.arrays[name] = flat.reshape(shape)


def _read_header(file: Any) -> tuple[dict[str, Any], int]:
    """The header and the place of the first array."""
    prefix = file.read(len(_MAGIC) + _LENGTHS.size)
    if len(prefix) < len(_MAGIC) + _LENGTHS.size or not prefix.startswith(_MAGIC):
        raise PackedError("it is no packed file of this version")
    length, checksum = _LENGTHS.unpack(prefix[len(_MAGIC) :])
    text = file.read(length) if length < os.fstat(file.fileno()).st_size else b""
    if len(text) != length or zlib.crc32(text) != checksum:
        raise PackedError("its header is damaged")
    return json.loads(text), _aligned(len(prefix) + length)


def write_packed(
    path: Path, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray], texts: Mapping[str, list[str]]
) -> None:
    """Writes a packed file under another name first, so that none is ever half-written under its own.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    table, offset = {}, 0
    for name, values in arrays.items():
        table[name] = (values.dtype.str, values.shape, offset, zlib.crc32(_bytes(values)))
        offset = _aligned(offset + values.nbytes)
    header = json.dumps({"key": dict(key), "texts": dict(texts), "arrays": table}).encode()
    prefix = _MAGIC + _LENGTHS.pack(len(header), zlib.crc32(header)) + header
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(prefix)
            start = _aligned(len(prefix))
            for name, values in arrays.items():
                file.seek(start + table[name][2])
                file.write(_bytes(values))
            file.truncate(start + offset)
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _bytes(values: np.ndarray) -> memoryview:
    return memoryview(values.reshape(-1).view(np.uint8))


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
