import json

import numpy as np
import pytest

from rog_jax.evaluation import evaluate_lvis
from rog_jax.evaluation.lvis import all_figures, read_both
from rog_jax.evaluation.matching import AREA_RANGES, candidates, category_curves, curve, match
from rog_jax.evaluation.results_file import keep_best
from tests.evaluation.cases import random_case, written


@pytest.mark.parametrize("seed", range(6, 12))
@pytest.mark.parametrize("cap", [-1, 20])
def test_our_matching_gives_the_evaluators_figures(tmp_path, seed, cap):
    truth, boxes, masks = random_case(seed)
    for kind, records in (("bbox", boxes), ("segm", masks)):
        files = written(tmp_path, truth, records)
        expected = evaluate_lvis(*files, kind, cap)
        ours = figures_by_matching(*files, kind, cap)
        assert ours.pop("per_category") == pytest.approx(expected.pop("per_category"), abs=1e-12)
        assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


def figures_by_matching(truth_json, results_json, kind: str, cap: int) -> dict:
    truth, results = read_both(truth_json, results_json, kind)
    found = candidates(truth, keep_best(results, cap))
    categories = len(truth.category_ids)
    curves = [category_curves(found, match(found, area_range), categories) for area_range in AREA_RANGES]
    precision, recall = (np.stack(parts, axis=-1) for parts in zip(*curves, strict=True))
    return all_figures(truth, precision, recall, f"@{cap}")


@pytest.mark.parametrize(("kind", "name"), [("bbox", "results_bbox.json"), ("segm", "results_segm.json.gz")])
def test_our_matching_gives_the_golden_figures(shared, kind, name):
    folder = shared / "golden" / "lvis"
    expected = json.loads((folder / "results_expected.json").read_text())[f"{kind}@100"]
    ours = figures_by_matching(folder / "lvis_val_100.json", folder / name, kind, 100)
    per_category = {str(key): value for key, value in ours.pop("per_category").items()}
    assert per_category == pytest.approx(expected["per_category"], abs=1e-9, rel=0)
    assert ours == pytest.approx(expected["summary"], abs=1e-9, rel=0)


def test_a_curve_worked_out_by_hand():
    """Right, wrong, right of four objects: precision 1 up to recall 1/4, 2/3 up to 2/4, and 0 beyond."""
    right = np.array([[True, False, False, True]])
    wrong = np.array([[False, True, False, False]])  # the third counts as neither
    precision, recall = curve(right, wrong, 4)
    expected = np.array([1.0] * 26 + [2 / 3] * 25 + [0.0] * 50)
    np.testing.assert_allclose(precision[0], expected, atol=1e-15)
    np.testing.assert_array_equal(recall, [0.5])


def test_a_curve_of_no_detection():
    precision, recall = curve(np.zeros((2, 0), bool), np.zeros((2, 0), bool), 3)
    assert not precision.any()
    assert not recall.any()
