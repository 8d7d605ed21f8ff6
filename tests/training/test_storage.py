"""A disk that is full, read-only, forbidden or in the way: the error says what to do, and nothing written is lost."""

import contextlib
import errno
import json
import os
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.evaluation.results import ResultWriter
from rog_jax.evaluation.run import evaluate_results, evaluate_run
from rog_jax.training import loop, profile
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.log import RunLog
from rog_jax.training.profile import ProfileRequest, StepProfiler
from rog_jax.training.state import TrainState
from rog_jax.training.storage import (
    REMEDIES,
    StorageError,
    check_room,
    check_writable,
    only_writer,
    own_partial,
    whole_file,
    writing,
)
from rog_jax.training.tensorboard import Board
from tests import faults
from tests.tiny import tiny_config

LIMIT = 150_000  # bytes: less than the arrays of a checkpoint, more than a log
PROFILER = "RESOURCE_EXHAUSTED: trace/plugins/profile/vm.xplane.pb; No space left on device"
TENSORSTORE = "RESOURCE_EXHAUSTED: Failed to write 9 bytes to file 7: No space left on device [os_error_code='28']"


def state_of(step, floats=80_000):
    noise = np.random.default_rng(step).standard_normal(floats)  # does not compress
    return TrainState(jnp.int32(step), {"a": jnp.asarray(noise, jnp.float32)}, {}, (), (), (), (), ())


@pytest.mark.parametrize("number", REMEDIES)
def test_every_fault_names_path_and_remedy(number):
    with pytest.raises(StorageError, match="runs/r50 cannot be written") as raised, writing("runs/r50"):
        raise OSError(number, "said by the system")
    assert REMEDIES[number] in str(raised.value)
    assert (raised.value.errno, raised.value.__cause__.errno) == (number, number)


def test_what_the_writers_of_arrays_and_traces_say_is_understood_and_other_errors_pass():
    for error in (ValueError(TENSORSTORE), jax.errors.JaxRuntimeError(PROFILER)):
        with pytest.raises(StorageError, match="the disk is full"), writing("runs/r50"):
            raise error
    for other in (ValueError("os error 28"), OSError(errno.ETIMEDOUT, "slow"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as raised, writing("runs/r50"):
            raise other
        assert raised.value is other


@contextlib.contextmanager
def _folder_and_fault(kind):
    """A folder, what happens to it, as a context to enter, and a word of the remedy."""
    if kind in ("full", "read-only"):
        with faults.small_disk("1200k") as disk:
            yield disk, lambda: faults.full(disk, LIMIT) if kind == "full" else faults.read_only(disk), kind
        return
    with faults.open_folder() as folder:
        others = {
            "limited": (lambda: faults.files_limited(LIMIT), "ulimit"),
            "nothing-allowed": (lambda: faults.files_limited(0), "ulimit"),
            "forbidden": (lambda: faults.forbidden(folder / "checkpoints"), "may not write"),
            "in-the-way": (lambda: faults.file_in_place_of(folder / "checkpoints"), "a file is where a folder"),
        }
        yield folder, *others[kind]


def save_and_go_on(checkpoints, state):
    """What a run does until it knows of the fault: it looks after each step."""
    checkpoints.save(state, {})
    end = time.monotonic() + 60
    while time.monotonic() < end:
        checkpoints.check()


KINDS = ("full", "read-only", "limited", "nothing-allowed", "forbidden", "in-the-way")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_cannot_be_written_is_told_and_the_one_before_stays(kind):
    """Orbax writes in threads of its own; one checkpoint is kept, so that the old one would be next to go."""
    with _folder_and_fault(kind) as (folder, fault, word):
        checkpoints = Checkpoints(folder, keep=1)
        checkpoints.save(state_of(1), {"of": "one"})
        checkpoints.wait()
        with fault():
            message = rf"{folder}/checkpoints.* cannot be written .*{word}.*goes on from the newest checkpoint"
            with pytest.raises(StorageError, match=message):
                save_and_go_on(checkpoints, state_of(2))
            with contextlib.suppress(StorageError):  # a second thing that could not be written
                checkpoints.close()
        again = Checkpoints(folder, keep=1)
        assert again.latest() == 1
        assert again.about() == {"of": "one"}
        for a, b in zip(jax.tree.leaves(again.restore(state_of(0))), jax.tree.leaves(state_of(1)), strict=True):
            np.testing.assert_array_equal(a, b)
        again.save(state_of(2), {"of": "two"})
        again.close()
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["2"]  # nor half of anything


def test_the_checkpoint_before_stays_until_the_next_is_there(tmp_path, monkeypatch):
    """An error between the arrays and the name that makes them a checkpoint."""
    from orbax.checkpoint._src.path import atomicity

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state_of(1), {})
    checkpoints.wait()

    async def fail(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", fail)
        checkpoints.save(state_of(2), {})
        with pytest.raises(StorageError, match="the disk is full"):
            checkpoints.close()
    assert Checkpoints(tmp_path).latest() == 1


def test_a_folder_is_tried_before_it_is_needed(tmp_path):
    check_writable(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match=rf"{folder} cannot be written .*a file is where a folder has to be"):
            check_writable(folder)
    with (
        faults.open_folder() as folder,
        faults.forbidden(folder),
        pytest.raises(StorageError, match=rf"{folder}/run cannot be written .*may not write there"),
    ):
        check_writable(folder / "run")
    with faults.files_limited(0), pytest.raises(StorageError, match="ulimit"):
        check_writable(tmp_path)


def test_room_for_checkpoints_is_looked_at(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 25_000_000}))
    with caplog.at_level("WARNING"):
        check_room(tmp_path, 10_000_000, 2)
    assert not caplog.text
    with caplog.at_level("WARNING"):
        check_room(tmp_path, 10_000_000, 3)
    assert "25.0 MB are free, and the 3 more checkpoints" in caplog.text
    with pytest.raises(StorageError, match=r"a checkpoint takes 30\.0 MB and 25\.0 MB are free: the disk is full"):
        check_room(tmp_path, 30_000_000, 1)


