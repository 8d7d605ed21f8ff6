import json
from pathlib import Path

import pytest

from configs import common
from rog_jax.data import DataError
from rog_jax.evaluation.training_counts import training_counts, with_training_counts
from rog_jax.evaluation.truth import load_truth

COUNTS = ("image_count", "instance_count", "frequency")


@pytest.fixture
def bare(case, tmp_path):
    """A validation file without counts and groups, and a training file of other objects beside it."""
    truth = json.loads((case / "truth.json").read_text())
    for category in truth["categories"]:
        for key in COUNTS:
            del category[key]
    (tmp_path / "val.json").write_text(json.dumps(truth))
    first = truth["annotations"][0]
    truth["annotations"] = [first | {"id": place, "category_id": 2, "image_id": 11 + place % 2} for place in range(3)]
    (tmp_path / "train.json").write_text(json.dumps(truth))
    for name in ("11.jpg", "12.jpg"):
        (tmp_path / name).write_bytes(b"")
    config = common.get_config()
    config.data.val_json, config.data.train_json = str(tmp_path / "val.json"), str(tmp_path / "train.json")
    config.data.train_images = str(tmp_path)
    return config


def test_counts_of_the_training_set_fill_the_gaps(bare):
    truth = with_training_counts(load_truth(bare.data.val_json), bare.data)
    assert [[category[key] for key in COUNTS] for category in truth.categories] == [
        [0, 0, "r"],
        [2, 3, "r"],
        [0, 0, "r"],
    ]
    assert training_counts(bare.data, load_truth(bare.data.val_json)).images.tolist() == [0, 2, 0]
    bare.data.frequency_limits = (0, 1)
    truth = with_training_counts(load_truth(bare.data.val_json), bare.data)
    assert [category["frequency"] for category in truth.categories] == ["r", "f", "r"]


def test_what_the_validation_file_says_counts_first(case, bare):
    bare.data.train_json = "nowhere"
    truth = load_truth(case / "truth.json")
    assert with_training_counts(truth, bare.data) is truth
    counts = training_counts(bare.data, truth)
    assert (counts.images.tolist(), counts.instances.tolist()) == ([200, 4, 40], [340, 5, 60])
    data = json.loads((case / "truth.json").read_text())
    del data["categories"][0]["frequency"], data["categories"][1]["instance_count"]
    path = bare.data.val_json.replace("val.json", "partly.json")
    Path(path).write_text(json.dumps(data))
    filled = with_training_counts(load_truth(path), bare.data)
    assert [category["frequency"] for category in filled.categories] == ["f", "r", "c"]
    assert "instance_count" not in filled.categories[1]


def test_without_a_training_set_there_are_no_groups(bare):
    bare.data.train_json = "nowhere"
    truth = with_training_counts(load_truth(bare.data.val_json), bare.data)
    assert [category["frequency"] for category in truth.categories] == ["", "", ""]
    with pytest.raises(DataError, match="nowhere"):
        training_counts(bare.data, truth)
