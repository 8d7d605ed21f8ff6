"""OpenImages in its own files: hierarchy, groups, verified labels; an error that names file and line for bad ones."""

from pathlib import Path

import numpy as np
import pytest

from rog_jax.data import Annotations, DataError, cache, load_openimages
from rog_jax.data.images import read_image, stored_size
from rog_jax.data.openimages import frequency_fifths, read_hierarchy

FOLDER = Path(__file__).parent / "openimages"
VEHICLE, CAR, BOAT, ANIMAL, BIRD, DUCK, LAMP = range(7)


def load(folder: Path = FOLDER, images: Path = FOLDER / "images", **options) -> Annotations:
    files = {
        "classes_csv": folder / "class-descriptions-boxable.csv",
        "labels_csv": folder / "human-imagelabels.csv",
        "hierarchy_json": folder / "hierarchy.json",
    }
    return load_openimages(folder / "boxes.csv", images, **files | options)


def test_packs_what_the_files_say():
    annotations = load()
    assert (annotations.num_images, annotations.num_objects, annotations.num_classes) == (5, 7, 7)
    assert annotations.category_names[DUCK] == "Duck, swimming"
    assert annotations.category_keys[DUCK] == "/m/duck"
    np.testing.assert_array_equal(annotations.image_sizes, [[64, 96], [64, 64], [80, 60], [50, 100], [40, 40]])
    np.testing.assert_allclose(annotations.boxes[annotations.objects(0)], [[12, 16, 48, 48], [60, 32, 84, 52]])
    np.testing.assert_array_equal(annotations.labels, [CAR, DUCK, DUCK, BOAT, ANIMAL, CAR, CAR])
    np.testing.assert_array_equal(annotations.instance_counts, [0, 3, 1, 1, 0, 2, 0])
    np.testing.assert_array_equal(annotations.image_counts, [0, 3, 1, 1, 0, 2, 0])
    assert [int(i) & (2**64 - 1) for i in annotations.image_ids[:2]] == [0x0A1B2C3D4E5F6071, 0xFEDCBA9876543210]
    assert not annotations.has_segmentation.any()


def test_pictures_fit_their_boxes():
    annotations = load()
    pixels = read_image(annotations.image_path(3), tuple(annotations.image_sizes[3].tolist())).astype(int)
    x1, y1, x2, y2 = annotations.boxes[6].astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], [x1, y1, x2, y2], atol=1)


def test_group_of_boxes_are_marked_and_trained_by_choice():
    annotations = load()
    np.testing.assert_array_equal(np.flatnonzero(annotations.crowd), [2])
    assert annotations.trainable.all()
    np.testing.assert_array_equal(np.flatnonzero(~load(train_group_of=False).trainable), [2])


def test_verified_labels():
    annotations = load()
    negative = [annotations.negative_categories(image).tolist() for image in range(5)]
    assert negative == [[BOAT], [LAMP], [BIRD], [], [ANIMAL]]
    assert [annotations.positive_categories(image).tolist() for image in range(3)] == [[CAR, DUCK], [VEHICLE], []]
    verified = [np.flatnonzero(annotations.verified_categories(image)).tolist() for image in range(5)]
    assert verified == [[CAR, BOAT, DUCK], [VEHICLE, BOAT, DUCK, LAMP], [CAR, ANIMAL, BIRD], [CAR], [ANIMAL]]
    assert not load(labels_csv=None).exhaustive.any()
    assert load(labels_csv=None).num_images == 4


