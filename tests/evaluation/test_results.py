import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rog_jax.evaluation.paste import encode_detection_mask
from rog_jax.evaluation.results import (
    ResultWriter,
    box_records,
    mask_records,
    merge_shards,
    shard_path,
    to_original,
)

CATEGORY_IDS = np.array([3, 17, 99])


@pytest.fixture
def detections():
    return to_original(
        boxes=np.array([[8.0, 4.0, 40.0, 24.0], [0.0, 0.0, 200.0, 100.0], [1.0, 1.0, 2.0, 2.0]], np.float32),
        scores=np.array([0.9, 0.1, 0.0], np.float32),
        labels=np.array([2, 0, -1], np.int32),
        masks=np.full((3, 4, 4), 0.9, np.float32),
        image_size=np.array([100.0, 200.0], np.float32),
        original_size=np.array([50, 50], np.int32),
    )


def test_boxes_scale_on_each_axis_and_empty_slots_go(detections):
    np.testing.assert_allclose(detections.boxes, [[2, 2, 10, 12], [0, 0, 50, 50]])
    np.testing.assert_array_equal(detections.labels, [2, 0])
    assert detections.masks.shape == (2, 4, 4)


def test_boxes_are_clipped_to_the_image():
    found = to_original(
        np.array([[-5.0, -1.0, 30.0, 21.0]], np.float32),
        np.array([0.5], np.float32),
        np.array([0], np.int32),
        None,
        np.array([20.0, 20.0], np.float32),
        np.array([20, 20], np.int32),
    )
    np.testing.assert_array_equal(found.boxes, [[0, 0, 20, 20]])


def test_box_records(detections):
    records = list(box_records(detections, 7, CATEGORY_IDS))
    assert records == [
        {"image_id": 7, "category_id": 99, "bbox": [2.0, 2.0, 8.0, 10.0], "score": 0.9},
        {"image_id": 7, "category_id": 3, "bbox": [0.0, 0.0, 50.0, 50.0], "score": 0.1},
    ]
    assert json.loads(json.dumps(records)) == records


def test_mask_records_have_no_box(detections):
    size = np.array([50, 50], np.int32)
    first, second = mask_records(detections, 7, CATEGORY_IDS, size)
    assert set(first) == {"image_id", "category_id", "segmentation", "score"}
    assert first["segmentation"] == encode_detection_mask(detections.masks[0], detections.boxes[0], 50, 50)
    assert coco_mask.area(second["segmentation"]) > 2000
    strict = next(mask_records(detections, 7, CATEGORY_IDS, size, threshold=0.95))
    assert coco_mask.area(strict["segmentation"]) == 0


def test_scores_keep_order_and_ties():
    scores = np.float32(0.1) + np.arange(200, dtype=np.float32) * np.finfo(np.float32).eps / 16
    scores = np.sort(np.concatenate([scores, scores[:5]]))[::-1]
    boxes, labels = np.zeros((len(scores), 4), np.float32), np.zeros(len(scores), np.int32)
    sizes = np.array([9.0, 9.0], np.float32), np.array([9, 9], np.int32)
    written = [r["score"] for r in box_records(to_original(boxes, scores, labels, None, *sizes), 1, CATEGORY_IDS)]
    np.testing.assert_array_equal(np.array(written, np.float32), scores)
    np.testing.assert_array_equal(np.diff(written) == 0, np.diff(scores) == 0)


def test_shards_of_all_hosts_are_joined_and_removed(tmp_path):
    for index, numbers in enumerate([[1, 2], [], [3]]):
        with ResultWriter(tmp_path, "bbox", index, 3) as writer:
            writer.write({"image_id": number} for number in numbers)
    merged = merge_shards(tmp_path, "bbox", 3)
    assert json.loads(merged.read_text()) == [{"image_id": 1}, {"image_id": 2}, {"image_id": 3}]
    assert [path.name for path in tmp_path.iterdir()] == ["results_bbox.json"]


def test_no_detection_at_all_is_an_empty_list(tmp_path):
    with ResultWriter(tmp_path, "segm"):
        pass
    assert json.loads(merge_shards(tmp_path, "segm").read_text()) == []


def test_a_failed_host_leaves_no_shard(tmp_path):
    def failing():
        yield {"image_id": 1}
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), ResultWriter(tmp_path, "bbox") as writer:
        writer.write(failing())
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=shard_path(tmp_path, "bbox", 0, 1).name):
        merge_shards(tmp_path, "bbox")


def test_a_new_run_removes_its_old_shard_at_the_start(tmp_path):
    shard_path(tmp_path, "bbox", 0, 1).write_text('{"image_id": 1}\n')
    with pytest.raises(RuntimeError), ResultWriter(tmp_path, "bbox"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
