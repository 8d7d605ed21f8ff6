"""The command that runs a detector on pictures."""

import json

import pytest

from rog_jax.evaluation.run import evaluate_run
from rog_jax.tools import predict
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
    found = predict.settings(
        ["test.flip=True", "config.test.nms_iou=0.4", "data.format=coco", "test.scales=(1.0, 2.0)"]
    )
    assert found == {"test.flip": True, "test.nms_iou": 0.4, "data.format": "coco", "test.scales": (1.0, 2.0)}


def test_half_a_list_has_no_name(tmp_path):
    records = predict._JsonList(tmp_path / "list.json")

    def write(values):
        with records:
            for value in values:
                records.write({"a": 1 / value})

    with pytest.raises(ZeroDivisionError):
        write([1, 0])
    assert list(tmp_path.iterdir()) == []
    with records:
        pass
    assert json.loads((tmp_path / "list.json").read_text()) == []
