import csv
import json
from math import nan

from rog_jax.evaluation.summary import (
    COLUMNS,
    OPENIMAGES_COLUMNS,
    format_supply,
    format_table,
    write_metrics,
    write_per_class,
)

FIGURES = {name: 0.01 * place for place, name in enumerate(COLUMNS)} | {
    "APc": nan,
    "per_category": {2: 0.25, 7: 1.0},
    "per_category_AP50": {2: 0.5, 7: 1.0},
    "detections_per_category": {2: 12, 7: 3, 9: 0},
}
FIXED = {"AP": 0.5, "APr": 0.25, "scarce_categories": 3, "evaluated_categories": 4}
CATEGORIES = [
    {"id": 2, "name": "teapot, blue", "frequency": "r", "image_count": 4, "instance_count": 5},
    {"id": 7, "name": "cup", "frequency": "f"},
    {"id": 9, "name": "spoon", "frequency": ""},
]


def test_table():
    metrics = {"bbox": FIGURES, "segm": FIGURES | {"fixed": FIXED, "pooled": {"AP": 1.0}, "boundary": FIGURES}}
    lines = format_table(metrics).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["bbox", "0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "-", "8.0"]
    assert lines[2].split()[0] == "segm"
    assert lines[3].split() == ["segm", "fixed", "50.0", *"-----", "25.0", "-", "-"]
    assert lines[4].split() == ["segm", "pooled", "100.0", *"--------"]
    assert lines[5].split()[:3] == ["segm", "boundary", "0.0"]


def test_table_of_openimages():
    figures = {name: 0.1 * place for place, name in enumerate(OPENIMAGES_COLUMNS)} | {"AP50_3": nan}
    lines = format_table({"bbox": figures}).splitlines()
    assert lines[0].split() == list(OPENIMAGES_COLUMNS)
    assert lines[1].split() == ["bbox", "0.0", "10.0", "20.0", "-", "40.0", "50.0"]


def test_the_limits_stand_below_the_table():
    assert format_supply({"bbox": FIGURES}, 300) == ""
    note = format_supply({"bbox": FIGURES | {"fixed": FIXED}, "segm": FIGURES | {"fixed": FIXED}}, 300)
    assert "best 300 of an image" in note
    assert "fewer than 10,000 detections: bbox 3 of 4, segm 3 of 4." in note
    assert max(map(len, note.splitlines())) <= 80
    assert "all detections" in format_supply({"bbox": {"fixed": FIXED}}, -1)


def test_metrics_json_has_null_for_what_is_not_defined(tmp_path):
    path = write_metrics(tmp_path / "new", {"bbox": FIGURES, "seconds": 1.5, "seeds": (1, nan)})
    data = json.loads(path.read_text())
    assert path.name == "metrics.json"
    assert data["schema"] == 1
    assert data["bbox"]["APc"] is None
    assert data["bbox"]["APf"] == FIGURES["APf"]
    assert data["bbox"]["per_category"] == {"2": 0.25, "7": 1.0}
    assert data["seeds"] == [1, None]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_per_class(tmp_path):
    path = write_per_class(tmp_path, CATEGORIES, {"bbox": FIGURES})
    rows = list(csv.reader(path.read_text().splitlines()))
    known = ["category_id", "name", "group", "train_images", "train_instances"]
    figures = ["bbox_AP", "bbox_AP50", "bbox_detections", "segm_AP", "segm_AP50", "segm_detections"]
    assert rows[0] == known + figures
    assert rows[1] == ["2", "teapot, blue", "r", "4", "5", "0.250000", "0.500000", "12", "", "", ""]
    assert rows[2] == ["7", "cup", "f", "", "", "1.000000", "1.000000", "3", "", "", ""]
    assert rows[3] == ["9", "spoon", "", "", "", "", "", "0", "", "", ""]
