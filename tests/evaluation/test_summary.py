import csv
import json
from math import nan

from rog_jax.evaluation.summary import COLUMNS, format_table, write_metrics, write_per_class

FIGURES = {name: 0.01 * place for place, name in enumerate(COLUMNS)} | {"APc": nan, "per_category": {2: 0.25, 7: 1.0}}
CATEGORIES = [
    {"id": 2, "name": "teapot, blue", "frequency": "r", "image_count": 4, "instance_count": 5},
    {"id": 7, "name": "cup", "frequency": "f"},
    {"id": 9, "name": "spoon", "frequency": ""},
]


def test_table():
    lines = format_table({"bbox": FIGURES, "segm": FIGURES}).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["bbox", "0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "-", "8.0"]
    assert lines[2].split()[0] == "segm"


def test_metrics_json_has_null_for_what_is_not_defined(tmp_path):
    path = write_metrics(tmp_path / "new", {"bbox": FIGURES, "seconds": 1.5, "seeds": (1, nan)})
    data = json.loads(path.read_text())
    assert path.name == "metrics.json"
    assert data["bbox"]["APc"] is None
    assert data["bbox"]["APf"] == FIGURES["APf"]
    assert data["bbox"]["per_category"] == {"2": 0.25, "7": 1.0}
    assert data["seeds"] == [1, None]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_per_class(tmp_path):
    path = write_per_class(tmp_path, CATEGORIES, {"bbox": FIGURES})
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == ["category_id", "name", "frequency", "train_images", "train_instances", "bbox_AP", "segm_AP"]
    assert rows[1] == ["2", "teapot, blue", "r", "4", "5", "0.250000", ""]
    assert rows[2] == ["7", "cup", "f", "", "", "1.000000", ""]
    assert rows[3] == ["9", "spoon", "", "", "", "", ""]
