"""What GAP costs in the runs of this benchmark: of a training step with and without it, and within one."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import mini_lvis
from rog_jax.data import ClassStatistics, load_split
from rog_jax.data.loader import train_loader
from rog_jax.data.plan import TrainPlan
from rog_jax.evaluation.summary import write_json
from rog_jax.tools.benchmark_figures import available_cores
from rog_jax.tools.profile_shares import profiled
from rog_jax.tools.reproduce.places import Places, alone_in
from rog_jax.tools.reproduce.sets import QUICK_SETTINGS, data_settings
from rog_jax.training.loop import git_commit
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_train_step, to_devices

RANKINGS = ("none", "gap")
ROUNDS, STEPS = 12, 5


def write_cost(places: Places) -> Path:
    """Measures and writes `OUT/cost.json` and `OUT/cost.md`; returns the page.

    Raises:
        RuntimeError: another program works in the same folder.

    The two steps take turns, so that what else the machine does meets both alike. Processor time does not grow when
    others use the machine, but for what the caches lose.
    """
    with alone_in(places.work):
        content = measure(places, ROUNDS, STEPS)
    write_json(places.out / "cost.json", content | {"commit": git_commit()})
    rows = [
        f"| {label} | {content['cpu_ms'][ranking]:.0f} ms | {content['wall_ms'][ranking]:.0f} ms |"
        for label, ranking in zip(("sigmoid CE", "sigmoid CE + GAP"), RANKINGS, strict=True)
    ]
    lines = [
        "# The cost of GAP",
        "",
        f"`python -m rog_jax.tools.reproduce cost`, commit {git_commit()}: a training step of 8 images and 256 RoIs, "
        f"{content['categories']} categories, on {content['cores']} cores; medians of {ROUNDS} rounds of {STEPS} "
        "steps, by turns.",
        "",
        "| | processor time | by the clock |",
        "|---|---|---|",
        *rows,
        "",
        "Differences of times cannot tell a small share. In a trace of "
        f"{STEPS} more steps the ranking, with its gradient, is {100 * content['traced_share']:.2f} % of the time of a "
        "step's operations.",
    ]
    path = places.out / "cost.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measure(places: Places, rounds: int, steps: int) -> dict[str, Any]:
    """Medians over the rounds.

    Returns:
        "cpu_ms" and "wall_ms" of a step by ranking loss; the "traced_share" of the ranking in the operations of a step
        with GAP; the numbers of "categories" and of "cores".
    """
    config = _config(places)
    config.model.num_classes = load_split(config.data, "train").num_classes
    programs = {ranking: _stepper(config, ranking) for ranking in RANKINGS}
    spent: dict[str, list[tuple[float, float]]] = {ranking: [] for ranking in RANKINGS}
    for _ in range(rounds):
        for ranking, step in programs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(steps):
                done = step()
            jax.block_until_ready(done)
            spent[ranking].append((time.process_time() - cpu, time.perf_counter() - wall))
    names = ("cpu_ms", "wall_ms")
    medians = {
        name: {
            ranking: 1000 * statistics.median(pair[place] for pair in pairs) / steps for ranking, pairs in spent.items()
        }
        for place, name in enumerate(names)
    }
    with tempfile.TemporaryDirectory() as folder:
        traced = profiled(programs["gap"], steps, folder)["groups"]["ranking loss"]
    return medians | {"traced_share": traced, "categories": config.model.num_classes, "cores": available_cores()}


def _config(places: Places) -> ConfigDict:
    config = mini_lvis.get_config()
    quick = {path: value for path, value in QUICK_SETTINGS.items() if path.startswith("model.")} if places.quick else {}
    config.update_from_flattened_dict({"data.root": str(data_settings("drawn", places)["data.root"])} | quick)
    return config


def _stepper(config: ConfigDict, ranking: str) -> Callable[[], Any]:
    """A function that makes one training step after another on the first batch, compiled."""
    config = config.copy_and_resolve_references()
    config.loss.ranking = ranking
    annotations = load_split(config.data, "train")
    mesh, definition = data_mesh(), ModelDefinition(config, ClassStatistics.of(annotations))
    config = definition.config  # with what belongs to the classification loss
    schedule = learning_rate(config.optim, config.train.batch_size, [])
    optimizer = create_optimizer(config.optim, schedule)
    plan = TrainPlan(annotations, config.data, config.sampler, config.train.batch_size, seed=0)
    loader = train_loader(annotations, plan, config.data, seed=0, start_step=0, num_steps=1, masks=config.model.masks)
    batch = to_devices(next(iter(loader)), mesh)
    loader.close()
    step = make_train_step(definition, optimizer, schedule, mesh)
    holder = [create_state(definition, optimizer, mesh)]

    def once() -> Any:
        holder[0], metrics = step(holder[0], batch)
        return metrics

    jax.block_until_ready(once())
    return once
