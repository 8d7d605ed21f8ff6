"""Loaders: the same batches for any number of workers, hosts and restarts; counting and stopping at bad files."""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from rog_jax.data import Annotations, Batch, DataError, load_lvis
from rog_jax.data.block import stack, unpack
from rog_jax.data.loader import Loader, eval_loader, prefetched, train_loader
from rog_jax.data.plan import TrainPlan
from tests.reference.data import changed, data_config, make_records, rectangle, sampler_config, write_data_set

SEED = 5


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Annotations:
    return load_lvis(*write_data_set(tmp_path_factory.mktemp("loader"), make_records(18)))


def make_loader(annotations: Annotations, start: int = 0, steps: int = 6, workers: int = 0, **kwargs) -> Loader:
    data = data_config(workers=workers, **kwargs.pop("data", {}))
    plan = TrainPlan(annotations, data, sampler_config(), 4, SEED)
    return train_loader(annotations, plan, data, seed=SEED, start_step=start, num_steps=steps, **kwargs)


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


def test_batches_have_the_promised_types(annotations):
    loader = make_loader(annotations)
    batch = next(loader)
    height, width = batch.image.shape[1:3]
    assert len(loader) == 6
    assert (height, width) in ((64, 96), (96, 64))
    assert [(field.shape, field.dtype.name) for field in batch[:-1]] == [
        ((4, height, width, 3), "uint8"),
        ((4, 2), "float32"),
        ((4, 2), "int32"),
        ((4,), "int32"),
        ((4, 4, 4), "float32"),
        ((4, 4), "int32"),
        ((4, 4, 112, 14), "uint8"),
        ((4,), "int32"),
        ((4,), "int32"),
    ]


def test_verified_categories_come_only_when_asked_for(tmp_path):
    records = make_records(18)
    for image in records["images"]:
        image["neg_category_ids"] = [9]
    annotations = load_lvis(*write_data_set(tmp_path, records))
    assert next(make_loader(annotations)).verified is None
    batch = next(make_loader(annotations, data={"negatives": True}))
    assert batch.verified.dtype == bool
    for index, verified in zip(batch.index, batch.verified, strict=True):
        np.testing.assert_array_equal(verified, annotations.verified_categories(index))
        np.testing.assert_array_equal(np.flatnonzero(verified), sorted({int(index) % 3, 2}))
    assert eval_loader(annotations, data_config(negatives=True), 4).__next__().verified is None


def test_resumed_run_sees_the_same_batches(annotations):
    whole = list(make_loader(annotations, 0, 10))
    assert_same(whole[3:], list(make_loader(annotations, 3, 7)))


def test_the_same_image_is_drawn_anew_in_the_next_epoch(annotations):
    seen: dict[int, set[tuple]] = {}
    for batch in make_loader(annotations, 0, 30):
        for index, size, box in zip(batch.index, batch.image_size, batch.boxes[:, 0], strict=True):
            seen.setdefault(int(index), set()).add((*size, *box))
    assert sum(len(draws) > 1 for draws in seen.values()) > 12


def test_hosts_share_each_batch(annotations):
    whole = list(make_loader(annotations))
    parts = [list(make_loader(annotations, process_index=p, process_count=2)) for p in range(2)]
    joined = [Batch(*map(np.concatenate, zip(a[:-1], b[:-1], strict=True))) for a, b in zip(*parts, strict=True)]
    assert_same(whole, joined)
    # A run that goes on with another number of hosts sees what it would have seen.
    rest = [list(make_loader(annotations, 2, 4, process_index=p, process_count=4)) for p in range(4)]
    for step, batches in enumerate(zip(*rest, strict=True), start=2):
        assert_same([whole[step]], [Batch(*map(np.concatenate, zip(*(b[:-1] for b in batches), strict=True)))])
    with pytest.raises(ValueError, match="batch of 4 images cannot be divided among 3 hosts"):
        make_loader(annotations, process_count=3)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("name", ["random", "repeat_factor", "instance_aware"])
