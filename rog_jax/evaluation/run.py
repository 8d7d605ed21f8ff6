"""An evaluation from config and checkpoint to figures, tables and pictures."""

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from rog_jax.data import Annotations, check_categories, load_lvis
from rog_jax.data.loader import eval_loader
from rog_jax.evaluation.inference import ResultPaths, run_inference
from rog_jax.evaluation.json_stream import iter_records
from rog_jax.evaluation.lvis import evaluate_lvis
from rog_jax.evaluation.pictures import save_pictures
from rog_jax.evaluation.summary import format_table, write_metrics, write_per_class
from rog_jax.evaluation.truth import Truth, load_truth
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.config import check_config
from rog_jax.training.initial import InitialWeights, load_initial, overwritten, with_settings
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, TrainState, create_state, data_mesh
from rog_jax.training.step import make_predict_step, to_devices

logger = logging.getLogger(__name__)


class EvaluatedModel(NamedTuple):
    """A model with its arrays, ready to predict.

    Attributes:
        config: with what the weights need.
        definition: of the model.
        state: its arrays on the devices.
        facts: what the figures' file says of it.
    """

    config: ConfigDict
    definition: ModelDefinition
    state: TrainState
    facts: dict[str, Any]


def evaluate_run(config: ConfigDict, workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """Runs a checkpoint on the validation images and evaluates its detections.

    Args:
        config: the recipe that the run was trained with; its `data.val_*` and `test` sections may differ. With
            `init_from` and no checkpoint in the folder, the imported detector is evaluated as its own project does.
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
    annotations = load_lvis(config.data.val_json, config.data.val_images)
    truth = load_truth(config.data.val_json)  # what it lacks should be said before the inference, not after hours of it
    if config.init_from and not (workdir / "checkpoints").is_dir():
        model = imported_model(config, annotations.num_classes)
    else:
        model = trained_model(config, workdir, annotations, step)
    config, mesh = model.config, data_mesh()
    predict = make_predict_step(model.definition, mesh)
    batches = eval_loader(
        annotations,
        config.data,
        config.test.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    started = time.perf_counter()
    results = run_inference(
        lambda batch: predict(model.state, to_devices(batch, mesh)),
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
    metrics = write_figures(config, truth, results, workdir / "eval", model.facts)
    if pictures:
        print(f"pictures: {pictures[0].parent} ({len(pictures)})")
    return metrics


def trained_model(config: ConfigDict, workdir: Path, annotations: Annotations, step: int | None) -> EvaluatedModel:
    """The model of a run's checkpoint."""
    checkpoints = Checkpoints(workdir, read_only=True)
    about = checkpoints.about(step)
    check_categories(annotations, about["category_ids"])
    config = with_settings(config, about.get("conventions") or {}, str(workdir))
    config.model.num_classes = config.model.num_classes or annotations.num_classes
    definition, state = _fresh(config)
    state = checkpoints.restore(state, step)
    checkpoints.close()
    facts = {"step": int(jax.device_get(state.step)), **{key: about[key] for key in ("commit", "jax", "devices")}}
    return EvaluatedModel(config, definition, state, facts)


def imported_model(config: ConfigDict, num_classes: int) -> EvaluatedModel:
    """The detector of `config.init_from`, with all of its own project's settings.

    Raises:
        CheckpointError: it has no heads, or for another number of categories than the annotations.
    """
    initial = load_initial(config.init_from)
    classes = initial.settings["model"].get("num_classes")
    if classes != num_classes:
        found = "no heads" if classes is None else f"heads for {classes} categories"
        remedy = "; torchvision's COCO detectors want --coco-91-to-80 when imported" if classes == 90 else ""
        raise CheckpointError(
            f"{config.init_from} has {found}, and the annotations have {num_classes} categories: train it on them "
            f"first (train.py --config.init_from){remedy}"
        )
    config = with_settings(config, initial.settings, config.init_from, everything=True)
    definition, state = _fresh(config, initial)
    return EvaluatedModel(config, definition, state, {"imported": initial.about})


def _fresh(config: ConfigDict, initial: InitialWeights | None = None) -> tuple[ModelDefinition, TrainState]:
    mesh = data_mesh()
    check_config(config, mesh.size)
    definition = ModelDefinition(config)
    if initial is not None:
        definition.initial = overwritten(definition.initial, initial.parameters, config.init_from)
    return definition, create_state(definition, create_optimizer(config.optim, lambda step: 0.0), mesh)


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
