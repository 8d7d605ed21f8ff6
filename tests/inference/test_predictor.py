"""The predictor beside eval.py, and on pictures that no data set has."""

import json
import logging
import shutil

import cv2
import jax
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rog_jax import Predictor
from rog_jax.data import DataError, load_lvis
from rog_jax.data.images import UnreadableImage
from rog_jax.data.transforms import ExampleSettings, make_example
from rog_jax.evaluation.run import evaluate_run
from rog_jax.training.best import held, keep_if_best
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.initial import InitialWeights, load_initial, save_initial
from tests.tiny import SHAPES


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor.from_checkpoint(run[0])


@pytest.fixture(scope="module")
def found(predictor, random_pictures):
    return predictor(random_pictures)


def records_of(path):
    """The records of each image in their order: the images' own order is nobody's business."""
    records = {}
    for record in json.loads(path.read_text()):
        records.setdefault(record["image_id"], []).append(record)
    return records


def test_equals_eval_exactly(run, predictor, tmp_path):
    workdir, config, paths = run
    config = config.copy_and_resolve_references()
    config.test.report, config.test.pictures = False, 0
    evaluate_run(config, workdir)
    images = json.loads(paths["val_json"].read_text())["images"]
    boxes, masks = (records_of(workdir / "eval" / f"results_{kind}.json") for kind in ("bbox", "segm"))
    files = {paths["images"] / image["file_name"].rpartition("/")[2]: image["id"] for image in images}
    checked = 0
    for path, found in predictor.predict_files(files):
        expected, outlines = boxes.get(files[path], []), masks.get(files[path], [])
        assert [record["category_id"] for record in expected] == found.category_ids.tolist()
        assert [np.float32(record["score"]) for record in expected] == found.scores.tolist()
        corners = np.array([record["bbox"] for record in expected]).reshape(-1, 4)
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        np.testing.assert_array_equal(corners, np.concatenate([found.boxes[:, :2], sides], axis=1).round(4))
        assert [record["segmentation"] for record in outlines] == found.run_lengths()
        checked += len(found)
    assert checked > 20


def test_pictures_of_any_size_compile_no_more_programs_than_there_are_shapes(run, random_pictures, caplog):
    predictor = Predictor.from_checkpoint(run[0])
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        found = predictor(random_pictures)
        again = predictor(random_pictures[::-1])[::-1]
    compiled = [record.message for record in caplog.records if record.message.startswith("Finished XLA compilation")]
    assert 1 <= len([message for message in compiled if "predict" in message or "lambda" in message]) <= len(SHAPES)
    for one, other, picture in zip(found, again, random_pictures, strict=True):
        assert one.size == picture.shape[:2]
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        height, width = one.size
        assert (one.boxes >= 0).all()
        assert (one.boxes <= [width, height, width, height]).all()


def test_masks_are_their_run_lengths(found):
    some = next(one for one in found if len(one) > 3)
    assert some.masks.shape == (len(some), *some.size)
    np.testing.assert_array_equal(some.masks, np.stack([coco_mask.decode(code) for code in some.run_lengths()]))


def test_best_ones(found):
    some = next(one for one in found if len(one) > 3)
    best = some.best(2)
    assert len(best) == len(best.masks) == len(best.names) == 2
    np.testing.assert_array_equal(best.masks, some.masks[:2])
    sure = some.best(100, float(some.scores[1]))
    assert len(sure) == np.sum(some.scores >= some.scores[1])
    assert len(some.best(100, 2.0)) == 0


def test_one_picture_alone_and_its_categories(run, predictor, random_pictures, found):
    one = predictor(random_pictures[7])
    np.testing.assert_array_equal(one.boxes, found[7].boxes)
    categories = json.loads(run[2]["train_json"].read_text())["categories"]
    by_id = {category["id"]: category for category in categories}
    assert one.names == tuple(by_id[number]["name"] for number in one.category_ids.tolist())
    assert one.groups == tuple(by_id[number]["frequency"] for number in one.category_ids.tolist())
    assert predictor.draw(random_pictures[7], one, 3).shape[2] == 3


def test_a_file_is_read_as_viewers_show_it(predictor, tmp_path):
    from PIL import Image

    picture = np.random.default_rng(1).integers(0, 256, (40, 80, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "plain.png")
    turned = Image.fromarray(np.rot90(picture).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    turned.save(tmp_path / "turned.tif", exif=exif)
    plain, *others = (predictor.predict_file(tmp_path / name) for name in ("plain.png", "turned.png", "turned.tif"))
    for shown in others:
        assert plain.size == shown.size == (40, 80)
        np.testing.assert_array_equal(plain.boxes, shown.boxes)


def test_large_jpegs_are_decoded_as_eval_does(run, predictor, tmp_path):
    """Of ten times the size that the detector sees."""
    noise = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), cv2.resize(noise, (960, 640), interpolation=cv2.INTER_NEAREST))
    found = predictor.predict_file(path)
    image = {"id": 1, "file_name": path.name, "height": 640, "width": 960}
    annotations = json.loads(run[2]["val_json"].read_text()) | {"images": [image], "annotations": []}
    (tmp_path / "one.json").write_text(json.dumps(annotations))
    listed = load_lvis(tmp_path / "one.json", tmp_path)
    _, shape = predictor._view((640, 960))
    example = make_example(listed, 0, shape, ExampleSettings.testing(predictor.config.data))
    np.testing.assert_array_equal(example.image, predictor._example_of_file(path).batch.image)
    assert found.size == (640, 960)
    assert found.boxes.max() > 300


