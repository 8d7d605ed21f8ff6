"""Several hosts, each with devices of its own, do what one host with all of the devices does."""

import json
import os
import re
import signal
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from pycocotools import mask as mask_utils

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.training.checkpoint import AS_NUMPY, flattened
from tests import faults
from tests.hosts import processes
from tests.run_logs import read_log

DEVICES = 4
ROUNDING = 1e-4
"""Of an array's largest value, by which sums of many terms that cancel may differ in another order."""
TELLING = "tests/hosts/train_and_tell.py"
SETTINGS = SyntheticSettings(
    train_images=40, val_images=13, num_categories=6, height=64, width=64, object_size=(16, 32), val_instances=3
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of a procedural set, with the names that `tiny_run.py` expects."""
    folder = tmp_path_factory.mktemp("set")
    paths = make_dataset(folder, SETTINGS)
    for split in ("train", "val"):
        paths[f"{split}_json"].replace(folder / f"{split}.json")
    _add_noise(paths["images"])
    return folder


def _add_noise(pictures: Path) -> None:
    """Even areas give activations that are zero but for rounding: it alone says whether they pass a gradient."""
    rng = np.random.default_rng(0)
    for path in pictures.iterdir():
        picture = cv2.imread(str(path))
        noisy = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), noisy, [cv2.IMWRITE_JPEG_QUALITY, 100])


def arguments(data: Path, workdir: Path, *overrides: str) -> list[str]:
    return [f"--config=tests/hosts/tiny_run.py:{data}", f"--workdir={workdir}", *overrides]


def saved(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, that of the losses' memory included."""
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: AS_NUMPY, tree)
        return flattened(checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)))


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Folder of a run of one process with all devices, evaluated."""
    workdir = tmp_path_factory.mktemp("alone")
    processes.run("train.py", arguments(data, workdir), 1, DEVICES)
    processes.run("eval.py", arguments(data, workdir), 1, DEVICES)
    return workdir


@pytest.mark.parametrize(
    ("hosts", "slurm", "tolerance"),
    [(2, False, 0.0), pytest.param(4, True, ROUNDING, marks=pytest.mark.slow)],
    ids=["two", "four-of-Slurm"],
)
def test_hosts_train_and_evaluate_as_one_does(hosts, slurm, tolerance, data, alone, tmp_path):
    """Each host has two devices, so that four have more than the one alone, whose sums round otherwise."""
    processes.run(TELLING, arguments(data, tmp_path), hosts, 2 * hosts, slurm=slurm)
    assert_alike_everywhere(tmp_path, hosts, 2 * hosts, steps=4)
    lines, expected = read_log(tmp_path), read_log(alone)
    assert [line["step"] for line in lines] == [line["step"] for line in expected] == [1, 2, 3, 4]
    # Sums over devices are rounded in another order. A few steps on, some proposal falls on the other side of a
    # threshold by that, and the runs part, as two runs of one program on a GPU do.
    for line, other, tolerance in zip(lines, expected, (1e-5, 1e-4, 0.1, 0.1), strict=True):
        for name in ("loss", "cls", "gap", "rpn_cls", "box", "mask", "gradient_norm"):
            assert line[name] == pytest.approx(other[name], rel=tolerance), (line["step"], name)
    arrays, wanted = saved(tmp_path, 1), saved(alone, 1)
    assert arrays.keys() == wanted.keys()
    assert wanted["class_counts"].sum() == expected[0]["positives"] > 0
    assert wanted["loss/pos_grad"].any()
    for path, array in arrays.items():
        if np.issubdtype(array.dtype, np.integer):
            np.testing.assert_array_equal(array, wanted[path], err_msg=path)
        else:
            atol = max(1e-7, tolerance * np.abs(wanted[path]).max())
            np.testing.assert_allclose(array, wanted[path], rtol=1e-5, atol=atol, err_msg=path)

    shards = with_checkpoints_of(alone, tmp_path / "evaluated")  # of the same checkpoint, so as to be comparable
    outputs = processes.run("eval.py", arguments(data, shards), hosts, 2 * hosts, slurm=slurm)
    assert ["metrics.json" in output for output in outputs] == [True] + [False] * (hosts - 1)
    for kind in ("bbox", "segm"):
        name = f"eval/results_{kind}.json"
        found, wanted = records_of(shards / name), records_of(alone / name)
        assert len(found) == len(wanted) > 50
        for record, other in zip(found, wanted, strict=True):  # the last digit depends on an image's place in the batch
            assert record[:2] == other[:2]
            np.testing.assert_allclose(record[2:], other[2:], rtol=1e-4, atol=2e-2)
    figures = [json.loads((workdir / "eval" / "metrics.json").read_text()) for workdir in (shards, alone)]
    for kind in ("bbox", "segm"):
        assert figures[0][kind]["AP"] == pytest.approx(figures[1][kind]["AP"], abs=1e-6, nan_ok=True)
    assert not list(shards.glob("eval/*shard*"))
    assert json.loads((shards / "best" / "best.json").read_text())["step"] == 4
    kept, wanted = saved(shards / "best", 4), saved(alone, 4)
    assert kept.keys() == wanted.keys()
    assert all(np.array_equal(array, wanted[path]) for path, array in kept.items())


def assert_alike_everywhere(workdir: Path, hosts: int, devices: int, steps: int) -> None:
    """Parameters, optimizer, counts and the losses' states are those of the others, on every device of every host."""
    digests: dict[tuple[str, str], dict[str, str]] = {}
    for host in range(hosts):
        for line in (workdir / f"digests.{host}").read_text().splitlines():
            step, path, device, digest = line.split()
            digests.setdefault((step, path), {})[device] = digest
    assert len({step for step, _ in digests}) == steps
    assert {path.partition("/")[0] for _, path in digests} >= {"trainable", "optimizer", "class_counts"}
    for place, of_devices in digests.items():
        assert len(of_devices) == devices, place
        assert len(set(of_devices.values())) == 1, (place, of_devices)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["seesaw", "gol", "ecm"])