def test_a_whole_file_or_none(tmp_path):
    path = tmp_path / "folder" / "file.json"
    with whole_file(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    message = rf"{path} cannot be written .*ulimit"
    with pytest.raises(StorageError, match=message), faults.files_limited(10), whole_file(path) as partial:
        partial.write_text("second, and longer")
    assert [file.read_text() for file in path.parent.iterdir()] == ["first"]


def test_two_that_write_one_file_at_once_do_not_meet(tmp_path):
    path = tmp_path / "metrics.json"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["first"]


def test_two_that_write_one_shard_at_once_do_not_meet(tmp_path):
    with ResultWriter(tmp_path, "bbox") as first:
        first.write(iter([{"image_id": 1}]))
        with ResultWriter(tmp_path, "bbox") as second:
            second.write(iter([{"image_id": 2}]))
    (shard,) = tmp_path.iterdir()
    assert shard.read_text() == '{"image_id":1}\n'


def test_one_evaluation_at_a_time_writes_into_a_folder(tmp_path):
    with only_writer(tmp_path / "eval"):
        taken = pytest.raises(StorageError, match=r"another program writes into .*eval: wait until it has ended")
        with taken, only_writer(tmp_path / "eval"):
            pass
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "eval"):
        pass


def test_long_names_have_room_for_what_is_partial(tmp_path):
    long = tmp_path / ("ö" * 120 + ".jpg.jpg")  # 248 of 255 bytes
    with whole_file(long) as partial:
        partial.touch()
    assert [path.name for path in tmp_path.iterdir()] == [long.name]


def test_what_killed_processes_have_not_finished_goes_when_it_is_old(tmp_path):
    old, young, another = own_partial(tmp_path / "a"), own_partial(tmp_path / "a"), tmp_path / "model.partial"
    for path in (old, young, another):
        path.touch()
    for path in (old, another):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    with whole_file(tmp_path / "b.json") as partial:
        partial.touch()
    assert sorted(tmp_path.iterdir()) == sorted([young, another, tmp_path / "b.json"])


