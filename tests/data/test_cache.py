"""Parsed annotations are kept, used while they fit, made anew when they do not, and shared by processes."""

import dataclasses
import os
import pickle

import numpy as np
import pytest

from rog_jax.data import Annotations, DataError, cache, load_coco, load_lvis, lvis
from rog_jax.data.loader import train_loader
from rog_jax.data.plan import TrainPlan
from tests.reference.data import changed, data_config, make_records, sampler_config, write_data_set, write_json


@pytest.fixture
def parses(monkeypatch, tmp_path) -> list:
    """Keeps small files too; the list grows with each time that a json is parsed."""
    calls = []
    original = lvis.read_tables
    monkeypatch.setattr(lvis, "read_tables", lambda path: calls.append(path) or original(path))
    monkeypatch.setattr(cache, "MIN_SOURCE_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return calls


def assert_same(left: Annotations, right: Annotations) -> None:
    for field in dataclasses.fields(left):
        if field.name != "packed":
            a, b = getattr(left, field.name), getattr(right, field.name)
            np.testing.assert_array_equal(a, b, err_msg=field.name)
            assert not isinstance(a, np.ndarray) or a.dtype == b.dtype


def test_second_start_does_not_parse(tmp_path, parses):
    where = write_data_set(tmp_path, changed(make_records(), "images", 0, neg_category_ids=[5]))
    first, second = load_lvis(*where), load_lvis(*where)
    assert len(parses) == 1
    assert_same(first, second)
    assert second.packed.path.parent == tmp_path
    load_coco(*where)  # the same contents, read otherwise
    assert len(parses) == 1


def test_small_files_leave_nothing_behind(tmp_path):
    load_lvis(*write_data_set(tmp_path, make_records()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.json", "images"]


def test_changed_file_is_parsed_anew(tmp_path, parses):
    path, images = write_data_set(tmp_path, make_records())
    load_lvis(path, images)
    write_json(tmp_path, changed(make_records(), "annotations", 0, category_id=9))  # as many bytes
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert load_lvis(path, images).labels[0] == 2
    write_json(tmp_path, make_records(5))
    os.utime(path, ns=(0, 0))
    assert load_lvis(path, images).num_images == 5
    assert len(parses) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "version"])
def test_damaged_or_outdated_file_is_replaced(tmp_path, parses, monkeypatch, damage):
    where = write_data_set(tmp_path, make_records())
    first = load_lvis(*where)
    kept = first.packed.path
    whole = kept.read_bytes()
    kept.unlink()  # arrays that are still mapped keep the old bytes
    kept.write_bytes({"cut": whole[:-64], "changed": whole[:-70] + b"?" + whole[-69:], "empty": b""}.get(damage, whole))
    if damage == "version":
        monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert_same(first, load_lvis(*where))
    assert len(parses) == 2
    load_lvis(*where)
    assert len(parses) == 2


def refuse_writing_in(monkeypatch, folders: list) -> None:
    original = cache.write_packed

    def write(path, *contents):
        if path.parent in folders:
            raise PermissionError(13, "Permission denied")
        original(path, *contents)

    monkeypatch.setattr(cache, "write_packed", write)


def test_read_only_folder_falls_back_to_the_users_cache(tmp_path, parses, monkeypatch):
    where = write_data_set(tmp_path / "data", make_records())
    refuse_writing_in(monkeypatch, [tmp_path / "data"])
    assert load_lvis(*where).packed.path.parent == tmp_path / "home" / "rog_jax"
    load_lvis(*where)
    assert len(parses) == 1


def test_without_any_place_a_temporary_file_lives_as_long_as_the_annotations(tmp_path, parses, monkeypatch, caplog):
    where = write_data_set(tmp_path / "data", make_records())
    refuse_writing_in(monkeypatch, [tmp_path / "data", tmp_path / "home" / "rog_jax"])
    caplog.set_level("INFO")  # keeps what is logged
    annotations = load_lvis(*where)
    kept = annotations.packed.path
    assert kept.is_file()
    assert_same(annotations, pickle.loads(pickle.dumps(annotations)))
    del annotations
    assert not kept.parent.exists()


def test_where_nothing_can_be_written_annotations_stay_in_memory(tmp_path, parses, monkeypatch, caplog):
    where = write_data_set(tmp_path, make_records())

    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_packed", write)
    annotations = load_lvis(*where)
    assert annotations.packed is None
    assert "every loader process will hold a copy" in caplog.text
    assert_same(annotations, pickle.loads(pickle.dumps(annotations)))


def test_pickled_annotations_map_the_file(tmp_path, parses):
    records = make_records(200)
    annotations = load_lvis(*write_data_set(tmp_path, records))
    annotations.images_of_objects  # noqa: B018  (a cached property is no part of what is sent)
    sent = pickle.dumps(annotations)
    assert len(sent) < 10_000 < sum(array.nbytes for array in annotations.packed.arrays.values())
    assert_same(annotations, pickle.loads(sent))
    moved = dataclasses.replace(annotations, image_folder="elsewhere", boxes=annotations.boxes + 1)
    assert_same(moved, pickle.loads(pickle.dumps(moved)))


def test_file_that_changed_under_a_run_is_an_error(tmp_path, parses):
    where = write_data_set(tmp_path, make_records())
    annotations = load_lvis(*where)
    sent = pickle.dumps(annotations)
    write_json(tmp_path, make_records(5))
    load_lvis(*where)
    with pytest.raises(DataError, match=r"holds the parsed annotations.*Start again"):
        pickle.loads(sent)


def test_workers_read_the_same_batches_from_the_kept_file(tmp_path, parses):
    annotations = load_lvis(*write_data_set(tmp_path, make_records(18)))
    batches = []
    for workers in (0, 1):
        data = data_config(workers=workers)
        plan = TrainPlan(annotations, data, sampler_config(), 4, 0)
        loader = train_loader(annotations, plan, data, seed=0, start_step=0, num_steps=3)
        batches.append(list(loader))
        loader.close()
    for left, right in zip(*batches, strict=True):
        for a, b in zip(left[:-1], right[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