def test_each_image_is_shown_as_often_as_its_factor_says_on_any_number_of_hosts(tmp_path, hosts, name):
    records = make_records(16)
    for image in records["images"]:  # one shape, so that no image waits for the next epoch
        image |= {"width": 60, "height": 40}
    for annotation in records["annotations"][:13]:
        annotation["category_id"] = 9  # 13 images of one category, 2 and 1 of the others
    annotations = load_lvis(*write_data_set(tmp_path, records))
    data = data_config()
    plan = TrainPlan(annotations, data, sampler_config(name=name, threshold=0.3), 4, SEED)
    expected = np.ceil(plan.sampler.factors).astype(int)
    assert (expected.sum() > 16) == (name != "random")
    shown, epochs = np.zeros(16, int), 4
    for host in range(hosts):
        loader = train_loader(
            annotations,
            plan,
            data,
            seed=SEED,
            start_step=0,
            num_steps=plan.step_of_epoch(epochs),
            process_index=host,
            process_count=hosts,
        )
        for batch in loader:
            assert len(batch.index) == 4 // hosts
            shown += np.bincount(batch.index, minlength=16)
    waiting = epochs * expected - shown
    assert waiting.sum() == epochs * expected.sum() % 4
    assert (waiting >= 0).all()


def test_worker_processes_give_the_same_batches_and_close(annotations):
    loader = make_loader(annotations, workers=2)
    assert_same(list(make_loader(annotations)), list(loader))
    loader.close()
    resumed = make_loader(annotations, 4, 2, workers=1)
    assert_same(list(make_loader(annotations))[4:], list(resumed))
    resumed.close()


def kill_worker(others: set) -> None:
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()


def test_killed_worker_is_replaced_and_no_batch_is_lost(annotations, caplog):
    before = set(multiprocessing.active_children())
    loader = make_loader(annotations, steps=40, workers=1, data={"max_restarts": 2})
    batches = [next(loader) for _ in range(3)]
    kill_worker(before)
    batches += list(loader)
    assert loader.restarts == 1
    assert "a loader process died at batch" in caplog.text
    assert_same(batches, list(make_loader(annotations, steps=40)))


def test_worker_killed_in_the_middle_of_handing_over_is_replaced(annotations):
    """Batches larger than a pipe holds: a worker that wrote them there would always be in the middle of one."""
    data = {"max_objects": 9, "prefetch": 4}
    before = set(multiprocessing.active_children())
    loader = make_loader(annotations, steps=40, workers=1, data=data)
    assert next(loader).masks.nbytes > 50_000
    time.sleep(0.5)  # the worker fills what it may
    kill_worker(before)
    assert len(list(loader)) == 39
    assert loader.restarts == 1


def test_message_of_a_worker_is_written_at_once(annotations, monkeypatch):
    """Whatever the size of the batch."""
    received, inner = [], Connection.recv_bytes

    def note(self, *args):
        received.append(len(message := inner(self, *args)))
        return message

    monkeypatch.setattr(Connection, "recv_bytes", note)
    loader = make_loader(annotations, steps=3, workers=1, data={"negatives": True, "max_objects": 9})
    assert len(list(loader)) == 3
    loader.close()
    assert max(received[:3]) < 512 <= select.PIPE_BUF  # what POSIX promises anywhere
    assert max(received) <= select.PIPE_BUF  # the last one says that there are no more, with a stack


def test_a_block_is_its_batch(annotations):
    for negatives in (False, True):
        batch = next(make_loader(annotations, data={"negatives": negatives}))
        block = stack([Batch(*(None if field is None else field[i] for field in batch)) for i in range(4)])
        assert_same([unpack(block)], [batch])
    assert np.shares_memory(unpack(block).image, block.data)
    assert not np.shares_memory(unpack(block).index, block.data)  # or who keeps it would keep the pixels


def test_workers_that_keep_dying_end_the_run(annotations):
    before = set(multiprocessing.active_children())
    loader = make_loader(annotations, steps=2000, workers=1, data={"max_restarts": 0})
    next(loader)
    kill_worker(before)
    with pytest.raises(RuntimeError, match=r"loader process died .* after 0 restarts.* config.data.workers"):
        for _ in loader:
            pass


