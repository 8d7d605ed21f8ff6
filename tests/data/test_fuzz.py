"""Thousands of broken annotation files and pictures: each is read right, or refused with the file's and record's name.

The few examples of the normal run become 1,000 of each kind under `pytest -m slow`.
"""

import copy
import csv
import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rog_jax.data import Annotations, DataError, load_lvis, load_openimages
from rog_jax.data.images import UnreadableImage, read_annotated, read_image
from rog_jax.data.transforms import ExampleSettings, make_example
from rog_jax.tools import check_data
from tests.data.test_openimages import FOLDER
from tests.reference.data import data_config, make_records, write_data_set

FEW, MANY = 40, 1000
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, -1, 1, 5, 9, 10, 11, 40, 60, 100, 101, 2**31, 2**63, 1e308, -1e308, 1e-320, 0.5, 1e39])
    | st.floats(allow_nan=True)
    | st.text(string.printable, max_size=8)
    | st.sampled_from(["x\0y", "../000.png", "\ud800", "č.png", "r"]),
    lambda inner: (
        st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner, max_size=2)
    ),
    max_leaves=8,
)
polygons = st.lists(
    st.lists(st.floats(-1e4, 1e4) | st.sampled_from([0.0, 40.0, 60.0, 1e30, 3e38]), max_size=12), max_size=3
)
boxes = st.lists(st.floats(-50, 100) | st.sampled_from([0, 40, 60, 1e300]), min_size=3, max_size=5)
runs = st.fixed_dictionaries(
    {"size": st.just([40, 60]) | values, "counts": st.lists(st.integers(-5, 2500), max_size=6) | st.text(max_size=9)}
)


@st.composite
def broken_records(draw: Any) -> dict[str, Any]:
    """A sound file with one to three changes: a field replaced, taken away or added, a record copied or replaced."""
    records = copy.deepcopy(make_records(6))
    for _ in range(draw(st.integers(1, 3))):
        table = draw(st.sampled_from(["images", "annotations", "categories"]))
        if not isinstance(records.get(table), list) or not records[table]:
            continue
        place = draw(st.integers(0, len(records[table]) - 1))
        kind = draw(st.sampled_from(["field"] * 6 + ["no field", "copy", "record", "table"]))
        record = records[table][place]
        if kind == "table":
            records[table] = draw(values)
        elif kind == "record":
            records[table][place] = draw(values)
        elif kind == "copy":
            records[table].append(copy.deepcopy(record))
        elif isinstance(record, dict):
            extra = {
                "annotations": ["iscrowd", "area", "bbox", "segmentation", "image_id", "category_id"],
                "images": ["neg_category_ids", "not_exhaustive_category_ids", "coco_url", "file_name", "width"],
                "categories": ["frequency", "image_count", "name"],
            }[table]
            key = draw(st.sampled_from(["id", *extra]))
            if kind == "no field":
                record.pop(key, None)
            else:
                special = {"segmentation": polygons | runs, "bbox": boxes}.get(key, values)
                record[key] = draw(special | values)
    return records


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """What reading gave, and why it was refused; one of them is empty."""
    try:
        return read(), ""
    except (DataError, UnreadableImage) as error:
        return None, str(error)


def assert_sound(annotations: Annotations) -> None:
    """What training relies on."""
    sizes = annotations.image_sizes[annotations.images_of_objects]
    limits = np.concatenate([sizes[:, ::-1]] * 2, axis=1)
    assert annotations.num_images > 0
    assert (annotations.image_sizes > 0).all()
    assert np.isfinite(annotations.boxes).all()
    assert np.isfinite(annotations.points).all()
    assert (annotations.boxes >= 0).all()
    assert (annotations.boxes <= limits).all()
    assert (
        annotations.boxes[annotations.trainable, 2:] - annotations.boxes[annotations.trainable, :2] >= 1 - 1e-3
    ).all()
    assert ((annotations.labels >= 0) & (annotations.labels < annotations.num_classes)).all()
    assert len(set(annotations.annotation_ids.tolist())) == annotations.num_objects
    assert annotations.offsets[-1] == annotations.num_objects
    assert set(annotations.frequencies) <= {"r", "c", "f"}
    for obj in range(annotations.num_objects):
        annotations.segmentation(obj)


def as_given(annotations: Annotations, records: dict[str, Any]) -> None:
    """Objects that were read have the image, category and box of the record with their id."""
    given_records = {record["id"]: record for record in records["annotations"]}
    assert len(given_records) == annotations.num_objects == len(records["annotations"])
    for obj, image in enumerate(annotations.images_of_objects):
        record = given_records[int(annotations.annotation_ids[obj])]
        assert record["image_id"] == annotations.image_ids[image]
        assert record["category_id"] == annotations.category_ids[annotations.labels[obj]]
        x, y, width, height = record["bbox"]
        size = annotations.image_sizes[image].tolist()
        expected = np.clip([x, y, x + width, y + height], 0, [size[1], size[0]] * 2)
        np.testing.assert_allclose(annotations.boxes[obj], expected, rtol=1e-6, atol=1e-5)


