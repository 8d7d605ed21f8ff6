"""Packed images give a run the same batches as the files; what does not belong to the annotations is refused."""

import json
import pickle

import numpy as np
import pytest

from configs import common
from rog_jax.data import Annotations, DataError, load_lvis, load_split
from rog_jax.data.image_pack import pack_images, packed_images
from rog_jax.data.loader import eval_loader, train_loader
from rog_jax.data.plan import TrainPlan
from rog_jax.tools import pack_images as tool
from tests.reference.data import data_config, make_records, sampler_config, write_data_set


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    return load_lvis(*write_data_set(tmp_path, make_records(18)))


def packed_split(annotations: Annotations, folder) -> Annotations:
    data = common.get_config().data
    data.train_json, data.train_images = annotations.source, annotations.image_folder
    data.train_packed = str(folder)
    return load_split(data, "train")


def test_same_batches_from_files_from_records_and_from_workers(annotations, tmp_path):
    figures = pack_images(annotations, tmp_path / "packed", shard_bytes=500)
    assert figures["images"] == 18
    assert figures["missing"] == 0
    assert figures["shards"] > 2
    packed = packed_split(annotations, tmp_path / "packed")
    assert [packed.image_bytes(i) for i in range(18)] == [annotations.image_bytes(i) for i in range(18)]
    for file in (tmp_path / "images").iterdir():
        file.unlink()  # from here on only the records are there
    (tmp_path / "images" / "000.png").touch()  # which the reader of the json looks for
    batches = []
    for workers in (0, 1):
        data = data_config(workers=workers)
        plan = TrainPlan(packed, data, sampler_config(), 4, 0)
        loader = train_loader(packed, plan, data, seed=0, start_step=0, num_steps=4)
        batches.append(list(loader))
        loader.close()
    for left, right in zip(*batches, strict=True):
        assert not left.unreadable.any()
        np.testing.assert_array_equal(left.image, right.image)
    assert sum(int((batch.index >= 0).sum()) for batch in eval_loader(packed, data_config(), 6)) == 18


def test_records_can_be_pickled_before_and_after_use(annotations, tmp_path):
    pack_images(annotations, tmp_path / "packed")
    packed = packed_split(annotations, tmp_path / "packed")
    for _ in range(2):
        assert pickle.loads(pickle.dumps(packed)).image_bytes(3) == annotations.image_bytes(3) == packed.image_bytes(3)


def test_missing_files_are_empty_records_and_unreadable_images(annotations, tmp_path, caplog):
    (tmp_path / "images" / "003.png").unlink()
    assert pack_images(annotations, tmp_path / "packed")["missing"] == 1
    assert "003.png is packed as an empty record" in caplog.text
    packed = packed_split(annotations, tmp_path / "packed")
    loader = eval_loader(packed, data_config(), 6)
    assert set(np.concatenate([batch.index for batch in loader]).tolist()) == set(range(18)) - {3} | {-1}
    assert loader.unreadable == 1


def test_what_does_not_belong_together_is_refused(annotations, tmp_path):
    folder = tmp_path / "packed"
    with pytest.raises(DataError, match="holds no packed images"):
        packed_images(annotations, folder)
    pack_images(annotations, folder)
    (tmp_path / "other").mkdir()
    other = load_lvis(*write_data_set(tmp_path / "other", make_records(17)))
    with pytest.raises(DataError, match="holds other images than those of"):
        packed_images(other, folder)
    (folder / "images-00000.array_record").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="has lost 1 of its files"):
        packed_images(annotations, folder)
    (folder / "index.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(DataError, match="holds no packed images"):
        packed_images(annotations, folder)


def test_damaged_record_is_an_unreadable_image(annotations, tmp_path):
    folder = tmp_path / "packed"
    pack_images(annotations, folder)
    shard = folder / "images-00000.array_record"
    data = bytearray(shard.read_bytes())
    data[data.index(annotations.image_bytes(2)) + 5] ^= 255
    shard.write_bytes(data)
    loader = eval_loader(packed_split(annotations, folder), data_config(), 6)
    seen = np.concatenate([batch.index for batch in loader])
    assert loader.unreadable >= 1
    assert (seen >= 0).sum() == 18 - loader.unreadable


def test_command_line(annotations, tmp_path, capsys):
    where = ["--json", annotations.source, "--images", annotations.image_folder, "--out", str(tmp_path / "packed")]
    tool.main(where)
    out = capsys.readouterr().out
    assert "18 images, 0 of them missing" in out
    assert f"--config.data.train_packed={tmp_path / 'packed'}" in out
    with pytest.raises(SystemExit, match="pack_images: There is no"):
        tool.main(["--json", str(tmp_path / "none.json"), "--images", str(tmp_path), "--out", str(tmp_path / "p")])
