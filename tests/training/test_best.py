"""The best checkpoint: kept whatever training deletes, whole or not at all, evaluated and started from."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.data.lvis import load_coco
from rog_jax.evaluation.best_figure import figure_path, keeping_best, measured_how
from rog_jax.evaluation.evaluated_model import EvaluatedModel
from rog_jax.evaluation.figures import Protocol
from rog_jax.training import best
from rog_jax.training.best import best_folder, best_step, held, keep_if_best, read_best
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.state import TrainState
from tests.tiny import tiny_config

HOW = {"protocol": "lvis", "annotations": "val.json"}
METRICS = {
    "bbox": {"AP": 0.3, "APr": 0.1, "fixed": {"AP": 0.4}, "per_category": {1: 0.2}},
    "segm": {"AP": 0.2, "APr": float("nan")},
}


def state_of(step):
    noise = np.random.default_rng(step).standard_normal(2000)
    return TrainState(jnp.int32(step), {"a": jnp.asarray(noise, jnp.float32)}, {}, (), (), (), (), ())


def train_to(workdir, steps, keep=1):
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(state_of(step), {"step": step})
        checkpoints.wait()
    return checkpoints


def evaluate(workdir, step, value, figure="segm/AP", measured=HOW):
    with held(workdir, step) as copy:
        return keep_if_best(workdir, copy, figure, value, measured)


def assert_best_is(workdir, step):
    """Its arrays too, and there is nothing else."""
    assert best_step(workdir) == step
    folder = best_folder(workdir)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [str(step)]
    assert not list((folder / "held").iterdir())
    kept = Checkpoints(folder, read_only=True)
    assert kept.about() == {"step": step}
    np.testing.assert_array_equal(kept.restore(state_of(0)).trainable["a"], state_of(step).trainable["a"])


def test_the_best_stays_when_training_goes_on(tmp_path, caplog):
    caplog.set_level("INFO")
    values = {1: 0.2, 2: 0.4, 3: 0.4, 4: 0.3}
    for step, value in values.items():
        checkpoints = train_to(tmp_path, [step])
        assert evaluate(tmp_path, step, value) == (step < 3)
    assert checkpoints.latest() == 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
    assert_best_is(tmp_path, 2)
    record = json.loads((tmp_path / "best" / "best.json").read_text())
    assert record == {
        "schema": 1,
        "step": 2,
        "value": 0.4,
        "figure": "segm/AP",
        "measured": HOW,
        "earlier": [{"step": 1, "value": 0.2}],
    }
    assert "step 4: segm/AP 0.3000; the best is step 2: 0.4000" in caplog.text


def test_the_files_are_shared_where_they_can_be_and_copied_where_not(tmp_path, monkeypatch):
    train_to(tmp_path, [1, 2], keep=2)
    evaluate(tmp_path, 1, 0.1)
    (array,) = (
        path for path in (tmp_path / "best" / "checkpoints" / "1").rglob("manifest.ocdbt") if "process" in str(path)
    )
    assert array.stat().st_nlink == 2

    def refuse(*_):
        raise OSError(best.NO_LINKS[0], "no links here")

    monkeypatch.setattr(os, "link", refuse)
    evaluate(tmp_path, 2, 0.2)
    assert_best_is(tmp_path, 2)


def test_figures_measured_otherwise_are_not_compared(tmp_path, caplog):
    train_to(tmp_path, [1, 2], keep=2)
    assert evaluate(tmp_path, 1, 0.2)
    assert not evaluate(tmp_path, 2, 0.9, figure="segm/APr")
    assert not evaluate(tmp_path, 2, 0.9, measured=HOW | {"annotations": "ten_images.json"})
    assert "segm/APr 0.9000 is not compared with the best of" in caplog.text
    assert "did not say how (annotations)" in caplog.text
    assert_best_is(tmp_path, 1)


def test_a_checkpoint_held_outlives_its_deletion_and_leaves_nothing(tmp_path):
    checkpoints = train_to(tmp_path, [1])
    with held(tmp_path, 1) as copy:
        checkpoints.save(state_of(2), {"step": 2})
        checkpoints.wait()
        assert not (tmp_path / "checkpoints" / "1").exists()
        assert keep_if_best(tmp_path, copy, "segm/AP", 0.5, HOW)
    assert_best_is(tmp_path, 1)
    with held(tmp_path, 1) as copy:
        assert copy is None


def test_a_copy_is_whole_or_not_there_while_training_deletes(tmp_path, monkeypatch):
    """The checkpoint goes after each number of copied files; what is copied then is never taken."""
    source = tmp_path / "checkpoints" / "1"
    train_to(tmp_path, [1])
    shutil.copytree(source, tmp_path / "model")
    files = sum(path.is_file() for path in source.rglob("*"))
    inner = best._link
    assert files > 5
    for place in range(files + 1):
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        shutil.copytree(tmp_path / "model", source)
        left = [place]

        def link(a, b, left=left):
            if left[0] == 0:
                source.rename(tmp_path / "checkpoints" / "renamed")
                shutil.rmtree(tmp_path / "checkpoints" / "renamed")
            left[0] -= 1
            inner(a, b)

        monkeypatch.setattr(best, "_link", link)
        with held(tmp_path, 1) as copy:
            assert (copy is None) == (place < files)
            assert copy is None or sum(path.is_file() for path in copy.rglob("*")) == files
        assert not list((tmp_path / "best" / "held").iterdir())


def test_training_renames_before_it_deletes(tmp_path, monkeypatch):
    """What `held` relies on: nothing of a checkpoint is removed while it has its name."""
    removed = []
    inner = shutil.rmtree

    def rmtree(path, *args, **kwargs):
        removed.append((Path(path).name, sorted(p.name for p in (tmp_path / "checkpoints").iterdir())))
        inner(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    train_to(tmp_path, [1, 2])
    assert removed[-1] == ("deleted", ["2", "deleted"])
    monkeypatch.undo()
    (tmp_path / "checkpoints" / "deleted" / "1").mkdir(parents=True)  # killed before it was removed
    assert Checkpoints(tmp_path, read_only=True).latest() == 2
    assert Checkpoints(tmp_path).latest() == 2
    assert not (tmp_path / "checkpoints" / "deleted").exists()


def test_training_goes_on_while_a_checkpoint_is_removed(tmp_path, monkeypatch):
    begun, goes = threading.Event(), threading.Event()

    def rmtree(path, *args, inner=shutil.rmtree, **kwargs):
        begun.set()
        assert goes.wait(60)
        inner(path, *args, **kwargs)

    checkpoints = train_to(tmp_path, [1])
    checkpoints.save(state_of(2), {"step": 2})
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    while not begun.wait(0.01):
        checkpoints.check()
    checkpoints.check()  # as at each step
    assert (tmp_path / "checkpoints" / "deleted" / "1").exists()
    goes.set()
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


class Killed(BaseException):
    pass


def kill_at_renaming(patch, moment):
    """Raises `Killed` in place of that renaming."""
    calls = []

    def counted(inner):
        def rename(*args):
            calls.append(args)
            if len(calls) == moment + 1:
                raise Killed
            return inner(*args)

        return rename

    patch.setattr(os, "replace", counted(os.replace))
    patch.setattr(Path, "rename", counted(Path.rename))


def test_a_deleted_checkpoint_that_cannot_be_removed_yet_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    """As over NFS, where an evaluation has one of its files open."""

    def refuse(path, *args, **kwargs):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        checkpoints = train_to(tmp_path, [1, 2, 3])
        assert caplog.text.count("a deleted checkpoint cannot be removed yet") == 1
        assert checkpoints.latest() == 3
    train_to(tmp_path, [4])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


@pytest.mark.parametrize("moment", range(4))
def test_killed_in_the_change_one_whole_best_is_left(tmp_path, monkeypatch, moment):
    """The change of the best ends before each of its renamings; a reader and the next evaluation find a whole one."""
    train_to(tmp_path, [1, 2, 3], keep=3)
    evaluate(tmp_path, 1, 0.1)
    with monkeypatch.context() as patch, held(tmp_path, 2) as copy:
        kill_at_renaming(patch, moment)
        with pytest.raises(Killed) if moment < 3 else contextlib.nullcontext():
            keep_if_best(tmp_path, copy, "segm/AP", 0.2, HOW)
    step = best_step(tmp_path)
    assert step == (1 if moment < 2 else 2)
    kept = Checkpoints(best_folder(tmp_path), read_only=True)
    np.testing.assert_array_equal(kept.restore(state_of(0), step).trainable["a"], state_of(step).trainable["a"])
    evaluate(tmp_path, 3, 0.3)
    assert_best_is(tmp_path, 3)


@pytest.mark.parametrize("moment", range(4))
def test_a_step_trained_anew_replaces_the_best_or_does_not(tmp_path, monkeypatch, moment):
    """Two runs in one folder, the best of both at the same step; the change ends before each of its renamings."""
    train_to(tmp_path, [1])
    evaluate(tmp_path, 1, 0.1)
    shutil.rmtree(tmp_path / "checkpoints")
    new = state_of(2)._replace(step=jnp.int32(1))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(new, {"step": 1})
    checkpoints.wait()
    with monkeypatch.context() as patch, held(tmp_path, 1) as copy:
        kill_at_renaming(patch, moment)
        with pytest.raises(Killed) if moment < 3 else contextlib.nullcontext():
            keep_if_best(tmp_path, copy, "segm/AP", 0.2, HOW)
    assert not evaluate(tmp_path, 1, 0.05)
    assert not list(best_folder(tmp_path).glob(f"{best.REPLACED}*"))
    kept = Checkpoints(best_folder(tmp_path), read_only=True).restore(state_of(0), best_step(tmp_path))
    np.testing.assert_array_equal(kept.trainable["a"], (state_of(1) if moment < 2 else new).trainable["a"])


def test_a_record_of_another_schema_is_refused(tmp_path):
    train_to(tmp_path, [1])
    evaluate(tmp_path, 1, 0.1)
    record = best_folder(tmp_path) / "best.json"
    record.write_text(record.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(CheckpointError, match=r"best\.json has schema 2, and this program reads schema 1"):
        best_step(tmp_path)


def test_a_reader_finds_the_new_best_where_the_old_one_goes_meanwhile(tmp_path):
    train_to(tmp_path, [1, 2], keep=2)
    evaluate(tmp_path, 1, 0.1)
    steps = []

    def read(step):
        steps.append(step)
        if len(steps) == 1:
            evaluate(tmp_path, 2, 0.2)
        return Checkpoints(best_folder(tmp_path), read_only=True).about(step)

    assert read_best(best_folder(tmp_path), read) == {"step": 2}
    assert steps == [1, 2]
    with pytest.raises(CheckpointError, match="no checkpoint in"):  # nothing changes, so that it is not tried for ever
        read_best(tmp_path / "none", lambda step: Checkpoints(tmp_path / "none", read_only=True))


@pytest.mark.parametrize("nfs", [False, True])
def test_what_a_killed_evaluation_held_goes_and_what_a_running_one_holds_stays(tmp_path, monkeypatch, nfs):
    """Over NFS only files that are open for writing are locked."""

    def flock(file, operation, inner=fcntl.flock):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        inner(file, operation)

    if nfs:
        monkeypatch.setattr(fcntl, "flock", flock)
    train_to(tmp_path, [1])
    (tmp_path / "best" / "held" / "left").mkdir(parents=True)
    with held(tmp_path, 1) as first, held(tmp_path, 1) as second:
        assert first.is_dir()
        assert second.is_dir()
        assert len(list((tmp_path / "best" / "held").iterdir())) == 2


def test_evaluations_at_the_same_time_agree(tmp_path):
    steps = range(1, 9)
    train_to(tmp_path, steps, keep=8)
    with ThreadPoolExecutor(len(steps)) as threads:
        list(threads.map(lambda step: evaluate(tmp_path, step, step / 10), steps))  # raises what one of them raised
    assert_best_is(tmp_path, 8)


def test_what_another_evaluation_has_just_removed_is_none_of_ours(tmp_path, monkeypatch):
    """It goes between the look into the folder and the look at it."""
    train_to(tmp_path, [1])
    inner = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([*inner(folder), folder / "gone"]))
    with held(tmp_path, 1) as copy:
        assert copy is not None


def test_a_checkpoint_that_cannot_be_read_is_no_whole_one(tmp_path, monkeypatch):
    train_to(tmp_path, [1])
    inner = os.scandir

    def refuse(folder):
        if str(folder) == f"{tmp_path}/checkpoints/1/state":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return inner(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="checkpoints/1/state"), held(tmp_path, 1):
        pass
    assert not list((tmp_path / "best" / "held").iterdir())


LVIS = Protocol(extras=("fixed",))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", "segm/AP"),
        ("APr", "segm/APr"),
        ("ARs@300", "segm/ARs@300"),
        ("bbox/APr", "bbox/APr"),
        ("bbox/fixed/AP", "bbox/fixed/AP"),
    ],
)
def test_the_figure_is_found(name, expected):
    assert figure_path(name, LVIS, masks=True) == expected


def test_a_detector_without_masks_and_openimages_have_figures_of_boxes():
    assert figure_path("auto", LVIS, masks=False) == "bbox/AP"
    assert figure_path("auto", Protocol("openimages"), masks=True) == "bbox/AP50"
    with pytest.raises(ValueError, match="'segm/AP' is no figure"):
        figure_path("segm/AP", LVIS, masks=False)


@pytest.mark.parametrize(
    "name", ["APR", "pooled/AP", "bbox/per_category", "per_category/1", "seconds", "AP/APr", "bbox"]
)
def test_a_wrong_figure_is_refused_before_the_inference(tmp_path, data_set, name):
    config = tiny_config()
    config.test.best_figure = name
    message = f"config.test.best_figure='{name}' is no figure of this evaluation; choose auto, one of AP, AP50, "
    with pytest.raises(ValueError, match=message), keeping(config, tmp_path, 1, data_set):
        pass
    assert not (tmp_path / "best").exists()


def annotations_of(folder, images, categories):
    path = folder / f"{images}{categories}.json"
    content = {
        "images": [{"id": key, "height": 9, "width": 9, "file_name": f"{key}.jpg"} for key in images],
        "categories": [{"id": key, "name": str(key)} for key in categories],
        "annotations": [],
    }
    path.write_text(json.dumps(content))
    (folder / "1.jpg").touch()
    return load_coco(path, folder)


@pytest.fixture
def data_set(tmp_path_factory):
    return annotations_of(tmp_path_factory.mktemp("set"), [1, 2, 3], [4, 5])


@contextlib.contextmanager
def keeping(config, workdir, step, data_set):
    with keeping_best(config, workdir, EvaluatedModel(config, None, None, {"step": step}), LVIS, data_set) as keep:
        yield keep


def test_what_cannot_be_kept_is_said(tmp_path, data_set, caplog):
    train_to(tmp_path, [1])
    config = tiny_config()
    for figure, step, word in (
        ("APr", 1, "segm/APr is not defined"),
        ("AP", 5, "training has deleted this checkpoint"),
    ):
        config.test.best_figure = figure
        with keeping(config, tmp_path, step, data_set) as keep:
            keep(METRICS)
        assert word in caplog.text
    with pytest.raises(CheckpointError, match=r"best holds no best checkpoint: eval\.py keeps it"):
        best_step(tmp_path)
    config.test.best_figure = ""
    with keeping(config, tmp_path, 1, data_set) as keep:
        keep(METRICS)
    assert not (tmp_path / "best" / "best.json").exists()
    config.test.best_figure = "auto"
    with keeping(config, tmp_path, 1, data_set) as keep:
        keep(METRICS)
    record = json.loads((tmp_path / "best" / "best.json").read_text())
    assert record["measured"] == measured_how(config, LVIS, data_set)  # as json, to be compared with the next one's
    assert (record["figure"], record["value"]) == ("segm/AP", 0.2)


def test_what_changes_a_figure_is_in_how_it_was_measured(tmp_path, data_set):
    config = tiny_config()
    config.data.val_json = "sets/val.json"
    how = measured_how(config, LVIS, data_set)
    settings = {
        "data.val_json": ("here/val.json", True),  # on another machine
        "test.pictures": (3, True),
        "data.test_short_side": (32, False),
        "data.max_long_side": (32, False),
        "data.shapes": (((32, 32),), False),
        "data.openimages.hierarchy_json": ("other.json", False),
        "test.nms_iou": (0.3, False),
        "rpn.test_proposals": (7, False),
        "roi.sampling_ratio": (5, False),
    }
    for name, (value, same) in settings.items():
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({name: value})
        assert (measured_how(other, LVIS, data_set) == how) == same, name
    for others in (annotations_of(tmp_path, [1, 2, 4], [4, 5]), annotations_of(tmp_path, [1, 2, 3], [4, 6])):
        assert measured_how(config, LVIS, others) != how
    config.data.source = "tfds:lvis"
    how = measured_how(config, LVIS, data_set)
    config.data.val_split = "validation[:10]"
    assert measured_how(config, LVIS, data_set) != how
