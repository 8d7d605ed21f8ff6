"""Every command of docs/recipes.md gives a config that training accepts, and a model with its loss's columns."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.models import detector
from rog_jax.models.objective import configured_loss
from rog_jax.models.recipe import COMMON, LOSS_SETTINGS, with_recipe
from rog_jax.tools.benchmark import made_up_statistics
from rog_jax.training.config import CHOICES, check_config, check_fresh_start
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition
from tests.models.test_recipe import ROOT, command_line_config

HEADERS = ("| row", "| object level", "|---")


def commands(text):
    """The arguments of every command: rows of tables, which go on from the section's recipe, and blocks of code."""
    found, recipe = [], None
    for line in text.replace("\\\n", " ").splitlines():
        is_code = line.startswith(".venv/bin/python train.py")
        quoted = line if is_code else " ".join(re.findall(r"`([^`]*)`", line))
        words = quoted.replace("--config ", "--config=").split()
        arguments = [word for word in words if re.match(r"--config[.=]", word)]
        own = [word for word in arguments if word.startswith("--config=")]
        if line.startswith("#"):
            recipe = None
        elif is_code or (own and line.startswith("|")):
            found.append(arguments)
        elif own:
            recipe = own[0]
        elif recipe and line.startswith("|") and not line.startswith(HEADERS):
            found.append([recipe, *arguments])
    return found


PAGE = (ROOT / "docs" / "recipes.md").read_text()
COMMANDS = list(dict.fromkeys(map(tuple, commands(PAGE))))


def short(arguments):
    return " ".join(word.removeprefix("--config=configs/").removeprefix("--config.") for word in arguments)


class Zeros(np.random.Generator):
    """Stands in for NumPy's generator: a ResNet-101 with 1,203 categories has no need of 80 million draws."""

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)

    random = standard_normal


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(detector.ParameterDraws, "params", lambda self: Zeros(np.random.PCG64(0)))


@pytest.fixture(scope="module")
def trainable_of():
    """Shapes of the trained parameters of a config; models that differ in nothing that shapes them are built once."""
    built = {}

    def shapes(config, loss, statistics):
        sections = config.model.to_json(), config.roi.to_json()
        key = *sections, loss.num_outputs, loss.weight_init
        if key not in built:
            trainable = ModelDefinition(config, statistics).initial[0]
            built[key] = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), trainable)
        return built[key]

    return shapes


@pytest.mark.parametrize("arguments", COMMANDS, ids=short)
def test_command_builds(arguments, monkeypatch, trainable_of):
    config = command_line_config(monkeypatch, *arguments)
    check_config(config, 8)
    config, statistics = with_recipe(config), made_up_statistics(config.model.num_classes)
    check_config(config, 8)
    if not config.init_from:
        check_fresh_start(config)
    loss = configured_loss(config.loss, config.model.num_classes, statistics)
    trainable = trainable_of(config, loss, statistics)
    assert trainable["box_head"]["classifier"]["kernel"].shape == (config.roi.hidden, loss.num_outputs)
    assert ("mask_head" in trainable) == config.model.masks
    optimizer = create_optimizer(config.optim, lambda step: 0.0)
    momentum = jax.eval_shape(optimizer.init, trainable)
    assert len(jax.tree.leaves(momentum)) == len(jax.tree.leaves(trainable)) + 1  # and the step
    chosen = {word.partition("=")[0].removeprefix("--config.") for word in arguments}
    belongs = COMMON | {"roi.predictor": loss.predictor} | LOSS_SETTINGS[config.loss.classification]
    for path, value in belongs.items():
        if path not in chosen | {"model.trained_parts"}:
            section, name = path.split(".")
            assert config[section][name] == value, path


def test_the_page_has_a_command_for_every_loss_and_table(monkeypatch):
    configs = [command_line_config(monkeypatch, *arguments) for arguments in COMMANDS]
    assert {config.loss.classification for config in configs} == CLASSIFICATION_LOSSES.keys()
    assert {config.loss.ranking for config in configs} == set(CHOICES["loss.ranking"])
    assert {config.loss.gap.omega for config in configs} == set(CHOICES["loss.gap.omega"])
    assert {config.model.depth for config in configs} == {50, 101}
    assert {config.sampler.name for config in configs} == {"random", "repeat_factor"}
    assert {config.train.epochs for config in configs} == {6, 12, 24}
    assert {Path(arguments[0]).name.partition(":")[0] for arguments in COMMANDS} == {
        "lvis_r50.py",
        "lvis_r101.py",
        "openimages_r50.py",
    }
    rows = [len(commands("## " + section)) for section in PAGE.split("\n## ")[1:]]
    assert rows == [16, 8, 0, 4, 4, 5, 8, 0]
