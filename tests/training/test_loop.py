"""Whole runs on a data set of a few images: resume, logs, evaluation, and errors before anything is lost."""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.data import DataError, load_split
from rog_jax.evaluation.run import evaluate_results, evaluate_run
from rog_jax.tools.trace_file import read_trace
from rog_jax.training.checkpoint import CheckpointError, Checkpoints, flattened
from rog_jax.training.log import NonFiniteLoss
from rog_jax.training.loop import git_commit, train
from rog_jax.training.out_of_memory import TRAINING_ADVICE, OutOfMemory, advice_where_memory_ends
from rog_jax.training.preemption import Preemption
from rog_jax.training.profile import ProfileRequest
from rog_jax.training.storage import StorageError
from tests import faults
from tests.run_logs import read_log, without_timings
from tests.tiny import config_of_a_set


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The tiny detector on a procedural set with two padded shapes."""
    config, paths = config_of_a_set(tmp_path_factory.mktemp("set"))
    config.train.gradient_sums = True
    _turn_some_wide(paths["train_json"])
    return config


def _turn_some_wide(path):
    """Says of half of the images that they are wide, so that batches of both shapes occur; the files follow."""
    import cv2

    data = json.loads(path.read_text())
    for image in data["images"][::2]:
        file = path.parent / "images" / image["file_name"].rpartition("/")[2]
        cv2.imwrite(str(file), cv2.copyMakeBorder(cv2.imread(str(file)), 0, 0, 0, 30, cv2.BORDER_REFLECT))
        image["width"] += 30
    path.write_text(json.dumps(data))


class Mirrored:
    """Keeps what a run sends beyond TensorBoard."""

    def __init__(self):
        self.steps, self.closed = [], False

    def scalars(self, step, values):
        self.steps.append(step)

    def picture(self, step, name, pixels):
        self.steps.append(step)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def mirrored():
    return Mirrored()


@pytest.fixture(scope="module")
def finished(config, mirrored, tmp_path_factory):
    """A whole run, one step of it traced: its folder and its final state."""
    workdir = tmp_path_factory.mktemp("whole")
    profile = ProfileRequest(workdir / "trace", first=4, steps=1)
    return workdir, jax.device_get(train(config, workdir, profile, open_mirror=lambda: mirrored))


def test_the_step_asked_for_is_traced(finished):
    trace = read_trace(finished[0] / "trace")
    assert (trace.steps, len(trace.waits), trace.devices) == (1, 1, jax.device_count())
    assert len(trace.operations) > 100 * trace.devices


def test_a_mirror_gets_every_line_and_is_closed(finished, mirrored):
    assert set(mirrored.steps) >= {line["step"] for line in read_log(finished[0])}
    assert mirrored.closed


def test_resumed_equals_uninterrupted_bit_for_bit(config, finished, tmp_path, monkeypatch):
    workdir, whole = finished
    import rog_jax.training.loop as loop

    class PowerCut(Exception):
        pass

    inner = loop.to_devices
    calls = []

    def cut(batch, mesh):
        calls.append(batch.index.tolist())
        if len(calls) == 6:  # after the checkpoint of step 3 and in the midst of step 5
            raise PowerCut
        return inner(batch, mesh)

    monkeypatch.setattr(loop, "to_devices", cut)
    with pytest.raises(PowerCut):
        train(config, tmp_path)
    before = list(calls)
    resumed = jax.device_get(train(config, tmp_path))
    assert calls[6:8] == before[3:5]  # the data goes on where the checkpoint stood
    assert_same(whole, resumed)
    lines, again = read_log(workdir), read_log(tmp_path)
    assert [line["step"] for line in again] == [2, 4, 6]
    for line, other in zip(lines, again, strict=True):  # the mean of steps 3 and 4 is over both starts
        assert without_timings(line) == without_timings(other)


def test_steps_go_on_while_a_checkpoint_is_being_written(config, finished, tmp_path, monkeypatch):
    """That of step 3 gets its name once a later step has begun. SIGTERM while the last is written ends nothing."""
    from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

    import rog_jax.training.loop as loop

    inner, name_it = loop.to_devices, AtomicRenameTemporaryPath.finalize
    calls, named, later = [], [], threading.Event()

    def count(batch, mesh):
        calls.append(batch)
        if len(calls) == 6:  # put on the devices before step 5, after step 4
            later.set()
        return inner(batch, mesh)

    async def wait_and_name(self, *args, **kwargs):
        assert await asyncio.to_thread(later.wait, 60), "the steps wait for the checkpoint"
        named.append(len(calls))
        return await name_it(self, *args, **kwargs)

    def close(self, inner=Checkpoints.close):
        os.kill(os.getpid(), signal.SIGTERM)
        inner(self)

    monkeypatch.setattr(Checkpoints, "close", close)
    monkeypatch.setattr(loop, "to_devices", count)
    monkeypatch.setattr(AtomicRenameTemporaryPath, "finalize", wait_and_name)
    assert_same(finished[1], jax.device_get(train(config, tmp_path)))
    assert named
    assert min(named) >= 6
    assert Checkpoints(tmp_path, read_only=True).latest() == 6


def test_a_run_whose_checkpoint_cannot_be_written_goes_on_once_it_can(config, finished, tmp_path):
    with contextlib.ExitStack() as stack:
        inner = Checkpoints.save

        def save(self, state, *more):
            if state.step == 6:
                self.wait()
                stack.enter_context(faults.files_limited(150_000))  # less than the arrays of a checkpoint
            inner(self, state, *more)

        stack.enter_context(pytest.MonkeyPatch.context()).setattr(Checkpoints, "save", save)
        with pytest.raises(StorageError, match=r"/checkpoints.* cannot be written .*goes on from the newest"):
            train(config, tmp_path)
    assert Checkpoints(tmp_path, read_only=True).latest() == 3
    assert_same(finished[1], jax.device_get(train(config, tmp_path)))
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6]


def assert_same(whole, resumed):
    assert int(resumed.step) == int(whole.step) == 6
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(whole)[0], jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def test_a_second_stage_starts_from_a_run_and_trains_its_parts(config, finished, tmp_path):
    """LOCE: a feature memory filled beforehand, heads trained, everything else as the first stage left it."""
    workdir, whole = finished
    second = config.copy_and_resolve_references()
    second.init_from = str(workdir)
    second.loss.classification, second.loss.ranking = "loce", "none"
    second.loss.memory.update({"slots": 40, "objects": 2})
    second.train.steps = 2
    with pytest.raises(CheckpointError, match=r"mask_head/weight in .* is that of a conv layer.*mask_predictor=conv"):
        train(second, tmp_path / "refused")
    second.roi.mask_predictor = "conv"  # the first stage's
    state = jax.device_get(train(second, tmp_path))
    after, before = (flattened([tree.trainable, tree.fixed]) for tree in (state, whole))
    before = {path.partition("/")[2]: array for path, array in before.items()}
    changed = {
        path.partition("/")[2] for path, array in after.items() if (array != before[path.partition("/")[2]]).any()
    }
    assert {path.split("/")[0] for path in changed} == {"rpn", "box_head", "mask_head"}
    assert not any("fc1" in path or "fc2" in path for path in changed)
    assert set(flattened(state.fixed)) > {"backbone/stem/conv/kernel", "fpn/outputs/0/conv/kernel"}
    # 40 images with 2 objects each before the first step, 16 boxes around each, and 2 steps of 8 images.
    stored = state.features.filled
    assert stored.shape == (jax.device_count(), 6)
    assert stored.max() <= 40
    assert stored.sum() >= 40 * 6
    assert (state.loss[:-1] != np.float32(0.01)).any()


def test_log_and_config_are_written(finished):
    workdir, _ = finished
    lines = read_log(workdir)
    assert [line["step"] for line in lines] == [2, 4, 6]
    wanted = {
        "loss",
        "rpn_cls",
        "rpn_box",
        "cls",
        "gap",
        "box",
        "mask",
        "lr",
        "images_per_second",
        "data_wait",
        "positives",
    }
    assert wanted <= lines[0].keys()
    about = json.loads((workdir / "config.json").read_text())
    assert about["config"]["model"]["num_classes"] == 6
    assert about["steps"] == lines[-1]["step"]
    assert list(workdir.glob("tensorboard/*"))


def test_nothing_compiles_after_the_first_step_of_each_shape(config, tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        train(config, tmp_path)
    compiled = [record.getMessage() for record in caplog.records if "Compiling jit(" in record.getMessage()]
    steps = [place for place, message in enumerate(compiled) if "jit(update)" in message]
    shapes = {shape for place in steps for shape in ("64,64,3", "64,96,3") if shape in compiled[place]}
    assert len(steps) == len(shapes) == 2
    assert steps[1] == steps[0] + 1  # nothing else is compiled between the first steps of the two shapes,
    assert steps[1] == len(compiled) - 1  # nor after them


def test_evaluation_writes_everything(config, finished):
    workdir, state = finished
    plain = config.copy_and_resolve_references()
    plain.train.gradient_sums = False  # the run's own setting counts
    metrics = evaluate_run(plain, workdir)
    folder = workdir / "eval"
    sums = list(json.loads((folder / "diagnosis.json").read_text())["gradient_sums"].values())
    np.testing.assert_allclose(sums, state.gradients.T, rtol=1e-6)
    assert state.gradients[1].min() > 0
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "per_category"} <= metrics["segm"].keys()
    for name in ("results_bbox.json", "results_segm.json", "metrics.json", "per_class.csv"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "pictures").iterdir())) >= config.test.pictures
    report = (folder / "report.html").read_text()
    assert "Norms of the classifier" in report
    assert "How hard training pulled each category" in report
    assert "Most objects lost" in report
    records = json.loads((folder / "results_bbox.json").read_text())
    assert records
    per_image = np.unique([record["image_id"] for record in records], return_counts=True)[1]
    assert per_image.max() <= config.test.max_detections
    assert min(record["score"] for record in records) > config.test.score_threshold
    best = json.loads((workdir / "best" / "best.json").read_text())
    assert (best["step"], best["figure"], best["value"]) == (6, "segm/AP", metrics["segm"]["AP"])
    assert best["measured"]["test"]["max_detections"] == config.test.max_detections
    again = evaluate_results(config, folder / "results_bbox.json", workdir / "again")
    assert again["bbox"]["AP"] == metrics["bbox"]["AP"] or np.isnan(again["bbox"]["AP"])


def test_checkpoint_of_another_model_is_refused(config, finished):
    workdir, _ = finished
    other = config.copy_and_resolve_references()
    other.roi.hidden = 24
    with pytest.raises(CheckpointError, match=r"(?s)box_head/classifier/kernel.*another --workdir"):
        train(other, workdir, open_mirror=lambda: pytest.fail("a mirror was opened for a run that is refused"))
    with pytest.raises(CheckpointError, match="box_head"):
        evaluate_run(other, workdir)


def test_missing_checkpoints_are_named(config, finished, tmp_path):
    with pytest.raises(CheckpointError, match="train first"):
        evaluate_run(config, tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"step 4; found: 3, 6"):
        evaluate_run(config, finished[0], step=4)


def test_wrong_data_is_refused(config, finished, tmp_path):
    wrong = config.copy_and_resolve_references()
    wrong.model.num_classes = 5
    with pytest.raises(DataError, match="6"):
        train(wrong, tmp_path)
    wrong = config.copy_and_resolve_references()
    wrong.data.train_json = str(tmp_path / "none.json")
    with pytest.raises((DataError, FileNotFoundError), match=r"none\.json"):
        train(wrong, tmp_path)
    data = json.loads(Path(config.data.val_json).read_text())
    data["categories"][0]["id"] = 99
    for annotation in data["annotations"]:
        annotation["category_id"] = {1: 99}.get(annotation["category_id"], annotation["category_id"])
    for image in data["images"]:
        image["neg_category_ids"] = [{1: 99}.get(x, x) for x in image["neg_category_ids"]]
    (tmp_path / "val.json").write_text(json.dumps(data))
    wrong = config.copy_and_resolve_references()
    wrong.data.val_json = str(tmp_path / "val.json")
    with pytest.raises(DataError, match="categories"):
        evaluate_run(wrong, finished[0])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loss.gap.variant", "papre", "config.loss.gap.variant='papre'"),
        ("train.batch_size", 12, "multiple"),
        ("data.shapes", ((64, 65), (64, 96)), "multiples of 32"),
        ("model.norm", "batch", "config.model.norm"),
        ("loss.classification", "focal", "focal"),
        ("model.depth", 19, "config.model.depth=19"),
    ],
)
def test_wrong_settings_are_named(config, tmp_path, path, value, message):
    wrong = config.copy_and_resolve_references()
    with wrong.unlocked():
        wrong.update_from_flattened_dict({path: value})
    with pytest.raises(ValueError, match=message):
        train(wrong, tmp_path)


def test_misspelt_key_is_refused(config):
    with pytest.raises((KeyError, AttributeError), match="learning_rte"):
        config.copy_and_resolve_references().lock().optim.learning_rte = 1.0


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_steps_that_are_not_finite_are_skipped_as_often_as_allowed(config, tmp_path, monkeypatch, allowed):
    """Boxes of the second and the third batch are NaN."""
    import rog_jax.training.loop as loop

    patient = config.copy_and_resolve_references()
    patient.train.max_skipped_steps = allowed
    inner, calls = loop.to_devices, []

    def spoil(batch, mesh):
        calls.append(batch.index)
        return inner(batch._replace(boxes=batch.boxes * np.nan) if len(calls) in (2, 3) else batch, mesh)

    monkeypatch.setattr(loop, "to_devices", spoil)
    patient.train.checkpoint_every = patient.train.log_every = 1
    patient.train.keep_checkpoints = 6
    if allowed < 2:
        with pytest.raises(NonFiniteLoss) as caught:
            train(patient, tmp_path)
        ids = load_split(patient.data, "train").image_ids[calls[1 + allowed]].tolist()
        assert re.search(rf"step {2 + allowed}: .*\bbox\b.* not finite; image ids of this host: ", str(caught.value))
        assert f"{ids}. Such steps so far: {allowed + 1}, allowed by train.max_skipped_steps: {allowed}" in str(
            caught.value
        )
        return
    state = train(patient, tmp_path)
    counts = [leaf for leaf in jax.tree.leaves(state.optimizer) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counts
    assert all(count == 6 for count in counts)  # the rate applied is that of the step, as in the log
    states = [flattened(Checkpoints(tmp_path, read_only=True).parameters(step)) for step in (1, 3, 4)]
    for path, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][path], err_msg=path)
    assert any((array != states[2][path]).any() for path, array in states[0].items())
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert ["loss" in line for line in lines] == [True, False, False, True, True, True]
    assert [line["skipped_steps"] for line in lines] == [0, 1, 2, 2, 2, 2]


def test_memory_that_ends_says_which_settings_help():
    message = r"(?s)Out of memory allocating 9 bytes.*train\.batch_size"
    with pytest.raises(OutOfMemory, match=message), advice_where_memory_ends(TRAINING_ADVICE):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nA long list")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), advice_where_memory_ends(TRAINING_ADVICE):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_dead_loader_process_and_unreadable_images_are_in_the_log(config, tmp_path, monkeypatch):
    import rog_jax.training.loop as loop

    other = config.copy_and_resolve_references()
    other.data.workers = 1
    data = json.loads(Path(config.data.train_json).read_text())
    for image in data["images"][3:13]:
        image["file_name"] = f"gone/{image['file_name']}"
    path = Path(config.data.train_json).with_name("some_gone.json")
    path.write_text(json.dumps(data))
    other.data.train_json = str(path)
    inner, calls, before = loop.to_devices, [], set(multiprocessing.active_children())

    def kill_once(batch, mesh):
        calls.append(batch)
        if len(calls) == 1:
            (worker,) = set(multiprocessing.active_children()) - before
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        return inner(batch, mesh)

    monkeypatch.setattr(loop, "to_devices", kill_once)
    train(other, tmp_path)
    lines = read_log(tmp_path)
    unreadable = sum(int((batch.index < 0).sum()) for batch in calls)
    assert unreadable > 0
    assert (lines[-1]["loader_restarts"], lines[-1]["unreadable_images"]) == (1, unreadable)


def test_a_run_told_to_end_saves_and_draws_nothing(config, tmp_path, monkeypatch):
    """Watchers may take longer than a machine has that is about to be taken away."""
    seen = []
    monkeypatch.setattr(Preemption, "reached", lambda self, step: step == 4)
    state = train(config, tmp_path, watchers=[lambda run: seen.append(run.step)])
    assert int(state.step) == Checkpoints(tmp_path, read_only=True).latest() == 4
    assert seen == [3]


def test_a_run_whose_log_cannot_be_opened_ends_its_loader(config, tmp_path, monkeypatch):
    import rog_jax.training.loop as loop

    closed, inner = [], loop.train_loader

    def watched(*args, **kwargs):
        loader = inner(*args, **kwargs)
        monkeypatch.setattr(loader, "close", lambda close=loader.close: closed.append(close()))
        return loader

    def refuse(*args, **kwargs):
        raise StorageError(28, "no room for a log")

    monkeypatch.setattr(loop, "train_loader", watched)
    monkeypatch.setattr(loop, "RunLog", refuse)
    with pytest.raises(StorageError, match="no room for a log"):
        train(config, tmp_path)
    assert len(closed) == 1


def test_commit_is_marked_where_what_runs_has_changed(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) is None
    code, page = tmp_path / "code.py", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    git("init")
    for file in (code, page):
        file.write_text("first")
    git("add", "-A")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert git_commit(tmp_path) == commit
    page.write_text("second")
    assert git_commit(tmp_path) == commit
    code.write_text("second")
    assert git_commit(tmp_path) == f"{commit}+"
