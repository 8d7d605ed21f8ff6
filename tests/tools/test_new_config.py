"""Recipes for somebody's own data."""

import dataclasses
import json

import numpy as np
import pytest

from rog_jax.data import load_split
from rog_jax.data.plan import TrainPlan, eval_batches
from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.tools import new_config, proposal
from rog_jax.tools.proposal import Machine, batch_size, propose
from rog_jax.tools.recipe_file import load_config
from rog_jax.training.config import check_config
from rog_jax.training.state import ModelDefinition

SETTINGS = SyntheticSettings(
    train_images=40, val_images=12, num_categories=6, height=96, width=64, object_size=(16, 32), val_instances=3
)
CPU, EIGHT_GPUS = Machine("cpu", 1, None), Machine("gpu", 8, 80.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("set"), SETTINGS)


def call(data, out, *more):
    places = {"--annotations": data["train_json"], "--val": data["val_json"], "--images": data["images"], "--out": out}
    new_config.main([str(part) for pair in places.items() for part in pair] + [str(part) for part in more])


def values(settings):
    return {setting.path: setting.value for setting in settings}


def test_the_recipe_fits_the_data(data, tmp_path, capsys):
    out = tmp_path / "mine.py"
    call(data, out, "--device", "cpu")
    assert f"python train.py --config {out} --workdir runs/mine" in capsys.readouterr().out
    config = load_config(out)
    check_config(config, 1)
    train, val = (load_split(config.data, split) for split in ("train", "val"))
    plan = TrainPlan(train, config.data, config.sampler, config.train.batch_size, 0)
    assert plan.num_images == 40
    assert sum((batch.indices >= 0).sum() for batch in eval_batches(val, config.data, 8)) == 12
    assert config.data.shapes == ((160, 128),)
    config.model.num_classes = train.num_classes
    assert ModelDefinition(config).initial
    lines = out.read_text().splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= 120  # but for paths
    assert "    6 categories: " in out.read_text()


def with_sizes(annotations, sizes):
    return dataclasses.replace(annotations, image_sizes=np.resize(np.array(sizes, np.int32), (40, 2)))


@pytest.fixture(scope="module")
def annotations(data):
    from configs import common

    data_config = common.get_config().data
    data_config.train_json, data_config.train_images = str(data["train_json"]), str(data["images"])
    return load_split(data_config, "train")


def test_coco_sized_images_on_gpus_get_the_published_recipe(annotations):
    found = values(propose(with_sizes(annotations, [(480, 640), (640, 480)]), EIGHT_GPUS, True, True))
    assert found["data.shapes"] == ((800, 1088), (1088, 800))  # 4:3 needs no 1344
    assert found["data.short_sides"] == (640, 672, 704, 736, 768, 800)
    assert found["data.test_short_side"] == 800
    assert found["train.batch_size"] == 16
    assert found["train.epochs"] == 72  # so few images
    assert found["optim.milestones"] == (48, 66)
    assert "model.norm" not in found
    found = values(propose(with_sizes(annotations, [(480, 853), (853, 480)]), EIGHT_GPUS, True, False))
    assert found["data.max_long_side"] == 1333
    assert found["data.shapes"] == ((800, 1344), (1344, 800))
    assert found["model.norm"] == "group"


@pytest.mark.parametrize(
    ("sizes", "shapes", "short"),
    [([(100, 100)], ((160, 160),), 160), ([(64, 300), (64, 90)], ((128, 192),), 112), ([(30, 30)], ((64, 64),), 64)],
)
def test_small_images_are_not_enlarged_to_the_published_sides(annotations, sizes, shapes, short):
    found = values(propose(with_sizes(annotations, sizes), EIGHT_GPUS, True, True))
    assert found["data.test_short_side"] == short
    assert found["data.shapes"] == shapes


def test_batches_fill_the_devices_and_not_their_memory():
    full = ((832, 1344),)
    assert batch_size(Machine("gpu", 1, 80.0), full) == 16
    assert batch_size(Machine("gpu", 1, 16.0), full) == 5
    assert batch_size(Machine("gpu", 32, 80.0), full) == 32
    assert batch_size(Machine("tpu", 4, 16.0), full) == 16
    assert batch_size(Machine("gpu", 1, 1.0), full) == 1
    assert batch_size(CPU, full) == 8
    assert batch_size(Machine("cpu", 3, None), full) == 9


def test_sampling_follows_the_tail(annotations, monkeypatch):
    found = values(propose(annotations, CPU, True, False))
    assert (found["sampler.name"], found["loss.gap.weight"]) == ("random", 1.0)
    monkeypatch.setattr(proposal, "THRESHOLD", 0.3)  # of so few images none has a share under the published one
    found = values(propose(annotations, CPU, True, False))
    assert (found["sampler.name"], found["loss.gap.weight"]) == ("repeat_factor", 0.1)


def test_boxes_alone_where_masks_are_missing(data, tmp_path):
    broken = json.loads(data["train_json"].read_text())
    for annotation in broken["annotations"][::5]:
        del annotation["segmentation"]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(broken))
    call(data | {"train_json": path}, tmp_path / "boxes.py")
    assert not load_config(tmp_path / "boxes.py").model.masks


def test_errors(data, tmp_path, capsys):
    broken = json.loads(data["train_json"].read_text())
    broken["annotations"][3]["category_id"] = 77
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(SystemExit, match="has errors, which are named above"):
        call(data | {"train_json": path}, tmp_path / "mine.py")
    assert "77" in capsys.readouterr().out
    assert not (tmp_path / "mine.py").exists()
    with pytest.raises(SystemExit, match=r"must end in \.py"):
        call(data, tmp_path / "my-recipe.py")
    (tmp_path / "mine.py").touch()
    with pytest.raises(SystemExit, match="add --overwrite"):
        call(data, tmp_path / "mine.py")
    with pytest.raises(SystemExit, match="has errors"):
        call(data | {"val_json": tmp_path / "gone.json"}, tmp_path / "other.py")


def test_photographs(shared, tmp_path):
    ccp = shared / "data" / "ccp"
    paths = {"train_json": ccp / "train.json", "val_json": ccp / "val.json", "images": ccp / "images"}
    call(paths, tmp_path / "ccp.py", "--device", "cpu")
    config = load_config(tmp_path / "ccp.py")
    assert config.data.shapes == ((224, 160),)
    assert config.model.masks
