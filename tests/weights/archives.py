"""Weight files as torch and Detectron2 write them, byte for byte in their formats, without torch."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import ClassVar

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Global:
    """A name that is pickled as such, without an import."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """What is pickled as a call of a name."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state


class View:
    """A tensor that is a view of an array's numbers."""

    def __init__(self, numbers, offset, shape, strides):
        self.numbers, self.offset, self.shape, self.strides = numbers, offset, shape, strides


class StorageOf:
    """Numbers, pickled by a persistent id."""

    def __init__(self, numbers):
        self.numbers = numbers


class Writer(pickle._Pickler):
    """Pickles arrays as torch pickles tensors."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def __init__(self, file, legacy=False):
        super().__init__(file, protocol=2)
        self.legacy, self.storages, self.kept = legacy, {}, []

    def persistent_id(self, obj):
        if not isinstance(obj, StorageOf):
            return None
        numbers = obj.numbers
        key = str(self.storages.setdefault(id(numbers), (len(self.storages), numbers))[0])
        view = (None,) if self.legacy else ()
        return "storage", Global("torch", STORAGES[numbers.dtype]), key, "cpu", numbers.size, *view

    def save_array(self, array):
        flat = np.ascontiguousarray(array).reshape(-1)
        strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
        self.save_view(View(flat, 0, array.shape, strides))

    def save_view(self, view):
        self.kept.append(view)  # ids of arrays are keys as long as the arrays live
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        arguments = StorageOf(view.numbers), view.offset, tuple(view.shape), tuple(view.strides), False, OrderedDict()
        self.save_call(Call(rebuild, *arguments))

    def save_call(self, call):
        self.save(call.function)
        self.save(call.arguments)
        self.write(pickle.REDUCE)
        if call.state is not None:
            self.save(call.state)
            self.write(pickle.BUILD)

    def save_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[np.ndarray], dispatch[View], dispatch[Call], dispatch[Global] = save_array, save_view, save_call, save_name


def write_zip(path, content, root="archive", byteorder=b"little", leave_out=(), compression=zipfile.ZIP_STORED):
    """`torch.save` since 1.6."""
    buffer = io.BytesIO()
    writer = Writer(buffer)
    writer.dump(content)
    records = {"data.pkl": buffer.getvalue(), "byteorder": byteorder, "version": b"3\n"}
    for key, numbers in writer.storages.values():
        swapped = numbers.byteswap() if byteorder == b"big" else numbers
        records[f"data/{key}"] = swapped.tobytes()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            if name not in leave_out:
                archive.writestr(f"{root}/{name}", data)


def write_legacy(path, content, cut=0):
    """`torch.save` before 1.6; `cut` bytes are missing at the end."""
    buffer = io.BytesIO()
    for head in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(head, buffer, protocol=2)
    writer = Writer(buffer, legacy=True)
    writer.dump(content)
    pickle.dump([str(key) for key, _ in writer.storages.values()], buffer, protocol=2)
    for _, numbers in writer.storages.values():
        buffer.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    data = buffer.getvalue()
    path.write_bytes(data[: len(data) - cut])


def write_pickle(path, content, protocol=2):
    """A plain pickle of NumPy arrays, as Detectron2's model zoo has them."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def caffe2_names(state):
    """A ResNet of torchvision's names under those of the first Detectron, with its norms folded to affine maps."""
    layers = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample": "branch1"}
    result = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "fc":
            result[f"fc1000_{parts[1][0]}"] = tensor
        elif parts[0] in ("conv1", "bn1"):
            stem = "conv1" if parts[0] == "conv1" else "res_conv1"
            _put(result, stem, parts[0] == "bn1", parts[1], tensor)
        else:
            stage, block, layer = int(parts[0].removeprefix("layer")) + 1, parts[1], parts[2]
            norm = layer.startswith("bn") or (layer == "downsample" and parts[3] == "1")
            branch = layers[layer.replace("bn", "conv")]
            _put(result, f"res{stage}_{block}_{branch}", norm, parts[-1], tensor)
    return result


def _put(result, root, norm, leaf, tensor):
    if not norm:
        result[f"{root}_w"] = tensor
    elif leaf in ("weight", "bias"):
        result[f"{root}_bn_{'s' if leaf == 'weight' else 'b'}"] = tensor
