import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rog_jax.weights import WeightsError, read_weights, unpickle
from tests.weights.archives import Call, Global, View, Writer, write_legacy, write_pickle, write_zip

TYPES = ("float64", "float32", "float16", ml_dtypes.bfloat16, "int64", "int32", "uint8", "bool")
WRITERS = {"zip": write_zip, "legacy": write_legacy}


def state(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {f"layer.{i}.weight": (9 * rng.standard_normal((2, 3, i + 1))).astype(t) for i, t in enumerate(TYPES)}
    return OrderedDict(arrays) | {"scalar": np.array(7.0), "empty": np.zeros((0, 3), np.float32)}


def assert_equal(tensors, wanted):
    assert list(tensors) == list(wanted)
    for name, array in wanted.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def test_both_formats_of_torch_give_every_type(write, tmp_path):
    write(tmp_path / "a.bin", state())
    assert_equal(read_weights(tmp_path / "a.bin").tensors, state())


def test_views_and_shared_numbers(write, tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    views = {
        "whole": View(numbers, 0, (3, 4), (4, 1)),
        "turned": View(numbers, 0, (4, 3), (1, 4)),
        "part": View(numbers, 5, (2, 2), (4, 1)),
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), View(numbers, 2, (3,), (1,)), True, {}),
    }
    write(tmp_path / "a.pth", views)
    grid = numbers.reshape(3, 4)
    wanted = {"whole": grid, "turned": grid.T, "part": grid[1:, 1:3], "parameter": numbers[2:5]}
    assert_equal(read_weights(tmp_path / "a.pth").tensors, wanted)


def test_state_dict_is_found_among_what_trainers_save(write, tmp_path):
    buffer = Call(Global("mmengine.logging.history_buffer", "HistoryBuffer"), 1000, state={"log": np.zeros(3)})
    method = Call(Global("builtins", "getattr"), Global("mmengine.logging.history_buffer", "HistoryBuffer"), "mean")
    content = {
        "meta": {
            "CLASSES": ("cat", "dog"),
            "epoch": 12,
            "time": None,
            "namespace": Call(Global("argparse", "Namespace")),
        },
        "message_hub": {"loss": buffer, "mean": method},
        "optimizer": {"state": {0: {"momentum_buffer": np.ones(2, np.float32)}}, "param_groups": [{"lr": 0.02}]},
        "state_dict": {f"module.{name}": array for name, array in state().items()},
    }
    write(tmp_path / "epoch_12.pth", content)
    weights = read_weights(tmp_path / "epoch_12.pth")
    assert_equal(weights.tensors, state())
    assert weights.meta["meta"] == {"CLASSES": ["cat", "dog"], "epoch": 12, "time": None, "namespace": None}
    assert weights.meta["optimizer"]["param_groups"] == [{"lr": 0.02}]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_detectron2s_pickles(protocol, tmp_path):
    tensors = {name: array for name, array in state().items() if array.dtype != ml_dtypes.bfloat16}
    tensors["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    content = {"model": tensors, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    write_pickle(tmp_path / "model_final.pkl", content, protocol)
    weights = read_weights(tmp_path / "model_final.pkl")
    assert_equal(weights.tensors, tensors)
    assert weights.meta == {"__author__": "Detectron2 Model Zoo", "matching_heuristics": True}


def test_caffe2s_pickles_of_python_2(tmp_path):
    """Python 2 wrote an array's bytes as a text of latin-1."""
    array = np.float32([[1.5, -2.5], [3.5, 1e-30]])
    dtype = Call(Global("numpy", "dtype"), "f4", 0, 1, state=(3, "<", None, None, None, -1, -1, 0))
    text = array.tobytes().decode("latin-1")
    pickled = Call(
        Global("numpy.core.multiarray", "_reconstruct"),
        Global("numpy", "ndarray"),
        (0,),
        "b",
        state=(1, (2, 2), dtype, False, text),
    )
    with (tmp_path / "R-50.pkl").open("wb") as file:
        Writer(file).dump({"blobs": {"conv1_w": pickled, "conv1_w_momentum": pickled}, "weight_order": ["a"]})
    weights = read_weights(tmp_path / "R-50.pkl")
    assert_equal(weights.tensors, {"conv1_w": array})
    assert weights.meta == {"weight_order": ["a"]}


def test_safetensors(tmp_path):
    save_file(dict(state()), tmp_path / "model.safetensors")
    tensors = read_weights(tmp_path / "model.safetensors").tensors
    assert_equal({name: tensors[name] for name in state()}, state())
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-3])
    with pytest.raises(WeightsError, match=r"cut\.safetensors.*broken"):
        read_weights(tmp_path / "cut.safetensors")


def test_big_endian_numbers(tmp_path):
    tensors = {"weight": np.float32([1, 2, 3]), "count": np.int64([7])}
    write_zip(tmp_path / "a.pth", tensors, byteorder=b"big")
    assert_equal(read_weights(tmp_path / "a.pth").tensors, tensors)


