"""Two processes as two hosts: unreadable images of one of them stop both, at the same step, and after an evaluation."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from tests.tiny import tiny_config

HOST = """
import json, sys
import jax
from rog_jax.data import DataError, load_split
from rog_jax.evaluation.run import validation_batches
from rog_jax.training.loop import train

if __name__ == "__main__":
    host, address, config, images, workdir = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, int(host))
    from tests.training.test_hosts import host_config
    config = host_config(json.loads(config), images)
    said = []
    training = lambda: train(config, workdir)
    evaluation = lambda: list(validation_batches(config, load_split(config.data, "val")))
    for task in (training, evaluation):
        try:
            task()
            said.append("went through")
        except DataError as error:
            said.append(str(error))
    print("SAID" + json.dumps(said), flush=True)
"""


def host_config(paths: dict[str, str], images: str):
    """The tiny detector on the images of one host, of which 10 may be unreadable."""
    config = tiny_config()
    config.model.num_classes = 0
    config.data.train_json, config.data.val_json = paths["train_json"], paths["val_json"]
    config.data.train_images = config.data.val_images = images
    config.data.max_unreadable = 10
    return config


@pytest.mark.slow
def test_hosts_stop_together(tmp_path):
    paths = make_dataset(
        tmp_path,
        SyntheticSettings(
            train_images=48, val_images=24, num_categories=6, height=64, width=64, object_size=(16, 32), val_instances=3
        ),
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in paths["images"].iterdir():
        (broken / path.name).touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "host.py").write_text(HOST)
    jsons = json.dumps({name: str(paths[name]) for name in ("train_json", "val_json")})
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    hosts = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "host.py"), str(host), address, jsons, str(images), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for host, images in enumerate((paths["images"], broken))
    ]
    said = [json.loads(host.communicate(timeout=600)[0].partition("SAID")[2]) for host in hosts]
    # Four images of each batch are the second host's: the third step is the first with more than ten.
    assert [text.split(",")[0] for text in said[0]] == ["12 images could not be read"] * 2
    assert said[0] == said[1]
