"""The queue: what is made, what is not made again, and what is left after an interruption."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from rog_jax.data import Annotations, load_lvis, load_openimages
from rog_jax.tools.reproduce import cost, runner, sets
from rog_jax.tools.reproduce.__main__ import main
from rog_jax.tools.reproduce.places import ROOT, alone_in
from rog_jax.tools.reproduce.programs import ProgramError, call, timed
from rog_jax.tools.reproduce.records import RecordError, read_record, record_path, write_record
from rog_jax.tools.reproduce.runs import Run, gap_variation, object_level
from rog_jax.tools.reproduce.sets import data_settings, without_heads
from rog_jax.tools.reproduce.status import expected_seconds, status
from rog_jax.tools.reproduce.targets import TARGETS
from rog_jax.training.initial import InitialWeights

RUN = gap_variation("weight_3", weight=3.0)


def content(ap: float = 0.1, seconds: float = 60.0, **more) -> dict:
    """A record as short as pages allow."""
    figures = {"AP": ap, "APr": ap / 2, "APc": ap, "APf": 2 * ap}
    spent = {"training": {"seconds": seconds, "cpu_seconds": 40.0}, "evaluation": {"seconds": 0.0, "cpu_seconds": 1.0}}
    return {
        "spent": spent,
        "steps": 4,
        "commit": "abc",
        "backbone": "aa",
        "figures": {"bbox": figures, "segm": figures},
        "sweep": [],
        "categories": {
            "category_id": [1],
            "name": ["a"],
            "group": ["r"],
            "train_images": [2],
            "bbox_AP": [ap],
            "segm_AP": [ap],
        },
        "classifier": {},
        "replicates": {},
    } | more


@pytest.fixture
def programs(monkeypatch, places):
    """Stands in for train.py and eval.py: notes how they were called, and fails, or is stopped, where it is told to."""
    calls, fails = [], []

    def called(arguments, log, devices=1):
        calls.append((arguments, devices))
        if any(text in " ".join(arguments) for text in fails):
            raise ProgramError("failed")
        if arguments[0] == "train.py":
            log.parent.mkdir(parents=True, exist_ok=True)
            (log.parent / "config.json").write_text('{"steps": 4}')
            step = 2 if "stopped" in fails else 4
            (log.parent / "train_log.jsonl").write_text(json.dumps({"step": step, "loss": 1.0}))

    monkeypatch.setattr(runner, "call", called)
    monkeypatch.setattr(runner, "data_settings", lambda data, places: {"data.root": "DATA"})
    monkeypatch.setattr(runner, "start_settings", lambda data, depth, places: {"init_from": f"R{depth}"})
    monkeypatch.setattr(runner, "collect", lambda workdir, replicates: content())
    return calls, fails


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


def test_records_of_other_settings_are_refused(places):
    write_record(places, RUN, 0, content())
    changed = Run(RUN.name, RUN.settings | {"loss.gap.weight": 2.0})
    with pytest.raises(RecordError, match=r"other settings \(settings\): move it away"):
        read_record(places, changed, 0)
    record_path(places, RUN, 0).write_text("{")
    with pytest.raises(RecordError, match="remove it"):
        read_record(places, RUN, 0)
    with pytest.raises(RecordError, match=f"{RUN.name}.seed0.json is broken"):
        status(list(TARGETS.values()), places)
    assert "0 of   5 finished" in status([TARGETS["table4"]], places)


def test_the_time_is_told_without_records_that_do_not_say(places, caplog):
    path = write_record(places, RUN, 0, content(seconds=6000.0)).path
    text = path.read_text()
    path.with_name("gone.seed0.json").write_text(text.replace('"drawn"', '"a set of yesterday"'))
    path.with_name("broken.seed0.json").write_text("{")
    told = status([TARGETS["table4"]], places)
    assert told.endswith("at 100 min a run so far")
    assert "gone.seed0.json is of a set that is not known" in caplog.text
    assert "broken.seed0.json is broken" in caplog.text
    assert path.name not in caplog.text


def test_quick_records_are_not_taken_for_others(places):
    write_record(places, RUN, 0, content())
    with pytest.raises(RecordError, match=r"other settings \(quick\)"):
        read_record(places._replace(quick=False), RUN, 0)
    path = record_path(places, RUN, 0)
    old = json.loads(path.read_text())
    del old["run"]["quick"]  # as the first records are
    path.write_text(json.dumps(old))
    assert read_record(places._replace(quick=False), RUN, 0) is not None
    with pytest.raises(RecordError, match=r"other settings \(quick\)"):
        read_record(places, RUN, 0)


def test_records_are_looked_at_before_the_first_run(places, programs):
    calls, _ = programs
    write_record(places, Run(RUN.name, {}), 1, content())
    with pytest.raises(RecordError, match="other settings"):
        runner.make_runs([(RUN, 0), (RUN, 1)], places)
    assert not calls


def test_two_programs_do_not_share_a_folder(places):
    with alone_in(places.work), pytest.raises(RuntimeError, match="another program"), alone_in(places.work):
        pass


def test_a_failing_program_is_shown_with_its_last_lines(tmp_path):
    log = tmp_path / "log.txt"
    with pytest.raises(ProgramError, match="ZeroDivisionError"), timed(tmp_path / "spent.json", "a"):
        call(["-c", "1 / 0"], log)
    with timed(tmp_path / "spent.json", "a"):
        call(["-c", "import rog_jax, time; time.sleep(0.1); print(rog_jax.__file__)"], log)
    assert str(ROOT) in log.read_text()
    assert json.loads((tmp_path / "spent.json").read_text())["a"]["seconds"] > 0


STOPPED = """
import os, signal, sys
from pathlib import Path
from rog_jax.tools.reproduce import runner
from rog_jax.tools.reproduce.places import alone_in
from rog_jax.tools.reproduce.programs import call
program = "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved')))" + chr(10)
program += "print('training', os.getpid(), flush=True)" + chr(10) + "time.sleep(600)"
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which these tests may be told to ignore, as in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with alone_in(Path(sys.argv[1])), runner._Terminated():
        call(["-c", program], Path(sys.argv[1]) / "log.txt")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.fixture
