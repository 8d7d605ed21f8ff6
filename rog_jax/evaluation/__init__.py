"""From detections to results files, LVIS figures, tables and pictures."""

from rog_jax.evaluation.boundary import evaluate_boundary
from rog_jax.evaluation.calibration import norcal_scores
from rog_jax.evaluation.coco import evaluate_coco
from rog_jax.evaluation.inference import ResultPaths, run_inference
from rog_jax.evaluation.lvis import evaluate_lvis, evaluate_lvis_fixed
from rog_jax.evaluation.pictures import save_pictures
from rog_jax.evaluation.pooled import evaluate_lvis_pooled
from rog_jax.evaluation.summary import format_table, write_metrics, write_per_class
from rog_jax.evaluation.truth import Truth, load_truth

__all__ = [
    "ResultPaths",
    "Truth",
    "evaluate_boundary",
    "evaluate_coco",
    "evaluate_lvis",
    "evaluate_lvis_fixed",
    "evaluate_lvis_pooled",
    "format_table",
    "load_truth",
    "norcal_scores",
    "run_inference",
    "save_pictures",
    "write_metrics",
    "write_per_class",
]
