"""An evaluation from config and checkpoint, or from anybody's results files, to figures, tables and pictures."""

import contextlib
import importlib.metadata
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int
from ml_collections import ConfigDict

from rog_jax.data import Annotations, Batch
from rog_jax.data.loader import check_unreadable, eval_loader
from rog_jax.data.sources import VAL, load_split
from rog_jax.evaluation.best_figure import keeping_best
from rog_jax.evaluation.diagnosis import diagnose
from rog_jax.evaluation.evaluated_model import EvaluatedModel, evaluated_model
from rog_jax.evaluation.figures import Protocol, figures_of_file
from rog_jax.evaluation.inference import ResultPaths, run_inference
from rog_jax.evaluation.lvis import read_both
from rog_jax.evaluation.norcal import score_function
from rog_jax.evaluation.openimages_files import write_challenge_csv
from rog_jax.evaluation.packed_truth import truth_from_annotations
from rog_jax.evaluation.pictures import save_pictures
from rog_jax.evaluation.report import write_report
from rog_jax.evaluation.results_file import IouType, kinds_of
from rog_jax.evaluation.summary import (
    SCHEMA,
    format_supply,
    format_table,
    write_json,
    write_metrics,
    write_per_class,
)
from rog_jax.evaluation.training_counts import training_counts, with_training_counts
from rog_jax.evaluation.truth import Truth, load_truth
from rog_jax.training.best import BEST
from rog_jax.training.checkpoint import flattened
from rog_jax.training.loop import git_commit
from rog_jax.training.out_of_memory import INFERENCE_ADVICE, advice_where_memory_ends
from rog_jax.training.state import data_mesh
from rog_jax.training.step import make_predict_step, to_devices
from rog_jax.training.storage import check_writable, only_writer
from rog_jax.training.tensorboard import Board

logger = logging.getLogger(__name__)


@advice_where_memory_ends(INFERENCE_ADVICE)
def evaluate_run(config: ConfigDict, workdir: str | Path, step: int | str | None = None) -> dict[str, Any]:
    """Runs a checkpoint on the validation images, evaluates its detections, and keeps it if it is the run's best.

    Args:
        config: the recipe that the run was trained with; its `data.val_*` and `test` sections may differ. With
            `init_from` and no checkpoint in the folder, the imported detector is evaluated as its own project does.
        workdir: folder of the run.
        step: of the checkpoint; `BEST` for the best one so far, None for the newest.

    Returns:
        Metrics by kind ("bbox", "segm"), on the first host; {} on the others.

    Raises:
        CheckpointError: there is no such checkpoint, or it is another model's.
        DataError: annotations or images are not what the config says, or their categories not those of training.
        StorageError: another evaluation is at work in the folder, or it cannot be written to; what it held is whole.
        ValueError: the annotations lack what evaluation needs, such as an object's area.
    """
    workdir = Path(workdir)
    with written_by_first_host(workdir / "eval"):
        annotations, truth = validation_set(config)
        protocol = protocol_of(config)  # what is wrong there should be said before the inference, not hours later
        model = evaluated_model(config, workdir, annotations, step)
        if step == BEST:
            keeping = contextlib.nullcontext(_keep_nothing)
        else:
            keeping = keeping_best(config, workdir, model, protocol, annotations)
        with keeping as keep:
            return _evaluated(config, model, annotations, truth, workdir, keep)


@contextlib.contextmanager
def written_by_first_host(folder: Path) -> Iterator[None]:
    """A folder for the results and figures of one evaluation at a time: two would read each other's detections.

    Raises:
        StorageError: another evaluation is at work there, or it cannot be written to.
    """
    if jax.process_index() == 0:
        with only_writer(folder):
            yield
    else:
        check_writable(folder)
        yield


def _keep_nothing(metrics: Mapping[str, Any]) -> None:
    """Of an evaluation that may not change which checkpoint is the best."""


