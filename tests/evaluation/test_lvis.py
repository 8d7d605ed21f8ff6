import gzip
import importlib.metadata
import json
import math

import pytest

from rog_jax.evaluation import evaluate_lvis, evaluate_lvis_fixed
from rog_jax.evaluation.truth import load_truth
from tests.evaluation.cases import random_case, sparse_case, written

HAS_OFFICIAL = any(found.name == "lvis" for found in importlib.metadata.distributions())
needs_official = pytest.mark.skipif(not HAS_OFFICIAL, reason="lvis is not installed")
EVALUATORS = ["hotcoco", pytest.param("official", marks=needs_official)]


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_case_worked_out_by_hand(case, kind, evaluator):
    """Cup: found; what else looks like one is forgiven, since the image is not exhaustive.
    Teapot: IoU 0.78, so found at six of ten thresholds, behind a false one of higher score.
    Spoon: only detected where nobody looked, or without area."""
    metrics = evaluate_lvis(case / "truth.json", case / f"results_{kind}.json", kind, evaluator=evaluator)
    expected = {"AP": 0.65, "AP50": 0.75, "AP75": 0.75, "APs": 1.0, "APm": 0.3, "APl": math.nan}
    expected |= {"APr": 0.3, "APc": math.nan, "APf": 1.0}
    expected |= {"AR@300": 0.8, "ARs@300": 1.0, "ARm@300": 0.6, "ARl@300": math.nan}
    assert metrics.pop("per_category") == pytest.approx({1: 1.0, 2: 0.3}, abs=1e-12)
    assert metrics == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_cap_is_per_image_over_all_categories(case, evaluator):
    arguments = (case / "truth.json", case / "results_bbox.json", "bbox")
    assert evaluate_lvis(*arguments, 2, evaluator)["per_category"] == pytest.approx({1: 0.0, 2: 0.6})
    assert evaluate_lvis(*arguments, 3, evaluator)["per_category"] == pytest.approx({1: 1.0, 2: 0.6})
    assert evaluate_lvis(*arguments, -1, evaluator)["AR@-1"] == pytest.approx(0.8)


@pytest.fixture(scope="module")
def golden_truth(shared):
    return load_truth(shared / "golden" / "lvis" / "lvis_val_100.json")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("cap", "evaluator"),
    [(cap, "hotcoco") for cap in (300, 100, 50, -1)]
    + [pytest.param(300, "official", marks=needs_official)]
    + [pytest.param(cap, "official", marks=[needs_official, pytest.mark.slow]) for cap in (100, 50, -1)],
)
def test_golden(shared, golden_truth, kind, cap, evaluator):
    folder = shared / "golden" / "lvis"
    expected = json.loads((folder / "results_expected.json").read_text())[f"{kind}@{cap}"]
    results = folder / ("results_bbox.json" if kind == "bbox" else "results_segm.json.gz")
    metrics = evaluate_lvis(golden_truth, results, kind, cap, evaluator)
    tolerance = 1e-9 if evaluator == "official" else 1e-6
    per_category = {str(key): value for key, value in metrics.pop("per_category").items()}
    assert per_category == pytest.approx(expected["per_category"], abs=tolerance, rel=0)
    assert metrics == pytest.approx(expected["summary"], abs=tolerance, rel=0)
    if cap == -1:  # no category has over 10,000 detections
        fixed = evaluate_lvis_fixed(golden_truth, results, kind, evaluator=evaluator)
        assert {str(key): value for key, value in fixed.pop("per_category").items()} == per_category
        assert list(fixed.values()) == list(metrics.values())


@needs_official
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cap", [300, 20])
def test_both_evaluators_agree(tmp_path, seed, cap):
    truth, boxes, masks = random_case(seed)
    for kind, records in (("bbox", boxes), ("segm", masks)):
        files = written(tmp_path, truth, records)
        ours, official = (evaluate_lvis(*files, kind, cap, evaluator) for evaluator in ("hotcoco", "official"))
        assert ours.pop("per_category") == pytest.approx(official.pop("per_category"), abs=1e-9)
        assert ours == pytest.approx(official, abs=1e-9, nan_ok=True)
        assert 0.01 < ours["AP"] < 0.99


