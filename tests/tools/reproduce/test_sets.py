"""The sets and backbones that runs need."""

import json

import pytest

from rog_jax.data import Annotations, load_lvis, load_openimages
from rog_jax.tools.reproduce import sets
from rog_jax.tools.reproduce.sets import data_settings, without_heads
from rog_jax.training.initial import InitialWeights


def negatives(annotations: Annotations, image: int) -> set[int]:
    return set(annotations.negative_labels[slice(*annotations.negative_offsets[image : image + 2])].tolist())


def test_openimages_format_holds_the_same_set(places):
    drawn, folder = (data_settings(name, places) for name in ("drawn", "openimages"))
    root, other = drawn["data.root"], folder["data.train_images"].parent
    for split in ("train", "val"):
        lvis = load_lvis(root / f"{split}.json", root / "images")
        ours = load_openimages(
            other / f"{split}.csv",
            other / split,
            classes_csv=other / "classes.csv",
            labels_csv=other / f"{split}_labels.csv",
        )
        assert ours.category_names == lvis.category_names
        assert sorted(ours.image_ids.tolist()) == sorted(lvis.image_ids.tolist())
        order = [ours.image_ids.tolist().index(key) for key in lvis.image_ids.tolist()]
        for here, there in enumerate(order):
            mine = slice(*ours.offsets[there : there + 2])
            theirs = slice(*lvis.offsets[here : here + 2])
            assert ours.boxes[mine] == pytest.approx(lvis.boxes[theirs], abs=1e-3)
            assert ours.labels[mine].tolist() == lvis.labels[theirs].tolist()
            assert negatives(ours, there) == negatives(lvis, here)


def test_half_made_sets_are_made_again(places, monkeypatch):
    def fails(folder, places):
        folder.mkdir(parents=True)
        (folder / "val.json").write_text("{}")
        raise KeyboardInterrupt

    made = sets._MAKERS["drawn"]
    monkeypatch.setitem(sets._MAKERS, "drawn", fails)
    with pytest.raises(KeyboardInterrupt):
        data_settings("drawn", places)
    monkeypatch.setitem(sets._MAKERS, "drawn", made)
    root = data_settings("drawn", places)["data.root"]
    assert len(json.loads((root / "val.json").read_text())["images"]) == sets.QUICK_SET["val_images"]


def test_a_set_of_other_sprites_does_not_stand_for_ours(places, monkeypatch):
    def made(folder, settings):
        folder.mkdir(parents=True)
        (folder / "val.json").touch()

    monkeypatch.setattr(sets, "make_dataset", made)
    ours = places._replace(sprites=places.work / "ours")
    assert data_settings("sprites", ours) == data_settings("sprites", ours)
    with pytest.raises(ValueError, match=r"is made of .*ours and .*nowhere, not of .*others .*remove that folder"):
        data_settings("sprites", places._replace(sprites=places.work / "others"))
    (places.work / "data" / "sprites" / sets.SOURCES).unlink()  # as the first sets are
    assert data_settings("sprites", places) == data_settings("sprites", ours)


def test_what_depends_on_categories_is_not_shared():
    parameters = {
        "backbone": {"stem": {"kernel": 1}},
        "box_head": {"hidden": {0: {"kernel": 2}}, "classifier": {"kernel": 3}, "deltas": {"bias": 4}},
        "mask_head": {"convs": {0: {"kernel": 5}}, "weight": 6, "bias": 7},
    }
    kept = without_heads(InitialWeights(parameters, {}, {})).parameters
    assert kept == {
        "backbone": {"stem": {"kernel": 1}},
        "box_head": {"hidden": {"0": {"kernel": 2}}},
        "mask_head": {"convs": {"0": {"kernel": 5}}},
    }
