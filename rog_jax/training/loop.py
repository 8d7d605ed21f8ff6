"""The training loop, from a config to a trained checkpoint."""

import contextlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from rog_jax.data import Annotations, check_categories, check_num_classes, load_split
from rog_jax.data.loader import prefetched, train_loader
from rog_jax.data.plan import TrainPlan
from rog_jax.data.statistics import ClassStatistics
from rog_jax.training.checkpoint import CheckpointError, Checkpoints
from rog_jax.training.config import check_config, check_fresh_start
from rog_jax.training.initial import (
    InitialWeights,
    check_conventions,
    check_predictors,
    load_initial,
    overwritten,
    with_settings,
)
from rog_jax.training.log import MetricsWatch, RunLog
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.out_of_memory import TRAINING_ADVICE, advice_where_memory_ends
from rog_jax.training.preemption import Preemption
from rog_jax.training.profile import ProfileRequest, StepProfiler, step_mark, wait_mark
from rog_jax.training.resume import resume
from rog_jax.training.stall import StallGuard
from rog_jax.training.state import ModelDefinition, TrainState, create_state, data_mesh
from rog_jax.training.step import make_fill_step, make_train_step, to_devices
from rog_jax.training.storage import check_writable, whole_file
from rog_jax.training.tensorboard import Mirror
from rog_jax.training.watchers import Checkpointed, TailScalars, Watcher

logger = logging.getLogger(__name__)


