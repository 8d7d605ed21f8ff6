"""Config file of the runs on several hosts: the tiny detector on the set in a folder, `tiny_run.py:FOLDER`."""

from pathlib import Path

from ml_collections import ConfigDict

from tests.tiny import tiny_config


def get_config(folder: str) -> ConfigDict:
    """Every kind of state that devices share: class counts, EQLv2's sums, GAP over the joined batch."""
    config = tiny_config()
    config.model.num_classes = 0
    config.data.train_json = str(Path(folder) / "train.json")
    config.data.val_json = str(Path(folder) / "val.json")
    config.data.train_images = config.data.val_images = str(Path(folder) / "images")
    config.loss.classification = "eqlv2"
    config.loss.ranking = "gap"
    config.loss.gap.scope = "global"
    config.train.steps = 4
    config.train.log_every = config.train.checkpoint_every = 1
    config.train.keep_checkpoints = 4
    config.test.pictures = 0
    return config