def test_results_that_do_not_fit_leave_the_old_ones(tmp_path):
    (tmp_path / "results_bbox.json").write_text("[]")
    message = r"results_bbox\.shard.* cannot be written .*ulimit"
    with (
        pytest.raises(StorageError, match=message),
        faults.files_limited(5000),
        ResultWriter(tmp_path, "bbox") as writer,
    ):
        writer.write({"image_id": number} for number in range(1000))
    assert [file.name for file in tmp_path.iterdir()] == ["results_bbox.json"]


def test_a_full_disk_ends_a_log_and_does_not_stop_the_program():
    with faults.small_disk("300k") as disk:
        log = RunLog(disk, start=0, total=40, every=1, batch_size=8, active=True)
        metrics = {"finite": 1.0, "lr": 0.1, "loss": 2.0}
        log.add(1, metrics, {})

        def go_on():
            for step in range(2, 40):  # what is left of the last block takes some lines
                log.add(step, metrics, {})

        with faults.full(disk), pytest.raises(StorageError, match=rf"{disk}/\S+ cannot be written .*disk is full"):
            go_on()
        with contextlib.suppress(StorageError):
            log.close()
        again = RunLog(disk, start=1, total=40, every=1, batch_size=8, active=True)
        again.add(2, metrics, {})
        again.close()
        lines = (disk / "train_log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]


def events_in(folder):
    """What is written in TensorBoard's files: records of a length, its checksum, the bytes, and theirs."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        event.ClearField("wall_time")
        found.append(event)
        data = data[12 + length + 4 :]
    return found


def test_the_board_has_what_tensorboards_own_writer_has(tmp_path):
    scalars = {"train/loss": 1.5, "train/lr": 0.25}
    board = Board(tmp_path / "ours", purge_step=4)
    board.write(7, scalars)
    ours = events_in(tmp_path / "ours")  # on disk before it is closed
    board.close()
    with SummaryWriter(str(tmp_path / "theirs"), purge_step=4) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, 7)
    theirs = events_in(tmp_path / "theirs")
    assert ours == theirs
    assert len(ours) == 5


def test_a_trace_that_does_not_fit_is_told_once(tmp_path, monkeypatch):
    def fail():
        raise jax.errors.JaxRuntimeError(PROFILER)

    monkeypatch.setattr(profile, "start_trace", lambda folder: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    profiler = StepProfiler(ProfileRequest(tmp_path / "trace", first=1, steps=1))
    profiler.after_step(())
    profiler.before_step(())
    with pytest.raises(StorageError, match=rf"{tmp_path}/trace cannot be written .*the disk is full"):
        profiler.after_step(())
    profiler.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    settings = SyntheticSettings(
        train_images=16, val_images=8, num_categories=6, height=64, width=64, object_size=(16, 32), val_instances=3
    )
    paths = make_dataset(tmp_path_factory.mktemp("set"), settings)
    config = tiny_config()
    config.model.num_classes = 0
    config.data.train_json, config.data.val_json = str(paths["train_json"]), str(paths["val_json"])
    config.data.train_images = config.data.val_images = str(paths["images"])
    return config


def test_folders_are_looked_at_before_data(config, tmp_path):
    """The annotations are missing too, and that would be said next."""
    empty = config.copy_and_resolve_references()
    empty.data.train_json = empty.data.val_json = str(tmp_path / "none.json")
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval").touch()
    for use in (
        lambda: loop.train(empty, tmp_path / "file"),
        lambda: loop.train(empty, tmp_path / "new", ProfileRequest(tmp_path / "file")),
        lambda: evaluate_run(empty, tmp_path / "run"),
        lambda: evaluate_results(empty, tmp_path / "none.json", tmp_path / "run"),
    ):
        with pytest.raises(StorageError, match="a file is where a folder has to be"):
            use()


def test_a_run_without_room_for_a_checkpoint_does_not_begin(config):
    with faults.small_disk("100k") as disk, pytest.raises(StorageError, match=r"a checkpoint takes .* MB and 0\.\d MB"):
        loop.train(config, disk)
