"""Runs that start from imported weights."""

import json

import jax
import numpy as np
import pytest

from rog_jax.models.recipe import with_recipe
from rog_jax.training.checkpoint import CheckpointError
from rog_jax.training.initial import (
    InitialWeights,
    check_conventions,
    check_predictors,
    load_initial,
    overwritten,
    save_initial,
    with_settings,
)
from rog_jax.training.state import ModelDefinition
from tests.tiny import tiny_config

SETTINGS = {
    "model": {"depth": 18, "pixel_order": "bgr", "pixel_mean": (1.0, 2.0, 3.0), "frozen_stages": 2, "masks": False},
    "rpn": {"anchor_offset": 0.5, "samples": 7},
    "roi": {"aligned": False, "sampling_ratio": 0},
    "test": {"score_threshold": 0.5},
    "loss": {"classification": "softmax_ce"},
}


@pytest.fixture(scope="module")
def backbone():
    """Another draw of the tiny backbone, as an imported one."""
    config = tiny_config()
    config.train.seed = 5
    return {"backbone": ModelDefinition(config).initial[0]["backbone"]}


def test_folder_gives_back_what_was_written(backbone, tmp_path):
    about = {"file": "a.pth", "sha256": "00", "left_out": {"fc.weight": "why"}}
    save_initial(tmp_path / "w", InitialWeights(backbone, SETTINGS, about))
    initial = load_initial(tmp_path / "w")
    jax.tree.map(np.testing.assert_array_equal, initial.parameters, backbone)
    assert initial.about == about
    assert initial.settings["model"]["pixel_mean"] == [1.0, 2.0, 3.0]  # json's lists


def test_folders_are_not_overwritten_by_accident(backbone, tmp_path):
    initial = InitialWeights(backbone, SETTINGS, {})
    save_initial(tmp_path / "w", initial)
    with pytest.raises(CheckpointError, match="is not empty: add --overwrite"):
        save_initial(tmp_path / "w", initial)
    save_initial(tmp_path / "w", initial._replace(about={"second": True}), overwrite=True)
    assert load_initial(tmp_path / "w").about == {"second": True}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(CheckpointError, match="choose another folder"):
        save_initial(tmp_path / "mine", initial, overwrite=True)
    with pytest.raises(CheckpointError, match=r"mine holds no imported weights.*import_weights FILE"):
        load_initial(tmp_path / "mine")


def test_a_run_takes_over_conventions_and_keeps_its_recipe():
    config = tiny_config()
    changed = with_settings(config, SETTINGS, "weights")
    assert changed.model.pixel_order == "bgr"
    assert changed.model.pixel_mean == (1.0, 2.0, 3.0)
    assert changed.rpn.anchor_offset == 0.5
    assert changed.roi.aligned is False
    assert config.model.pixel_order == "rgb"
    for section, name in (
        ("model", "frozen_stages"),
        ("model", "masks"),
        ("rpn", "samples"),
        ("roi", "sampling_ratio"),
        ("test", "score_threshold"),
        ("loss", "classification"),
    ):
        assert changed[section][name] == config[section][name]
    everything = with_settings(config, SETTINGS, "weights", everything=True)
    assert (everything.rpn.samples, everything.loss.classification) == (7, "softmax_ce")


def test_another_depth_is_refused():
    config = tiny_config()
    config.model.depth = 34
    with pytest.raises(CheckpointError, match=r"holds a ResNet-18, and config\.model\.depth is 34"):
        with_settings(config, SETTINGS, "weights")


def test_imported_arrays_replace_drawn_ones(backbone):
    fresh = ModelDefinition(tiny_config()).initial
    trainable, fixed = overwritten(fresh, backbone, "weights")
    jax.tree.map(np.testing.assert_array_equal, trainable["backbone"], backbone["backbone"])
    for part in ("fpn", "rpn", "box_head", "mask_head"):
        jax.tree.map(np.testing.assert_array_equal, trainable[part], fresh[0][part])
    jax.tree.map(np.testing.assert_array_equal, fixed, fresh[1])
    kernel = "stem", "conv", "kernel"
    before, after = fresh[0]["backbone"], trainable["backbone"]
    for key in kernel:
        before, after = before[key], after[key]
    assert (before != after).any()


def test_heads_for_other_categories_stay_fresh_and_other_shapes_are_refused(backbone, caplog):
    fresh = ModelDefinition(tiny_config()).initial
    head = {"box_head": {"classifier": {"kernel": np.zeros((16, 9)), "bias": np.zeros(9)}}}
    with caplog.at_level("INFO"):
        trainable, _ = overwritten(fresh, backbone | head, "weights")
    np.testing.assert_array_equal(
        trainable["box_head"]["classifier"]["kernel"], fresh[0]["box_head"]["classifier"]["kernel"]
    )
    assert "2 arrays of weights have no place in this model: box_head/classifier" in caplog.text
    wrong = {"rpn": {"conv": {"kernel": np.zeros((3, 3, 4, 4))}}}
    with pytest.raises(CheckpointError, match=r"rpn/conv/kernel is \[3, 3, 4, 4\] in weights and \[3, 3, 8, 8\]"):
        overwritten(fresh, wrong, "weights")


def test_a_last_layer_of_another_kind_is_refused():
    """Linear and normed layers have arrays of the same shapes: only the settings tell them apart."""
    config = with_recipe(tiny_config())
    fresh = ModelDefinition(config).initial
    kinds = {"predictor": ("linear", "box_head", "classifier"), "mask_predictor": ("conv", "mask_head")}
    for name, (own, *part) in kinds.items():
        weights = fresh[0][part[0]]
        head = {part[0]: weights if len(part) == 1 else {part[1]: weights[part[1]]}}
        initial = InitialWeights(head, {"roi": {name: "normed"}}, {})
        message = rf"is that of a normed layer, and config\.roi\.{name} is {own}: add --config\.roi\.{name}=normed"
        with pytest.raises(CheckpointError, match=message):
            check_predictors(config, fresh, initial, "weights")
        check_predictors(config, fresh, initial._replace(settings={"roi": {name: own}}), "weights")
        check_predictors(config, fresh, initial._replace(settings={}), "weights")  # of an older import
        check_predictors(config, fresh, InitialWeights({}, initial.settings, {}), "weights")  # a backbone


def test_saved_settings_that_change_the_arrays_meaning_are_refused():
    config = with_recipe(tiny_config())
    saved = json.loads(config.to_json())
    check_conventions(config, saved, "run")
    del saved["roi"]["level_epsilon"]  # a run of an older program
    saved["roi"]["predictor"] = "auto"
    check_conventions(config, saved, "run")
    saved["loss"]["classification"] = "seesaw"  # whose predictor is normed
    saved["model"]["pixel_order"] = "bgr"
    with pytest.raises(CheckpointError, match=r"(?s)pixel_order: checkpoint bgr, here.*predictor: checkpoint normed"):
        check_conventions(config, saved, "run")
