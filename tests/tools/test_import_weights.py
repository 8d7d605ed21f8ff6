"""The import command on archives of all three projects' layouts, and what train.py and eval.py make of its folders."""

import hashlib
import json

import numpy as np
import pytest

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.evaluation.run import evaluate_run
from rog_jax.tools.golden_weights import detectron2_state, mmdet_state, resnet_state, torchvision_state
from rog_jax.tools.import_weights import COCO_UNUSED, import_file, print_report
from rog_jax.training.checkpoint import CheckpointError
from rog_jax.training.initial import load_initial
from rog_jax.training.loop import train
from rog_jax.weights import WeightsError
from tests.tiny import tiny_config
from tests.weights.archives import write_legacy, write_pickle, write_zip


@pytest.fixture(scope="module")
def resnet():
    return resnet_state(50)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_resnet50_archives_of_both_formats(resnet, write, tmp_path, capsys):
    path = tmp_path / "resnet50.pth"
    write(path, resnet)
    named = tmp_path / f"resnet50-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    path.rename(named)
    conversion = import_file(named, tmp_path / "r50")
    print_report(conversion)
    said = capsys.readouterr().out
    assert "torchvision: 265 tensors used, 2 left out" in said
    assert "left out: fc.weight (the classifier of ImageNet)" in said
    assert "backbone: imported" in said
    assert "box_head: fresh at the start" in said
    initial = load_initial(tmp_path / "r50")
    assert initial.about["sha256"].startswith(named.stem[-8:])
    kernel = initial.parameters["backbone"]["stages"][2][5]["conv2"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, resnet["layer3.5.conv2.weight"].transpose(2, 3, 1, 0))


def test_broken_downloads_are_refused(resnet, tmp_path):
    path = tmp_path / "resnet50-0676ba61.pth"
    write_zip(path, {"conv1.weight": resnet["conv1.weight"]})
    with pytest.raises(WeightsError, match=r"resnet50-0676ba61\.pth: its name promises the checksum 0676ba61"):
        import_file(path, tmp_path / "r50")
    path = path.rename(tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"mine\.pth: no tensor has a name of torchvision"):
        import_file(path, tmp_path / "r50")
    with pytest.raises(WeightsError, match=r"nothing\.pth: cannot be read"):
        import_file(tmp_path / "nothing.pth", tmp_path / "r50")
    assert not (tmp_path / "r50").exists()


def test_cocos_80_of_91_columns(tmp_path):
    write_zip(tmp_path / "a.pth", torchvision_state(50, 91))
    conversion = import_file(tmp_path / "a.pth", tmp_path / "w", coco_91_to_80=True)
    assert conversion.settings["model"]["num_classes"] == 80
    used = [number for number in range(1, 91) if number not in COCO_UNUSED]
    weight = torchvision_state(50, 91)["roi_heads.box_predictor.cls_score.weight"]
    np.testing.assert_array_equal(conversion.parameters["box_head"]["classifier"]["kernel"], weight[[*used, 0]].T)


def small(folder, **changes):
    """A tiny recipe on a tiny set, with a ResNet-50 of full width."""
    config = tiny_config()
    config.data.train_json, config.data.val_json = f"{folder}/train.json", f"{folder}/val.json"
    config.data.train_images = config.data.val_images = f"{folder}/images"
    config.model.num_classes = 0
    config.model.depth = 50
    config.train.batch_size = config.test.batch_size = 8
    config.train.steps = config.train.checkpoint_every = 1
    config.test.pictures = 0
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    sizes = {"height": 64, "width": 64, "object_size": (16, 32)}
    settings = SyntheticSettings(train_images=16, val_images=8, num_categories=4, val_instances=2, **sizes)
    return make_dataset(tmp_path_factory.mktemp("set"), settings)["train_json"].parent


WRITTEN = {
    "torchvision": lambda path, classes: write_zip(path, torchvision_state(50, classes + 1)),
    "mmdet": lambda path, classes: write_legacy(path, {"meta": {}, "state_dict": mmdet_state(50, classes)}),
    "detectron2": lambda path, classes: write_pickle(path, {"model": detectron2_state(50, classes)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", WRITTEN)
def test_imported_detectors_detect(family, dataset, tmp_path):
    classes = len(json.loads((dataset / "val.json").read_text())["categories"])
    WRITTEN[family](tmp_path / "model.bin", classes)
    import_file(tmp_path / "model.bin", tmp_path / "w")
    config = small(dataset, init_from=str(tmp_path / "w"))
    metrics = evaluate_run(config, tmp_path / "run")
    assert set(metrics) == {"bbox", "segm"}
    records = json.loads((tmp_path / "run" / "eval" / "results_bbox.json").read_text())
    assert len(records) > 8
    assert all(record["score"] > 0.05 for record in records)  # the projects' threshold, not the recipe's 1e-4


@pytest.mark.slow
def test_a_run_starts_from_a_backbone_and_goes_on_without_its_folder(resnet, dataset, tmp_path):
    write_zip(tmp_path / "resnet50.pth", resnet)
    import_file(tmp_path / "resnet50.pth", tmp_path / "w")
    config = small(dataset, init_from=str(tmp_path / "w"))
    config.model.update(norm="frozen_batch", width=64, fpn_channels=8, frozen_stages=4)
    state = train(config, tmp_path / "run")
    stem = np.asarray(state.fixed["backbone"]["stem"]["conv"]["kernel"])
    np.testing.assert_array_equal(stem, resnet["conv1.weight"].transpose(2, 3, 1, 0))
    (tmp_path / "w").rename(tmp_path / "gone")
    config.train.steps = 2
    assert int(train(config, tmp_path / "run").step) == 2
    evaluate_run(config, tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds no imported weights"):
        train(config, tmp_path / "another run")


@pytest.mark.slow
def test_what_cannot_be_evaluated_says_why(resnet, dataset, tmp_path):
    write_zip(tmp_path / "resnet50.pth", resnet)
    import_file(tmp_path / "resnet50.pth", tmp_path / "w")
    with pytest.raises(CheckpointError, match="has no heads, and the annotations have"):
        evaluate_run(small(dataset, init_from=str(tmp_path / "w")), tmp_path / "run")
    write_zip(tmp_path / "coco.pth", torchvision_state(50, 91))
    import_file(tmp_path / "coco.pth", tmp_path / "coco")
    with pytest.raises(CheckpointError, match=r"heads for 90 categories.*--coco-91-to-80"):
        evaluate_run(small(dataset, init_from=str(tmp_path / "coco")), tmp_path / "run")
