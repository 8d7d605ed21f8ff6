"""Settings that have no meaning are refused before anything is read, and what a run needs to start is asked for."""

import logging

import jax
import pytest

from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.models.detector import Detector, TrainOutputs
from rog_jax.models.objective import configured_loss, extra_inputs, uses_memory
from rog_jax.models.recipe import with_recipe
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.config import check_config, check_fresh_start
from rog_jax.training.loop import with_initial
from rog_jax.training.losses import classification_inputs
from tests.tiny import random_batch, tiny_config


def changed(**settings):
    config = tiny_config()
    config.update_from_flattened_dict({path.replace("__", "."): value for path, value in settings.items()})
    return config


BALANCED = {"loss__rank_sort__balance_heads": True}


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_every_loss_is_accepted_with_and_without_its_settings(name):
    config = changed(loss__classification=name)
    check_config(config, 8)
    check_config(with_recipe(config), 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss__classification": "focal"},
            r"config\.loss\.classification='focal' is unknown; choose one of sigmoid_ce",
        ),
        (
            {"roi__predictor": "cosine"},
            r"config\.roi\.predictor='cosine' is unknown; choose one of auto, linear, normed",
        ),
        (BALANCED, r"balance_heads=True weighs .*\.ranking is gap: add --config\.loss\.ranking=rank_sort"),
        (
            BALANCED | {"loss__ranking": "rank_sort", "loss__classification": "loce"},
            r"balance_heads=True has no place for the boxes .*loce's .*--config\.loss\.memory\.slots=0",
        ),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_config(changed(**settings), 8)


def test_balanced_heads_are_accepted_where_they_have_a_meaning():
    check_config(changed(**BALANCED, loss__ranking="rank_sort"), 8)
    check_config(changed(**BALANCED, loss__ranking="rank_sort", loss__classification="loce", loss__memory__slots=0), 8)


@pytest.mark.parametrize("settings", [{"loss__classification": "loce"}, {"model__trained_parts": ("mask_head",)}])
def test_parts_of_a_random_network_are_not_trained(settings):
    with pytest.raises(ValueError, match=r"trained_parts=\(.*would stay random: add --config\.init_from=RUN.*='\(\)'"):
        check_fresh_start(with_recipe(changed(**settings)))


def test_norms_that_stay_want_weights(caplog):
    with caplog.at_level(logging.WARNING):
        check_fresh_start(with_recipe(tiny_config()))
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        check_fresh_start(with_recipe(changed(model__norm="frozen_batch")))
    assert "config.init_from is empty" in caplog.text


def test_a_run_does_not_start_from_its_own_folder(tmp_path):
    config = changed(init_from=str(tmp_path / "runs" / ".." / "loce1"))
    with pytest.raises(CheckpointError, match=r"init_from and --workdir are both .*loce1: .* another --workdir"):
        with_initial(config, Checkpoints(tmp_path / "loce1"))


def test_inputs_decide_and_not_names():
    wanted = {name: extra_inputs(changed(loss__classification=name).loss) for name in CLASSIFICATION_LOSSES}
    assert wanted["federated"] == ("key",)
    assert extra_inputs(changed(loss__classification="federated", loss__federated__negatives="verified").loss) == (
        "verified",
    )
    for name, inputs in wanted.items():
        config = changed(loss__classification=name)
        assert uses_memory(config) == ("memory_logits" in inputs)
        config.loss.memory.slots = 0
        assert not uses_memory(config)


def test_an_input_that_nobody_makes_is_named(monkeypatch):
    class Asking(CLASSIFICATION_LOSSES["sigmoid_ce"]):
        extra_inputs = ("text",)

    monkeypatch.setitem(CLASSIFICATION_LOSSES, "sigmoid_ce", Asking)
    model = Detector(with_recipe(tiny_config()), seed=0)
    with pytest.raises(ValueError, match=r"'sigmoid_ce' asks for text, which training does not make: add it to"):
        classification_inputs(model, TrainOutputs(*[None] * 6), random_batch(0), jax.random.key(0))


def test_counts_are_asked_for_where_they_are_needed():
    config = changed(loss__classification="federated", loss__federated__negatives="verified")
    assert configured_loss(config.loss, 5, None).negatives == "verified"
    config.loss.federated.negatives = "sampled"
    with pytest.raises(ValueError, match=r"'federated' without the counts of a training set: Federated needs image"):
        configured_loss(config.loss, 5, None)
    config.loss.federated.negatives = "guessed"
    with pytest.raises(ValueError, match="not 'guessed'"):
        configured_loss(config.loss, 5, None)
