"""The loss of docs/own_loss.md, from the page."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from rog_jax.losses import CLASSIFICATION_LOSSES
from rog_jax.tools.recipe_file import load_config
from rog_jax.training.config import check_config
from tests.losses.classification_cases import on_devices
from tests.tiny import NUM_CLASSES, tiny_config
from tests.training.test_every_loss import train_steps

PAGE = Path(__file__).parents[2] / "docs" / "own_loss.md"


@pytest.fixture
def recipe(tmp_path):
    """The page's recipe; its loss is forgotten afterwards."""
    path = tmp_path / "focal.py"
    path.write_text(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    yield path
    CLASSIFICATION_LOSSES.pop("focal", None)


def test_the_recipe_is_whole(recipe):
    check_config(load_config(recipe), 8)
    lines = recipe.read_text().split("@dataclass")[1].splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


def test_equals_the_paper_on_any_number_of_devices(recipe):
    load_config(recipe)
    loss = CLASSIFICATION_LOSSES["focal"](num_classes=NUM_CLASSES)
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 2, (32, NUM_CLASSES)).astype(np.float32), generator.integers(-1, 6, 32)
    expected, objects = 0.0, 0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        for column, logit in enumerate(row):
            p = 1 / (1 + np.exp(-logit))
            if label == column:
                expected, objects = expected - 0.25 * (1 - p) ** 2 * np.log(p), objects + 1
            elif label >= 0:
                expected -= 0.75 * p**2 * np.log(1 - p)
    value, _ = loss(logits, labels, None, ())
    np.testing.assert_allclose(value, expected / objects, rtol=1e-5)
    values, _, _ = on_devices(loss, jax.numpy.asarray(logits), jax.numpy.asarray(labels))
    np.testing.assert_allclose(np.mean(values), value, rtol=1e-5)


def test_trains_with_the_ranking_loss(recipe):
    load_config(recipe)
    config = tiny_config()
    config.loss.classification, config.loss.focal = "focal", {"alpha": 0.25, "gamma": 2.0}
    history, _, _ = train_steps(config, 8)
    assert history[0]["gap"] > 0
    assert history[-1]["cls"] < history[0]["cls"]
