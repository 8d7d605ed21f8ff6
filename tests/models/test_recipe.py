"""Settings that belong to a classification loss, and how a recipe or the command line overrules them."""

from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from configs import common
from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.models.recipe import LOSS_SETTINGS, usual_milestones, with_recipe

ROOT = Path(__file__).parents[2]


def chosen(loss, **train):
    config = common.get_config()
    config.loss.classification = loss
    config.train.update(train)
    return with_recipe(config)


def command_line_config(monkeypatch, *arguments):
    """The config that train.py is given; `--config` is relative to the repository."""
    monkeypatch.setattr("sys.argv", ["train.py", *arguments])  # where config_flags looks for overrides
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(["train.py", *arguments])
    return values.config


@pytest.mark.parametrize("loss", LOSS_SETTINGS)
def test_nothing_stays_open(loss):
    config = chosen(loss)
    for value in (config.optim.warmup_steps, config.optim.warmup_ratio, config.optim.clip_norm, config.test.nms_iou):
        assert value is not None
    assert config.roi.mask_predictor in ("conv", "normed")
    assert config.roi.predictor == CLASSIFICATION_LOSSES[loss].predictor
    assert config.optim.milestones == (8, 11)


def test_what_the_authors_set():
    rog, gol, ecm, loce = (chosen(loss) for loss in ("sigmoid_ce", "gol", "ecm", "loce"))
    assert (rog.optim.warmup_ratio, rog.optim.clip_norm, rog.test.nms_iou) == (1e-4, 5.0, 0.5)
    assert (gol.optim.warmup_ratio, gol.optim.clip_norm, gol.test.nms_iou) == (1e-3, 0.0, 0.3)
    assert (gol.roi.mask_predictor, gol.roi.init) == ("normed", "pytorch")
    assert ecm.optim.warmup_steps == 10_000
    assert chosen("ecm", epochs=24).optim.milestones == (20, 22)
    assert chosen("loce", epochs=6).optim.milestones == (3, 5)
    assert "backbone" not in loce.model.trained_parts
    assert rog.model.trained_parts == ()


def test_the_command_line_overrules(monkeypatch):
    config = command_line_config(
        monkeypatch,
        f"--config={ROOT / 'configs' / 'lvis_r50.py'}:2x",
        "--config.loss.classification=gol",
        "--config.optim.clip_norm=3",
        "--config.optim.warmup_steps=7",
        "--config.test.nms_iou=0.45",
        "--config.roi.mask_predictor=conv",
        "--config.optim.milestones=(5, 6)",
        "--config.model.trained_parts=('rpn', 'mask_head')",
    )
    config = with_recipe(config)
    assert (config.optim.clip_norm, config.optim.warmup_steps, config.test.nms_iou) == (3.0, 7, 0.45)
    assert (config.roi.mask_predictor, config.roi.init) == ("conv", "pytorch")
    assert config.optim.milestones == (5, 6)
    assert config.model.trained_parts == ("rpn", "mask_head")
    assert config.optim.warmup_ratio == 1e-3  # GOL's, left open


def test_an_open_config_stays_open():
    config = common.get_config()
    with_recipe(config)
    assert config.optim.warmup_steps is None


def test_verified_negatives_come_with_the_batches():
    config = common.get_config()
    config.loss.classification, config.loss.federated.negatives = "federated", "verified"
    assert with_recipe(config).data.negatives
    assert not chosen("federated").data.negatives


def test_milestones_of_other_lengths_are_in_proportion():
    assert usual_milestones(24) == (16, 22)
    assert usual_milestones(36) == (24, 33)
    assert usual_milestones(1) == ()
    assert usual_milestones(2) == (1,)


def test_unknown_losses_are_named():
    with pytest.raises(ValueError, match=r"config\.loss\.classification='focal' is unknown; choose one of sigmoid_ce"):
        chosen("focal")