def test_unreadable_files(predictor, tmp_path, caplog):
    (tmp_path / "text.jpg").write_text("no picture")
    cv2.imwrite(str(tmp_path / "fine.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(UnreadableImage, match=r"text\.jpg: it is no picture"):
        predictor.predict_file(tmp_path / "text.jpg")
    found = dict(predictor.predict_files([tmp_path / "text.jpg", tmp_path / "missing.jpg", tmp_path / "fine.png"]))
    assert list(found) == [tmp_path / "fine.png"]
    assert "text.jpg" in caplog.text
    assert "missing.jpg: No such file" in caplog.text


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((5, 5, 3), np.float32),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_wrong_pictures(predictor, picture):
    with pytest.raises(ValueError, match="picture"):
        predictor(picture)


def test_a_checkpoint_by_its_path_and_overrides(run, predictor, random_pictures):
    few = Predictor.from_checkpoint(run[0] / "checkpoints" / "0", overrides={"test.max_detections": 3})
    assert max(map(len, few(random_pictures[:4]))) == 3  # though the run writes more than its own limit
    assert max(map(len, predictor(random_pictures[:8]))) == run[1].test.written_detections


def test_settings_that_an_older_run_left_open(run, predictor, monkeypatch):
    inner = Checkpoints.about

    def older(self, step=None):
        about = inner(self, step)
        about["config"]["roi"]["predictor"] = "auto"
        return about

    monkeypatch.setattr(Checkpoints, "about", older)
    assert Predictor.from_checkpoint(run[0]).config.roi.predictor == predictor.config.roi.predictor == "linear"


def test_the_best_checkpoint_by_its_path(run, predictor, random_pictures, tmp_path):
    shutil.copytree(run[0] / "checkpoints", tmp_path / "checkpoints")
    with held(tmp_path, 0) as copy:
        assert keep_if_best(tmp_path, copy, "AP", 0.5, {})
    best = Predictor.from_checkpoint(tmp_path / "best")
    np.testing.assert_array_equal(best(random_pictures[7]).boxes, predictor(random_pictures[7]).boxes)


def test_overrides_win_over_the_settings_of_imported_weights(run, random_pictures, tmp_path):
    initial = load_initial(run[0])
    settings = initial.settings | {"test": {"max_detections": 50, "nms_iou": 0.5}}
    settings["model"] |= {"num_classes": 6}
    save_initial(tmp_path / "weights", initial._replace(settings=settings))
    names = run[2]["train_json"]
    sizes = {"data.shapes": SHAPES, "data.test_short_side": 64, "data.max_long_side": 96}

    def load(**overrides):
        given = sizes | {name.replace("__", "."): value for name, value in overrides.items()}
        return Predictor.from_checkpoint(tmp_path / "weights", names=names, overrides=given)

    assert load().config.test.max_detections == 50
    few = load(test__max_detections=3)
    assert (few.config.test.max_detections, few.config.test.nms_iou, few.config.data.shapes) == (3, 0.5, SHAPES)
    assert max(map(len, few(random_pictures[:4]))) == 3
    with pytest.raises(CheckpointError, match=r"config\.rpn\.anchor_scale"):
        load(rpn__anchor_scale=3.0)
    with pytest.raises(CheckpointError, match="holds a ResNet-18"):
        load(model__depth=34)
    with pytest.raises(DataError, match="6 categories, and the detector 5"):
        load(model__num_classes=5)


def test_wrong_checkpoints(run, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        Predictor.from_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no imported weights and no run's checkpoints"):
        Predictor.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 17; found: 0"):
        Predictor.from_checkpoint(run[0], step=17)
    with pytest.raises(CheckpointError, match="written by another model"):
        Predictor.from_checkpoint(run[0], overrides={"model.fpn_channels": 16})
    with pytest.raises(CheckpointError, match=r"config\.rpn\.anchor_scale: checkpoint .*, here 3\.0"):
        Predictor.from_checkpoint(run[0], overrides={"rpn.anchor_scale": 3.0})
    with pytest.raises(ValueError, match=r"config\.test\.maximum=16"):
        Predictor.from_checkpoint(run[0], overrides={"test.maximum": 16})
    with pytest.raises(ValueError, match="multiple of their number, 8"):
        Predictor.from_checkpoint(run[0], batch_size=3)


def test_names_from_another_file(run, tmp_path):
    names = tmp_path / "names.json"
    names.write_text(json.dumps([{"id": number + 1, "name": f"thing {number}"} for number in range(6)]))
    assert Predictor.from_checkpoint(run[0], names=names).categories.names[5] == "thing 5"
    names.write_text(json.dumps([{"id": 1, "name": "thing"}]))
    with pytest.raises(DataError, match="1 categories, and the detector 6"):
        Predictor.from_checkpoint(run[0], names=names)
    names.write_text("{}")
    with pytest.raises(DataError, match="holds no categories"):
        Predictor.from_checkpoint(run[0], names=names)


def test_imported_weights_without_heads(tmp_path):
    save_initial(tmp_path / "backbone", InitialWeights({"backbone": {"a": np.zeros(1)}}, {"model": {"depth": 50}}, {}))
    with pytest.raises(CheckpointError, match="has no heads"):
        Predictor.from_checkpoint(tmp_path / "backbone")