def test_states_of_other_losses_are_alike_on_all_hosts(loss, data, tmp_path):
    """The fast test does so for EQLv2."""
    more = f"--config.loss.classification={loss}"
    processes.run(TELLING, arguments(data, tmp_path / "two", more), 2, DEVICES)
    assert_alike_everywhere(tmp_path / "two", 2, DEVICES, steps=4)
    processes.run("train.py", arguments(data, tmp_path / "one", more), 1, DEVICES)
    arrays, wanted = saved(tmp_path / "two", 1), saved(tmp_path / "one", 1)
    assert arrays.keys() == wanted.keys()
    assert (loss == "seesaw") == any(path.startswith("loss") and array.any() for path, array in arrays.items())
    for path, array in arrays.items():
        atol = ROUNDING * np.abs(wanted[path]).max()
        np.testing.assert_allclose(array, wanted[path], rtol=1e-5, atol=atol, err_msg=path)


def with_checkpoints_of(run: Path, workdir: Path) -> Path:
    """A folder of a run that has another's checkpoints."""
    workdir.mkdir()
    (workdir / "checkpoints").symlink_to(run / "checkpoints")
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_hosts_stop_together_where_one_cannot_read_its_images(program, data, alone, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (data / "images").iterdir():
        (broken / path.name).touch()
    workdir = tmp_path / "run" if program == "train.py" else with_checkpoints_of(alone, tmp_path / "run")
    own = [[], [f"--config.data.train_images={broken}", f"--config.data.val_images={broken}"]]
    results = processes.finish(
        processes.start(program, arguments(data, workdir, "--config.data.max_unreadable=3"), 2, 2, own=own)
    )
    for status, output in results:  # four images of each batch are the second host's
        assert status != 0
        assert re.search(r"\d images could not be read, more than config.data.max_unreadable = 3", output), output[
            -3000:
        ]


def records_of(path: Path) -> list[tuple]:
    """Image, category, box (of a mask, the one around it) and score of each record, in an order of their own."""
    records = []
    for record in json.loads(path.read_text()):
        box = record["bbox"] if "bbox" in record else mask_utils.toBbox(record["segmentation"]).tolist()
        records.append((record["image_id"], record["category_id"], *(round(side, 1) for side in box), record["score"]))
    return sorted(records)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"), [((2, 4), (1, 4)), ((1, 2), (4, 8))], ids=["on fewer hosts", "on more hosts and devices"]
)
def test_a_checkpoint_goes_on_with_another_number_of_hosts(first, then, data, alone, tmp_path):
    """One step by some hosts and devices, the next by others: it is that of the whole run, but for rounding."""
    processes.run("train.py", arguments(data, tmp_path, "--config.train.steps=1"), *first)
    processes.run(TELLING, arguments(data, tmp_path), *then)
    assert_alike_everywhere(tmp_path, *then, steps=3)
    lines, expected = read_log(tmp_path), read_log(alone)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["loss"] == pytest.approx(expected[1]["loss"], rel=1e-4)
    arrays, wanted = saved(tmp_path, 2), saved(alone, 2)
    assert arrays.keys() == wanted.keys()
    np.testing.assert_array_equal(arrays["class_counts"], wanted["class_counts"])
    for path, array in arrays.items():
        if path.startswith("trainable"):
            np.testing.assert_allclose(array, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path)


