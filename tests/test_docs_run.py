"""Every command of README and docs runs to its end, as it stands there, on a set and a detector of the smallest size.

In the order of the pages, since one command makes what the next one reads.

In a folder of its own the recipes' names belong to recipes of a tiny detector (`make_tiny`) for a drawn set, and the
files that a page supposes are there, by the names that the page gives them. What a command is given besides says
`BESIDES`; those that cannot be run here are in `NOT_RUN`, with the reason, and tests/test_docs.py reads their flags.
"""

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.tools.golden_weights import resnet_state
from rog_jax.tools.scaling import RESNET_50
from tests.data.test_synthetic import write_sprite
from tests.pages import ROOT, blocks, every_command, label
from tests.tools.test_estimated_time import TEXT
from tests.weights.archives import write_zip

pytestmark = pytest.mark.slow

COMMANDS = every_command()
TPU_HOURS = "the TPU compiler works at it for 20 minutes and longer; docs/pods.md has what it printed"
NOT_RUN = {
    "--topology v5e:4x4": TPU_HOURS,
    "--topology v5e:2x2 --images_per_chip 8": TPU_HOURS,
    "--multihost": "joins hosts that Slurm or a pod tells of; tests/hosts joins some by flags",
}
"""Parts of commands, and why such a command is not run."""
NEEDS = {
    "--topology": "libtpu",
    "compile_choices": "libtpu",
    "--aot": "libtpu",
    "benchmark_gap --published": "torch",
    "benchmark_torchvision": "torch",
}
"""Parts of commands, and what has to be installed for them."""
BESIDES = {
    "train.py": "--config.train.steps=3",
    "init_from=weights/r50": "--workdir=runs/from_r50 --config.model.depth=50 --config.model.width=64",
    "--step 60000": "--step=3",
    "make_dataset --out like_lvis": "--num-categories=3 --train-images=24 --val-images=30 --val-instances=2",
    "make_dataset --out sprites": "--num-categories=3 --train-images=24 --val-images=30",
    "--out sprites --sprites": "--counts=lvis_v1_categories.json",
    "make_dataset --out demo/data": "--overwrite --num-categories=6 --train-images=40 --val-images=8 --val-instances=2",
    "benchmark_annotations make": "--images=200",
    "compile_choices": "--part=kernel",
    "tail_benchmark": "--seeds=1 --steps=20",
    "reproduce table1": "--quick --minutes=0 --work=reproduced",
    "reproduce all --minutes": "--quick --minutes=0 --work=reproduced",
    "reproduce headline": "--quick --work=reproduced",
    "reproduce cost": "--quick --work=reproduced",
}
"""Parts of commands, and flags that make the command's work small; they count after those of the page."""
CHANGED = {"resnet50-0676ba61.pth": "resnet50.pth"}  # the name promises a checksum, which no stand-in has
RECIPE = '''"""The recipe of this name for a tiny detector and a drawn set."""

from configs import full_{name} as recipe
from tests.tiny import make_tiny


def get_config(*variants):
    config = make_tiny(recipe.get_config(*variants))
    config.data.train_json, config.data.val_json = "{data}/train.json", "{data}/val.json"
    config.data.train_images = config.data.val_images = "{data}/images"
    config.model.num_classes = 0
    return config
'''
SECONDS = 1800
"""After which a command is ended: it hangs."""
WRITES = ("--out", "--png", "--sheet", "--plot")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the pages suppose to be there: recipes, data, photographs, weights, and runs that have ended."""
    folder = tmp_path_factory.mktemp("reader")
    for program in ("train.py", "eval.py"):
        shutil.copy(ROOT / program, folder)
    _lay_out_data(folder)
    _lay_out_recipes(folder)
    write_zip(folder / "resnet50.pth", resnet_state(50))
    (folder / "cells.jsonl").write_text("".join(f"{json.dumps(cell)}\n" for cell in RESNET_50))
    (folder / "texts").mkdir()
    (folder / "texts" / "train_r50_v5e_4x4_8.hlo").write_text(TEXT)
    (folder / "docs" / "images").mkdir(parents=True)
    run = ["--config=configs/lvis_r50.py", "--workdir=runs/gap"]
    call(["train.py", *run, "--config.train.steps=3"], folder)
    call(["eval.py", *run], folder)
    shutil.rmtree(folder / "runs" / "gap" / "best")
    for name in ("boxes", "masks"):
        written = folder / "runs" / "gap" / "eval" / f"results_{'bbox' if name == 'boxes' else 'segm'}.json"
        shutil.copy(written, folder / f"{name}.json")
    soft = ["--config=configs/lvis_r50.py", "--config.loss.classification=softmax_ce", "--workdir=runs/softmax"]
    call(["train.py", *soft, "--config.train.steps=1"], folder)
    for name in ("runs/baseline", "runs/lvis_r50", "runs/r50", "runs/mine", "demo/run"):
        shutil.copytree(folder / "runs" / "gap", folder / name)
    return folder


def _lay_out_recipes(folder: Path) -> None:
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for name, data in (("lvis_r50", "data/lvis"), ("ccp_r18", "CCP"), ("quickstart", "demo/data")):
        recipe = folder / "configs" / f"{name}.py"
        recipe.rename(recipe.with_name(f"full_{name}.py"))
        recipe.write_text(RECIPE.format(name=name, data=data))
    shutil.copy(folder / "configs" / "lvis_r50.py", folder / "FILE.py")
    (focal,) = [block for block in blocks((ROOT / "docs" / "own_loss.md").read_text()) if "class Focal" in block]
    (folder / "configs" / "focal.py").write_text(focal)


def _lay_out_data(folder: Path) -> None:
    settings = SyntheticSettings(train_images=72, val_images=8, num_categories=6, height=64, width=96, val_instances=2)
    made = make_dataset(folder / "demo" / "data", settings)
    for name in ("data/lvis", "CCP"):
        shutil.copytree(folder / "demo" / "data", folder / name)
    for split in ("train_json", "val_json"):
        shutil.copy(made[split], folder / made[split].name)
    shutil.copytree(made["images"], folder / "photos")
    pictures = sorted(made["images"].glob("*.jpg"))[:3]
    for name in ("photo.jpg", "CCP/images/0001.jpg", "new_photos/1.jpg", "photos/new/1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(pictures[0], folder / name)
    for picture in pictures:
        (folder / "PHOTOS").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "PHOTOS" / picture.name), cv2.resize(cv2.imread(str(picture)), (640, 480)))
    for style in ("noto", "openmoji", "twemoji"):
        for category in ("1f436", "1f431", "1f42d"):
            write_sprite(folder / "SPRITES" / style / f"{category}.png", (200, 0, 0))
    counts = [{"id": 1 + i, "name": f"c{i}", "image_count": 1 + 5 * i, "instance_count": 1 + 9 * i} for i in range(12)]
    (folder / "lvis_v1_categories.json").write_text(json.dumps(counts))
    golden = ROOT.parent / "shared" / "golden" / "torchvision_maskrcnn_r50.npz"
    if golden.is_file():
        (folder / "FILE.npz").symlink_to(golden)


def test_exceptions_are_of_commands_that_are_there():
    every = [" ".join(words) for words in COMMANDS]
    parts = [*NOT_RUN, *NEEDS, *BESIDES, *CHANGED]
    assert [part for part in parts if not any(part in command for command in every)] == []


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: label(words, COMMANDS[words]))
def test_a_documented_command_runs(words, folder):
    command = " ".join(words)
    for part, reason in NOT_RUN.items():
        if part in command:
            pytest.skip(reason)
    for part, module in NEEDS.items():
        if part in command and importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    if "FILE.npz" in words and not (folder / "FILE.npz").exists():
        pytest.skip("needs the folder 'shared' beside the repository")
    for dtype in ("float32", "bfloat16") if "$t" in command else ("",):
        run_documented([word.replace("$t", dtype) for word in words], folder)


def run_documented(words: list[str], folder: Path) -> None:
    """Runs a command; it has to end well, and to have written what it was told to."""
    words = [*(CHANGED.get(word, word) for word in words), *besides(words)]
    given = dict(itertools.pairwise(part for word in words for part in word.split("=", 1)))
    if words[0] == "train.py":
        assert not Path(given["--workdir"]).is_absolute()
        shutil.rmtree(folder / given["--workdir"], ignore_errors=True)
    call(words, folder)
    for flag in WRITES:
        if flag in given:
            assert (folder / given[flag]).exists(), given[flag]
    if words[0] == "train.py":
        assert list((folder / given["--workdir"] / "checkpoints").iterdir())
    if words[0] == "eval.py":
        name = "sweep/sweep.json" if "--sweep" in words else "metrics.json"
        assert (folder / given["--workdir"] / "eval" / name).is_file()


def besides(words: list[str]) -> list[str]:
    """Flags that the command gets after its own."""
    command = " ".join(words)
    if "--profile" in words:  # with a number of steps of its own
        return []
    return [flag for part, flags in BESIDES.items() if part in command for flag in flags.split()]


def test_the_example_in_python_runs(folder):
    (example,) = [block for block in blocks((ROOT / "docs" / "own_data.md").read_text()) if "from rog_jax" in block]
    call(["-c", example], folder)


def call(words: list[str], folder: Path) -> None:
    """Runs Python in the folder with this tree's package."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, (words, done.stdout[-1500:], done.stderr[-3000:])
