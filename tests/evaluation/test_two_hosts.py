"""eval.py as two processes that find each other as Slurm's do, against one process alone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from rog_jax.data import ClassStatistics, load_lvis
from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.evaluation.evaluated_model import untrained
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.loop import describe_run
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
SETTINGS = SyntheticSettings(
    train_images=12, val_images=11, num_categories=5, height=64, width=64, object_size=(16, 32), val_instances=2
)
RECIPE = """
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.data.train_json, config.data.val_json = "{0}/train.json", "{0}/val.json"
    config.data.train_images = config.data.val_images = "{0}/images"
    config.test.batch_size, config.test.pictures, config.test.report = 4, 0, False
    return config
"""


@pytest.fixture
def run(tmp_path):
    """A recipe and a run's folder with an untrained checkpoint."""
    make_dataset(tmp_path / "data", SETTINGS)
    recipe, workdir = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(RECIPE.format(tmp_path / "data"))
    annotations = load_lvis(tmp_path / "data" / "train.json", tmp_path / "data" / "images")
    config, _, state = untrained(tiny_config(), ClassStatistics.of(annotations))
    # Untrained scores hardly differ: larger weights make some boxes sure and others not.
    state.trainable["box_head"]["classifier"]["kernel"] *= 30
    checkpoints = Checkpoints(workdir)
    checkpoints.save(jax.tree.map(jax.numpy.copy, state), describe_run(config, annotations) | {"conventions": None})
    checkpoints.close()
    return recipe, workdir


def start(recipe: Path, workdir: Path, *flags: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "eval.py", "--config", str(recipe), "--workdir", str(workdir), *flags]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = plain | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def records_of(workdir: Path, kind: str) -> list[dict]:
    records = json.loads((workdir / "eval" / f"results_{kind}.json").read_text())
    return sorted(records, key=lambda record: (record["image_id"], -record["score"], record["category_id"]))


@pytest.mark.slow
def test_two_hosts_write_what_one_does(run):
    recipe, workdir = run
    alone = start(recipe, workdir)
    output, _ = alone.communicate(timeout=900)
    assert alone.returncode == 0, output
    figures = json.loads((workdir / "eval" / "metrics.json").read_text())
    expected = {kind: records_of(workdir, kind) for kind in ("bbox", "segm")}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    slurm |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    hosts = [start(recipe, workdir, "--multihost", **slurm, SLURM_PROCID=str(host)) for host in range(2)]
    outputs = [host.communicate(timeout=900)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert "metrics.json" in outputs[0]
    assert "metrics.json" not in outputs[1]
    for kind, records in expected.items():
        found = records_of(workdir, kind)
        assert len(found) == len(records) > 50
        for got, want in zip(found, records, strict=True):
            assert (got["image_id"], got["category_id"]) == (want["image_id"], want["category_id"])
            assert got["score"] == pytest.approx(want["score"], rel=1e-4)
    assert json.loads((workdir / "eval" / "metrics.json").read_text())["bbox"]["AP"] == pytest.approx(
        figures["bbox"]["AP"], abs=1e-6
    )
    assert not list((workdir / "eval").glob("*.shard-*"))
