"""Recipes for somebody's own data."""

import argparse
import ast
import dataclasses
import json
import shlex

import numpy as np
import pytest

from configs import common
from rog_jax.data import load_split
from rog_jax.data.plan import TrainPlan, eval_batches, padded_shapes
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


def proposed(annotations, machine, weights=False, val=None):
    return propose(annotations, annotations if val is None else val, machine, weights)


def values(settings):
    return {setting.path: setting.value for setting in settings}


def reasons(settings):
    return {setting.path: setting.reason for setting in settings}


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
    data_config = common.get_config().data
    data_config.train_json, data_config.train_images = str(data["train_json"]), str(data["images"])
    return load_split(data_config, "train")


def test_coco_sized_images_on_gpus_get_the_published_recipe(annotations):
    found = values(proposed(with_sizes(annotations, [(480, 640), (640, 480)]), EIGHT_GPUS, True))
    assert found["data.shapes"] == ((800, 1088), (1088, 800))  # 4:3 needs no 1344
    assert found["data.short_sides"] == (640, 672, 704, 736, 768, 800)
    assert found["data.test_short_side"] == 800
    assert found["train.batch_size"] == 16
    assert found["train.epochs"] == 72  # so few images
    assert found["optim.milestones"] == (48, 66)
    assert "model.norm" not in found
    found = values(proposed(with_sizes(annotations, [(480, 853), (853, 480)]), EIGHT_GPUS, False))
    assert found["data.max_long_side"] == 1333
    assert found["data.shapes"] == ((800, 1344), (1344, 800))
    assert found["model.norm"] == "group"


@pytest.mark.parametrize(
    ("sizes", "shapes", "short"),
    [([(100, 100)], ((160, 160),), 160), ([(64, 300), (64, 90)], ((128, 192),), 112), ([(30, 30)], ((64, 64),), 64)],
)
def test_small_images_are_not_enlarged_to_the_published_sides(annotations, sizes, shapes, short):
    found = values(proposed(with_sizes(annotations, sizes), EIGHT_GPUS, True))
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
    found = values(proposed(annotations, CPU, False))
    assert (found["sampler.name"], found["loss.gap.weight"]) == ("random", 1.0)
    monkeypatch.setattr(proposal, "THRESHOLD", 0.3)  # of so few images none has a share under the published one
    found = values(proposed(annotations, CPU, False))
    assert (found["sampler.name"], found["loss.gap.weight"]) == ("repeat_factor", 0.1)


def changed(data, name, tmp_path, change):
    """The paths of the set, with a json that is not what it was."""
    content = json.loads(data[name].read_text())
    change(content)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    return data | {name: path}


@pytest.mark.parametrize(("name", "split"), [("train_json", "training"), ("val_json", "validation")])
def test_boxes_alone_where_masks_are_missing(data, tmp_path, name, split):
    def change(content):
        for annotation in content["annotations"][::5]:
            del annotation["segmentation"]

    call(changed(data, name, tmp_path, change), tmp_path / "boxes.py")
    assert not load_config(tmp_path / "boxes.py").model.masks
    assert f"some {split} objects have no mask" in (tmp_path / "boxes.py").read_text()


def test_boxes_alone_where_they_are_asked_for(data, tmp_path):
    call(data, tmp_path / "boxes.py", "--boxes")
    assert not load_config(tmp_path / "boxes.py").model.masks
    assert "as it was asked for" in (tmp_path / "boxes.py").read_text()


def test_validation_images_fit_into_the_shapes(annotations):
    wide, high = (with_sizes(annotations, [size]) for size in ((480, 640), (640, 480)))
    assert values(proposed(wide, EIGHT_GPUS))["data.shapes"] == ((800, 1088),)
    found = values(proposed(wide, EIGHT_GPUS, val=high))
    assert found["data.shapes"] == ((800, 1088), (1088, 800))
    config = common.get_config().data
    config.shapes, config.max_long_side = found["data.shapes"], found["data.max_long_side"]
    padded_shapes(high, np.arange(40), found["data.test_short_side"], config)


