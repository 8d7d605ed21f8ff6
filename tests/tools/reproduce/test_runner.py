"""The queue: what is made, what is not made again, and what is left after an interruption."""

import json
from types import SimpleNamespace

import pytest

from rog_jax.tools.reproduce import runner, sets
from rog_jax.tools.reproduce.programs import ProgramError
from rog_jax.tools.reproduce.records import RecordError, read_record, write_record
from rog_jax.tools.reproduce.runs import Run, object_level
from tests.tools.reproduce.made_up import RUN, content


def test_only_missing_runs_are_made(places, programs):
    calls, _ = programs
    runs = [(RUN, 0), (object_level("sigmoid_ce"), 0), (RUN, 1)]
    write_record(places, RUN, 0, content(0.7))
    assert runner.make_runs(runs, places)
    assert read_record(places, RUN, 0).content["figures"]["bbox"]["AP"] == 0.7
    trained = [arguments for arguments, _ in calls if arguments[0] == "train.py"]
    assert [next(word for word in words if "workdir" in word).rpartition("/")[2] for words in trained] == [
        "sigmoid_ce.seed0",
        f"{RUN.name}.seed1",
    ]
    assert "--config.train.seed=1" in trained[1]
    assert "--config.loss.gap.weight=3.0" in trained[1]
    assert "--config.init_from=R18" in trained[1]
    calls.clear()
    assert runner.make_runs(runs, places)
    assert not calls


def test_what_a_run_is_evaluated_for(places, programs):
    calls, _ = programs
    runner.make_run(object_level("softmax_ce", rfs=True), 0, places)
    train, evaluation, sweep = (arguments for arguments, _ in calls)
    assert train[0] == "train.py"
    assert evaluation == ["eval.py", *train[1:]]
    assert "--config=configs/mini_lvis.py:rfs" in train
    assert sweep[: len(train)] == evaluation
    assert "--sweep_gammas=0,0.25,0.5,0.75,1" in sweep
    calls.clear()
    runner.make_run(Run("boxes", data="openimages", devices=4), 0, places)
    assert [(arguments[0], devices) for arguments, devices in calls] == [("train.py", 4), ("eval.py", 1)]


def test_the_sweep_reads_the_results_that_are_there(places, programs):
    calls, _ = programs
    results = places.work / "runs" / f"{RUN.name}.seed0" / "eval" / "results_segm.json"
    results.parent.mkdir(parents=True)
    results.touch()
    runner.make_run(RUN, 0, places._replace(keep=True))
    flags = calls[-1][0]
    assert f"--results={results}" in flags
    assert not any(flag.startswith("--sweep_gammas") for flag in flags)
    assert results.is_file()  # --keep keeps the folder


def test_settings_of_a_run(places, programs):
    full = runner.settings_of(RUN, 3, places._replace(quick=False))
    ours = {"data.root": "DATA", "init_from": "R18", "model.depth": 18, "train.seed": 3}
    assert full == ours | RUN.settings
    assert runner.settings_of(Run("own", {"init_from": ""}), 3, places._replace(quick=False))["init_from"] == ""
    assert runner.settings_of(RUN, 3, places) == full | sets.QUICK_SETTINGS


def test_a_failed_run_is_made_again_and_its_time_counted(places, programs):
    calls, fails = programs
    fails.append("eval.py")
    with pytest.raises(ProgramError):
        runner.make_runs([(RUN, 0)], places)
    assert read_record(places, RUN, 0) is None
    folder = places.work / "runs" / f"{RUN.name}.seed0"
    spent = json.loads((folder / "spent.json").read_text())
    assert spent.keys() == {"training", "evaluation"}
    spent["training"]["seconds"] = 1000.0
    (folder / "spent.json").write_text(json.dumps(spent))
    fails.clear()
    assert runner.make_runs([(RUN, 0)], places)
    assert [arguments[0] for arguments, _ in calls] == ["train.py", "eval.py", "train.py", "eval.py", "eval.py"]
    assert not folder.exists()


def test_a_training_that_sigterm_stopped_is_no_finished_run(places, programs):
    calls, fails = programs
    fails.append("stopped")
    with pytest.raises(ProgramError, match="stopped at step 2 of 4: the same command goes on"):
        runner.make_runs([(RUN, 0)], places)
    assert [arguments[0] for arguments, _ in calls] == ["train.py"]
    fails.clear()
    assert runner.make_runs([(RUN, 0)], places)
    assert read_record(places, RUN, 0) is not None


def test_an_interrupted_run_goes_on_with_its_own_settings_alone(places, programs):
    _, fails = programs
    fails.append("stopped")
    with pytest.raises(ProgramError):
        runner.make_runs([(RUN, 0)], places)
    fails.clear()
    with pytest.raises(RecordError, match="began with other settings: remove that folder"):
        runner.make_runs([(Run(RUN.name, RUN.settings | {"optim.lr": 1.0}), 0)], places)
    assert runner.make_runs([(RUN, 0)], places)


def test_sets_of_another_version_are_refused(places, programs, monkeypatch):
    assert runner.make_runs([(RUN, 0)], places)
    monkeypatch.setattr(runner, "VERSION", 99)
    with pytest.raises(RuntimeError, match="are of version 1 of the benchmark, and this is 99"):
        runner.make_runs([(RUN, 1)], places)


def test_a_half_trained_backbone_is_none(places, programs, monkeypatch):
    _, fails = programs
    fails.append("stopped")
    monkeypatch.setattr(sets, "call", runner.call)
    monkeypatch.setattr(sets, "data_settings", runner.data_settings)
    with pytest.raises(ProgramError, match="stopped at step 2 of 4"):
        sets.start_settings("drawn", 18, places)
    assert not (places.work / "backbones" / "resnet18").exists()


def test_no_run_is_begun_when_time_is_up(places, programs):
    calls, _ = programs
    assert not runner.make_runs([(RUN, 0)], places, minutes=0.0)
    assert not calls


def test_the_time_is_looked_at_before_every_run(places, programs, monkeypatch):
    clock = iter([0.0, 30.0, 90.0])  # of the start and before each run
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert not runner.make_runs([(RUN, 0), (RUN, 1)], places, minutes=1.0)
    assert read_record(places, RUN, 0) is not None
    assert read_record(places, RUN, 1) is None


def test_records_are_looked_at_before_the_first_run(places, programs):
    calls, _ = programs
    write_record(places, Run(RUN.name, {}), 1, content())
    with pytest.raises(RecordError, match="other settings"):
        runner.make_runs([(RUN, 0), (RUN, 1)], places)
    assert not calls
