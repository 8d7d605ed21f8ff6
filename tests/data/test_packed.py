"""The packed file gives back what was written, and never something else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.data.packed import PackedError, PackedFile, write_packed

KEY = {"version": 1, "sources": [[3, 4]]}
ARRAYS = {
    "points": np.arange(10, dtype=np.float32).reshape(5, 2),
    "nothing": np.zeros((0, 2), np.int32),
    "names": np.array(["a.jpg", "čeština.png"]),
    "marks": np.array([True, False]),
}
TEXTS = {"category_names": ["aerosol can", "žába"]}


def test_gives_back_arrays_and_texts(tmp_path):
    write_packed(tmp_path / "a", KEY, ARRAYS, TEXTS)
    packed = PackedFile(tmp_path / "a", KEY, verify=True)
    assert packed.texts == TEXTS
    assert packed.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert packed.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(packed.arrays[name], array)
        assert not (packed.arrays[name].size and packed.arrays[name].flags.writeable)


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.float32, (3,)), (np.float32, (0,)), (np.int64, (2, 0)), (np.uint8, (65,)), ("<U3", (1,))]
)
def test_any_shape_at_the_end_of_the_file(tmp_path, dtype, shape):
    arrays = {"first": np.ones(3, np.uint8), "last": np.zeros(shape, dtype)}
    write_packed(tmp_path / "a", KEY, arrays, {})
    np.testing.assert_array_equal(PackedFile(tmp_path / "a", verify=True).arrays["last"], arrays["last"])


def test_another_key_is_refused(tmp_path):
    write_packed(tmp_path / "a", KEY, ARRAYS, TEXTS)
    with pytest.raises(PackedError, match="another file, or by another version"):
        PackedFile(tmp_path / "a", {**KEY, "version": 2})


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("packed") / "a"
    write_packed(path, KEY, ARRAYS, TEXTS)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :])
    try:
        packed = PackedFile(path, KEY, verify=True)
    except PackedError:
        return
    for name, array in ARRAYS.items():  # the damage was in the gaps between arrays
        np.testing.assert_array_equal(packed.arrays[name], array)
    assert packed.texts == TEXTS


def test_failed_writing_leaves_nothing(tmp_path):
    write_packed(tmp_path / "a", KEY, ARRAYS, TEXTS)
    with pytest.raises(TypeError):
        write_packed(tmp_path / "a", KEY, ARRAYS, {"category_names": object()})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_packed(tmp_path / "folder", KEY, ARRAYS, TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]
