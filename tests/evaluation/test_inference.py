import gc
import importlib.metadata
import json
import tracemalloc
import warnings

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rog_jax.data import load_lvis
from rog_jax.data.batch import Batch, Detections
from rog_jax.evaluation import evaluate_lvis
from rog_jax.evaluation.evaluators import official_lvis
from rog_jax.evaluation.inference import _joined, _one_behind, local_rows, run_inference

HAS_OFFICIAL = any(found.name == "lvis" for found in importlib.metadata.distributions())
needs_official = pytest.mark.skipif(not HAS_OFFICIAL, reason="lvis is not installed")


def make_batch(index: list[int]) -> Batch:
    rows = len(index)
    return Batch(
        image=np.zeros((rows, 8, 8, 3), np.uint8),
        image_size=np.full((rows, 2), 50.0, np.float32),
        original_size=np.full((rows, 2), 100, np.int32),
        index=np.array(index, np.int32),
        boxes=np.zeros((rows, 1, 4), np.float32),
        labels=np.full((rows, 1), -1, np.int32),
        masks=np.zeros((rows, 1, 0, 0), np.uint8),
        dropped=np.zeros(rows, np.int32),
        unreadable=np.zeros(rows, np.int32),
    )


def make_predict(masks: bool):
    """A detector of one object in each image, whose score tells the call."""
    calls = []

    def predict(batch: Batch) -> Detections:
        calls.append(batch)
        rows = len(batch.index)
        box = jax.numpy.array([[5.0, 5.0, 25.0, 45.0], [0.0, 0.0, 0.0, 0.0]])
        return Detections(
            boxes=jax.numpy.tile(box, (rows, 1, 1)),
            scores=jax.numpy.tile(jax.numpy.array([len(calls) / 8, 0.0]), (rows, 1)),
            labels=jax.numpy.tile(jax.numpy.array([1, -1]), (rows, 1)),
            masks=jax.numpy.ones((rows, 2, 28, 28)) if masks else None,
        )

    return predict


