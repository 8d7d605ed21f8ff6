import gzip
import json
import re

import numpy as np
import pytest

from rog_jax.evaluation import results_file
from rog_jax.evaluation.results_file import iter_records, keep_best, read_results
from tests.reference.evaluation import best_of_each_image

SIZES = {1: (4, 5), 2: (6, 7)}
CATEGORIES = [3, 8]
MASK = {"size": [4, 5], "counts": "51"}


def box(**changes) -> dict:
    return {"image_id": 1, "category_id": 3, "bbox": [0, 1.5, 2, 3], "score": 0.5} | changes


def mask(**changes) -> dict:
    return {"image_id": 1, "category_id": 3, "segmentation": MASK, "score": 0.5} | changes


def without(record: dict, key: str) -> dict:
    return {name: value for name, value in record.items() if name != key}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_records_come_whole_whatever_the_block(write, monkeypatch, block, indent):
    records = [box(score=place / 7, name='a "]},{[ b\\') for place in range(5)]
    monkeypatch.setattr(results_file, "_BLOCK", block)
    assert list(iter_records(write(json.dumps(records, indent=indent)))) == records
    assert list(iter_records(write(" [ ] "))) == []


def test_records_of_a_compressed_file(tmp_path):
    path = tmp_path / "results.json.gz"
    path.write_bytes(gzip.compress(json.dumps([box()]).encode()))
    assert list(iter_records(path)) == [box()]


def test_columns_of_boxes_and_of_masks(write):
    boxes = read_results(write([box(), box(image_id=2, category_id=8, segmentation="x")]), "bbox", SIZES, CATEGORIES)
    np.testing.assert_array_equal(boxes.image_ids, [1, 2])
    np.testing.assert_array_equal(boxes.category_ids, [3, 8])
    np.testing.assert_array_equal(boxes.boxes, [[0, 1.5, 2, 3]] * 2)
    np.testing.assert_array_equal(boxes.areas, [6, 6])
    assert boxes.masks is None
    masks = read_results(write([mask(bbox=[0, 0, 5, 4])]), "segm", SIZES, CATEGORIES)
    np.testing.assert_array_equal(masks.areas, [1])  # the pixel at row 1 of column 1, not the 20 of the box
    np.testing.assert_array_equal(masks.boxes, [[1, 1, 1, 1]])
    assert masks.masks == [MASK]


BAD_BOXES = {
    "no object": ("text", "record 1: a record must be an object"),
    "missing key": (without(box(), "score"), "record 1: key 'score' is missing"),
    "missing box": (without(box(), "bbox"), "record 1: key 'bbox' is missing"),
    "unknown image": (box(image_id=5), "record 1: image_id 5 is not in the annotations"),
    "image as text": (box(image_id="1"), "record 1: image_id '1'"),
    "image as fraction": (box(image_id=1.0), "record 1: image_id 1.0"),
    "unknown category": (box(category_id=4), "record 1: category_id 4 is not in the annotations"),
    "score not a number": (box(score=float("nan")), "record 1: score nan"),
    "infinite score": (box(score=float("inf")), "record 1: score inf"),
    "score as text": (box(score="0.5"), "record 1: score '0.5'"),
    "negative width": (box(bbox=[3, 3, -1, 2]), r"record 1: bbox \[3, 3, -1, 2\] has a negative width"),
    "three numbers": (box(bbox=[3, 3, 1]), r"record 1: bbox \[3, 3, 1\] must be four"),
    "box not a number": (box(bbox=[3, 3, 1, float("nan")]), "record 1: bbox .* must be four finite"),
}
BAD_MASKS = {
    "missing mask": (without(mask(), "segmentation"), "record 1: key 'segmentation' is missing"),
    "polygon": (mask(segmentation=[[0, 0, 1, 0, 1, 1]]), "record 1: segmentation must be a compressed"),
    "other size": (mask(image_id=2), r"record 1: the mask's size \[4, 5\] is not the image's .*\(6, 7\)"),
    "too many pixels": (mask(segmentation={"size": [4, 5], "counts": "~~~~"}), "record 1: the mask's run-length code"),
}


@pytest.mark.parametrize(("record", "message"), BAD_BOXES.values(), ids=BAD_BOXES.keys())
def test_a_bad_box_is_named_by_file_and_place(write, record, message):
    path = write([box(), record, box(image_id=77)])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}.*Correct the program"):
        read_results(path, "bbox", SIZES, CATEGORIES)


@pytest.mark.parametrize(("record", "message"), BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_a_bad_mask_is_named_by_file_and_place(write, record, message):
    path = write([mask(), record])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}"):
        read_results(path, "segm", SIZES, CATEGORIES)


def test_the_place_counts_from_the_start_of_the_file(write, monkeypatch):
    monkeypatch.setattr(results_file, "_RECORDS_AT_ONCE", 2)
    with pytest.raises(ValueError, match="record 3: score"):
        read_results(write([box(), box(), box(), box(score=None)]), "bbox", SIZES, CATEGORIES)


def test_files_that_are_no_results(write, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no results file .*absent\.json"):
        list(iter_records(tmp_path / "absent.json"))
    with pytest.raises(ValueError, match=r"results\.json holds no detection"):
        read_results(write([]), "bbox", SIZES, CATEGORIES)
    for content in ('{"a": 1}', "", "true"):
        with pytest.raises(ValueError, match="must hold a json list"):
            list(iter_records(write(content)))
    whole = json.dumps([box(), box()])
    for end in (len(whole) - 1, len(whole) - 2, len(whole) - 20, len(whole) // 2 + 1):
        with pytest.raises(ValueError, match=r"record [01] is broken or the file is cut off"):
            list(iter_records(write(whole[:end])))
    monkeypatch.setattr(results_file, "_BLOCK", 16)
    monkeypatch.setattr(results_file, "_LONGEST_RECORD", 200)
    with pytest.raises(ValueError, match="record 1 is broken"):
        list(iter_records(write(whole.replace('"score": 0.5}]', '"score": oops}]' + " " * 500))))
    with pytest.raises(ValueError, match=r"record 0 is broken .*not '\{'"):
        list(iter_records(write('[{"a": 1} {"a": 2}]')))


@pytest.mark.parametrize("number", [1, 3, 8, -1])
def test_the_best_of_each_image_stay_in_the_order_of_the_file(write, number):
    rng = np.random.default_rng(0)
    records = [
        box(image_id=int(image), category_id=int(category), score=int(score) / 4)
        for image, category, score in zip(
            rng.integers(1, 3, 20), rng.choice([3, 8], 20), rng.integers(0, 4, 20), strict=True
        )
    ]
    for place, record in enumerate(records):
        record["bbox"] = [place, 0, 1, 1]
    kept = keep_best(read_results(write(records), "bbox", SIZES, CATEGORIES), number)
    expected = records if number == -1 else best_of_each_image(records, number)
    assert kept.boxes[:, 0].tolist() == [record["bbox"][0] for record in expected]
