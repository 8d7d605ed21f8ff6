import json
import logging

import numpy as np
import pytest

from configs import common
from rog_jax.evaluation import (
    evaluate_boundary,
    evaluate_coco,
    evaluate_lvis,
    evaluate_lvis_fixed,
    evaluate_lvis_pooled,
    run,
)
from rog_jax.evaluation.figures import EXTRAS, Protocol, figure_names, figures_of_file, supply_of
from rog_jax.evaluation.inference import ResultPaths
from rog_jax.evaluation.lvis import read_both
from rog_jax.evaluation.run import evaluate_results, protocol_of, results_by_kind
from rog_jax.evaluation.truth import load_truth
from tests.evaluation.cases import random_case, written


@pytest.fixture
def config(case):
    config = common.get_config()
    config.data.val_json = str(case / "truth.json")
    config.test.report = False
    return config


def test_everything_from_one_reading(case):
    truth, results = load_truth(case / "truth.json"), case / "results_segm.json"
    figures = figures_of_file(
        truth, results, "segm", Protocol(max_detections=3, extras=("pooled", "fixed", "boundary"))
    )
    expected = evaluate_lvis(truth, results, "segm", 3)
    np.testing.assert_equal({name: figures[name] for name in expected}, expected)
    assert figures["per_category_AP50"] == pytest.approx({1: 1.0, 2: 1.0})
    np.testing.assert_equal(figures["pooled"], evaluate_lvis_pooled(truth, results, "segm"))
    np.testing.assert_equal(figures["boundary"], evaluate_boundary(truth, results, 3))
    fixed = evaluate_lvis_fixed(truth, results, "segm")
    counts = {"scarce_categories": 2, "evaluated_categories": 2}
    np.testing.assert_equal(figures["fixed"], fixed | counts)
    records = json.loads(results.read_text())
    assert figures["detections_per_category"] == {
        key: sum(record["category_id"] == key for record in records) for key in (1, 2, 3)
    }
    assert figures["seconds"] > 0


def test_coco_has_no_extras(case):
    truth, results = load_truth(case / "truth.json"), case / "results_bbox.json"
    figures = figures_of_file(truth, results, "bbox", Protocol("coco", extras=("fixed",)))
    expected = evaluate_coco(truth, results, "bbox")
    np.testing.assert_equal({name: figures[name] for name in expected}, expected)
    assert "fixed" not in figures


def scalars(figures, before=""):
    counts = ("seconds", "fixed/scarce_categories", "fixed/evaluated_categories")
    for key, value in figures.items():
        if isinstance(value, dict) and not key.endswith(("_category", "_AP50")):
            yield from scalars(value, f"{key}/")
        elif isinstance(value, float | int) and before + key not in counts:
            yield before + key


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(
    "protocol", [Protocol(max_detections=3, extras=EXTRAS), Protocol(extras=("pooled",)), Protocol("coco")]
)
def test_the_names_of_figures_are_those_of_an_evaluation(case, protocol, kind):
    figures = figures_of_file(load_truth(case / "truth.json"), case / f"results_{kind}.json", kind, protocol)
    assert sorted(figure_names(protocol, kind)) == sorted(scalars(figures))


def test_boxes_have_no_boundary(case):
    truth = load_truth(case / "truth.json")
    assert "boundary" not in figures_of_file(truth, case / "results_bbox.json", "bbox", Protocol(extras=("boundary",)))


def test_a_limit_for_an_image_is_noticed_and_said(tmp_path, caplog):
    truth, boxes, _ = random_case(50)
    few = [record for image in range(6, 11) for record in [r for r in boxes if r["image_id"] == image][:8]]
    loaded, results = read_both(*written(tmp_path, truth, few), "bbox")
    supply = supply_of(loaded, results)
    assert (supply.most_of_an_image, supply.images_at_most, supply.evaluated, supply.scarce) == (8, 5, 6, 6)
    assert sum(supply.per_category.values()) == 40
    with caplog.at_level(logging.WARNING):
        figures_of_file(loaded, tmp_path / "results.json", "bbox", Protocol())
    assert "bbox: 5 images have 8 detections and none has more" in caplog.text
    assert "6 of the 6 categories have fewer than the 10000" in caplog.text
    caplog.clear()
    written(tmp_path, truth, few[1:16])  # the images have 7 and 8
    figures_of_file(loaded, tmp_path / "results.json", "bbox", Protocol())
    assert not caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"name": "voc"}, "config.test.protocol='voc'"), ({"extras": ("fixed", "AR")}, "config.test.figures has 'AR'")],
)
def test_settings_without_meaning(change, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**change).check()


def test_the_protocol_follows_the_data(config):
    assert protocol_of(config).name == "lvis"
    config.data.format = "openimages"
    assert protocol_of(config).name == "openimages"
    config.data.source = "tfds:coco/2017"
    assert protocol_of(config).name == "coco"
    config.data.source = "tfds:open_images_challenge2019_detection"
    assert protocol_of(config).name == "openimages"
    config.data.source = "tfds:lvis"
    assert protocol_of(config).name == "lvis"
    config.test.protocol = "coco"
    assert protocol_of(config).name == "coco"


def test_a_checkpoint_is_kept_before_anything_else_can_fail(case, config, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no table")

    monkeypatch.setattr(run, "write_per_class", fail)
    kept = []

    def keep(metrics):
        assert (tmp_path / "metrics.json").exists()
        kept.append(metrics["bbox"]["AP"])

    results, truth = ResultPaths(case / "results_bbox.json", None), load_truth(case / "truth.json")
    with pytest.raises(OSError, match="no table"):
        run.write_figures(config, truth, results, tmp_path, {}, keep=keep)
    assert len(kept) == 1


def test_files_of_boxes_and_of_masks_together(case, config, tmp_path, capsys):
    paths = [str(case / "results_segm.json"), str(case / "results_bbox.json")]
    metrics = evaluate_results(config, paths, tmp_path)
    assert list(metrics) == ["bbox", "segm"]
    folder = tmp_path / "eval"
    written_metrics = json.loads((folder / "metrics.json").read_text())
    assert written_metrics["run"]["results"] == {"bbox": paths[1], "segm": paths[0]}
    assert written_metrics["run"]["test"]["max_detections"] == 300
    assert written_metrics["run"]["protocol"] == "lvis"
    assert written_metrics["segm"]["AP"] == metrics["segm"]["AP"]
    assert written_metrics["segm"]["fixed"]["AP"] == metrics["segm"]["fixed"]["AP"]
    rows = (folder / "per_class.csv").read_text().splitlines()
    assert rows[1].startswith("1,cup,f,200,340,1.000000,1.000000,")
    printed = capsys.readouterr().out
    assert "segm fixed" in printed
    assert "Limits: best 300" in printed


def test_one_file_may_hold_both(case, config, tmp_path):
    masks = json.loads((case / "results_segm.json").read_text())
    both = [record | {"bbox": [0, 0, 100, 100]} for record in masks]
    (tmp_path / "both.json").write_text(json.dumps(both))
    metrics = evaluate_results(config, tmp_path / "both.json", tmp_path)
    alone = evaluate_results(config, case / "results_segm.json", tmp_path)
    assert metrics["segm"]["APs"] == alone["segm"]["APs"]  # the boxes do not make the masks large
    assert metrics["bbox"]["AP50"] < alone["segm"]["AP50"]


def test_two_files_of_a_kind_are_refused(case):
    with pytest.raises(ValueError, match=r"(?s)results_bbox\.json and .*results_bbox\.json hold bbox results"):
        results_by_kind([case / "results_bbox.json"] * 2)
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        results_by_kind(case / "absent.json")