def at_work(tmp_path):
    """A program that has called another one, in a process group of its own, as a terminal's; and the other's id."""
    log, command = tmp_path / "log.txt", [sys.executable, "-c", STOPPED, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (log.is_file() and (found := re.search(r"\ntraining (\d+)\n", log.read_text()))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process, int(found[1])
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_training_and_waits_for_it(at_work, tmp_path, number):
    process, _ = at_work
    os.killpg(process.pid, number)  # SIGINT as the terminal's Ctrl-C: the training must hear of it as SIGTERM
    assert process.communicate(timeout=300)[0] == "stopped\n"
    assert (tmp_path / "log.txt").read_text().endswith("saved\n")


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runner._Terminated():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_whose_parent_was_killed_keeps_the_folder(at_work, tmp_path):
    process, training = at_work
    for ends, holders in ((False, {process.pid, training}), (True, {training})):
        if ends:
            process.kill()
            process.wait()
        with pytest.raises(RuntimeError, match="another program") as refused, alone_in(tmp_path):
            pass
        named = re.search(r"\(process ([\d, ]+)\)", str(refused.value))[1]
        assert set(map(int, named.split(", "))) == holders
    os.kill(training, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while True:
        try:
            with alone_in(tmp_path):
                break
        except RuntimeError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (tmp_path / "log.txt").read_text().endswith("saved\n")


def test_status_counts_shared_runs_once(places):
    write_record(places, TARGETS["headline"].rows[0].run, 0, content(seconds=600.0))
    lines = status(list(TARGETS.values()), places).splitlines()
    assert lines[0].startswith("headline       1 of  12 finished, 1.8 h left: sigmoid_ce-gap.seed0")
    assert lines[1].startswith("table1         0 of  14 finished")
    assert lines[-1].endswith("at 10 min a run so far")


def test_expected_times_are_the_runs_own_or_of_as_many_epochs(places):
    ccp, other = (TARGETS["ccp"].rows[place].run.description() for place in (0, 1))
    plain = object_level("sigmoid_ce").description()
    assert expected_seconds(ccp, []) == 16 / 6 * expected_seconds(plain, [])
    longer = object_level("seesaw", settings={"train.epochs": 12}).description()
    records = [
        write_record(places, run, seed, content(seconds=seconds))
        for run, seed, seconds in (
            (object_level("sigmoid_ce"), 0, 600.0),
            (TARGETS["ccp"].rows[0].run, 0, 2800.0),
            (TARGETS["ccp"].rows[0].run, 1, 3000.0),
        )
    ]
    assert expected_seconds(longer, records) == 1200.0
    assert expected_seconds(ccp, records) == 2900.0
    assert expected_seconds(other, records[:2]) == 2800.0


def test_command_line_without_runs(places, capsys):
    flags = ["--work", str(places.work), "--out", str(places.out)]
    main(["table4", "--status", *flags])
    assert "0 of   5 finished" in capsys.readouterr().out
    main(["table4", "--pages", *flags])
    assert not list(places.out.glob("*.md"))
    with pytest.raises(SystemExit, match="--ccp DIR"):
        main(["ccp", *flags, "--ccp", str(places.ccp)])
    main(["table4", "--minutes", "0", *flags])
    printed = capsys.readouterr().out
    assert "the same command goes on" in printed
    assert "0 of   5 finished" in printed
    main(["headline", "--status", "--quick", *flags])
    assert "0 of   4 finished" in capsys.readouterr().out
    for flag in ("--status", "--pages"):
        with pytest.raises(SystemExit):
            main(["cost", flag, *flags])
        assert "without --status" in capsys.readouterr().err


def test_the_cost_is_not_measured_beside_a_run(places):
    with alone_in(places.work), pytest.raises(RuntimeError, match="another program"):
        cost.write_cost(places)


def test_an_unrelated_broken_record_does_not_end_the_queue(places, programs, capsys):
    other = object_level("eqlv2")
    record_path(places, other, 0).parent.mkdir(parents=True)
    record_path(places, other, 0).write_text("{")
    command = ["table3", "--quick", "--work", str(places.work), "--out", str(places.out)]
    main(command)
    assert (places.out / "table3.md").is_file()
    assert not (places.out / "table1.md").exists()
    assert "no page of table1" in capsys.readouterr().err
    assert [path.name for path in places.work.iterdir()] == ["quick"]
    (places.out / "table3.md").unlink()
    main([*command, "--seeds", "2", "--minutes", "0"])
    assert "the same command goes on" in capsys.readouterr().out
    assert (places.out / "table3.md").is_file()


def negatives(annotations: Annotations, image: int) -> set[int]:
    return set(annotations.negative_labels[slice(*annotations.negative_offsets[image : image + 2])].tolist())


def test_openimages_format_holds_the_same_set(places):
    drawn, folder = (data_settings(name, places) for name in ("drawn", "openimages"))
    root, other = drawn["data.root"], folder["data.train_images"].parent
    for split in ("train", "val"):
        lvis = load_lvis(root / f"{split}.json", root / "images")
        ours = load_openimages(
            other / f"{split}.csv",
            other / split,
            classes_csv=other / "classes.csv",
            labels_csv=other / f"{split}_labels.csv",
        )
        assert ours.category_names == lvis.category_names
        assert sorted(ours.image_ids.tolist()) == sorted(lvis.image_ids.tolist())
        order = [ours.image_ids.tolist().index(key) for key in lvis.image_ids.tolist()]
        for here, there in enumerate(order):
            mine = slice(*ours.offsets[there : there + 2])
            theirs = slice(*lvis.offsets[here : here + 2])
            assert ours.boxes[mine] == pytest.approx(lvis.boxes[theirs], abs=1e-3)
            assert ours.labels[mine].tolist() == lvis.labels[theirs].tolist()
            assert negatives(ours, there) == negatives(lvis, here)


def test_half_made_sets_are_made_again(places, monkeypatch):
    def fails(folder, places):
        folder.mkdir(parents=True)
        (folder / "val.json").write_text("{}")
        raise KeyboardInterrupt

    made = sets._MAKERS["drawn"]
    monkeypatch.setitem(sets._MAKERS, "drawn", fails)
    with pytest.raises(KeyboardInterrupt):
        data_settings("drawn", places)
    monkeypatch.setitem(sets._MAKERS, "drawn", made)
    root = data_settings("drawn", places)["data.root"]
    assert len(json.loads((root / "val.json").read_text())["images"]) == sets.QUICK_SET["val_images"]


def test_what_depends_on_categories_is_not_shared():
    parameters = {
        "backbone": {"stem": {"kernel": 1}},
        "box_head": {"hidden": {0: {"kernel": 2}}, "classifier": {"kernel": 3}, "deltas": {"bias": 4}},
        "mask_head": {"convs": {0: {"kernel": 5}}, "weight": 6, "bias": 7},
    }
    kept = without_heads(InitialWeights(parameters, {}, {})).parameters
    assert kept == {
        "backbone": {"stem": {"kernel": 1}},
        "box_head": {"hidden": {"0": {"kernel": 2}}},
        "mask_head": {"convs": {"0": {"kernel": 5}}},
    }


@pytest.mark.slow
def test_a_figure_end_to_end(tmp_path):
    """Sets, backbone, two runs, records, page and plot; then nothing is left to do."""
    command = ["figure4", "--quick", "--work", str(tmp_path)]
    main(command)
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
    assert f"| sigmoid CE + GAP | {content['cpu_ms']['gap']:.0f} ms |" in page