def test_each_image_is_written_once_in_pixels_of_its_file(annotations, tmp_path):
    batches = [make_batch([1, -1]), make_batch([1, 0])]
    paths = run_inference(make_predict(masks=True), batches, annotations, tmp_path, progress=False)
    boxes, masks = json.loads(paths.bbox.read_text()), json.loads(paths.segm.read_text())
    box = [10.0, 10.0, 40.0, 80.0]
    assert boxes == [
        {"image_id": 12, "category_id": 2, "bbox": box, "score": 0.125},
        {"image_id": 11, "category_id": 2, "bbox": box, "score": 0.25},
    ]
    assert [(mask["image_id"], mask["segmentation"]["size"]) for mask in masks] == [(12, [100, 100]), (11, [100, 100])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results_bbox.json", "results_segm.json"]


def test_a_box_detector_writes_boxes_alone(annotations, tmp_path):
    paths = run_inference(make_predict(masks=False), [make_batch([0, 1])], annotations, tmp_path, progress=False)
    assert paths.segm is None
    assert [path.name for path in tmp_path.iterdir()] == ["results_bbox.json"]
    assert len(json.loads(paths.bbox.read_text())) == 2


@needs_official
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_official_program_takes_what_we_write(annotations, case, tmp_path, caplog, kind):
    batches = [make_batch([1, 0])]
    paths = run_inference(make_predict(masks=True), batches, annotations, tmp_path, progress=False)
    with official_lvis() as lvis, warnings.catch_warnings():
        warnings.simplefilter("error")
        ground_truth = lvis.LVIS(str(case / "truth.json"))
        detections = lvis.LVISResults(ground_truth, str(getattr(paths, kind)))
        evaluation = lvis.LVISEval(ground_truth, detections, kind)
        evaluation.run()
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    figures = evaluate_lvis(case / "truth.json", getattr(paths, kind), kind)
    assert {name: value for name, value in evaluation.get_results().items() if value > -1} == pytest.approx(
        {name: value for name, value in figures.items() if name != "per_category" and value == value}, abs=1e-9
    )


def test_hosts_write_their_parts_and_the_first_joins_them(annotations, tmp_path):
    barriers = []
    for host, batch in ((1, [1, -1]), (0, [0, -1])):  # the first host comes to the barrier last
        arguments = {"process_index": host, "process_count": 2, "progress": False}

        def barrier(name: str, host: int = host) -> None:
            barriers.append((host, name))

        predict = make_predict(masks=True)
        paths = run_inference(predict, [make_batch(batch)], annotations, tmp_path, barrier=barrier, **arguments)
        assert paths.bbox.is_file() == (host == 0)
    assert [record["image_id"] for record in json.loads(paths.bbox.read_text())] == [11, 12]
    assert [name for _, name in barriers] == ["results written", "results joined"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results_bbox.json", "results_segm.json"]


@pytest.mark.parametrize(("first", "second", "said"), [([1, -1], [1, -1], ["11"]), ([0, -1], [1, -1], [])])
def test_the_first_of_several_hosts_says_what_no_host_has_written(annotations, tmp_path, caplog, first, second, said):
    for host, batch in ((1, second), (0, first)):
        arguments = {"process_index": host, "process_count": 2, "progress": False, "barrier": lambda name: None}
        run_inference(make_predict(masks=False), [make_batch(batch)], annotations, tmp_path, **arguments)
        assert bool(caplog.records) == (host == 0 and bool(said))
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of 2 images have no results (ids {ids} ...)." for ids in said
    ]


def test_memory_does_not_grow_with_the_data_set(case, tmp_path):
    """The peak over eight times as many images, of 60 kB of masks each, once the stages are filled."""
    truth = json.loads((case / "truth.json").read_text())
    (tmp_path / truth["images"][0]["file_name"]).touch()
    masks = np.ones((1, 20, 28, 28), np.float32)
    box = np.broadcast_to(np.float32([5, 5, 25, 45]), (1, 20, 4))
    found = Detections(box, np.full((1, 20), 0.5, np.float32), np.ones((1, 20), np.int32), masks)

    def predict(batch):
        gc.collect()  # json's encoder leaves cycles, which would be counted until Python comes round to them
        return found._replace(masks=masks.copy())

    peaks = []
    gc.freeze()  # what was there before need not be gone through at each collection
    for images in (1, 8, 64):  # the first fills caches
        copies = [truth["images"][0] | {"id": 100 + place} for place in range(images)]
        path = tmp_path / f"{images}.json"
        path.write_text(json.dumps(truth | {"images": copies, "annotations": []}))
        annotations = load_lvis(path, tmp_path)
        batches = (make_batch([place]) for place in range(images))
        tracemalloc.start()
        run_inference(predict, batches, annotations, tmp_path / "out", progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    gc.unfreeze()
    assert masks.nbytes < peaks[1]
    assert peaks[2] < peaks[1] + masks.nbytes / 2  # all would be 56 more


def test_unreadable_and_missing_images_are_reported(annotations, tmp_path, caplog):
    batch = make_batch([-1, 1])._replace(unreadable=np.array([1, 0], np.int32))
    run_inference(make_predict(masks=True), [batch], annotations, tmp_path, progress=False)
    assert "1 images could not be read" in caplog.text
    assert "1 of 2 images have no results (ids 11 ...)" in caplog.text


def test_no_batch_is_an_error(annotations, tmp_path):
    with pytest.raises(ValueError, match="is the data set empty"):
        run_inference(make_predict(masks=True), [], annotations, tmp_path, progress=False)


def test_the_device_gets_the_next_batch_before_the_host_takes_the_last():
    started = []
    results = _one_behind(started.append, [make_batch([place]) for place in range(3)])
    for taken in range(3):
        batch, _ = next(results)
        assert batch.index == taken
        assert batch.image is None
        assert len(started) == min(taken + 2, 3)


def test_rows_of_a_sharded_array_come_in_order():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = np.arange(16).reshape(16, 1)
    array = jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(local_rows(array), rows)

    np.testing.assert_array_equal(_joined(array.addressable_shards[7:3:-1]), rows[8:])  # as one of two hosts sees it