@needs_official
@pytest.mark.parametrize("seed", range(12))
def test_both_evaluators_agree_where_much_is_missing(tmp_path, seed):
    truth, boxes, masks = sparse_case(seed)
    for kind, records in (("bbox", boxes), ("segm", masks)):
        files = written(tmp_path, truth, records)
        for cap in (-1, 1, 5, 100):
            ours, official = (evaluate_lvis(*files, kind, cap, evaluator) for evaluator in ("hotcoco", "official"))
            assert ours.pop("per_category") == pytest.approx(official.pop("per_category"), abs=1e-9)
            assert ours == pytest.approx(official, abs=1e-9, nan_ok=True)
            if seed % 4 == 1:  # detections of categories without an object alone
                assert ours["AP"] == 0.0


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_detections_without_area_alone_find_nothing(case, tmp_path, evaluator):
    record = {"image_id": 11, "category_id": 1, "bbox": [10, 10, 0, 20], "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([record]))
    metrics = evaluate_lvis(case / "truth.json", tmp_path / "results.json", "bbox", evaluator=evaluator)
    assert metrics["AP"] == 0.0
    assert metrics["per_category"] == {1: 0.0, 2: 0.0}


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_coco_file_is_exhaustive_and_without_groups(case, tmp_path, evaluator):
    truth = json.loads((case / "truth.json").read_text())
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in truth["categories"]:
        del category["frequency"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    metrics = evaluate_lvis(tmp_path / "truth.json", case / "results_bbox.json", "bbox", evaluator=evaluator)
    assert metrics["per_category"] == pytest.approx({1: 0.5, 2: 0.3})  # the other cup of higher score is now false
    assert all(math.isnan(metrics[f"AP{group}"]) for group in "rcf")


def test_a_truth_that_is_loaded_once_serves_both_kinds(case):
    truth = load_truth(case / "truth.json")
    for kind in ("bbox", "segm"):
        from_file = evaluate_lvis(case / "truth.json", case / f"results_{kind}.json", kind)
        assert evaluate_lvis(truth, case / f"results_{kind}.json", kind)["AP"] == from_file["AP"]


def test_compressed_results(case, tmp_path):
    path = tmp_path / "results.json.gz"
    path.write_bytes(gzip.compress((case / "results_bbox.json").read_bytes()))
    assert evaluate_lvis(case / "truth.json", path, "bbox")["AP"] == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth.pop("images"), "is no annotation file .*`images`"),
        (lambda truth: truth["images"][1].pop("height"), r"image 12 \(images\[1\]\).*missing required field `height`"),
        (lambda truth: truth["images"][1].update(id=11), "11"),
        (lambda truth: truth["annotations"][1].pop("area"), r"annotations\[1\]\).*missing required field `area`"),
        (lambda truth: truth["annotations"][1].update(area=-1), r"annotation 1 \(annotations\[1\]\): area is -1"),
        (lambda truth: truth["annotations"][1].update(bbox=[1, 2, 3]), r"annotations\[1\]\): bbox is \[1, 2, 3\]"),
        (lambda truth: truth["annotations"][0].update(image_id=5), r"annotations\[0\]\): image_id 5 is unknown"),
        (lambda truth: truth["annotations"][2].update(category_id=5), r"annotations\[2\]\): category_id 5 is unknown"),
        (lambda truth: truth["images"][0].update(neg_category_ids=[1, 8]), "image 11: neg_category_ids has 8"),
        (lambda truth: truth["categories"].clear(), "the list 'categories' is empty"),
        (lambda truth: truth["categories"].append(3), r"categories\[3\]"),
        (lambda truth: truth["categories"][0].update(frequency="x"), "category 1.*frequency is 'x'"),
    ],
)
def test_a_wrong_ground_truth_is_named(case, tmp_path, change, message):
    truth = json.loads((case / "truth.json").read_text())
    change(truth)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=f"truth.json.*{message}"):
        evaluate_lvis(tmp_path / "truth.json", case / "results_bbox.json", "bbox")


def test_a_missing_or_cut_off_ground_truth_is_named(case, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*absent\.json"):
        evaluate_lvis(tmp_path / "absent.json", case / "results_bbox.json", "bbox")
    (tmp_path / "truth.json").write_text((case / "truth.json").read_text()[:200])
    with pytest.raises(ValueError, match=r"truth\.json is no valid json"):
        evaluate_lvis(tmp_path / "truth.json", case / "results_bbox.json", "bbox")


def test_wrong_arguments(case):
    files = case / "truth.json", case / "results_bbox.json"
    for cap in (0, -2):
        with pytest.raises(ValueError, match="must be positive"):
            evaluate_lvis(*files, "bbox", cap)


def test_without_the_official_evaluator_the_command_is_told(case, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match=r"pip install --no-deps lvis==0\.5\.3"):
        evaluate_lvis(case / "truth.json", case / "results_bbox.json", "bbox", evaluator="official")
