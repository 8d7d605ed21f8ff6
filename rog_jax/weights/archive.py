"""Weight files of other programs as NumPy arrays: `.pth` and `.pt` (both formats of torch), `.pkl`, `.safetensors`.

What a file is, its first bytes say, not its name. torch is not needed, and nothing in a file is executed
(`rog_jax.weights.unpickle`).
"""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from rog_jax.weights.unpickle import Inert, SafeUnpickler, Storage, StorageType, WeightsError, as_array, load

__all__ = ["Weights", "WeightsError", "read_weights"]

SAFETENSORS_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
NESTS = ("state_dict", "model", "model_state", "blobs")
"""Keys under which checkpoints keep the state dict, in the order in which they are looked for."""


class Weights(NamedTuple):
    """A weight file.

    Attributes:
        tensors: arrays by name; "module." of parallel training is taken off, Caffe2's momenta are left out.
        meta: the plain values (numbers, texts, lists and dicts of them) that stand beside the state dict.
    """

    tensors: dict[str, np.ndarray]
    meta: dict[str, Any]


def read_weights(path: str | Path) -> Weights:
    """The tensors of a weight file.

    Raises:
        WeightsError: the file is missing, broken, of an unknown format, without tensors, or asks for more than data.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _read(file)
        return _split(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def _read(file: io.BufferedIOBase) -> Any:
    start = file.read(16)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file)
    if start[:1] == b"\x80":
        return _read_pickles(file)
    if len(start) > 8 and start[8:9] == b"{":
        return _read_safetensors(file)
    raise WeightsError("it is no file of torch, no pickle and no safetensors; is the download whole?")


def _read_zip(file: io.BufferedIOBase) -> Any:
    """torch's format since 1.6: a zip archive with a pickle and one record of numbers for each storage."""
    try:
        archive = zipfile.ZipFile(file)
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "data.pkl" not in names:
            raise WeightsError("it is a zip archive without torch's data.pkl; a TorchScript archive is no weight file")
        order = _record(archive, names, "byteorder").strip() if "byteorder" in names else b"little"
        if order not in (b"little", b"big"):
            raise WeightsError(f"its numbers are in the unknown byte order {order!r}")
        read = _storage_reader(archive, names, ">" if order == b"big" else "<")
        return load(SafeUnpickler(io.BytesIO(_record(archive, names, "data.pkl")), read))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error) as error:
        raise WeightsError(f"its zip archive is broken ({error}); is the download whole?") from error


def _record(archive: zipfile.ZipFile, names: dict[str, str], name: str) -> bytes:
    if name not in names:
        raise WeightsError(f"its record {name} is missing; is the download whole?")
    info = archive.getinfo(names[name])
    if info.compress_type != zipfile.ZIP_STORED:
        raise WeightsError(f"its record {name} is compressed, which torch never does")
    return archive.read(info)


def _storage_reader(archive: zipfile.ZipFile, names: dict[str, str], order: str) -> Callable[[Any], Storage]:
    storages: dict[str, Storage] = {}

    def read(pid: Any) -> Storage:
        storage, key = _described(pid)
        if key not in storages:
            data = _record(archive, names, f"data/{key}")
            if len(data) != storage.size * storage.dtype.itemsize:
                raise WeightsError(f"its record data/{key} has {len(data)} bytes for {storage.size} numbers")
            storage.numbers = np.frombuffer(data, _ordered(storage.dtype, order)).astype(storage.dtype)
            storages[key] = storage
        return storages[key]

    return read


def _described(pid: Any) -> tuple[Storage, str]:
    """An empty storage and its key, from torch's persistent id ("storage", type, key, device, size[, view])."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise WeightsError("it refers to numbers in a way that torch never wrote")
    _, dtype, key, _, size = pid[:5]
    if not isinstance(dtype, StorageType):
        raise WeightsError("a storage holds numbers of a type that is not read (quantised or complex)")
    if type(size) is not int or size < 0 or not isinstance(key, str) or (len(pid) > 5 and pid[5] is not None):
        raise WeightsError("a storage of no size or key, or a view of another storage")
    return Storage(dtype.dtype, size), key


def _ordered(dtype: np.dtype, order: str) -> np.dtype:
    """Big-endian numbers of an extension type cannot be described: they do not occur in weight files."""
    if dtype.kind != "V":
        return dtype.newbyteorder(order)
    if order == ">":
        raise WeightsError("it holds big-endian bfloat16 numbers, which are not read")
    return dtype


def _read_pickles(file: io.BufferedIOBase) -> Any:
    """A plain pickle, or torch's format before 1.6: five pickles, then the numbers of each storage."""
    first = load(SafeUnpickler(file))
    if first != LEGACY_MAGIC:
        return first
    load(SafeUnpickler(file))  # the protocol's version
    system = load(SafeUnpickler(file))  # byte order and widths of the machine that wrote it
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("its numbers are big-endian, which is not read in torch's old format")
    storages: dict[str, Storage] = {}

    def remember(pid: Any) -> Storage:
        storage, key = _described(pid)
        return storages.setdefault(key, storage)

    content = load(SafeUnpickler(file, remember))
    for key in load(SafeUnpickler(file)):
        if key not in storages:
            raise WeightsError(f"it has numbers for a storage {key!r} that nothing refers to")
        _fill(file, storages[key])
    return content


def _fill(file: io.BufferedIOBase, storage: Storage) -> None:
    head = file.read(8)
    if len(head) < 8 or struct.unpack("<q", head)[0] != storage.size:
        raise WeightsError("the size of a storage is not the one that its pickle gives; is the download whole?")
    size = storage.size * storage.dtype.itemsize
    here = file.tell()
    if file.seek(0, io.SEEK_END) - here < size:
        raise WeightsError("it ends before its numbers do; is the download whole?")
    file.seek(here)
    storage.numbers = np.frombuffer(file.read(size), storage.dtype)


def _read_safetensors(file: io.BufferedIOBase) -> Any:
    try:
        records = dict(deserialize(file.read()))
    except SafetensorError as error:
        raise WeightsError(f"its safetensors are broken ({error}); is the download whole?") from error
    tensors = {}
    for name, record in records.items():
        if record["dtype"] not in SAFETENSORS_TYPES:
            raise WeightsError(f"tensor {name} holds {record['dtype']} numbers, which are not read")
        numbers = np.frombuffer(record["data"], SAFETENSORS_TYPES[record["dtype"]])
        tensors[name] = numbers.reshape(record["shape"])
    return tensors


def _split(content: Any) -> Weights:
    meta: dict[str, Any] = {}
    while isinstance(content, dict):
        nest = next((key for key in NESTS if isinstance(content.get(key), dict)), None)
        if nest is None:
            break
        meta |= {key: _plain(value) for key, value in content.items() if key != nest and isinstance(key, str)}
        content = content[nest]
    if not isinstance(content, dict):
        raise WeightsError("it holds no dict of tensors")
    tensors = {}
    for name, value in content.items():
        array = value if isinstance(value, np.ndarray) else as_array(value, str(name))
        if not isinstance(name, str) or array is None:
            meta[str(name)] = _plain(value)
        elif not name.endswith("_momentum"):
            tensors[name.removeprefix("module.")] = array
    if not tensors:
        raise WeightsError("it holds no tensors")
    return Weights(tensors, meta)


def _plain(value: Any) -> Any:
    """Numbers, texts, lists and dicts as they are; None for what is none of them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Inert) or not isinstance(value, str | int | float | bool):
        return None
    return value
