import numpy as np
import pytest

from rog_jax.data.lvis import load_coco
from rog_jax.evaluation import evaluate_coco, evaluate_lvis
from rog_jax.evaluation.packed_truth import truth_from_annotations


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_packed_annotations_give_the_figures_of_their_file(case, annotations, kind):
    files = case / f"results_{kind}.json", kind
    np.testing.assert_equal(
        evaluate_lvis(truth_from_annotations(annotations), *files), evaluate_lvis(case / "truth.json", *files)
    )


def test_images_searched_for_everything(case, annotations):
    truth = truth_from_annotations(load_coco(case / "truth.json", annotations.image_folder))
    assert truth.evaluated.all()
    figures = evaluate_coco(truth, case / "results_bbox.json", "bbox")
    expected = evaluate_coco(case / "truth.json", case / "results_bbox.json", "bbox")
    assert figures["per_category"] == expected["per_category"]