def test_other_categories_in_validation(data, tmp_path):
    def lacks_one(content):
        last = content["categories"].pop()["id"]
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] != last]
        for image in content["images"]:
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                image[key] = [number for number in image[key] if number != last]

    with pytest.raises(SystemExit, match=r"differs is 6: .* and missing in"):
        call(changed(data, "val_json", tmp_path, lacks_one), tmp_path / "mine.py")
    assert not (tmp_path / "mine.py").exists()


def test_other_names_in_validation_are_remarked(data, tmp_path, capsys):
    def renamed(content):
        content["categories"][2]["name"] = "other"

    call(changed(data, "val_json", tmp_path, renamed), tmp_path / "mine.py")
    assert (tmp_path / "mine.py").exists()
    assert "the first is 3: " in (printed := capsys.readouterr().out)
    assert f" and other in {tmp_path}" in printed
    call(data, tmp_path / "same.py")
    assert "another name" not in capsys.readouterr().out


def test_reasons_are_those_of_the_bound_that_applied(annotations):
    tiny, small, large = (with_sizes(annotations, [size]) for size in ((30, 30), (100, 100), (900, 900)))
    assert "the least that is proposed" in reasons(proposed(tiny, EIGHT_GPUS))["data.test_short_side"]
    assert "1.7 times the median 100" in reasons(proposed(small, EIGHT_GPUS))["data.test_short_side"]
    assert "the published" in reasons(proposed(large, EIGHT_GPUS))["data.test_short_side"]
    found, why = (of(proposed(small, CPU)) for of in (values, reasons))
    assert (found["train.epochs"], found["train.checkpoint_every"]) == (72, 50)  # of 360 steps
    assert why["train.checkpoint_every"] == "steps"
    assert why["train.epochs"].startswith("more passes over so few images show nothing new")
    one_by_one = reasons(proposed(small, Machine("gpu", 1, 0.001)))
    assert one_by_one["train.checkpoint_every"] == "steps, a tenth of the run"


class Device:
    def __init__(self, platform):
        self.platform = platform

    def memory_stats(self):
        return {"bytes_limit": 60e9}


@pytest.mark.parametrize(("platform", "gigabytes"), [("cuda", 80.0), ("gpu", 80.0), ("tpu", 60.0)])
def test_the_machine_at_hand(monkeypatch, platform, gigabytes):
    monkeypatch.setattr(new_config.jax, "devices", lambda: [Device(platform)])
    monkeypatch.setattr(new_config.jax, "device_count", lambda: 4)
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    kind = "gpu" if platform == "cuda" else platform
    for asked in (None, kind):
        given = argparse.Namespace(device=asked, devices=None, memory=None)
        assert new_config.machine_of(given) == (kind, 4, pytest.approx(gigabytes))
    other = argparse.Namespace(device="tpu" if kind == "gpu" else "gpu", devices=None, memory=None)
    assert new_config.machine_of(other)[1:] == (1, 16.0)


def test_texts_of_the_user_are_python(data, tmp_path, capsys):
    def change(content):
        content["categories"][0]["name"] = 'a\\N "b" """c""" \U0001f600'

    odd = tmp_path / 'it\'s \U0001f600 "here"\\x'
    odd.mkdir()
    train = changed(changed(data, "train_json", odd, change), "val_json", odd, change)
    call(train, odd / "mine.py")
    config = load_config(odd / "mine.py")
    assert config.data.train_json == str(train["train_json"])
    description = ast.get_docstring(ast.parse((odd / "mine.py").read_text()))
    assert 'a\\N "b" """c""" \U0001f600' in description
    command = next(line for line in description.splitlines() if "train.py" in line)
    assert shlex.split(command)[3] == str(odd / "mine.py")


@pytest.mark.parametrize("text", ["plain", 'a"b', "a'b", "a'\"b", "\\", "\udcff", "\n"])
def test_texts_are_read_back(text):
    assert ast.literal_eval(new_config.literal(text)) == text
    assert ast.literal_eval(f'"""{new_config.in_docstring(text)}\n"""') == text + "\n"


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