ENDED = ("heartbeat", "unavailable", "closed")
"""What JAX says, in one way or another, of a host that is gone."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "victim"),
    [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGKILL, 0)],
    ids=["dies", "freezes", "the first dies"],
)
def test_the_end_of_one_host_ends_the_others(data, tmp_path, event, victim):
    """Within two minutes, of which twenty seconds are the silence allowed; the same command goes on from the newest."""
    hosts = processes.start("train.py", arguments(data, tmp_path, "--config.train.steps=100000"), 2, 2)
    wait_for_a_step(tmp_path, hosts)
    hosts[victim].send_signal(event)
    other = hosts[1 - victim]
    ((status, output),) = processes.finish([other], seconds=120)
    hosts[victim].kill()
    hosts[victim].communicate()
    assert status not in (0, None)
    assert "hung" not in output
    assert any(word in output.lower() for word in ENDED), output[-3000:]
    assert_goes_on(data, tmp_path)


def wait_for_a_step(workdir, hosts):
    log = workdir / "train_log.jsonl"
    wait_for(lambda: log.is_file() and log.read_text(), hosts)


def assert_goes_on(data, workdir):
    """The same command, with a nearer end, has a whole log."""
    newest = max((int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()), default=0)
    processes.run("train.py", arguments(data, workdir, f"--config.train.steps={newest + 2}"), 2, 2)
    assert [line["step"] for line in read_log(workdir)] == list(range(1, newest + 3))


@pytest.mark.slow
def test_a_host_that_gets_no_images_ends_and_so_do_the_others(data, tmp_path):
    """It lives, and JAX's threads in it say so for ever; its images come from a file system that does not answer."""
    silent = tmp_path / "silent"
    silent.mkdir()
    for number, path in enumerate(sorted((data / "images").glob("train*"))):
        if number < 8:  # that a start looks for
            (silent / path.name).symlink_to(path)
        else:
            os.mkfifo(silent / path.name)
    own = [
        ["--config.train.stall_seconds=0"],
        ["--config.train.stall_seconds=30", f"--config.data.train_images={silent}"],
    ]
    results = processes.finish(
        processes.start("train.py", arguments(data, tmp_path / "run"), 2, 2, own=own), seconds=240
    )
    assert all(status not in (0, None) for status, _ in results)
    said = [output for _, output in results]
    assert "hung" not in "".join(said)
    message = r"process 1 has been at step \d+ for 30 seconds \(config.train.stall_seconds\)"
    assert re.search(message, said[1]), said[1][-3000:]
    assert "most recent call first" in said[1]


@pytest.mark.slow
def test_a_host_whose_log_cannot_be_written_ends_the_others(data, tmp_path):
    """An error of the first host alone, in the midst of training; the other one waits for it in a step."""
    with faults.small_disk("300k") as disk:
        (tmp_path / "tensorboard").symlink_to(disk)
        hosts = processes.start("train.py", arguments(data, tmp_path, "--config.train.steps=100000"), 2, 2)
        wait_for_a_step(tmp_path, hosts)
        with faults.full(disk):
            (first, said), (second, output) = processes.finish(hosts, seconds=120)
    assert first == 1
    assert "process 0 ends, and by it the others" in said
    assert "tensorboard cannot be written (No space left on device): the disk is full" in said, said[-3000:]
    assert second not in (0, None)
    assert "hung" not in said + output
    assert any(word in output.lower() for word in ENDED), output[-3000:]


@pytest.mark.slow
def test_a_full_disk_ends_all_hosts_and_the_newest_checkpoint_stays(data, tmp_path):
    """Each host writes its part of a checkpoint; once there is room the same command goes on from the one before."""
    with faults.small_disk("40m") as disk:
        (tmp_path / "checkpoints").symlink_to(disk)
        hosts = processes.start("train.py", arguments(data, tmp_path, "--config.train.steps=100000"), 2, 2)
        wait_for(lambda: any(path.name.isdigit() for path in disk.iterdir()), hosts)
        with faults.full(disk):
            results = processes.finish(hosts, seconds=120)
        said = "".join(output for _, output in results)
        assert [status for status, _ in results if status in (0, None)] == []
        assert "hung" not in said
        assert re.search(r"checkpoints.* cannot be written .*the disk is full", said), said[-3000:]
        newest = max(int(path.name) for path in disk.iterdir() if path.name.isdigit())
        processes.run("train.py", arguments(data, tmp_path, f"--config.train.steps={newest + 2}"), 2, 2)
        assert str(newest + 2) in {path.name for path in disk.iterdir()}
        assert [line["step"] for line in read_log(tmp_path)] == list(range(1, newest + 3))


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_run_that_is_told_to_end_saves_and_goes_on(data, tmp_path, hosts):
    """SIGTERM to one host: all save the same step and end well; the log goes on without a gap."""
    rest = arguments(data, tmp_path, "--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    started = processes.start("train.py", rest, hosts, 2)
    wait_for_a_step(tmp_path, started)
    started[-1].send_signal(signal.SIGTERM)
    results = processes.finish(started, seconds=120)
    assert [status for status, _ in results] == [0] * hosts, results[0][1][-3000:]
    assert all("SIGTERM: saved at step" in output for _, output in results)
    (step,) = (int(folder.name) for folder in (tmp_path / "checkpoints").iterdir() if folder.name.isdigit())
    assert read_log(tmp_path)[-1]["step"] == step
    processes.run("train.py", arguments(data, tmp_path, f"--config.train.steps={step + 2}"), 1, 2)
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, step + 3))


def wait_for(condition, hosts, seconds=600):
    """Returns once the condition holds; fails where a process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        assert all(host.poll() is None for host in hosts), [host.communicate()[0][-3000:] for host in hosts]
        time.sleep(0.5)


def test_half_named_hosts_are_refused(data, tmp_path):
    (status, output), *_ = processes.finish(
        processes.start("train.py", [*arguments(data, tmp_path), "--num_processes=2"], 1, 1)
    )
    assert status != 0
    assert "--coordinator_address and --process_id not given" in output
