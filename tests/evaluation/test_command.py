"""eval.py as a user calls it, on results files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "eval.py", "--config", "configs/lvis_r50.py", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--step=3 --checkpoint=best", "--step=3 and --checkpoint=best: give one of them"),
        ("--results=a.json --step=3", "--step=3 chooses a checkpoint, and --results evaluates none"),
        ("--results=a.json --checkpoint=best", "--checkpoint=best chooses a checkpoint, and --results evaluates none"),
        ("--sweep_caps=100", "--sweep_caps has no meaning without --sweep"),
        ("--sweep_gammas=1", "--sweep_gammas has no meaning without --sweep"),
        ("--sweep_against=run", "--sweep_against has no meaning without --sweep"),
        ("--sweep --results=a.json --sweep_gammas=1", "--sweep_gammas needs the detector's scores"),
    ],
)
def test_flags_without_effect_are_refused(tmp_path, flags, message):
    done = run("--workdir", str(tmp_path), *flags.split())
    assert done.returncode == 1
    assert message in done.stderr + done.stdout


def test_results_files_and_a_sweep(case, tmp_path):
    where = ["--workdir", str(tmp_path), f"--config.data.val_json={case / 'truth.json'}"]
    files = f"--results={case / 'results_bbox.json'},{case / 'results_segm.json'}"
    done = run(*where, files, "--config.test.figures=pooled,boundary", "--config.test.report=False")
    assert done.returncode == 0, done.stderr
    assert "segm boundary" in done.stdout
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"]
    assert metrics["segm"]["AR@300"] > 0
    sweep = run(*where, *files.replace(",", " --results=").split(), "--sweep", "--sweep_caps=2,300")
    assert sweep.returncode == 0, sweep.stderr
    rows = json.loads((tmp_path / "eval" / "sweep" / "sweep.json").read_text())["rows"]
    assert [(row["kind"], row["max_detections"]) for row in rows] == [
        (kind, cap) for kind in ("bbox", "segm") for cap in (300, 2)
    ]