def read_or_refuse(path: Path, images: Path, records: dict[str, Any]) -> None:
    path.write_text(json.dumps(records))
    annotations, refused = outcome(lambda: load_lvis(path, images))
    if refused:
        assert str(path) in refused
        # A record, a list, or a place in the text.
        assert re.search(r"annotation|image|categor|line \d+|format|byte", refused), refused
        return
    assert_sound(annotations)
    as_given(annotations, records)
    example_settings = ExampleSettings.training(data_config(max_long_side=64), masks=False, num_classes=3)
    for image in range(min(annotations.num_images, 2)):
        if max(annotations.image_sizes[image]) < 200:
            make_example(annotations, image, (96, 96), example_settings, np.random.default_rng(0))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> tuple[Path, Path]:
    return write_data_set(tmp_path_factory.mktemp("fuzz"), make_records(6))


@given(broken_records())
@settings(max_examples=FEW, **RELAXED)
def test_broken_records(data_set, records):
    read_or_refuse(*data_set, records)


@pytest.mark.slow
@given(broken_records())
@settings(max_examples=MANY, **RELAXED)
def test_a_thousand_broken_records(data_set, records):
    read_or_refuse(*data_set, records)


def check_as_read(path: Path, images: Path, records: dict[str, Any]) -> None:
    """check_data finds errors wherever the reader refuses, and never breaks itself."""
    path.write_text(json.dumps(records))
    _, refused = outcome(lambda: load_lvis(path, images))
    data = data_config(train_json=str(path), train_images=str(images))
    findings, annotations = check_data.check(data, "train")
    assert (annotations is None) == bool(refused)
    if refused:
        assert findings.errors, refused
    assert all(isinstance(line, str) for line in findings.lines())


@given(broken_records())
@settings(max_examples=FEW, **RELAXED)
def test_check_data_on_broken_records(data_set, records):
    check_as_read(*data_set, records)


@pytest.mark.slow
@given(broken_records())
@settings(max_examples=MANY, **RELAXED)
def test_check_data_on_a_thousand_broken_records(data_set, records):
    check_as_read(*data_set, records)


def damaged(draw: Any, data: bytes) -> bytes:
    """Bytes cut short, changed, repeated or with others put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove"]))
        if kind == "cut":
            del data[place:]
        elif kind == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[place:place] = draw(
                st.binary(max_size=6) | st.sampled_from([b"[" * 3000, b"{", b'"', b"NaN", b"1e999"])
            )
        else:
            del data[place : place + draw(st.integers(1, 20))]
    return bytes(data)


damaged_json = st.composite(lambda draw: damaged(draw, json.dumps(make_records(6)).encode()))


def read_bytes_or_refuse(path: Path, images: Path, data: bytes) -> None:
    path.write_bytes(data)
    annotations, refused = outcome(lambda: load_lvis(path, images))
    if refused:
        assert str(path) in refused
        return
    assert_sound(annotations)
    # Whatever another parser makes of the same bytes is what was read.
    as_given(annotations, json.loads(data.decode("utf-8-sig", errors="surrogateescape")))


@given(damaged_json())
@settings(max_examples=FEW, **RELAXED)
def test_damaged_json(data_set, data):
    read_bytes_or_refuse(*data_set, data)


@pytest.mark.slow
@given(damaged_json())
@settings(max_examples=MANY, **RELAXED)
def test_a_thousand_damaged_jsons(data_set, data):
    read_bytes_or_refuse(*data_set, data)


TABLES = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.is_file()}
TABLES["sizes.csv"] = b"ImageID,Width,Height\n" + b"".join(
    f"{name},{width},{height}\n".encode()
    for name, width, height in (
        ("0a1b2c3d4e5f6071", 96, 64),
        ("fedcba9876543210", 64, 64),
        ("1111222233334444", 60, 80),
        ("5555666677778888", 100, 50),
        ("99990000aaaabbbb", 40, 40),
    )
)


@st.composite
def damaged_csv(draw: Any) -> tuple[str, bytes]:
    """One of the files of OpenImages, damaged; the boxes in every second example."""
    name = draw(st.just("boxes.csv") | st.sampled_from(sorted(TABLES)))
    return name, damaged(draw, TABLES[name])


def read_csv_or_refuse(folder: Path, file: tuple[str, bytes]) -> None:
    for name, data in (TABLES | dict([file])).items():
        (folder / name).write_bytes(data)
    options = {
        "classes_csv": folder / "class-descriptions-boxable.csv",
        "labels_csv": folder / "human-imagelabels.csv",
        "hierarchy_json": folder / "hierarchy.json",
        "sizes_csv": folder / "sizes.csv" if file[0] == "sizes.csv" else None,
    }
    annotations, refused = outcome(lambda: load_openimages(folder / "boxes.csv", FOLDER / "images", **options))
    if refused:
        assert re.search(r"\.csv|\.json|\.jpg", refused), refused
        return
    assert np.isfinite(annotations.boxes).all()
    assert (annotations.boxes >= 0).all()
    classes = annotations.num_classes
    for labels in (annotations.labels, annotations.negative_labels, annotations.positive_labels):
        assert ((labels >= 0) & (labels < classes)).all()
    assert annotations.ancestors.shape == (classes, classes)
    assert not annotations.ancestors.diagonal().any()
    as_tabled(annotations, folder, sizes_given=file[0] == "sizes.csv")


def dict_rows(path: Path) -> list[dict[str, str]]:
    """The lines of a table by the names of its columns, as another reader has them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        return [row for row in rows if any(value for value in row.values())]