RUN = """
import multiprocessing, os, signal, sys
from rog_jax.data import load_lvis
from tests.data.test_loader import make_loader
if __name__ == "__main__":
    loader = make_loader(load_lvis(*sys.argv[1:]), steps=2000, workers=1)
    next(loader)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    path, images = write_data_set(tmp_path, make_records(18))
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(path), str(images)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    ) as run:
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 1
        try:
            run.communicate(timeout=60)  # ends when no process holds the pipe any more
        except subprocess.TimeoutExpired:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"the workers {pids} outlive their run")
    assert run.returncode == -signal.SIGKILL


def test_prefetched_batches_come_in_order_and_are_put_ahead(annotations):
    put: list[int] = []
    source = iter(range(5))
    pairs = prefetched(source, lambda batch: put.append(batch) or -batch, ahead=2)
    assert next(pairs) == (0, 0)
    assert put == [0, 1, 2]
    assert list(pairs) == [(1, -1), (2, -2), (3, -3), (4, -4)]
    assert list(prefetched([], abs)) == []


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_sees_each_image_once_on_all_hosts(annotations, hosts):
    loaders = [eval_loader(annotations, data_config(), 4, process_index=p, process_count=hosts) for p in range(hosts)]
    indices = []
    for batches in zip(*loaders, strict=True):
        assert len({batch.image.shape for batch in batches}) == 1
        assert all(batch.boxes.shape[1] == 0 for batch in batches)
        indices += [batch.index for batch in batches]
    indices = np.concatenate(indices)
    assert len(indices) == 24
    np.testing.assert_array_equal(np.sort(indices[indices >= 0]), np.arange(18))


def test_unreadable_images_are_counted_up_to_the_limit(tmp_path, caplog):
    path, images = write_data_set(tmp_path, make_records(18))
    annotations = load_lvis(path, images)
    for i in (0, 1, 2):
        (images / f"{i:03d}.png").write_bytes(b"")
    loader = make_loader(annotations, steps=8)
    marked = sum(int((batch.index < 0).sum()) for batch in loader)
    assert loader.unreadable == marked > 0
    assert "001.png is left out: it is empty" in caplog.text
    with pytest.raises(DataError, match=r"2 images could not be read, more than config.data.max_unreadable = 1"):
        list(make_loader(annotations, steps=200, data={"max_unreadable": 1}))


def test_one_of_several_hosts_does_not_stop_by_itself(tmp_path):
    """The others would wait for it for ever; the training loop checks the sum over hosts."""
    path, images = write_data_set(tmp_path, make_records(18))
    annotations = load_lvis(path, images)
    for image in images.iterdir():
        image.write_bytes(b"")
    (images / "000.png").write_bytes(b"x")
    loader = make_loader(annotations, steps=3, data={"max_unreadable": 1}, process_index=1, process_count=2)
    assert [batch.unreadable.tolist() for batch in loader] == [[1, 1]] * 3
    assert loader.unreadable == 6


def test_dropped_objects_are_counted(tmp_path):
    records = make_records(18)
    for i in range(5):
        box = [i * 7, 0, 6, 5]
        annotation = {"id": i, "image_id": 10, "category_id": 9, "bbox": box, "segmentation": rectangle(*box)}
        records["annotations"].append(annotation)
    annotations = load_lvis(*write_data_set(tmp_path, records))
    loader = make_loader(annotations, steps=9)
    shown = sum(int((batch.index == 0).sum()) for batch in loader)
    assert loader.dropped == 2 * shown > 0


def test_masks_are_asked_for_only_where_there_are_some(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, changed(make_records(18), "annotations", 3, segmentation=...)))
    with pytest.raises(DataError, match=r"annotation 103\. .*config.model.masks=False"):
        make_loader(annotations)
    assert next(make_loader(annotations, masks=False)).masks.shape == (4, 4, 0, 0)
