"""Pickles of weight files, read without executing anything that they name.

A pickle is a program: it names functions and calls them. Here names are looked up in a short list and nowhere else, and
what stands in the list are stand-ins of our own that build NumPy arrays and plain containers. Names of known training
programs that a checkpoint may carry beside its weights (configs, log buffers) become inert placeholders. Any other name
is refused before anything is called.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np


class WeightsError(ValueError):
    """A weight file cannot be read, or is not what it seems; the message names the file or the tensor."""


class StorageType(NamedTuple):
    """Type of the numbers of a torch storage."""

    dtype: np.dtype


TORCH_TYPES = {
    "DoubleStorage": StorageType(np.dtype(np.float64)),
    "FloatStorage": StorageType(np.dtype(np.float32)),
    "HalfStorage": StorageType(np.dtype(np.float16)),
    "BFloat16Storage": StorageType(np.dtype(ml_dtypes.bfloat16)),
    "LongStorage": StorageType(np.dtype(np.int64)),
    "IntStorage": StorageType(np.dtype(np.int32)),
    "ShortStorage": StorageType(np.dtype(np.int16)),
    "CharStorage": StorageType(np.dtype(np.int8)),
    "ByteStorage": StorageType(np.dtype(np.uint8)),
    "BoolStorage": StorageType(np.dtype(np.bool_)),
}
TRAINERS = ("mmengine", "mmcv", "mmdet", "detectron2", "fvcore", "iopath", "yacs", "omegaconf", "addict", "torch")
"""Packages whose objects may stand beside weights; they become placeholders."""
HARMLESS = {
    ("argparse", "Namespace"),
    ("collections", "deque"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    *(("builtins", name) for name in ("bytearray", "complex", "dict", "frozenset", "list", "set", "slice")),
}
"""Other names that configs and log buffers bring with them; placeholders too."""
MAX_DIMENSIONS = 32


class Storage:
    """Numbers of a tensor before they are there: the legacy format brings them after the pickle.

    Attributes:
        dtype: of the numbers.
        size: how many the pickle says there are.
        numbers: the array [size], once read.
    """

    def __init__(self, dtype: np.dtype, size: int):
        self.dtype, self.size, self.numbers = dtype, size, None


class LazyTensor(NamedTuple):
    """A view of a storage: offset, shape and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, name: str) -> np.ndarray:
        """The tensor as an array of its own.

        Raises:
            WeightsError: the view reaches beyond its storage, which would read memory that is not the file's.
        """
        numbers = self.storage.numbers
        if numbers is None:
            raise WeightsError(f"tensor {name}: the file ends before its numbers")
        if len(self.shape) > MAX_DIMENSIONS:
            raise WeightsError(f"tensor {name}: {len(self.shape)} dimensions")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, numbers.dtype)
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(numbers) or math.prod(self.shape) > len(numbers):
            raise WeightsError(f"tensor {name}: its shape {list(self.shape)} reaches beyond its {len(numbers)} numbers")
        strides = [stride * numbers.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)
        return np.array(view)


class Inert:
    """Stands for an object of a training program; takes any argument and state, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> LazyTensor:
    if not isinstance(storage, Storage):
        raise WeightsError("a tensor without a storage")
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise WeightsError(f"a tensor with the offset {offset}, shape {shape} and strides {strides}")
    return LazyTensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _NumpyArray:
    """An array while it is being unpickled: `numpy.core.multiarray._reconstruct`, then its state."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightsError("an array with a state that NumPy never wrote")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _NumpyType):
            raise WeightsError("an array of no type")
        if isinstance(data, str):  # bytes that Python 2 wrote, read as latin-1
            data = data.encode("latin-1")
        shape = tuple(shape)
        if not isinstance(data, bytes) or any(type(side) is not int or side < 0 for side in shape):
            raise WeightsError("an array of something else than numbers")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise WeightsError(f"an array of shape {list(shape)} with {len(data)} bytes")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _NumpyType:
    """A dtype of plain numbers while it is being unpickled."""

    def __init__(self, code: Any, *_: Any):
        if isinstance(code, bytes):
            code = code.decode("ascii", "replace")
        if not isinstance(code, str) or code.lstrip("<>=|")[:1] not in tuple("fiub") or not code.isascii():
            raise WeightsError(f"an array of the type {code!r}, which holds no plain numbers")
        try:
            self.dtype = np.dtype(code)
        except TypeError as error:
            raise WeightsError(f"an array of the unknown type {code!r}") from error

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", b"<", b">"):
            order = state[1].decode() if isinstance(state[1], bytes) else state[1]
            self.dtype = self.dtype.newbyteorder(order)


