"""Miniatures in the forms that the makers of LVIS, COCO and OpenImages publish, every field of theirs included."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rog_jax.data import Annotations, load_coco, load_lvis, load_openimages, repeat_factors
from tests.data.test_openimages import BOAT, CAR, DUCK, FOLDER, VEHICLE
from tests.reference.data import rectangle

PLACES = {397133: "val2017", 37777: "val2017", 252219: "train2017", 87038: "train2017"}
"""Images by id; as in LVIS, a part of the validation images lies in train2017."""


@pytest.fixture
def coco_folder(tmp_path) -> Path:
    """The folder that holds train2017 and val2017."""
    for image_id, split in PLACES.items():
        (tmp_path / split).mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(tmp_path / split / f"{image_id:012d}.jpg")
    return tmp_path


def image(image_id: int, **fields: Any) -> dict[str, Any]:
    """What LVIS and COCO have of an image."""
    place = f"{PLACES[image_id]}/{image_id:012d}.jpg"
    return {
        "license": 4,
        "coco_url": f"http://images.cocodataset.org/{place}",
        "height": 48,
        "width": 64,
        "date_captured": "2013-11-14 17:02:52",
        "flickr_url": "http://farm7.staticflickr.com/6116/0000000000_0000000000_z.jpg",
        "id": image_id,
        **fields,
    }


def annotation(number: int, image_id: int, category_id: int, x: float = 4.5, **fields: Any) -> dict[str, Any]:
    box = [x, 6.25, 20.0, 24.0]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": 480.0,
        "segmentation": rectangle(*box),
        **fields,
    }


def lvis_category(number: int, name: str, frequency: str, images: int, instances: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "synset": f"{name}.n.01",
        "synonyms": [name, name.title()],
        "def": f"a {name}",
        "frequency": frequency,
        "image_count": images,
        "instance_count": instances,
    }


CATEGORIES = [
    lvis_category(1, "aerosol_can", "c", 64, 109),
    lvis_category(2, "air_conditioner", "f", 364, 704),
    lvis_category(1203, "zucchini", "r", 5, 12),
]
LICENCES = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
LVIS_LABELS = {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}


def written(folder: Path, **tables: Any) -> Path:
    path = folder / "annotations.json"
    info = {"description": "", "version": "", "year": 2020, "contributor": "", "date_created": "2020-01-01"}
    path.write_text(json.dumps({"info": info, "licenses": LICENCES, **tables}))
    return path


def all_are_there(annotations: Annotations) -> bool:
    return all(annotations.image_path(place).is_file() for place in range(annotations.num_images))


def test_lvis_v1_finds_validation_images_in_both_folders_of_coco(coco_folder):
    """v1 has no file_name; coco_url says which folder."""
    annotations = load_lvis(
        written(
            coco_folder,
            images=[image(image_id, **LVIS_LABELS) for image_id in PLACES],
            annotations=[annotation(1, 252219, 1203), annotation(2, 397133, 1), annotation(3, 252219, 1, x=30.0)],
            categories=CATEGORIES,
        ),
        coco_folder,
    )
    assert all_are_there(annotations)
    assert annotations.category_ids.tolist() == [1, 2, 1203]
    assert annotations.frequencies == ("c", "f", "r")  # as stated, not as counted
    assert annotations.image_counts.tolist() == [2, 0, 1]
    assert annotations.annotation_ids.tolist() == [2, 1, 3]
    np.testing.assert_allclose(annotations.boxes[1], [4.5, 6.25, 24.5, 30.25])
    assert annotations.negative_categories(0).tolist() == [1]
    assert annotations.not_exhaustive_categories(3).tolist() == [0]
    assert not annotations.exhaustive.any()


@pytest.mark.parametrize("folder", [".", "flat"])
def test_lvis_v05_has_names_of_coco_2014(coco_folder, folder):
    """v0.5 has file_name besides; val2014 names lie in train2017 for the most part."""
    if folder == "flat":
        (coco_folder / "flat").mkdir()
        for file in coco_folder.glob("*2017/*.jpg"):
            file.rename(coco_folder / "flat" / file.name)
    path = written(
        coco_folder,
        images=[image(i, file_name=f"COCO_val2014_{i:012d}.jpg", **LVIS_LABELS) for i in PLACES],
        annotations=[annotation(1, 37777, 1)],
        categories=CATEGORIES,
    )
    annotations = load_lvis(path, coco_folder / folder)
    assert all_are_there(annotations)
    assert annotations.frequencies == ("c", "f", "r")
    assert annotations.not_exhaustive_categories(1).tolist() == [0]


def test_coco_2017_with_a_crowd_in_plain_run_lengths(coco_folder):
    """Category ids have gaps, crowds have uncompressed counts, columns first."""
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:50] = 1
    flat = mask.T.reshape(-1)
    counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    crowd = annotation(900100397133, 397133, 90, iscrowd=1, area=600)
    crowd |= {"bbox": [20, 10, 30, 20], "segmentation": {"counts": counts, "size": [48, 64]}}
    names = {1: ("person", "person"), 13: ("outdoor", "stop sign"), 90: ("indoor", "toothbrush")}
    annotations = load_coco(
        written(
            coco_folder,
            images=[image(397133, file_name="000000397133.jpg"), image(37777, file_name="000000037777.jpg")],
            annotations=[annotation(1768, 37777, 1, iscrowd=0), crowd, annotation(5, 397133, 90, iscrowd=0)],
            categories=[{"supercategory": above, "id": i, "name": name} for i, (above, name) in names.items()],
        ),
        coco_folder / "val2017",
    )
    assert all_are_there(annotations)
    assert annotations.category_names == ("person", "stop sign", "toothbrush")
    assert annotations.annotation_ids.tolist() == [900100397133, 5, 1768]
    assert annotations.crowd.tolist() == [True, False, False]
    assert annotations.trainable.tolist() == [False, True, True]
    assert annotations.image_counts.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(coco_mask.decode(annotations.segmentation(0)), mask)
    assert annotations.exhaustive.all()
    assert repeat_factors(annotations.object_categories(), 0.5).tolist() == [1, 1]


FLAGS = "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
CLICKS = ",".join(f"XClick{i}{axis}" for axis in "XY" for i in range(1, 5))
CORNERS = "XMin,XMax,YMin,YMax"


@pytest.mark.parametrize(
    ("version", "boxes", "labels", "classes"),
    [
        ("V4, V5", f"ImageID,Source,LabelName,Confidence,{CORNERS},{FLAGS}", "ImageID,Source,LabelName,Confidence", ""),
        (
            "V6, V7 (training)",
            f"ImageID,Source,LabelName,Confidence,{CORNERS},{FLAGS},{CLICKS}",
            "ImageID,Source,LabelName,Confidence",
            "LabelName,DisplayName\n",
        ),
        ("Challenge 2019", f"ImageID,LabelName,{CORNERS},IsGroupOf", "ImageID,LabelName,Confidence", ""),
    ],
)
def test_tables_of_every_version_of_openimages(tmp_path, version, boxes, labels, classes):
    first, second = "0a1b2c3d4e5f6071", "fedcba9876543210"
    values = {"Source": "xclick", "Confidence": "1", "XMin": "0.125", "XMax": "0.5", "YMin": "0.25", "YMax": "0.75"}

    def row(header: str, **fields: str) -> str:
        # What nobody looked at is -1 in the published tables.
        return ",".join((values | fields).get(name, "-1") for name in header.split(","))

    (tmp_path / "boxes.csv").write_text(
        f"{boxes}\n{row(boxes, ImageID=first, LabelName='/m/car', IsGroupOf='0')}\n"
        f"{row(boxes, ImageID=second, LabelName='/m/duck', IsGroupOf='1')}\n"
        f"{row(boxes, ImageID=second, LabelName='/m/boat')}\n"
    )
    (tmp_path / "labels.csv").write_text(
        f"{labels}\n{row(labels, ImageID=first, LabelName='/m/boat', Confidence='0')}\n"
        f"{row(labels, ImageID=first, LabelName='/m/0k4j', Confidence='1')}\n"  # beyond the boxable classes
        f"{row(labels, ImageID=second, LabelName='/m/vehicle', Confidence='1')}\n"
    )
    (tmp_path / "classes.csv").write_text(classes + (FOLDER / "class-descriptions-boxable.csv").read_text())
    annotations = load_openimages(
        tmp_path / "boxes.csv",
        FOLDER / "images",
        classes_csv=tmp_path / "classes.csv",
        labels_csv=tmp_path / "labels.csv",
        hierarchy_json=FOLDER / "hierarchy.json",
    )
    assert annotations.labels.tolist() == [CAR, DUCK, BOAT], version
    assert annotations.crowd.tolist() == [False, True, False]
    np.testing.assert_allclose(annotations.boxes[0], [12, 16, 48, 48])
    assert annotations.negative_categories(0).tolist() == [BOAT]
    assert annotations.positive_categories(1).tolist() == [VEHICLE]
    assert annotations.num_classes == 7