def test_hierarchy_is_expanded_upwards_for_what_is_there_and_downwards_for_what_is_not():
    annotations = load()
    pairs = {(CAR, VEHICLE), (BOAT, VEHICLE), (BIRD, ANIMAL), (DUCK, BIRD), (DUCK, ANIMAL)}
    assert set(zip(*np.nonzero(annotations.ancestors), strict=True)) == pairs  # a lamp is a part of a car, not a kind
    expanded = load(expand=True)
    labels = [sorted(expanded.labels[expanded.objects(image)].tolist()) for image in range(4)]
    assert labels == [
        [VEHICLE, CAR, ANIMAL, BIRD, DUCK],
        [VEHICLE, BOAT, ANIMAL, BIRD, DUCK],
        [VEHICLE, CAR, ANIMAL],
        [VEHICLE, CAR],
    ]
    first = expanded.boxes[expanded.objects(0)][np.isin(expanded.labels[expanded.objects(0)], (ANIMAL, BIRD, DUCK))]
    np.testing.assert_allclose(first, [[60, 32, 84, 52]] * 3)
    np.testing.assert_array_equal(expanded.crowd[expanded.objects(1)].sum(), 3)
    assert expanded.negative_categories(2).tolist() == [BIRD, DUCK]
    assert expanded.negative_categories(4).tolist() == [ANIMAL, BIRD, DUCK]
    assert expanded.positive_categories(0).tolist() == [VEHICLE, CAR, ANIMAL, BIRD, DUCK]
    with pytest.raises(DataError, match="set hierarchy_json"):
        load(expand=True, hierarchy_json=None)


def test_five_groups_by_boxes_of_the_training_set():
    groups = frequency_fifths(np.array([5, 1, 3, 2, 4, 0, 9, 8, 7, 6]))
    assert groups == ("3", "1", "2", "2", "3", "1", "5", "5", "4", "4")
    assert load(group_counts=[6, 5, 4, 3, 2, 1, 0]).frequencies == ("5", "4", "3", "2", "2", "1", "1")
    with pytest.raises(DataError, match="3 numbers for the 7 categories"):
        load(group_counts=[1, 2, 3])


def copied(folder: Path, **changes: str | None) -> Path:
    """The set's files with some replaced."""
    for path in FOLDER.iterdir():
        if path.is_file():
            text = changes.get(path.stem.replace("-", "_"), path.read_text())
            (folder / path.name).write_text(text)
    return folder


def test_columns_of_the_challenge_and_a_header_of_classes(tmp_path):
    boxes = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n0a1b2c3d4e5f6071,/m/car,0.5,1,0,0.5,1\n"
    classes = "LabelName,DisplayName\n/m/car,Car\n/m/duck,Duck\n"
    annotations = load(copied(tmp_path, boxes=boxes, class_descriptions_boxable=classes), labels_csv=None)
    np.testing.assert_allclose(annotations.boxes, [[48, 0, 96, 32]])
    assert annotations.crowd.tolist() == [True]
    assert annotations.category_names == ("Car", "Duck")


@pytest.mark.parametrize("layout", ["train", "train_0"])
def test_images_in_folders_of_a_split_and_sizes_from_a_table(tmp_path, layout):
    (tmp_path / "images" / layout).mkdir(parents=True)
    (tmp_path / "images" / layout / "0a1b2c3d4e5f6071.jpg").write_bytes(b"not looked into")
    sizes = tmp_path / "sizes.csv"
    ids = ("0a1b2c3d4e5f6071", "fedcba9876543210", "1111222233334444", "5555666677778888", "99990000aaaabbbb")
    sizes.write_text("ImageID,Width,Height\n" + "".join(f"{name},{40 + i},20\n" for i, name in enumerate(ids)))
    annotations = load(images=tmp_path / "images", sizes_csv=sizes)
    assert annotations.image_path(0).is_file()
    np.testing.assert_array_equal(annotations.image_sizes[:2], [[20, 40], [20, 41]])
    sizes.write_text("ImageID,Width,Height\n0a1b2c3d4e5f6071,40,20\n0a1b2c3d4e5f6071,20,40\n")
    with pytest.raises(DataError, match=r"sizes.csv, line 3: 0a1b2c3d4e5f6071 had another size"):
        load(images=tmp_path / "images", sizes_csv=sizes)
    sizes.write_text("ImageID,Width,Height\n0a1b2c3d4e5f6071,40,20\n")
    with pytest.raises(DataError, match="has no size of 4 images, the first is fedcba9876543210"):
        load(images=tmp_path / "images", sizes_csv=sizes)