ATTACKS = {
    "system": Call(Global("os", "system"), "touch PWNED"),
    "posix": Call(Global("posix", "system"), "touch PWNED"),
    "eval": Call(Global("builtins", "eval"), "open('PWNED', 'w')"),
    "exec": Call(Global("__builtin__", "exec"), "open('PWNED', 'w')"),
    "popen": Call(Global("subprocess", "Popen"), ["touch", "PWNED"]),
    "getattr": Call(Global("builtins", "getattr"), {}, "__class__"),
    "dotted": Call(Global("collections", "OrderedDict.__init__.__globals__"), 1),
    "import": Call(Global("importlib", "import_module"), "os"),
    "numpy": Call(Global("numpy.testing._private.utils", "runstring"), "open('PWNED', 'w')", {}),
    "runpy": Call(Global("runpy", "_run_code"), "open('PWNED', 'w')", {}),
    "objects": Call(Global("numpy", "dtype"), "O8"),
    "reconstructor": Call(Global("copyreg", "_reconstructor"), Global("builtins", "object"), 1, 2),
    "state of a function": Call(Global("_codecs", "encode"), "x", state={}),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_malicious_pickles_are_refused_and_run_nothing(form, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"weight": np.zeros(2, np.float32)}, "payload": ATTACKS[name]}
    path = tmp_path / "evil.pth"
    if form == "pickle":
        with path.open("wb") as file:
            Writer(file).dump({"payload": ATTACKS[name]})
    else:
        WRITERS[form](path, content)
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        read_weights(path)
    assert os.listdir(tmp_path) == ["evil.pth"]


def test_a_function_of_the_reader_keeps_its_state(tmp_path):
    """An object's state set on a stand-in would change this process."""
    before = dict(vars(unpickle._encode))
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aX\x01\x00\x00\x00bsb.")
    with pytest.raises(WeightsError, match="sets the state"):
        read_weights(tmp_path / "a.pkl")
    assert vars(unpickle._encode) == before


def test_refusal_names_what_was_asked_for(tmp_path):
    write_zip(tmp_path / "evil.pth", {"payload": ATTACKS["system"]})
    with pytest.raises(WeightsError, match=r"evil\.pth: it asks for os\.system.*nothing was executed"):
        read_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(np.zeros(4, np.float32), 0, (5,), (1,)), "reaches beyond its 4 numbers"),
        (View(np.zeros(4, np.float32), 3, (2,), (1,)), "reaches beyond its 4 numbers"),
        (View(np.zeros(4, np.float32), 0, (2, 2), (1, 3)), "reaches beyond its 4 numbers"),
        (View(np.zeros(4, np.float32), 0, (10**12,), (0,)), "reaches beyond its 4 numbers"),
        (View(np.zeros(4, np.float32), -1, (2,), (1,)), "offset -1"),
        (View(np.zeros(4, np.float32), 0, (2,), (-1,)), r"strides \(-1,\)"),
        (View(np.zeros(4, np.float32), 0, (1,) * 70, (1,) * 70), "70 dimensions"),
    ],
)
def test_views_beyond_their_numbers_are_refused(write, view, message, tmp_path):
    write(tmp_path / "a.pth", {"weight": view})
    with pytest.raises(WeightsError, match=rf"a\.pth.*{message}"):
        read_weights(tmp_path / "a.pth")


def test_sizes_that_lie_are_refused(tmp_path):
    write_zip(tmp_path / "a.pth", {"weight": np.zeros(4, np.float32)})
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(WeightsError, match="record data/0 has 12 bytes for 4 numbers"):
        read_weights(tmp_path / "b.pth")


def test_archives_that_are_not_whole_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    write_zip(path, state(), leave_out=("data/3",))
    with pytest.raises(WeightsError, match="record data/3 is missing"):
        read_weights(path)
    write_zip(path, state(), leave_out=("data.pkl",))
    with pytest.raises(WeightsError, match=r"without torch's data\.pkl"):
        read_weights(path)
    write_zip(path, state(), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        read_weights(path)
    write_zip(path, state())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(WeightsError, match="zip archive is broken"):
        read_weights(path)
    write_legacy(path, state(), cut=5)
    with pytest.raises(WeightsError, match=r"ends before its numbers|size of a storage"):
        read_weights(path)
    path.write_bytes(pickle.dumps({"weight": np.zeros(99)}, protocol=2)[:-40])
    with pytest.raises(WeightsError, match="no whole pickle"):
        read_weights(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no file of torch"),
        (b"<html>404 not found</html>", "no file of torch"),
        (b"\x80\x02]q\x00.", "no dict of tensors"),
        (pickle.dumps({"epoch": 3}, protocol=2), "holds no tensors"),
        (b"\x80\x02\x82\x01.", "extension codes"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "numbers that it does not hold"),
    ],
)
def test_other_files_are_refused(data, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(WeightsError, match=rf"a\.pth: .*{message}"):
        read_weights(tmp_path / "a.pth")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pth: cannot be read \(No such file"):
        read_weights(tmp_path / "nothing.pth")