def as_tabled(annotations: Annotations, folder: Path, sizes_given: bool) -> None:
    """Images, boxes, classes, groups, labels and sizes are those of the lines of the tables."""
    with (folder / "class-descriptions-boxable.csv").open(encoding="utf-8-sig", newline="") as file:
        named = [row for row in csv.reader(file) if row]
    named = named[1:] if named[0][0] == "LabelName" else named
    assert annotations.category_keys == tuple(row[0] for row in named)
    assert annotations.category_names == tuple(row[1] for row in named)
    names = [Path(name).stem for name in annotations.file_names.tolist()]
    keys = annotations.category_keys
    boxes = dict_rows(folder / "boxes.csv")
    read = sorted(
        (names[image], keys[annotations.labels[obj]], bool(annotations.crowd[obj]), *annotations.boxes[obj].tolist())
        for obj, image in enumerate(annotations.images_of_objects)
    )
    size_of = {name: annotations.image_sizes[image].tolist() for image, name in enumerate(names)}
    tabled = sorted(
        (row["ImageID"], row["LabelName"], is_one(row.get("IsGroupOf")), *pixels(row, size_of)) for row in boxes
    )
    assert [row[:3] for row in read] == [row[:3] for row in tabled]
    np.testing.assert_allclose([row[3:] for row in read], [row[3:] for row in tabled], rtol=1e-5, atol=1e-4)
    verified = [row for row in dict_rows(folder / "human-imagelabels.csv") if row["LabelName"] in keys]
    for present, labels_of in ((True, annotations.positive_categories), (False, annotations.negative_categories)):
        read = {(names[image], keys[label]) for image in range(len(names)) for label in labels_of(image)}
        assert read == {(r["ImageID"], r["LabelName"]) for r in verified if is_one(r["Confidence"]) == present}
    assert set(names) == {row["ImageID"] for row in (*boxes, *verified)}
    if sizes_given:
        sizes = {row["ImageID"]: [int(row["Height"]), int(row["Width"])] for row in dict_rows(folder / "sizes.csv")}
        assert size_of == {name: sizes[name] for name in names}


def is_one(text: str | None) -> bool:
    return text is not None and float(text) == 1


def pixels(row: dict[str, str], size_of: dict[str, list[int]]) -> list[float]:
    height, width = size_of[row["ImageID"]]
    x1, y1, x2, y2 = (float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax"))
    return np.clip([x1 * width, y1 * height, x2 * width, y2 * height], 0, [width, height] * 2).tolist()


@given(damaged_csv())
@settings(max_examples=FEW, **RELAXED)
def test_damaged_csv(tmp_path_factory, file):
    read_csv_or_refuse(tmp_path_factory.mktemp("csv"), file)


@pytest.mark.slow
@given(damaged_csv())
@settings(max_examples=MANY, **RELAXED)
def test_a_thousand_damaged_csvs(tmp_path_factory, file):
    read_csv_or_refuse(tmp_path_factory.mktemp("csv"), file)


def pictures() -> list[bytes]:
    y, x = np.mgrid[:40, :60]
    picture = np.stack([x * 4, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)
    return [cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".jpg", ".png", ".webp", ".bmp")]


PICTURES = pictures()
damaged_pictures = st.composite(lambda draw: damaged(draw, draw(st.sampled_from(PICTURES))))


def read_picture_or_refuse(annotations: Annotations, data: bytes) -> None:
    path = annotations.image_path(0)
    path.write_bytes(data)
    for at_least in (None, (5, 8)):
        pixels, refused = outcome(lambda size=at_least: read_annotated(annotations, 0, size))
        if pixels is None:
            assert refused
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape in ((40, 60, 3), (20, 30, 3), (10, 15, 3), (5, 8, 3))
    settings_ = ExampleSettings.training(data_config(), masks=True, num_classes=3)
    example = make_example(annotations, 0, (96, 96), settings_, np.random.default_rng(0))
    assert (example.index, example.unreadable) in ((0, 0), (-1, 1))


@pytest.fixture(scope="module")
def one_picture(tmp_path_factory) -> Annotations:
    return load_lvis(*write_data_set(tmp_path_factory.mktemp("picture"), make_records(1)))


@given(damaged_pictures())
@settings(max_examples=FEW, **RELAXED)
def test_damaged_pictures(one_picture, data):
    read_picture_or_refuse(one_picture, data)


@pytest.mark.slow
@given(damaged_pictures())
@settings(max_examples=MANY, **RELAXED)
def test_a_thousand_damaged_pictures(one_picture, data):
    read_picture_or_refuse(one_picture, data)


@given(st.binary(max_size=300))
@settings(max_examples=FEW, **RELAXED)
def test_bytes_that_are_no_picture(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("noise") / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage):
        read_image(path, (40, 60))