def test_missing_images_are_named(tmp_path):
    with pytest.raises(DataError, match=r"should be .*0a1b2c3d4e5f6071.jpg, but neither"):
        load(images=tmp_path)
    for path in (FOLDER / "images").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1111222233334444.jpg").write_text("no picture")
    (tmp_path / "5555666677778888.jpg").unlink()
    with pytest.raises(
        DataError, match=r"2 of 5 images are missing or no pictures, the first are .*1111222233334444.jpg, .*55556"
    ):
        load(images=tmp_path)
    assert stored_size(FOLDER / "images" / "0a1b2c3d4e5f6071.jpg") == (64, 96)


def test_parsed_tables_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MIN_SOURCE_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = copied(tmp_path)
    first, second = load(folder), load(folder)
    assert second.packed.path == first.packed.path
    np.testing.assert_array_equal(first.ancestors, second.ancestors)
    assert load(folder, expand=True).packed.path != first.packed.path
    assert load(folder, hierarchy_json=None).ancestors is None


HEADER = "ImageID,LabelName,XMin,XMax,YMin,YMax\n"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("boxes", HEADER + "a,/m/car,0,1,0,1\na,/m/plane,0,1,0,1\n", r"boxes.csv, line 3: '/m/plane' is no class"),
        ("boxes", HEADER + "a,/m/car,0.5,0.4,0,1\n", "boxes.csv, line 2: the box 0.5, 0.0, 0.4, 1.0 is not of shares"),
        ("boxes", HEADER + "a,/m/car,12,60,0,1\n", "line 2: .* is not of shares"),
        ("boxes", HEADER + "a,/m/car,nan,0.4,0,1\n", "line 2: .* is not of shares"),
        ("boxes", HEADER + "a,/m/car,x,0.4,0,1\n", "line 2: the corners .* are no numbers"),
        ("boxes", HEADER + "a,/m/car,0\n", "line 2: it has 3 values for 6 columns"),
        ("boxes", HEADER + "a,/m/car,0,1,0,1,1\n", "line 2: it has 7 values for 6 columns"),
        ("boxes", HEADER + "a,/m/car,1.001,1.005,0,1\n", "line 2: the box 1.001, .* is not of shares"),
        ("boxes", HEADER[:-1] + ",XMin\n", "boxes.csv has the column XMin twice"),
        ("boxes", "ImageID,LabelName,XMin,XMax\n", "boxes.csv has no column YMin, YMax"),
        ("boxes", "", "boxes.csv has no column"),
        ("boxes", HEADER, "boxes.csv has no boxes"),
        ("boxes", HEADER[:-1] + ",IsGroupOf\na,/m/car,0,1,0,1,yes\n", "line 2: 'yes' is neither 0 nor 1"),
        ("human_imagelabels", "ImageID,LabelName,Confidence\na,/m/car,0.5\n", "labels.csv, line 2: '0.5' is neither"),
        ("class_descriptions_boxable", "/m/car,Car\n/m/car,Car\n", "the class /m/car stands there twice"),
        ("class_descriptions_boxable", "/m/car\n", "is no table of LabelName"),
        ("hierarchy", "{", "hierarchy.json is no valid json"),
        ("hierarchy", '{"LabelName": "a", "Subcategory": [3]}', "'3' is no object with a LabelName"),
        ("hierarchy", '{"LabelName": "a", "Subcategory": 3}', "the Subcategory of a is no list"),
    ],
)
def test_bad_lines_are_named(tmp_path, file, text, words):
    changes = {"human_imagelabels": "ImageID,LabelName,Confidence\n"} | {file: text}
    with pytest.raises(DataError, match=words) as error:
        load(copied(tmp_path, **changes))
    assert str(tmp_path) in str(error.value)


def test_missing_files_and_loops_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*missing.csv"):
        load(labels_csv=tmp_path / "missing.csv")
    path = tmp_path / "hierarchy.json"
    path.write_text('{"LabelName": "x", "Subcategory": [{"LabelName": "y", "Subcategory": [{"LabelName": "x"}]}]}')
    with pytest.raises(DataError, match="x stands below itself"):
        read_hierarchy(path, ["x", "y"])
    binary = copied(tmp_path)
    (binary / "boxes.csv").write_bytes(HEADER.encode() + b"\xff\xfe,/m/car,0,1,0,1\n")
    with pytest.raises(DataError, match=r"boxes.csv, after line \d: it is no CSV text"):
        load(binary)
