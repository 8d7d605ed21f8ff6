"""Everything in the tiny version: sets, backbone, runs, records, pages."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rog_jax.tools.reproduce import cost, runner
from rog_jax.tools.reproduce.__main__ import main
from rog_jax.tools.reproduce.places import ROOT
from rog_jax.tools.reproduce.records import read_record
from rog_jax.tools.reproduce.sets import data_settings
from rog_jax.tools.reproduce.targets import TARGETS


def stop_in_the_first_run(command: list[str], work: Path) -> None:
    """As a batch system does it, by SIGTERM."""
    program = subprocess.Popen(
        [sys.executable, "-m", "rog_jax.tools.reproduce", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 1200
        while not list(work.glob("runs/*/log.txt")):  # training has been started; it is not waited for its steps, 4
            assert program.poll() is None, program.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        program.terminate()
        _, said = program.communicate(timeout=300)
    finally:
        program.kill()
    assert said.endswith("reproduce: stopped; the same command goes on from here\n")
    assert list(work.glob("runs/*/run.json"))
    assert not list(work.glob("results/runs/*.json"))


@pytest.mark.slow
def test_a_figure_end_to_end(tmp_path):
    """Sets, backbone, two runs (one of them interrupted), records, page and plot; then nothing is left to do."""
    command = ["figure4", "--quick", "--work", str(tmp_path)]
    stop_in_the_first_run(command, tmp_path / "quick")
    backbone = tmp_path / "quick" / "backbones" / "resnet18"
    made = backbone.stat().st_mtime_ns
    main(command)
    assert backbone.stat().st_mtime_ns == made
    out = tmp_path / "quick" / "results"
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "sigmoid_ce-gap.seed0.json",
        "sigmoid_ce.seed0.json",
    ]
    assert json.loads((out / "runs" / "sigmoid_ce.seed0.json").read_text())["written_detections"] > 0
    page = (out / "figure4.md").read_text()
    assert "gradients_over_frequency.png" in page
    assert (out / "plots" / "figure4" / "gradients_over_frequency.png").is_file()
    assert not list((tmp_path / "quick" / "runs").iterdir())
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    main(command)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == before


@pytest.mark.slow
def test_runs_of_the_other_sets_end_to_end(places):
    """OpenImages's format, whose evaluation has no diagnosis, and a set with replicates, in the photographs' place."""
    drawn = data_settings("drawn", places)["data.root"]
    places = places._replace(ccp=drawn)
    openimages, ccp = (TARGETS[name].rows[0].run for name in ("table6", "ccp"))
    assert runner.make_runs([(openimages, 0), (ccp, 0)], places)
    content = read_record(places, openimages, 0).content
    assert content["figures"]["bbox"].keys() >= {"AP50", "AP50_1", "AP50_5"}
    assert content["categories"]["bbox_AP"]
    assert content["written_detections"] == 0
    replicates = read_record(places, ccp, 0).content["replicates"]
    assert {kind: len(of_kind["AP"]) for kind, of_kind in replicates.items()} == {"bbox": 500, "segm": 500}


@pytest.mark.slow
def test_the_cost_of_a_step(places, monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 2)
    page = cost.write_cost(places).read_text()
    content = json.loads((places.out / "cost.json").read_text())
    assert all(content["cpu_ms"][ranking] > 0 for ranking in cost.RANKINGS)
    assert content["categories"] > 0
    assert 0 < content["traced_share"] < 1
    assert f"{content['categories']} categories" in page
    assert f"| sigmoid CE + GAP | {content['cpu_ms']['gap']:.0f} ms | {content['wall_ms']['gap']:.0f} ms |" in page