def _reconstruct(*_: Any) -> _NumpyArray:
    return _NumpyArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _NumpyArray:
    """`numpy._core.numeric._frombuffer`, by which protocol 5 writes arrays."""
    array = _NumpyArray()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data) if isinstance(data, bytearray) else data))
    return array


def _attribute(target: Any, name: Any) -> Inert:
    """`getattr` of a placeholder, as log buffers write their methods; of nothing else."""
    if target is not Inert and not isinstance(target, Inert):
        raise WeightsError(f"it asks for the attribute {name!r} of an object, which no weight file needs")
    return Inert()


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, _NumpyType) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise WeightsError("a number of no type")
    return np.frombuffer(data, dtype.dtype)[0].item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes for protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise WeightsError("bytes in another encoding than latin-1")
    return text.encode("latin-1")


class PlainDict(OrderedDict):
    """`collections.OrderedDict` and `defaultdict`; attributes (torch hangs metadata on them) are not set."""

    def __setstate__(self, state: Any) -> None:
        pass


def _no_bytes(*arguments: Any) -> bytes:
    """`bytes()`, by which Python 3 writes empty bytes for protocol 2."""
    if arguments:
        raise WeightsError("it makes bytes of something, which no weight file needs")
    return b""


def _default_dict(*_: Any) -> PlainDict:
    return PlainDict()


_NUMPY_MODULES = ("numpy.core", "numpy._core")
ALLOWED: dict[tuple[str, str], Callable] = {
    ("builtins", "bytes"): _no_bytes,
    ("builtins", "getattr"): _attribute,
    ("collections", "OrderedDict"): PlainDict,
    ("collections", "defaultdict"): _default_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("numpy", "dtype"): _NumpyType,
    ("numpy", "ndarray"): _NumpyArray,
    ("_codecs", "encode"): _encode,
    **{(f"{package}.multiarray", "_reconstruct"): _reconstruct for package in _NUMPY_MODULES},
    **{(f"{package}.multiarray", "scalar"): _numpy_scalar for package in _NUMPY_MODULES},
    **{(f"{package}.numeric", "_frombuffer"): _from_buffer for package in _NUMPY_MODULES},
}
STATEFUL = (Inert, PlainDict, _NumpyArray, _NumpyType)


class SafeUnpickler(pickle._Unpickler):
    """An unpickler with the list above in place of imports.

    The pure-Python one: its C twin could not be told which objects an instruction may give a state to. A state set on
    a function or a type of this process would outlive the file.

    Args:
        file: the pickle.
        storage: makes the storage of a persistent id; None where the format has none.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BufferedIOBase, storage: Callable[[Any], Storage] | None = None):
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for the name.

        Raises:
            WeightsError: the name is on no list.
        """
        module = "builtins" if module == "__builtin__" else module  # its name in Python 2
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module in ("torch", "torch.storage") and name in TORCH_TYPES:
            return TORCH_TYPES[name]
        if module.split(".")[0] in TRAINERS or (module, name) in HARMLESS:
            return Inert
        raise WeightsError(
            f"it asks for {module}.{name}, which no weight file needs: nothing was executed. Do not load this file "
            "with other programs either, unless you trust its author"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """The storage of a tensor."""
        if self._storage is None:
            raise WeightsError("it refers to numbers that it does not hold")
        return self._storage(pid)

    def load_build(self) -> None:
        """Gives an object its state."""
        if len(self.stack) < 2 or not isinstance(self.stack[-2], STATEFUL):
            raise WeightsError("it sets the state of something that has none, which no weight file needs")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def get_extension(self, code: int) -> None:
        """Extension codes name classes through a registry of the process."""
        raise WeightsError("it uses extension codes of pickle, which no weight file needs")


def load(unpickler: SafeUnpickler) -> Any:
    """The object of a pickle, in which arrays of NumPy are still `_NumpyArray` and tensors `LazyTensor`.

    Raises:
        WeightsError: the pickle is refused, cut short, or none.
    """
    try:
        return unpickler.load()
    except WeightsError:
        raise
    except RecursionError as error:
        raise WeightsError("its contents are nested too deeply") from error
    except Exception as error:  # a broken pickle can raise anything
        raise WeightsError(f"it is no whole pickle ({type(error).__name__}: {error})") from error


def as_array(value: Any, name: str) -> np.ndarray | None:
    """The array of a tensor or of a pickled array; None for anything else."""
    if isinstance(value, LazyTensor):
        return value.array(name)
    if isinstance(value, _NumpyArray):
        if value.array is None:
            raise WeightsError(f"tensor {name} was never filled")
        return value.array
    return None
