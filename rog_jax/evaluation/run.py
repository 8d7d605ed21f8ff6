"""An evaluation from config and checkpoint to figures, tables and pictures."""

import logging
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rog_jax.data import check_categories, load_lvis
from rog_jax.data.loader import eval_loader
from rog_jax.evaluation.inference import ResultPaths, run_inference
from rog_jax.evaluation.lvis import evaluate_lvis
from rog_jax.evaluation.pictures import save_pictures
from rog_jax.evaluation.results_file import iter_records
from rog_jax.evaluation.summary import format_table, write_metrics, write_per_class
from rog_jax.evaluation.truth import Truth, load_truth
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.config import check_config
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_predict_step, to_devices

logger = logging.getLogger(__name__)


def evaluate_run(config: ConfigDict, workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """Runs a checkpoint on the validation images and evaluates its detections.

    Args:
        config: the recipe that the run was trained with; its `data.val_*` and `test` sections may differ.
        workdir: folder of the run.
        step: of the checkpoint; the newest if None.

    Returns:
        Metrics by kind ("bbox", "segm"), on the first host; {} on the others.

    Raises:
        CheckpointError: there is no such checkpoint, or it is another model's.
        DataError: annotations or images are not what the config says, or their categories not those of training.
        ValueError: the annotations lack what evaluation needs, such as an object's area.
    """
    workdir = Path(workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    about = checkpoints.about(step)
    annotations = load_lvis(config.data.val_json, config.data.val_images)
    check_categories(annotations, about["category_ids"])
    truth = load_truth(config.data.val_json)  # what it lacks should be said before the inference, not after hours of it
    config = config.copy_and_resolve_references()
    config.model.num_classes = config.model.num_classes or annotations.num_classes
    mesh = data_mesh()
    check_config(config, mesh.size)
    definition = ModelDefinition(config)
    optimizer = create_optimizer(config.optim, lambda step: 0.0)
    state = checkpoints.restore(create_state(definition, optimizer, mesh), step)
    checkpoints.close()
    predict = make_predict_step(definition, mesh)
    batches = eval_loader(
        annotations,
        config.data,
        config.test.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    started = time.perf_counter()
    results = run_inference(
        lambda batch: predict(state, to_devices(batch, mesh)),
        batches,
        annotations,
        workdir / "eval",
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        mask_threshold=config.test.mask_threshold,
        progress=jax.process_index() == 0,
    )
    if jax.process_index() != 0:
        return {}
    logger.info("inference on %d images took %.1f s", annotations.num_images, time.perf_counter() - started)
    pictures = save_pictures(annotations, *results, workdir / "eval", count=config.test.pictures)
    facts = {"step": int(jax.device_get(state.step)), **{key: about[key] for key in ("commit", "jax", "devices")}}
    metrics = write_figures(config, truth, results, workdir / "eval", facts)
    if pictures:
        print(f"pictures: {pictures[0].parent} ({len(pictures)})")
    return metrics


def evaluate_results(config: ConfigDict, results_json: str | Path, workdir: str | Path) -> dict[str, Any]:
    """Evaluates a results file, boxes or masks as its records say, against the config's validation annotations."""
    truth = load_truth(config.data.val_json)
    first = next(iter_records(results_json), {})
    path = Path(results_json)
    results = ResultPaths(None, path) if "segmentation" in first else ResultPaths(path, None)
    return write_figures(config, truth, results, Path(workdir) / "eval", {"results": str(results_json)})


def write_figures(
    config: ConfigDict, truth: Truth, results: ResultPaths, folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """Figures of results files: printed as a table, and written as metrics.json and per_class.csv."""
    test = config.test
    metrics = {
        kind: evaluate_lvis(truth, path, kind, test.max_detections, test.evaluator)
        for kind, path in results._asdict().items()
        if path is not None
    }
    print(format_table(metrics))
    kept = {"max_detections": test.max_detections, "evaluator": test.evaluator, "annotations": config.data.val_json}
    paths = [path for path in results if path is not None]
    paths.append(write_metrics(folder, metrics | {"run": kept | facts}))
    paths.append(write_per_class(folder, truth.categories, metrics))
    for path in paths:
        print(path)
    return metrics
