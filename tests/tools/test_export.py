"""Exported detectors beside the predictor, in a process that does not know the package."""

import json
import re
import subprocess
import sys
import venv

import cv2
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rog_jax import Predictor
from rog_jax.inference.loading import load
from rog_jax.tools import export
from tests.inference.conftest import run  # noqa: F401
from tests.tiny import SHAPES


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("exported")
    export.main([str(run[0]), "--out", str(folder)])
    return folder


@pytest.mark.parametrize(("name", "size"), [("picture.png", (90, 150)), ("large.jpg", (180, 270))])
def test_the_script_alone_gives_the_same_detections(run, exported, tmp_path, name, size):  # noqa: F811
    generator = np.random.default_rng(3)
    noise = generator.integers(0, 256, (12, 20, 3), np.uint8)
    picture = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / name), picture[..., ::-1])
    done = subprocess.run(
        [sys.executable, exported / "run.py", tmp_path / name],
        cwd=tmp_path,
        env={"JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    expected = Predictor.from_checkpoint(run[0]).predict_file(tmp_path / name)
    assert len(lines) == len(expected) > 0
    assert tuple(name for name, *_ in lines) == expected.names
    numbers = np.array([[float(number) for number in line[1:]] for line in lines])
    np.testing.assert_allclose(numbers[:, 0], expected.scores, rtol=1e-5)
    np.testing.assert_allclose(numbers[:, 1:], expected.boxes, atol=1e-3)


@pytest.mark.slow
def test_the_script_names_all_that_it_needs(exported, tmp_path):
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((40, 60, 3), np.uint8))
    (needs,) = re.findall(r"^Needs: pip (install .*)", (exported / "run.py").read_text(), re.MULTILINE)
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "--quiet", *needs.split()], check=True)
    environment = {"JAX_PLATFORMS": "cpu", "PATH": ""}
    subprocess.run([python, exported / "run.py", tmp_path / "picture.png"], cwd=tmp_path, env=environment, check=True)


def test_other_users_may_read_what_is_exported(exported):
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_a_picture_that_no_shape_holds_is_shown_smaller(run, tmp_path):  # noqa: F811
    export.main([str(run[0]), "--out", str(tmp_path / "wide"), "--shape", "32x96", "--platforms", "cpu"])
    noise = np.random.default_rng(4).integers(0, 256, (9, 5, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "high.png"), cv2.resize(noise, (100, 180), interpolation=cv2.INTER_NEAREST))
    script = [sys.executable, tmp_path / "wide" / "run.py"]
    options = {"env": {"JAX_PLATFORMS": "cpu", "PATH": ""}, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([*script, tmp_path / "high.png"], **options, check=True)
    boxes = np.array([[float(number) for number in line.split("\t")[2:]] for line in done.stdout.splitlines()])
    overrides = {"data.shapes": ((32, 96),)}
    expected = Predictor.from_checkpoint(run[0], overrides=overrides).predict_file(tmp_path / "high.png")
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
    wrong = subprocess.run([*script, tmp_path / "gone.png"], **options, check=False)
    assert "gone.png is no picture" in wrong.stderr


def test_the_script_has_twenty_lines_that_do_something():
    lines = export.SCRIPT.read_text().split('"""')[2].splitlines()
    assert len([line for line in lines if line and not line.startswith(("import", "from"))]) <= 20
    assert "rog_jax" not in export.SCRIPT.read_text().split('"""')[2]


def test_what_is_written(exported):
    about = json.loads((exported / "about.json").read_text())
    assert [tuple(shape) for _, *shape in about["programs"]] == list(SHAPES)
    weights = load_file(exported / "weights.safetensors")
    assert weights["box_head/classifier/kernel"].shape[1] == 7
    program = jax.export.deserialize((exported / about["programs"][0][0]).read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    found = dict(zip(("boxes", "labels", "masks", "scores"), program.out_avals, strict=True))
    assert found["masks"].shape == (1, 15, 14, 14)  # test.written_detections, as the predictor has it


def test_errors(run, tmp_path):  # noqa: F811
    with pytest.raises(SystemExit, match="there is no such folder"):
        export.main([str(tmp_path / "gone"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="multiples of 32 pixels, not 50x64"):
        export.main([str(run[0]), "--out", str(tmp_path), "--shape", "50x64"])
    with pytest.raises(SystemExit, match=r"config\.test\.nonsense"):
        export.main([str(run[0]), "--out", str(tmp_path), "--set", "test.nonsense=1"])
    assert export.detector_function(load(run[0], batch_size=8))
