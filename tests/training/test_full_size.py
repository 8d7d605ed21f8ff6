"""The LVIS recipe as it stands, on a CPU: 1,203 categories, images of 832x1344 pixels, two steps and a checkpoint."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rog_jax.data.synthetic import SyntheticSettings, make_dataset

ROOT = Path(__file__).parents[2]
NUM_CLASSES = 1203


@pytest.fixture
def lvis_like(tmp_path):
    """A dozen images of 600x800 pixels under a json with as many categories as LVIS has."""
    settings = SyntheticSettings(
        train_images=12, val_images=4, num_categories=6, height=600, width=800, object_size=(60, 300), val_instances=2
    )
    paths = make_dataset(tmp_path / "data", settings)
    for name in ("train_json", "val_json"):
        data = json.loads(paths[name].read_text())
        first = len(data["categories"]) + 1
        for number in range(first, NUM_CLASSES + 1):
            data["categories"].append(data["categories"][0] | {"id": number, "name": f"unseen_{number}"})
        paths[name].write_text(json.dumps(data))
    return paths


@pytest.mark.slow
def test_two_steps_at_full_size(lvis_like, tmp_path):
    """Prints seconds a step and the peak memory; docs/performance.md quotes them."""
    command = [sys.executable, "train.py", "--config", "configs/lvis_r50.py", "--workdir", str(tmp_path / "run")]
    images = str(lvis_like["images"])
    overrides = {
        "data.train_json": str(lvis_like["train_json"]),
        "data.val_json": str(lvis_like["val_json"]),
        "data.train_images": images,
        "data.val_images": images,
        "train.batch_size": 2,
        "train.steps": 2,
    }
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # the true single device

    def run(*more):
        return subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode == 0, first.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    restored = run("--config.train.steps=3")
    assert restored.returncode == 0, restored.stderr[-3000:]
    assert "training from step 2 to 3" in restored.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert 700 < lines[0]["cls"] < 900  # 1,204 columns of sigmoid cross-entropy start at 1,204 ln 2 = 834
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB; images a second {lines[0]['images_per_second']:.4f}")
