"""check_data finds each kind of fault, says which record has it, and tells scripts by its exit status."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rog_jax.data import load_lvis
from rog_jax.data.findings import Findings
from rog_jax.data.inspection import inspect_json, packed_bytes
from rog_jax.tools import check_data
from tests.data.test_openimages import FOLDER
from tests.reference.data import changed, data_config, make_records, rectangle, write_data_set, write_json


def run(capsys, *arguments) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        check_data.main([str(argument) for argument in arguments])
    return ended.value.code, capsys.readouterr().out


def test_sound_data_set(tmp_path, capsys):
    path, images = write_data_set(tmp_path, make_records())
    status, out = run(capsys, "--json", path, "--images", images, "--png", tmp_path / "tail.png", "--decode")
    assert status == 0
    assert "no errors" in out
    assert "8 images, 8 objects, 1.0 an image" in out
    assert "3 categories: 3 rare" in out
    assert "most frequent: class3 3, class5 3, class9 2" in out
    assert "ERROR" not in out
    assert Image.open(tmp_path / "tail.png").size[0] > 500


@pytest.mark.parametrize(
    ("table", "place", "fields", "kind", "example"),
    [
        ("annotations", 2, {"bbox": [4, 6]}, "broken annotation", "annotation 102 (annotations[2])"),
        ("annotations", 2, {"id": 100}, "annotation id used twice", "annotation 100"),
        ("annotations", 2, {"image_id": 77}, "annotation of an unknown image", "annotation 102"),
        ("annotations", 2, {"category_id": 77}, "annotation of an unknown category", "annotation 102"),
        ("annotations", 2, {"bbox": [4, 6, -20, 24]}, "box with a negative side", "annotation 102"),
        ("annotations", 2, {"bbox": [70, 6, 20, 24]}, "box outside its image", "annotation 102"),
        ("annotations", 2, {"segmentation": [[1, 2, 3]]}, "broken outline", "annotation 102"),
        ("annotations", 2, {"segmentation": {"size": [40, 60], "counts": "0"}}, "broken outline", "annotation 102"),
        (
            "annotations",
            2,
            {"segmentation": rectangle(40, 32, 9, 5)},
            "outline outside its box",
            "annotation 102: 40, 32",
        ),
        ("images", 1, {"id": 10}, "image id used twice", "10 (2 times)"),
        ("images", 1, {"width": "x"}, "broken record of images", "image 11 (images[1])"),
        ("images", 1, {"file_name": ...}, "image without file_name and coco_url", "image 11"),
        ("images", 1, {"neg_category_ids": [4]}, "neg_category_ids of no category", "image 11"),
        ("images", 1, {"width": 41}, "image of another size than annotated", "60 x 40, not 60 x 41"),
        ("images", 1, {"file_name": "none.png"}, "image file missing", "none.png (image 11)"),
        ("categories", 1, {"id": 5}, "category id used twice", "5 (2 times)"),
        ("categories", 1, {"frequency": "x"}, "broken record of categories", "categories[1]"),
    ],
)
def test_errors(tmp_path, capsys, table, place, fields, kind, example):
    path, images = write_data_set(tmp_path, make_records())
    write_json(tmp_path, changed(make_records(), table, place, **fields))
    status, out = run(capsys, "--json", path, "--images", images)
    assert status == 1
    (line,) = [line for line in out.splitlines() if f" {kind}: " in line]
    assert line.startswith("ERROR")
    assert example in line


@pytest.mark.parametrize(
    ("table", "place", "fields", "kind"),
    [
        ("annotations", 2, {"bbox": [50, 6, 20, 24], "segmentation": ...}, "box over the edge of its image"),
        ("annotations", 2, {"area": 900}, "area larger than the box"),
        ("annotations", 2, {"segmentation": rectangle(20, 6, 20, 20)}, "outline leaves its box"),
        ("annotations", 2, {"segmentation": [[1, 2, 3, 4]]}, "outline without three points or a pixel"),
        ("annotations", 2, {"bbox": [6, 6, 0.2, 24]}, "object without area, thinner than a pixel"),
        ("annotations", 2, {"iscrowd": 1}, "crowd or group"),
        ("annotations", 2, {"segmentation": ...}, "object without a mask"),
        ("annotations", 2, {"image_id": 10}, "image without objects"),
        ("images", 1, {"neg_category_ids": [3, 5]}, "category annotated and in neg_category_ids: image 11: 5"),
        ("categories", 0, {"name": "class3"}, "category name used twice: class3"),
        ("images", 1, {"file_name": "000.png", "width": 60, "height": 40}, "file name used twice"),
        ("categories", 0, {"image_count": 7}, "image_count that is not that of this file"),
        ("categories", 0, {"image_count": 2, "frequency": "f"}, "frequency that does not follow from image_count"),
        ("annotations", 2, {"category_id": 3}, ""),
    ],
)
def test_remarks_are_no_errors(tmp_path, capsys, table, place, fields, kind):
    path, images = write_data_set(tmp_path, make_records())
    write_json(tmp_path, changed(make_records(), table, place, **fields))
    status, out = run(capsys, "--json", path, "--images", images)
    assert status == 0
    remarks = [line for line in out.splitlines() if line.startswith("remark")]
    assert any(kind in line for line in remarks) if kind else not remarks


def test_all_faults_are_counted_in_one_pass(tmp_path):
    records = make_records()
    for annotation in records["annotations"][:5]:
        annotation["bbox"] = [100, 100, 5, 5]
    records["annotations"][6]["category_id"] = 77
    findings = Findings()
    inspect_json(write_json(tmp_path, records), findings)
    assert findings.counts["box outside its image"] == 5
    assert findings.counts["annotation of an unknown category"] == 1
    assert len(findings.examples["box outside its image"]) == 3
    assert findings.lines()[0].startswith("ERROR        5 box outside its image: annotation 100: [100.0, 100.0")


def error_lines(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines() if line.startswith("ERROR")]


@pytest.mark.parametrize("decode", [(), ("--decode",)])
def test_pictures_are_looked_at_when_annotations_are_broken(tmp_path, capsys, decode):
    path, images = write_data_set(tmp_path, make_records())
    write_json(tmp_path, changed(make_records(), "annotations", 2, bbox=[4, 6]))
    for name in ("001.png", "004.png"):
        (images / name).unlink()
    Image.new("RGB", (30, 40)).save(images / "005.png")
    status, out = run(capsys, "--json", path, "--images", images, *decode)
    assert status == 1
    lines = error_lines(out)
    assert f"ERROR 2 image file missing: {images / '001.png'} (image 11); {images / '004.png'} (image 14)" in lines
    assert any(line.startswith("ERROR 1 broken annotation: annotation 102 (annotations[2]") for line in lines)
    assert any("005.png (image 15)" in line and ("30" in line and "60" in line) for line in lines)
    assert len(lines) == 3  # that it cannot be loaded for the broken annotation is not said twice
    assert "4 errors" in out


def test_a_missing_image_folder_does_not_hide_broken_annotations(tmp_path, capsys):
    path, _ = write_data_set(tmp_path, make_records())
    write_json(tmp_path, changed(make_records(), "annotations", 2, bbox=[4, 6]))
    status, out = run(capsys, "--json", path, "--images", tmp_path / "none")
    assert status == 1
    broken, folder = sorted(error_lines(out))
    assert broken.startswith("ERROR 1 broken annotation: annotation 102")
    assert folder.startswith(f"ERROR 1 cannot be loaded: There is no image folder {tmp_path / 'none'}.")


def test_a_reason_that_no_finding_has_is_told(tmp_path, capsys):
    """No rule finds one of the first ten pictures: said beside what is broken, once."""
    path, images = write_data_set(tmp_path, make_records())
    write_json(tmp_path, changed(make_records(), "annotations", 2, bbox=[4, 6]))
    for image in images.iterdir():
        image.unlink()
    lines = error_lines(run(capsys, "--json", path, "--images", images)[1])
    assert sorted(line.split(": ")[0] for line in lines) == [
        "ERROR 1 broken annotation",
        "ERROR 1 image files not found",
    ]
    write_json(tmp_path, make_records())
    (line,) = error_lines(run(capsys, "--json", path, "--images", images)[1])
    assert line.startswith("ERROR 1 cannot be loaded: ")
    assert "but neither it nor the next ones are there" in line


def test_groups_follow_the_limits_of_the_config(tmp_path):
    records = changed(make_records(), "categories", 0, image_count=2, frequency="f")
    path, images = write_data_set(tmp_path, records)
    kind = "frequency that does not follow from image_count"
    for limits, remarks in (((10, 100), 1), ((0, 1), 0)):
        data = data_config(train_json=str(path), train_images=str(images), frequency_limits=limits)
        findings, annotations = check_data.check(data, "train")
        assert annotations is not None
        assert findings.counts[kind] == remarks


def test_unreadable_pictures_need_decoding_to_be_found(tmp_path, capsys):
    path, images = write_data_set(tmp_path, make_records())
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(images / "000.png")
    data = (images / "000.png").read_bytes()
    (images / "000.png").write_bytes(data[: len(data) // 2])
    assert run(capsys, "--json", path, "--images", images)[0] == 0
    status, out = run(capsys, "--json", path, "--images", images, "--decode")
    assert status == 1
    assert "image that cannot be read: " in out
    assert "cut short" in out


def test_files_that_cannot_be_read_at_all(tmp_path, capsys):
    path, images = write_data_set(tmp_path, make_records())
    path.write_text("{")
    status, out = run(capsys, "--json", path, "--images", images)
    assert status == 1
    assert "no valid json" in out
    assert run(capsys, "--json", tmp_path / "none.json", "--images", images)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "hf:lvis"], "config.data.source is 'hf:lvis'"),
        (["--config", "none.py"], "there is no recipe none.py"),
    ],
)
def test_what_names_no_data_set_ends_in_one_line(arguments, words):
    with pytest.raises(SystemExit, match=f"check_data: .*{words}"):
        check_data.main(arguments)


def test_openimages_without_its_classes(capsys):
    where = ("--json", FOLDER / "boxes.csv", "--images", FOLDER / "images", "--format", "openimages")
    status, out = run(capsys, *where)
    assert status == 1
    assert "set config.data.openimages.classes_csv" in out


def openimages_recipe(folder: Path, **files: Path) -> Path:
    """A recipe with these entries of config.data.openimages."""
    recipe = folder / "recipe.py"
    lines = [f"    config.data.openimages.{name} = {str(path)!r}\n" for name, path in files.items()]
    recipe.write_text(
        "from configs import common\ndef get_config():\n    config = common.get_config()\n"
        f"{''.join(lines)}    return config\n"
    )
    return recipe


def test_every_broken_line_of_openimages_is_counted(tmp_path, capsys):
    good = (FOLDER / "boxes.csv").read_text()
    corners = ("0.5,0.4,0.1,0.2", "x,0.4,0.1,0.2", "0.1,0.4,0.1,7")
    bad = "".join(f"0a1b2c3d4e5f6071,xclick,/m/car,1,{four},0,0,0,0,0\n" for four in corners)
    (tmp_path / "boxes.csv").write_text(
        f"{good}{bad}0a1b2c3d4e5f6071,xclick,/m/plane,1,0,1,0,1,0,0,0,0,0\nshort,line\n"
    )
    (tmp_path / "labels.csv").write_text("ImageID,LabelName,Confidence\na,/m/car,0.5\na,/m/car,1\nb,/m/car,maybe\n")
    recipe = openimages_recipe(tmp_path, train_labels_csv=tmp_path / "labels.csv")
    where = ("--json", tmp_path / "boxes.csv", "--images", FOLDER / "images", "--format", "openimages")
    classes = FOLDER / "class-descriptions-boxable.csv"
    status, out = run(capsys, "--config", recipe, *where, "--classes", classes)
    assert status == 1
    lines = error_lines(out)
    starts = [
        "ERROR 2 corners outside the image or out of order in boxes.csv: line 9: the box 0.5, 0.1, 0.4, 0.2 is not of",
        "ERROR 2 flag or confidence that is neither 0 nor 1 in labels.csv: line 2: '0.5' is neither 0 nor 1",
        "ERROR 1 corners that are no numbers in boxes.csv: line 10: the corners ['x', '0.1', '0.4', '0.2'] are no",
        "ERROR 1 class that is not listed in boxes.csv: line 12: '/m/plane' is no class of the list",
        "ERROR 1 line of another length than the first in boxes.csv: line 13: it has 2 values for 13 columns",
        f"ERROR 1 image file missing: {FOLDER / 'images' / 'a.jpg'} (image a)",
    ]
    assert all(any(line.startswith(start) for line in lines) for start in starts), lines
    assert len(lines) == len(starts)
    assert "8 errors" in out


def test_each_file_of_openimages_is_looked_at(tmp_path, capsys):
    """One broken line, a broken hierarchy, sizes that are wrong or missing, and no pictures: all in one pass."""
    line = "0a1b2c3d4e5f6071,xclick,/m/car,1,0.5,0.4,0.1,0.2,0,0,0,0,0\n"
    (tmp_path / "boxes.csv").write_text((FOLDER / "boxes.csv").read_text() + line)
    (tmp_path / "hierarchy.json").write_text("{")
    (tmp_path / "sizes.csv").write_text(
        "ImageID,Width,Height\n0a1b2c3d4e5f6071,96,64\n0a1b2c3d4e5f6071,96,65\nfedcba9876543210,6x,64\n"
    )
    (tmp_path / "images").mkdir()
    files = {"hierarchy_json": tmp_path / "hierarchy.json", "train_sizes_csv": tmp_path / "sizes.csv"}
    recipe = openimages_recipe(tmp_path, **files, train_labels_csv=tmp_path / "none.csv")
    where = ("--json", tmp_path / "boxes.csv", "--images", tmp_path / "images", "--format", "openimages")
    arguments = ("--config", recipe, *where, "--classes", FOLDER / "class-descriptions-boxable.csv")
    status, out = run(capsys, *arguments)
    assert status == 1
    lines = error_lines(out)
    starts = [
        "ERROR 1 corners outside the image or out of order in boxes.csv: line 9",
        f"ERROR 1 file that cannot be read: {tmp_path / 'hierarchy.json'} is no valid json",
        "ERROR 1 second size of an image in sizes.csv: line 3",
        "ERROR 1 size that is no whole numbers in sizes.csv: line 4",
        f"ERROR 1 images without a size in sizes.csv: {tmp_path / 'sizes.csv'} has no size of",
        f"ERROR 1 file missing: There is no file {tmp_path / 'none.csv'}",
        f"ERROR 1 image files not found: {tmp_path / 'boxes.csv'}: image 0a1b2c3d4e5f6071 should be",
    ]
    assert all(any(line.startswith(start) for line in lines) for start in starts), lines
    assert len(lines) == len(starts)
    name = "0a1b2c3d4e5f6071.jpg"
    (tmp_path / "images" / name).write_bytes((FOLDER / "images" / name).read_bytes())
    lines = error_lines(run(capsys, *arguments)[1])
    assert any(line.startswith("ERROR 3 image file missing: ") for line in lines)  # of the four with sound boxes


def test_openimages_and_recipes(tmp_path, capsys):
    classes = FOLDER / "class-descriptions-boxable.csv"
    where = ("--json", FOLDER / "boxes.csv", "--images", FOLDER / "images", "--format", "openimages")
    status, out = run(capsys, *where, "--classes", classes, "--png", tmp_path / "tail.png")
    assert status == 0
    assert "4 images, 7 objects" in out
    assert "2 in group 1" in out
    path, images = write_data_set(tmp_path, make_records())
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from configs import common\ndef get_config():\n    config = common.get_config()\n"
        f"    config.data.val_json = {str(path)!r}\n    config.data.val_images = {str(images)!r}\n    return config\n"
    )
    status, out = run(capsys, "--config", recipe, "--split", "val")
    assert status == 0
    assert "8 images, 8 objects" in out
    with pytest.raises(SystemExit):
        check_data.main([])


def test_memory_is_that_of_the_arrays(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records()))
    arrays = [v for v in vars(annotations).values() if isinstance(v, np.ndarray)]
    assert packed_bytes(annotations) == sum(array.nbytes for array in arrays) > annotations.boxes.nbytes
    assert json.loads(Path(annotations.source).read_text())["images"]
    assert "tensorflow" not in sys.modules
