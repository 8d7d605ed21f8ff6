"""The command that runs a detector on pictures."""

import json

import pytest

from rog_jax.data import DataError
from rog_jax.evaluation.run import evaluate_run
from rog_jax.tools import predict
from rog_jax.tools.detector_arguments import settings
from tests.inference.conftest import run  # noqa: F401


def call(*arguments):
    predict.main([str(argument) for argument in arguments])


def test_a_folder_of_pictures(run, tmp_path, capsys):  # noqa: F811
    workdir, config, paths = run
    call(paths["images"], "--checkpoint", workdir, "--out", tmp_path, "--annotations", paths["val_json"], "--top", 3)
    assert "52 of 52 pictures" in capsys.readouterr().out
    listed = json.loads((tmp_path / "predictions.json").read_text())
    assert len(listed) == 52 == len(list((tmp_path / "pictures").rglob("*.jpg")))
    first = listed[0]["objects"][0]
    assert first.keys() == {"category", "category_id", "score", "bbox", "segmentation"}
    assert first["segmentation"]["size"] == [listed[0]["height"], listed[0]["width"]]
    config = config.copy_and_resolve_references()
    config.test.report, config.test.pictures = False, 0
    evaluate_run(config, workdir)
    for name in ("results_bbox.json", "results_segm.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (tmp_path, workdir / "eval"))
        key = lambda record: (record["image_id"], -record["score"], json.dumps(record))  # noqa: E731
        assert sorted(ours, key=key) == sorted(theirs, key=key)


def test_errors_that_name_the_remedy(run, tmp_path, capsys):  # noqa: F811
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    picture = next(run[2]["images"].glob("*"))
    for arguments, message in (
        ([empty, "--checkpoint", run[0]], "holds no picture"),
        ([tmp_path / "gone.jpg", "--checkpoint", run[0]], "there is no such file or folder"),
        ([picture, "--checkpoint", tmp_path / "gone"], "there is no such folder"),
        ([picture, "--checkpoint", run[0], "--set", "test.flip"], "it must be PATH=VALUE"),
        ([picture, "--checkpoint", run[0], "--annotations", tmp_path / "gone.json"], "cannot be read"),
        ([tmp_path / "text.jpg", "--checkpoint", run[0]], "none of the pictures could be read"),
    ):
        with pytest.raises(SystemExit) as ended:
            call(*arguments, "--out", tmp_path / "out")
        assert message in str(ended.value)


def test_settings():
    found = settings(["test.flip=True", "config.test.nms_iou=0.4", "data.format=coco", "test.scales=(1.0, 2.0)"])
    assert found == {"test.flip": True, "test.nms_iou": 0.4, "data.format": "coco", "test.scales": (1.0, 2.0)}


def test_lists_of_any_length_are_json(tmp_path):
    path = tmp_path / "list.json"
    for length in range(3):
        with path.open("w") as file:
            records = predict._JsonList(file)
            for place in range(length):
                records.write({"a": place})
            records.finish()
        assert json.loads(path.read_text()) == [{"a": place} for place in range(length)]


def test_pictures_are_found_once_and_not_among_the_drawn(tmp_path):
    for name in ("a/1.jpg", "a/deep/2.PNG", "b/1.jpg", "out/pictures/1.jpg.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = {"1.jpg", "deep/2.PNG"}
    assert set(map(str, predict.find_pictures([tmp_path / "a"]).values())) == names
    both = predict.find_pictures([tmp_path / "a", tmp_path / "b"])
    assert set(map(str, both.values())) == {"a/1.jpg", "a/deep/2.PNG", "b/1.jpg"}
    assert len(predict.find_pictures([tmp_path], tmp_path / "out")) == 3
    assert len(predict.find_pictures([tmp_path / "a"], tmp_path)) == 2  # --out . leaves out its drawings alone
    (tmp_path / "out" / "pictures" / "own.jpg").touch()
    assert len(predict.find_pictures([tmp_path], tmp_path / "out")) == 4
    with pytest.raises(predict.NoPictures, match="another picture has the same name"):
        predict.find_pictures([tmp_path / "a" / "1.jpg", tmp_path / "b" / "1.jpg"])


def test_image_ids_by_as_much_of_the_path_as_there_is(tmp_path):
    images = [{"file_name": "a/1.jpg", "id": 1}, {"file_name": "b/1.jpg", "id": 2}, {"file_name": "2.jpg", "id": 3}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images}))
    pictures = [tmp_path / "b" / "1.jpg", tmp_path / "2.jpg", tmp_path / "9.jpg"]
    assert predict._image_ids(path, pictures) == {pictures[0]: 2, pictures[1]: 3}
    with pytest.raises(DataError, match=r"several images for .*: 1, 2"):
        predict._image_ids(path, [tmp_path / "1.jpg"])
    with pytest.raises(DataError, match="knows none"):
        predict._image_ids(path, [tmp_path / "7.jpg"])
    with pytest.raises(DataError, match=r"one image, 3, for .*x/2\.jpg and .*y/2\.jpg"):
        predict._image_ids(path, [tmp_path / "x" / "2.jpg", tmp_path / "y" / "2.jpg"])


def test_an_image_is_the_picture_that_shares_most_of_its_path(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": [{"file_name": "a/1.jpg", "id": 3}]}))
    pictures = [tmp_path / folder / "1.jpg" for folder in ("other", "a", "more")]
    assert predict._image_ids(path, pictures) == {pictures[1]: 3}
    with pytest.raises(DataError, match=r"one image, 3, for .*b/a/1\.jpg and .*c/a/1\.jpg: .*more folders"):
        predict._image_ids(path, [tmp_path / folder / "a" / "1.jpg" for folder in ("b", "c")])


def test_a_loss_of_the_user_s_own(run, tmp_path):  # noqa: F811
    recipe = tmp_path / "own.py"
    recipe.write_text("raise ValueError('this recipe was run')")
    picture = next(run[2]["images"].glob("*"))
    with pytest.raises(SystemExit, match="this recipe was run"):
        call(picture, "--checkpoint", run[0], "--out", tmp_path, "--config", recipe)
    with pytest.raises(SystemExit, match="there is no recipe"):
        call(picture, "--checkpoint", run[0], "--out", tmp_path, "--config", tmp_path / "gone.py")
