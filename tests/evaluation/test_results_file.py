import gzip
import json
import re

import numpy as np
import pytest

from rog_jax.evaluation import json_stream, results_file
from rog_jax.evaluation.json_stream import iter_records
from rog_jax.evaluation.results_file import keep_best, keep_best_of_categories, kinds_of, read_results
from tests.reference.evaluation import best_of_each

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
    monkeypatch.setattr(json_stream, "_BLOCK", block)
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
    assert masks.masks.codes() == [MASK]


def test_run_lengths_may_be_numbers(write):
    numbers = {"size": [4, 5], "counts": [5, 1, 14]}
    found = read_results(write([mask(), mask(segmentation=numbers)]), "segm", SIZES, CATEGORIES)
    assert found.masks.codes() == [MASK, MASK | {"counts": "51>"}]
    np.testing.assert_array_equal(found.areas, [1, 1])


FORMATS = {
    "one line": json.dumps,
    "no spaces": lambda records: json.dumps(records, separators=(",", ":")),
    "indented": lambda records: "\n " + json.dumps(records, indent=2) + "\n\n",
    "a record a line": lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
}


@pytest.mark.parametrize("block", [5, 64, 300, 1 << 22])
@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_both_readers_see_the_same(write, monkeypatch, kind, layout, block):
    rng = np.random.default_rng(1)
    make = {"bbox": box, "segm": mask}[kind]
    records = [
        make(score=float(rng.normal()), category_id=int(rng.choice(CATEGORIES)), extra={"a": ["}"]})
        | ({"bbox": rng.random(4).tolist()} if kind == "bbox" else {})
        for _ in range(20)
    ]
    path = write(layout(records))
    monkeypatch.setattr(json_stream, "_BLOCK", block)
    slow = results_file.Results(*map(np.asarray, _columns(path, kind)[:5]), None)
    with monkeypatch.context() as patch:
        patch.setattr(results_file, "_read_one_by_one", None)  # what is regular must not need it
        fast = read_results(path, kind, SIZES, CATEGORIES)
    for ours, theirs in zip(fast[:5], slow[:5], strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    np.testing.assert_array_equal(fast.scores, [record["score"] for record in records])
    if kind == "segm":
        assert fast.masks.codes() == _columns(path, kind).masks.codes() == [MASK] * 20


def _columns(path, kind):
    """What the slow reader makes of a file."""
    (part,) = results_file._read_one_by_one(path, kind, SIZES, CATEGORIES)
    return part


@pytest.mark.parametrize("text", ["}, {", "},{", "}\n,\n{"])
def test_text_that_looks_like_a_boundary_is_none(write, text):
    records = [box(note=text), box(score=0.25, note=[{"a": 1}, {"b": 2}])]
    np.testing.assert_array_equal(read_results(write(records), "bbox", SIZES, CATEGORIES).scores, [0.5, 0.25])


def test_kinds_of_a_file(write):
    assert kinds_of(write([box()])) == ("bbox",)
    assert kinds_of(write([mask()])) == ("segm",)
    assert kinds_of(write([mask(bbox=[0, 0, 1, 1]), box()])) == ("bbox", "segm")
    assert kinds_of(write([])) == kinds_of(write([{"id": 3}])) == ("bbox",)


BAD_BOXES = {
    "no object": ("text", "record 1: a record must be an object"),
    "missing key": (without(box(), "score"), "record 1: key 'score' is missing"),
    "missing box": (without(box(), "bbox"), "record 1: key 'bbox' is missing"),
    "unknown image": (box(image_id=5), "record 1: image_id 5 is not in the annotations"),
    "number too big": (box(image_id=10**30), "record 1: image_id 10{30} is not in the annotations"),
    "image as text": (box(image_id="1"), "record 1: image_id '1'"),
    "image as fraction": (box(image_id=1.0), "record 1: image_id 1.0"),
    "unknown category": (box(category_id=4), "record 1: category_id 4 is not in the annotations"),
    "score not a number": (box(score=float("nan")), "record 1: score nan"),
    "infinite score": (box(score=float("inf")), "record 1: score inf"),
    "score too big": (box(score=10**400), "record 1: score 10{400} is no finite"),
    "score true": (box(score=True), "record 1: score True"),
    "score as text": (box(score="0.5"), "record 1: score '0.5'"),
    "negative width": (box(bbox=[3, 3, -1, 2]), r"record 1: bbox \[3, 3, -1, 2\] has a negative width"),
    "three numbers": (box(bbox=[3, 3, 1]), r"record 1: bbox \[3, 3, 1\] must be four"),
    "box not a number": (box(bbox=[3, 3, 1, float("nan")]), "record 1: bbox .* must be four finite"),
}
BAD_MASKS = {
    "missing mask": (without(mask(), "segmentation"), "record 1: key 'segmentation' is missing"),
    "no code": (mask(segmentation={"size": [4, 5]}), "record 1: segmentation must be a run-length code"),
    "null": (mask(segmentation=None), "record 1: segmentation must be"),
    "too few run lengths": (mask(segmentation={"size": [4, 5], "counts": [5, 1]}), "record 1: .* add up to 6, not 20"),
    "negative run length": (
        mask(segmentation={"size": [4, 5], "counts": [21, -1]}),
        "record 1: segmentation must be",
    ),
    "fractions of pixels": (
        mask(segmentation={"size": [4, 5], "counts": [5.5, 14.5]}),
        "record 1: segmentation must be",
    ),
    "polygon": (mask(segmentation=[[0, 0, 1, 0, 1, 1]]), "record 1: segmentation must be a run-length code"),
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
            read_results(write(whole[:end]), "bbox", SIZES, CATEGORIES)
    with pytest.raises(ValueError, match=r"record 0 is broken .*not '\{'"):
        read_results(write(f"[{json.dumps(box())} {json.dumps(box())}]"), "bbox", SIZES, CATEGORIES)
    for more in ("]", "[]", json.dumps([box()])):
        with pytest.raises(ValueError, match="text follows the list"):
            read_results(write(whole + more), "bbox", SIZES, CATEGORIES)
    monkeypatch.setattr(json_stream, "_BLOCK", 16)
    monkeypatch.setattr(json_stream, "_LONGEST_RECORD", 200)
    with pytest.raises(ValueError, match="record 1 is broken"):
        list(iter_records(write(whole.replace('"score": 0.5}]', '"score": oops}]' + " " * 500))))
    with pytest.raises(ValueError, match=r"record 0 is broken .*not '\{'"):
        list(iter_records(write('[{"a": 1} {"a": 2}]')))


def test_a_damaged_compressed_file(tmp_path):
    path = tmp_path / "results.json.gz"
    packed = gzip.compress(json.dumps([box(score=place / 7) for place in range(200)]).encode())
    for content in (packed[: len(packed) // 2], packed[:40] + b"damage" + packed[46:], b"no gzip file"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"results\.json\.gz is damaged or cut off"):
            read_results(path, "bbox", SIZES, CATEGORIES)


@pytest.mark.parametrize("number", [1, 3, 8, -1])
def test_the_best_stay_in_the_order_of_the_file(write, number):
    rng = np.random.default_rng(0)
    records = [
        box(image_id=int(image), category_id=int(category), score=int(score) / 4)
        for image, category, score in zip(
            rng.integers(1, 3, 20), rng.choice([3, 8], 20), rng.integers(0, 4, 20), strict=True
        )
    ]
    for place, record in enumerate(records):
        record["bbox"] = [place, 0, 1, 1]
    results = read_results(write(records), "bbox", SIZES, CATEGORIES)
    kept = keep_best(results, number)
    expected = records if number == -1 else best_of_each("image_id", records, number)
    assert kept.boxes[:, 0].tolist() == [record["bbox"][0] for record in expected]
    if number != -1:
        kept = keep_best_of_categories(results, number)
        expected = best_of_each("category_id", records, number)
        assert kept.boxes[:, 0].tolist() == [record["bbox"][0] for record in expected]


def test_masks_stay_with_their_records(write):
    records = [mask(score=0.1), mask(score=0.9, segmentation={"size": [4, 5], "counts": "0d0"}), mask(score=0.5)]
    kept = keep_best(read_results(write(records), "segm", SIZES, CATEGORIES), 1)
    assert kept.masks.codes() == [records[1]["segmentation"]]
    np.testing.assert_array_equal(kept.areas, [20])