def _evaluated(
    config: ConfigDict,
    model: EvaluatedModel,
    annotations: Annotations,
    truth: Truth | Annotations,
    workdir: Path,
    keep: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    mesh = data_mesh()
    gamma = model.config.test.norcal.gamma
    counts = image_counts(model, config, truth) if gamma else None
    predict = make_predict_step(
        model.definition, mesh, score_function(model.definition.loss, counts, model.config.test.norcal)
    )
    started = time.perf_counter()
    results = run_inference(
        lambda batch: predict(model.state, to_devices(batch, mesh)),
        validation_batches(model.config, annotations),
        annotations,
        workdir / "eval",
        **host_options(model.config),
    )
    if jax.process_index() != 0:
        return {}
    logger.info("inference on %d images took %.1f s", annotations.num_images, time.perf_counter() - started)
    folder, model_facts = workdir / "eval", classifier_facts(model, annotations)
    metrics, diagnosis = write_figures(model.config, truth, results, folder, model.facts, model_facts, keep)
    log_figures(workdir, model, metrics)
    if config.test.pictures:
        keys = ("best_images", "worst_images")
        telling = [image for found in diagnosis.values() for key in keys for image in found[key]]
        pictures = save_pictures(annotations, *results, folder, count=config.test.pictures, also=telling)
        print(f"pictures: {folder / 'pictures'} ({len(pictures)})")
    if diagnosis:
        print(write_report([workdir], folder / "report.html"))
    return metrics


def log_figures(workdir: Path, model: EvaluatedModel, metrics: dict[str, Any]) -> None:
    """AP of all and of each group for TensorBoard, beside the run's losses; nothing for an imported model."""
    if "step" not in model.facts:
        return
    figures = {
        f"{kind}/{name}": value
        for kind, found in metrics.items()
        for name, value in found.items()
        if name.startswith("AP") and isinstance(value, float) and math.isfinite(value)
    }
    with contextlib.closing(Board(workdir / "tensorboard" / "eval")) as board:
        board.write(model.facts["step"], figures)


def image_counts(model: EvaluatedModel, config: ConfigDict, truth: Truth | Annotations) -> Int[np.ndarray, " C"]:
    """Training images of each category: the run's own, or for an imported model those of the config's data."""
    if model.definition.statistics is not None:
        return np.asarray(model.definition.statistics.image_counts, np.int64)
    return training_counts(config.data, truth if isinstance(truth, Truth) else None).images


def classifier_facts(model: EvaluatedModel, annotations: Annotations) -> dict[str, dict[int, Any]]:
    """What the model itself says of each category, by id.

    Returns:
        "classifier_norms": L2 norm of the classifier's weights (the paper's Figure 5a); "gradient_sums": [positive,
        negative], if training summed them up (Figure 4).
    """
    arrays = flattened(model.state.fixed) | flattened(model.state.trainable)
    kernel = jax.device_get(arrays["box_head/classifier/kernel"])  # [hidden, Q]
    norms = np.linalg.norm(kernel.astype(np.float64), axis=0)[: annotations.num_classes]
    ids = annotations.category_ids.tolist()
    facts = {"classifier_norms": dict(zip(ids, norms.tolist(), strict=True))}
    sums = np.asarray(jax.device_get(model.state.gradients))  # [2, C], or [0]
    if sums.any():
        facts["gradient_sums"] = dict(zip(ids, sums.T.tolist(), strict=True))
    return facts


def evaluate_results(
    config: ConfigDict, results_json: str | Path | Sequence[str | Path], workdir: str | Path
) -> dict[str, Any]:
    """Evaluates anybody's results files against the config's validation annotations.

    Args:
        config: `data` and `test` are looked at.
        results_json: one file or several; each is evaluated for what its first record has, boxes, masks or both.
        workdir: figures go to its sub-folder `eval`.

    Returns:
        Metrics by kind ("bbox", "segm").

    Raises:
        FileNotFoundError, ValueError: as `figures_of_file`; two files hold the same kind.
        DataError: OpenImages's files are not what the config says.
        StorageError: the folder cannot be written to.
    """
    folder = Path(workdir) / "eval"
    with written_by_first_host(folder):
        results = results_by_kind(results_json)
        facts = {"results": {kind: str(path) for kind, path in results._asdict().items() if path is not None}}
        metrics, diagnosis = write_figures(config, evaluation_truth(config), results, folder, facts)
        if diagnosis:
            print(write_report([Path(workdir)], folder / "report.html"))
    return metrics


def results_by_kind(results_json: str | Path | Sequence[str | Path]) -> ResultPaths:
    """Which file holds boxes and which masks.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken; two files hold the same kind.
    """
    paths = [results_json] if isinstance(results_json, str | Path) else results_json
    of_kind: dict[IouType, Path] = {}
    for path in map(Path, paths):
        for kind in kinds_of(path):
            if kind in of_kind:
                raise ValueError(f"Both {of_kind[kind]} and {path} hold {kind} results: evaluate them one at a time.")
            of_kind[kind] = path
    return ResultPaths(of_kind.get("bbox"), of_kind.get("segm"))


def validation_set(config: ConfigDict) -> tuple[Annotations, Truth | Annotations]:
    """The images to run a detector on, and the ground truth of its evaluation.

    Raises:
        DataError: the data is not what the config says.
        ValueError: the annotations lack what evaluation needs.
    """
    if protocol_of(config).name == "openimages":
        annotations = _openimages_annotations(config)
        return annotations, annotations
    annotations = load_split(config.data, VAL)
    return annotations, truth_from_annotations(annotations) if config.data.source else evaluation_truth(config)


def evaluation_truth(config: ConfigDict) -> Truth | Annotations:
    """The ground truth of an evaluation, without looking at images if it is a json.

    Raises:
        As `validation_set`.
    """
    if protocol_of(config).name == "openimages":
        return _openimages_annotations(config)
    if config.data.source:
        return truth_from_annotations(load_split(config.data, VAL))
    return with_training_counts(load_truth(config.data.val_json), config.data)


def _openimages_annotations(config: ConfigDict) -> Annotations:
    """With boxes and labels of ancestors, as the challenge evaluates them, whatever training does."""
    data = config.data.copy_and_resolve_references()
    if data.openimages.hierarchy_json:
        data.openimages.expand = True
    return load_split(data, VAL)


def protocol_of(config: ConfigDict) -> Protocol:
    """How the config wants results to be evaluated; "auto" follows the format of the data.

    Raises:
        ValueError: a setting has no meaning.
    """
    test, name = config.test, config.test.protocol
    if name == "auto":
        source = config.data.source
        name = config.data.format
        if source:
            name = next((known for known in ("coco", "open_images") if known in source), "lvis").replace("_", "")
    extras = tuple(extra.strip() for extra in test.figures.split(",") if extra.strip())
    protocol = Protocol(name, test.max_detections, test.evaluator, extras, test.expand_detections)
    protocol.check()
    return protocol


def validation_batches(config: ConfigDict, annotations: Annotations) -> Iterator[Batch]:
    """This host's batches of the validation images.

    Raises:
        DataError: more images than config.data.max_unreadable could not be read; with several hosts after the last
            batch, on all of them.
    """
    place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    loader = eval_loader(annotations, config.data, config.test.batch_size, **place)
    try:
        yield from loader
        if jax.process_count() > 1:
            unreadable = multihost_utils.process_allgather(np.int32(loader.unreadable))
            check_unreadable(int(unreadable.sum()), config.data.max_unreadable)
    finally:
        loader.close()


def host_options(config: ConfigDict) -> dict[str, Any]:
    """What the inference needs to know of this host."""
    place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return place | {"mask_threshold": config.test.mask_threshold, "progress": jax.process_index() == 0}


def write_figures(
    config: ConfigDict,
    truth: Truth | Annotations,
    results: ResultPaths,
    folder: Path,
    facts: dict[str, Any],
    model_facts: dict[str, dict[int, Any]] | None = None,
    keep: Callable[[Mapping[str, Any]], None] = _keep_nothing,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and diagnosis of results files by kind: printed as a table, and written as metrics.json, per_class.csv
    and diagnosis.json, with what `classifier_facts` says if it is given.

    `keep` is called once metrics.json is there: whatever fails later, the checkpoint with these figures is not lost.
    """
    test, protocol = config.test, protocol_of(config)
    metrics, diagnosis = {}, {}
    for kind, path in results._asdict().items():
        if path is None or (kind == "segm" and isinstance(truth, Annotations)):
            continue
        if isinstance(truth, Annotations):
            metrics[kind] = figures_of_file(truth, path, kind, protocol)
            continue
        _, found = read_both(truth, path, kind, protocol.evaluator)
        metrics[kind] = figures_of_file(truth, found, kind, protocol)
        if test.report:
            diagnosis[kind] = diagnose(truth, found, test.max_detections)
    print(format_table(metrics))
    if note := format_supply(metrics, test.max_detections):
        print(note)
    paths = [path for path in results if path is not None]
    paths.append(write_metrics(folder, metrics | {"run": evaluation_facts(config) | facts}))
    keep(metrics)
    paths.append(write_per_class(folder, categories_of(truth), metrics))
    if isinstance(truth, Annotations):
        paths.append(write_challenge_csv(truth, results.bbox, folder / "submission.csv"))
    if diagnosis:
        content = {"schema": SCHEMA} | diagnosis | (model_facts or {})
        paths.append(write_json(folder / "diagnosis.json", content))
    for path in paths:
        print(path)
    return metrics, diagnosis


def evaluation_facts(config: ConfigDict) -> dict[str, Any]:
    """What figures need beside them: settings of the evaluation, data, program."""
    return {
        "protocol": protocol_of(config).name,
        "annotations": config.data.source or config.data.val_json,
        "test": json.loads(config.test.to_json()),
        "commit": git_commit(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "numpy", "hotcoco", "pycocotools")},
    }


def categories_of(truth: Truth | Annotations) -> list[dict[str, Any]]:
    """Records of the categories, as `write_per_class` wants them."""
    if isinstance(truth, Truth):
        return truth.categories
    columns = truth.category_ids.tolist(), truth.category_names, truth.frequencies
    return [{"id": key, "name": name, "frequency": group} for key, name, group in zip(*columns, strict=True)]
