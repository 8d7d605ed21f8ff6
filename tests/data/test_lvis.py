"""Reading LVIS json, and an error that names the record for every kind of bad input."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from configs import common
from rog_jax.data import DataError, check_masks, check_num_classes, load_coco, load_lvis, load_split
from tests.reference.data import changed, make_records, rectangle, write_data_set, write_json


def test_packs_what_the_file_says(tmp_path):
    records = make_records(5)
    records["annotations"].append(
        {
            "id": 999,
            "image_id": 10,
            "category_id": 9,
            "bbox": [0, 0, 5, 4],
            "area": 20,
            "segmentation": rectangle(0, 0, 5, 4),
        }
    )
    records["images"][0] |= {"neg_category_ids": [3, 9], "not_exhaustive_category_ids": [5]}
    annotations = load_lvis(*write_data_set(tmp_path, records))
    assert (annotations.num_images, annotations.num_objects, annotations.num_classes) == (5, 6, 3)
    np.testing.assert_array_equal(annotations.category_ids, [3, 5, 9])
    assert annotations.category_names == ("class3", "class5", "class9")
    np.testing.assert_array_equal(annotations.annotation_ids[annotations.objects(0)], [100, 999])
    np.testing.assert_array_equal(annotations.labels, [0, 2, 1, 2, 0, 1])
    np.testing.assert_array_equal(annotations.boxes[:2], [[4, 6, 24, 30], [0, 0, 5, 4]])
    np.testing.assert_array_equal(annotations.image_sizes[:2], [[40, 60], [60, 40]])
    np.testing.assert_array_equal(annotations.image_counts, [2, 2, 2])
    np.testing.assert_array_equal(annotations.instance_counts, [2, 2, 2])
    np.testing.assert_array_equal(annotations.negative_categories(0), [0, 2])
    np.testing.assert_array_equal(annotations.not_exhaustive_categories(0), [1])
    assert annotations.negative_categories(1).size == 0
    np.testing.assert_array_equal(annotations.segmentation(1)[0], [[0, 0], [5, 0], [5, 4], [0, 4]])
    assert annotations.image_path(2) == tmp_path / "images" / "002.png"
    assert [list(labels) for labels in annotations.object_categories()] == [[0, 2], [1], [2], [0], [1]]


def test_real_photographs_match_the_counts_in_their_file(shared):
    path = shared / "data" / "ccp" / "train.json"
    annotations = load_lvis(path, path.parent / "images")
    data = json.loads(path.read_text())
    np.testing.assert_array_equal(annotations.image_counts, [c["image_count"] for c in data["categories"]])
    np.testing.assert_array_equal(annotations.instance_counts, [c["instance_count"] for c in data["categories"]])
    assert annotations.frequencies == tuple(c["frequency"] for c in data["categories"])
    check_masks(annotations)


@pytest.mark.parametrize(("stated", "expected"), [(10, "r"), (11, "c"), (100, "c"), (101, "f"), (None, "r")])
def test_frequency_follows_from_image_counts_where_the_file_has_none(tmp_path, stated, expected):
    records = make_records()
    if stated is not None:
        for category in records["categories"]:
            category["image_count"] = stated
    assert load_lvis(*write_data_set(tmp_path, records)).frequencies == (expected,) * 3


def test_limits_of_frequency_groups_are_a_setting(tmp_path):
    records = make_records(9)
    for annotation in records["annotations"][:2]:
        annotation["category_id"] = 9  # then 2, 2 and 5 images
    data = common.get_config().data
    data.train_json, data.train_images = map(str, write_data_set(tmp_path, records))
    for format_ in ("lvis", "coco"):
        data.format = format_
        for limits, groups in (((10, 100), "rrr"), ((1, 4), "ccf"), ((2, 5), "rrc")):
            data.frequency_limits = limits
            assert "".join(load_split(data, "train").frequencies) == groups
    for limits in ((5, 2), (1, 2, 3)):
        data.frequency_limits = limits
        with pytest.raises(ValueError, match="frequency_limits is"):
            load_split(data, "train")


def test_image_file_from_coco_url(tmp_path):
    records = make_records(2)
    path, images = write_data_set(tmp_path, records)
    for image in records["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    write_json(tmp_path, records)
    assert load_lvis(path, images).image_path(0) == images / "000.png"
    split = tmp_path / "train2017"
    images.rename(split)
    assert load_lvis(path, tmp_path).image_path(1) == split / "001.png"


@pytest.mark.parametrize("layout", ["flat", "train2017", "val2017"])
def test_names_of_lvis_v05(tmp_path, layout):
    """LVIS v0.5 calls the files of COCO 2017 by their names of 2014."""
    records = make_records(2)
    path, images = write_data_set(tmp_path, records)
    target = images if layout == "flat" else images / layout
    target.mkdir(exist_ok=True)
    for i, image in enumerate(records["images"]):
        (images / image["file_name"]).rename(target / f"{i:012d}.jpg")
        image["file_name"] = f"COCO_train2014_{i:012d}.jpg"
    write_json(tmp_path, records)
    assert load_lvis(path, images).image_path(1) == target / "000000000001.jpg"


def test_names_with_backslashes_are_those_of_files_without_their_folder(tmp_path):
    records = make_records(2)
    path, images = write_data_set(tmp_path, records)
    for image in records["images"]:
        image["file_name"] = f"D:\\photos\\{image['file_name']}"
    write_json(tmp_path, records)
    assert load_lvis(path, images).image_path(1) == images / "001.png"


def test_ids_of_any_size_and_order(tmp_path):
    """Ids start at 0, are negative or fill 64 bits; categories have gaps. None is taken for another."""
    records = make_records(4)
    image_ids = {10: 0, 11: -7, 12: 2**62, 13: 2**63 - 1}
    category_ids = {3: -(2**63), 5: 0, 9: 2**40}
    for image in records["images"]:
        image["id"] = image_ids[image["id"]]
    for category in records["categories"]:
        category["id"] = category_ids[category["id"]]
    for annotation in records["annotations"]:
        annotation |= {
            "id": annotation["id"] - 100,
            "image_id": image_ids[annotation["image_id"]],
            "category_id": category_ids[annotation["category_id"]],
        }
    annotations = load_lvis(*write_data_set(tmp_path, records))
    assert annotations.image_ids.tolist() == list(image_ids.values())
    assert annotations.category_ids.tolist() == list(category_ids.values())
    assert annotations.annotation_ids.tolist() == [0, 1, 2, 3]
    assert annotations.labels.tolist() == [0, 1, 2, 0]


def test_a_file_without_annotations_is_read(tmp_path):
    records = make_records(2) | {"annotations": []}
    annotations = load_lvis(*write_data_set(tmp_path, records))
    assert (annotations.num_images, annotations.num_objects) == (2, 0)
    assert [labels.tolist() for labels in annotations.object_categories()] == [[], []]
    check_masks(annotations)


def test_byte_order_mark_is_no_error(tmp_path):
    path, images = write_data_set(tmp_path, make_records())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_lvis(path, images).num_objects == 8


def test_what_is_verified_in_an_image(tmp_path):
    records = make_records(3)
    records["images"][0]["neg_category_ids"] = [5]
    records["images"][1]["neg_category_ids"] = []
    annotations = load_lvis(*write_data_set(tmp_path, records))
    np.testing.assert_array_equal(annotations.exhaustive, [False, False, True])
    verified = [annotations.verified_categories(image).tolist() for image in range(3)]
    assert verified == [[True, True, False], [False, True, False], [True, True, True]]


def test_coco_is_searched_for_everything_and_counts_its_own_groups(tmp_path):
    records = make_records(60)
    records["images"][0] |= {"neg_category_ids": [5], "not_exhaustive_category_ids": [3]}
    for category in records["categories"]:
        category |= {"frequency": "f", "image_count": 500}
    records["annotations"][0]["iscrowd"] = 1
    annotations = load_coco(*write_data_set(tmp_path, records))
    assert annotations.frequencies == ("c", "c", "c")
    np.testing.assert_array_equal(annotations.image_counts, [19, 20, 20])
    assert annotations.exhaustive.all()
    assert annotations.negative_categories(0).size == annotations.not_exhaustive_categories(0).size == 0
    np.testing.assert_array_equal(np.flatnonzero(annotations.crowd), [0])
    assert annotations.training_objects(0).size == 0
    assert annotations.segmentation(0) is not None


def test_run_lengths_of_both_kinds(tmp_path):
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[6:30, 4:24] = 1
    compressed = coco_mask.encode(mask)
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    text = {"size": [40, 60], "counts": compressed["counts"].decode()}
    for rle in (text, {"size": [40, 60], "counts": runs}):
        records = changed(make_records(), "annotations", 0, segmentation=rle)
        packed = load_lvis(*write_data_set(tmp_path, records)).segmentation(0)
        np.testing.assert_array_equal(coco_mask.decode(packed), mask)


def test_box_over_the_edge_is_clipped_with_a_warning(tmp_path, caplog):
    records = changed(make_records(), "annotations", 0, bbox=[-5, 6, 20, 60])
    annotations = load_lvis(*write_data_set(tmp_path, records))
    np.testing.assert_array_equal(annotations.boxes[0], [0, 6, 15, 40])
    assert "1 objects stick out" in caplog.text
    assert "annotation 100" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"bbox": [4, 6, 0, 24]},
        {"bbox": [60, 6, 0, 24]},
        {"bbox": [4, 6, 0.5, 24]},
        {"area": 0},
        {"segmentation": [[1, 1, 5, 5]]},
        {"iscrowd": 1},
    ],
)
def test_objects_without_area_and_crowds_stay_out_of_training(tmp_path, caplog, fields):
    records = changed(make_records(), "annotations", 0, **fields)
    annotations = load_lvis(*write_data_set(tmp_path, records))
    assert annotations.num_objects == 8
    assert annotations.training_objects(0).size == 0
    assert annotations.trainable.sum() == 7
    assert "left out of training" in caplog.text
    assert annotations.object_categories()[0].size == 0


@pytest.mark.parametrize(
    ("table", "place", "fields", "words"),
    [
        ("annotations", 2, {"image_id": 77}, "annotation 102: image_id 77 is not among the images"),
        ("annotations", 2, {"category_id": 77}, "annotation 102: category_id 77 is not among the categories"),
        ("annotations", 2, {"id": 100}, "annotation id 100 occurs 2 times"),
        ("images", 1, {"id": 10}, "image id 10 occurs 2 times"),
        ("categories", 1, {"id": 5}, "category id 5 occurs 2 times"),
        ("annotations", 2, {"bbox": ...}, r"annotation 102 \(annotations\[2\]\): .* missing required field `bbox`"),
        ("annotations", 2, {"id": ...}, r"annotation None \(annotations\[2\]\): .* missing required field `id`"),
        ("annotations", 2, {"id": "x"}, r"\(annotations\[2\]\): id is 'x': Expected `int`"),
        ("annotations", 2, {"id": 2**63}, r"\(annotations\[2\]\): id is 9223372036854775808: Expected `int` <="),
        ("images", 1, {"neg_category_ids": [[5]]}, r"image 11 .*: neg_category_ids is \[\[5\]\]: Expected `int`"),
        ("categories", 0, {"image_count": "7"}, "category 9 .*: image_count is '7'"),
        ("images", 1, {"width": ...}, "image 11 .* missing required field `width`"),
        ("images", 1, {"width": 0}, "image 11 .*: width is 0: Expected `float` >= 1"),
        ("images", 1, {"width": 40.7}, "image 11 .*: width is 40.7: Expected `float` that's a multiple of 1"),
        ("categories", 0, {"image_count": -1}, "category 9 .*: image_count is -1: Expected `int` >= 0"),
        ("images", 1, {"file_name": ...}, "image 11 has neither 'file_name' nor 'coco_url'"),
        ("images", 1, {"neg_category_ids": [4]}, "image 11: neg_category_ids has 4"),
        ("categories", 0, {"frequency": "x"}, "category 9 .*: frequency is 'x'"),
        ("annotations", 2, {"bbox": [100, 6, 20, 24]}, "annotation 102, image 12: .* outside its image of 40 x 60"),
        ("annotations", 2, {"bbox": [-30, 6, 20, 24]}, "annotation 102, image 12: .* outside its image"),
        ("annotations", 2, {"bbox": [60, 6, 20, 24]}, "annotation 102, image 12: .* outside its image"),
        ("annotations", 2, {"bbox": [4, 6, -20, 24]}, "annotation 102, image 12: .* negative width"),
        ("annotations", 2, {"bbox": [4, float("nan"), 20, 24]}, "annotation 102 has NaN, which is not finite"),
        (
            "annotations",
            2,
            {"bbox": [4, 6, 20]},
            r"annotation 102 .*: bbox is \[4, 6, 20\]: .* length 4",
        ),
        ("annotations", 2, {"area": float("nan")}, "annotation 102 has NaN"),
        ("annotations", 2, {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "annotation 102: .* pairs"),
        ("annotations", 2, {"segmentation": [[1, 2, 3, 4, 5, float("-inf")]]}, "annotation 102 has -Infinity"),
        (
            "annotations",
            2,
            {"segmentation": [[1, 2, 3, 4, 5, "6"]]},
            r"annotation 102 .* at segmentation\[0\]\[5\]",
        ),
        ("annotations", 2, {"segmentation": 3}, "annotation 102 .*: segmentation is 3"),
        ("annotations", 2, {"segmentation": {"size": [9, 9], "counts": [81]}}, "annotation 102: .* size"),
        ("annotations", 2, {"segmentation": {"size": [40, 60], "counts": [81]}}, "annotation 102: .* add up"),
        ("annotations", 2, {"segmentation": {"size": [40, 60], "counts": "0f1"}}, "annotation 102: .* add up"),
        ("annotations", 2, {"segmentation": {"size": [40, 60], "counts": "zzzz"}}, "annotation 102: .* add up"),
        (
            "annotations",
            2,
            {"segmentation": {"size": [40, 60], "counts": 5}},
            "annotation 102 .* at segmentation.counts",
        ),
        ("annotations", 2, {"segmentation": {"size": [40, 60], "counts": [2401, -1]}}, "annotation 102: .* negative"),
        ("annotations", 2, {"segmentation": [[1, 2, 3, 4, 5, 1e39]]}, "annotation 102: .* not finite in 32 bits"),
        ("annotations", 2, {"area": 10**400}, "annotation 102 .*: Number out of range"),
    ],
)
def test_bad_records_are_named(tmp_path, table, place, fields, words):
    path, images = write_data_set(tmp_path, make_records())
    write_json(tmp_path, changed(make_records(), table, place, **fields))
    with pytest.raises(DataError, match=words) as error:
        load_lvis(path, images)
    assert str(path) in str(error.value)


def test_missing_files_and_folders_are_named(tmp_path):
    path, images = write_data_set(tmp_path, make_records())
    with pytest.raises(DataError, match=r"no annotation file .*missing"):
        load_lvis(tmp_path / "missing.json", images)
    with pytest.raises(DataError, match=r"no image folder .*missing"):
        load_lvis(path, tmp_path / "missing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"image 10 should be .*000.png"):
        load_lvis(path, empty)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "no valid json: .* line 1, column"),
        ("", "no valid json"),
        ("[]", "with the lists images, annotations and categories: Expected `object`, got `array`"),
        ('{"images": [{}], "annotations": []}', "missing required field `categories`"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "'images' is empty"),
    ],
)
def test_broken_json_says_where(tmp_path, text, words):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load_lvis(path, tmp_path)


def test_binary_instead_of_json(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xff")
    with pytest.raises(DataError, match="Unpack it"):
        load_lvis(path, tmp_path)


def test_other_encodings_than_utf_8_are_named(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_bytes(json.dumps(make_records()).encode("utf-16"))
    with pytest.raises(DataError, match=r"UTF-16.* Save it as UTF-8"):
        load_lvis(path, tmp_path)


def test_wrong_number_of_classes_and_missing_masks(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records()))
    check_num_classes(annotations, 3)
    with pytest.raises(DataError, match=r"num_classes is 80, but .* has 3"):
        check_num_classes(annotations, 80)
    records = changed(make_records(), "annotations", 3, segmentation=...)
    annotations = load_lvis(*write_data_set(tmp_path / "boxes", records))
    with pytest.raises(DataError, match=r"1 objects .* annotation 103"):
        check_masks(annotations)
