"""A run's folder with a checkpoint of an untrained tiny detector, and the pictures that go with it."""

import cv2
import numpy as np
import pytest

from rog_jax.data import ClassStatistics, load_split
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.loop import describe_run, with_num_classes
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from tests.tiny import config_of_a_set


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Its folder, its config, and the paths of its set."""
    config, paths = config_of_a_set(tmp_path_factory.mktemp("pictures"))
    config.test.written_detections = config.test.max_detections + 5
    annotations = load_split(config.data, "train")
    definition = ModelDefinition(with_num_classes(config, annotations), ClassStatistics.of(annotations))
    # Untrained scores hardly differ: larger weights make some boxes sure and others not.
    definition.initial[0]["box_head"]["classifier"]["kernel"] *= 30
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir)
    state = create_state(definition, create_optimizer(definition.config.optim, lambda step: 0.0), data_mesh())
    checkpoints.save(state, describe_run(definition.config, annotations))
    checkpoints.close()
    return workdir, config, paths


@pytest.fixture(scope="session")
def random_pictures():
    """Fifty pictures of random sizes, from a few pixels to very long ones."""
    generator = np.random.default_rng(0)
    sizes = [(1, 1), (3, 900), (900, 3), *generator.integers(10, 300, (47, 2)).tolist()]
    noise = generator.integers(0, 256, (20, 20, 3), np.uint8)
    return [cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST) for height, width in sizes]