@advice_where_memory_ends(TRAINING_ADVICE)
def train(
    config: ConfigDict,
    workdir: str | Path,
    profile: ProfileRequest | None = None,
    watchers: Sequence[Watcher] = (),
    open_mirror: Callable[[], Mirror | None] | None = None,
) -> TrainState:
    """Trains to the end of the schedule, from the newest checkpoint in `workdir` if there is one.

    To be called from the main thread, where Python handles signals.

    Args:
        config: a recipe with its overrides.
        workdir: folder for checkpoints and logs; made if absent.
        profile: steps of which a trace is written.
        watchers: called on every host at each checkpoint, before the next step; not at that of a SIGTERM.
        open_mirror: called on the first host once nothing stands in the way of the first step; what it returns gets
            what TensorBoard does, and is closed at the end.

    Returns:
        The final state, which is also the newest checkpoint; an earlier one after SIGTERM.

    Raises:
        OutOfMemory: a device's memory is too small; says which settings help.
        DataError: annotations or images are not what the config says.
        CheckpointError: the folder holds checkpoints of another model.
        NonFiniteLoss: a loss was NaN or infinite, more often than `train.max_skipped_steps`.
        StorageError: the folder cannot be written to, at the start or later; checkpoints written before are whole.
        RuntimeError: loader processes died too often.
        ValueError: a setting has no meaning, or the run is past the end of the schedule.
    """
    workdir = Path(workdir)
    check_writable(workdir / "checkpoints", workdir / "tensorboard")
    if profile is not None and jax.process_index() == 0:
        check_writable(Path(profile.folder))

    profiler = StepProfiler(profile)
    mesh = data_mesh()
    checkpoints = Checkpoints(workdir, keep=config.train.keep_checkpoints)
    resumes = checkpoints.latest() is not None
    config, initial = with_initial(config, checkpoints)
    check_config(config, mesh.size)

    ### Data.
    annotations = load_split(config.data, "train")
    config = with_num_classes(config, annotations)

    ### Model.
    definition = ModelDefinition(config, ClassStatistics.of(annotations))
    config = definition.config  # with what belongs to the classification loss
    if initial is None and not resumes:
        check_fresh_start(config)
    elif not resumes:
        check_predictors(config, definition.initial, initial, config.init_from)
        definition.initial = overwritten(definition.initial, initial.parameters, config.init_from)

    ### Schedule.
    plan = TrainPlan(annotations, config.data, config.sampler, config.train.batch_size, config.train.seed)
    steps, milestones = schedule_steps(config, plan)
    logger.info("%d images, %d steps, first epoch %d steps", annotations.num_images, steps, plan.steps_per_epoch(0))
    schedule = learning_rate(config.optim, config.train.batch_size, milestones)
    optimizer = create_optimizer(config.optim, schedule)
    state = create_state(definition, optimizer, mesh)
    step_fn = make_train_step(definition, optimizer, schedule, mesh)

    ### Resume.
    unfilled = "features" in definition.local
    if resumes:
        about = checkpoints.about()
        check_categories(annotations, about["category_ids"])
        state, unfilled = resumed(checkpoints, state, definition, mesh)
        check_conventions(config, about["config"], str(workdir))
    start = int(jax.device_get(state.step))
    if start > steps:
        raise ValueError(
            f"{workdir} has been trained for {start} steps, and the config asks for {steps}: raise config.train.steps "
            "or config.train.epochs, or use another --workdir"
        )
    if start < steps:
        checkpoints.check_room(state)
    if unfilled and config.loss.memory.fill and start < steps:
        state = fill_memory(state, definition, mesh, annotations, plan)
    about = describe_run(config, annotations) | {"conventions": initial and initial.settings, "steps": steps}
    if jax.process_index() == 0:
        with whole_file(workdir / "config.json") as partial:
            partial.write_text(json.dumps(about, indent=1))
    logger.info("training from step %d to %d on %d devices", start, steps, mesh.size)

    ### Train.
    loader = train_loader(
        annotations,
        plan,
        config.data,
        seed=config.train.seed,
        start_step=start,
        num_steps=steps - start,
        masks=config.model.masks,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    watchers = [TailScalars(annotations), *watchers]
    progress = checkpoints.progress() if resumes else {}
    counted = progress.get("counts", {})
    watch = MetricsWatch(annotations.image_ids, config.data.max_unreadable, config.train.max_skipped_steps, counted)
    batches = prefetched(loader, lambda batch: to_devices(batch, mesh))

    def counts() -> dict[str, int]:
        return watch.counts | {"loader_restarts": counted.get("loader_restarts", 0) + loader.restarts}

    def record(finished: list[tuple[int, dict[str, float]]]) -> None:
        for done, values in finished:
            log.add(done, values, counts())

    with contextlib.ExitStack() as stack:  # each is closed, also where closing another one fails
        preemption = stack.enter_context(Preemption())  # both till the last checkpoint is on disk
        guard = stack.enter_context(StallGuard(config.train.stall_seconds))
        for used in (checkpoints, loader, profiler):
            stack.callback(used.close)
        speaks = jax.process_index() == 0
        mirror = open_mirror() if open_mirror and speaks else None
        if mirror is not None:
            stack.callback(mirror.close)
        log = RunLog(
            workdir,
            start=start,
            total=steps,
            every=config.train.log_every,
            batch_size=config.train.batch_size,
            active=speaks,
            mirror=mirror,
            pending=progress.get("log"),
        )
        stack.callback(log.close)
        for step in range(start + 1, steps + 1):
            guard.beat(step)
            profiler.before_step(state)
            before = time.perf_counter()
            with wait_mark():
                batch, on_devices = next(batches)
            log.got_batch(time.perf_counter() - before)
            with jax.transfer_guard("disallow"), step_mark(step):
                state, metrics = step_fn(state, on_devices)
            profiler.after_step(state)
            record(watch.push(step, batch.index, metrics))
            checkpoints.check()
            ends = preemption.reached(step)
            if ends or step % config.train.checkpoint_every == 0 or step == steps:
                record(watch.flush())  # nothing is saved before every loss up to here is known to be finite
                checkpoints.save(state, about, {"counts": counts(), "log": log.pending})
                for watcher in () if ends else watchers:  # a machine about to be taken away has no time to draw
                    watcher(Checkpointed(step, state, definition, mesh, log.board))
            if ends:
                checkpoints.wait()
                logger.warning("SIGTERM: saved at step %d of %d, the same command goes on from there", step, steps)
                break
    return state


def fill_memory(
    state: TrainState, definition: ModelDefinition, mesh: Mesh, annotations: Annotations, plan: TrainPlan
) -> TrainState:
    """Stores the features of the first epoch's objects, as LOCE does before it trains."""
    config = definition.config
    loader = train_loader(
        annotations,
        plan,
        config.data,
        seed=config.train.seed,
        start_step=0,
        num_steps=plan.steps_per_epoch(0),
        masks=False,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    fill = make_fill_step(definition, mesh)
    bar = tqdm(loader, unit="step", desc="filling the feature memory", disable=jax.process_index() != 0)
    try:
        for number, batch in enumerate(bar):
            state = fill(state, to_devices(batch, mesh), number)
    finally:
        loader.close()
    return state


def resumed(
    checkpoints: Checkpoints, fresh: TrainState, definition: ModelDefinition, mesh: Mesh
) -> tuple[TrainState, bool]:
    """See `rog_jax.training.resume.resume`; of a checkpoint that does not fit, says what `config.init_from` is for."""
    try:
        return resume(checkpoints, fresh, definition, mesh)
    except CheckpointError as error:
        if not definition.config.init_from:
            raise
        raise CheckpointError(
            f"{error}\nconfig.init_from is looked at before the first step only, and this folder has been trained "
            "already: a run that starts from other weights, such as LOCE's second stage, needs another --workdir."
        ) from error


def with_initial(config: ConfigDict, checkpoints: Checkpoints) -> tuple[ConfigDict, InitialWeights | None]:
    """The config with the conventions of the weights that the run starts, or once started, from, and those weights.

    A resumed run finds the conventions in its own checkpoint: the folder of the weights may be gone.

    Raises:
        CheckpointError: `config.init_from` is no folder of imported weights, or of another ResNet, or the run's own.
    """
    folder = checkpoints.folder.parent
    if config.init_from and Path(config.init_from).resolve() == folder.resolve():
        raise CheckpointError(
            f"config.init_from and --workdir are both {folder}: a run that starts from another's weights, such as "
            "LOCE's second stage, needs a folder of its own, another --workdir"
        )
    if checkpoints.latest() is not None:
        settings = checkpoints.about().get("conventions")
        initial = None if settings is None else InitialWeights({}, settings, {})
    else:
        initial = load_initial(config.init_from) if config.init_from else None
    if initial is None:
        return config, None
    return with_settings(config, initial.settings, config.init_from or "the checkpoint"), initial


def with_num_classes(config: ConfigDict, annotations: Annotations) -> ConfigDict:
    """A copy of the config with the number of categories filled in where it says 0, checked where it says another."""
    config = config.copy_and_resolve_references()
    if config.model.num_classes == 0:
        config.model.num_classes = annotations.num_classes
    check_num_classes(annotations, config.model.num_classes)
    return config


def schedule_steps(config: ConfigDict, plan: TrainPlan) -> tuple[int, list[int]]:
    """Length of the run and milestones of the learning rate, both in steps."""
    steps = config.train.steps or plan.step_of_epoch(config.train.epochs)
    if config.optim.milestone_unit == "steps":
        return steps, list(config.optim.milestones)
    return steps, [plan.step_of_epoch(epoch) for epoch in config.optim.milestones]


def describe_run(config: ConfigDict, annotations: Annotations) -> dict[str, Any]:
    """What a reader of the results needs to reproduce them: config, categories, commit, versions, devices."""
    return {
        "config": json.loads(config.to_json()),
        "category_ids": np.asarray(annotations.category_ids).tolist(),
        "category_names": list(annotations.category_names),
        "category_groups": list(annotations.frequencies),
        "statistics": ClassStatistics.of(annotations)._asdict(),
        "commit": git_commit(),
        "jax": jax.__version__,
        "devices": [jax.devices()[0].device_kind, jax.device_count()],
    }


def git_commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """The commit of the source tree, with `+` where it has changes besides docs/; None outside a checkout.

    Pages of results are written between runs, and no run reads them.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("diff", "HEAD", "--name-only", "--", ".", ":!docs")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
