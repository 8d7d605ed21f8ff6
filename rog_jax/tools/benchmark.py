"""Measures the parts of the program: `python -m rog_jax.tools.benchmark [PART ...] [--config configs/quickstart.py]`.

Parts: gap (both methods against sigmoid cross-entropy on the same logits), ranking (AP loss and Rank & Sort likewise),
losses (every classification loss against the same), conv (convolutions and their gradients), detect (candidates before
the last NMS), step (a training step), inference, loader, evaluation (also: eval). Times are medians after warm-up,
with their spread; the loader reads for ten seconds, evaluation has made-up results. Printed is one json object, which
also names machine and commit. loader reads the training images of the recipe, which have to be there. Machines differ
and are noisy: compare ratios of one run, not seconds of two.

Examples:
    python -m rog_jax.tools.benchmark gap step --config configs/lvis_r50.py --repeats 5 --json first.json
    python -m rog_jax.tools.benchmark step --profile DIR       # and the share of each part, from a trace
    python -m rog_jax.tools.benchmark --compare first.json second.json
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rog_jax.data import Batch, ClassStatistics, DataError, load_split
from rog_jax.data.batch import MASK_CROP
from rog_jax.tools.benchmark_conv import benchmark_conv
from rog_jax.tools.benchmark_detect import benchmark_detect
from rog_jax.tools.benchmark_evaluation import FULL_SIZE, benchmark_evaluation
from rog_jax.tools.benchmark_figures import compare, machine, memory, read_figures, timed
from rog_jax.tools.benchmark_gap import benchmark_gap
from rog_jax.tools.benchmark_loader import benchmark_loader
from rog_jax.tools.benchmark_losses import benchmark_losses
from rog_jax.tools.benchmark_ranking import benchmark_ranking
from rog_jax.tools.profile_shares import profiled
from rog_jax.tools.recipe_file import load_config
from rog_jax.training import runtime
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_predict_step, make_train_step, to_devices

PARTS = ("gap", "ranking", "losses", "conv", "detect", "step", "inference", "loader", "evaluation")
VERIFIED_SHARE = 0.01
"""Of all categories, those said to be absent from an image; LVIS's images have about ten of 1,203."""


def made_up_batch(config: ConfigDict, batch_size: int, objects: int = 12, seed: int = 0) -> Batch:
    """Noise with boxes on it, of the config's first padded shape."""
    rng = np.random.default_rng(seed)
    height, width = config.data.shapes[0]
    slots = config.data.max_objects
    corner = rng.uniform(0, 0.6, (batch_size, slots, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.4, corner.shape)], -1) * [width, height, width, height]
    labels = rng.integers(0, config.model.num_classes, (batch_size, slots))
    labels[:, objects:] = -1
    crop = (MASK_CROP, MASK_CROP // 8) if config.model.masks else (0, 0)
    size = np.tile(np.float32([[height, width]]), (batch_size, 1))
    return Batch(
        image=rng.integers(0, 256, (batch_size, height, width, 3), dtype=np.uint8),
        image_size=size,
        original_size=size.astype(np.int32),
        index=np.arange(batch_size, dtype=np.int32),
        boxes=boxes.astype(np.float32),
        labels=labels.astype(np.int32),
        masks=rng.integers(0, 256, (batch_size, slots, *crop), dtype=np.uint8),
        dropped=np.zeros(batch_size, np.int32),
        unreadable=np.zeros(batch_size, np.int32),
        verified=_verified(rng, labels, config.model.num_classes) if config.data.negatives else None,
    )


def _verified(rng: np.random.Generator, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The categories of each image's objects and a few others, bool [B, C]."""
    looked_for = rng.random((len(labels), num_classes)) < VERIFIED_SHARE
    image, _ = np.nonzero(labels >= 0)
    looked_for[image, labels[labels >= 0]] = True
    return looked_for


def made_up_statistics(num_classes: int) -> ClassStatistics:
    """Counts that fall with the category's number, as Zipf's law has it."""
    counts = tuple(max(10_000 // rank, 1) for rank in range(1, num_classes + 1))
    return ClassStatistics(counts, counts, 20_000)


def benchmark_step(config: ConfigDict, repeats: int, profile: str | Path | None = None) -> dict[str, Any]:
    """Compile time, seconds a training step, images a second, memory.

    Args:
        config: a recipe.
        repeats: steps timed.
        profile: folder for a trace of as many steps more, whose shares (`profile_shares.summary`) are then given too.
    """
    mesh = data_mesh()
    definition = ModelDefinition(config, made_up_statistics(config.model.num_classes))
    config = definition.config
    schedule = learning_rate(config.optim, config.train.batch_size, [])
    optimizer = create_optimizer(config.optim, schedule)
    state = create_state(definition, optimizer, mesh)
    batch = to_devices(made_up_batch(config, config.train.batch_size), mesh)
    started = time.perf_counter()
    step = make_train_step(definition, optimizer, schedule, mesh).lower(state, batch).compile()
    compiled = time.perf_counter() - started
    holder = [state]

    def once():
        holder[0], metrics = step(holder[0], batch)
        return metrics

    figures = {"compile_s": compiled, **_images(timed(once, repeats), config.train.batch_size), "memory": memory(step)}
    return figures if profile is None else figures | {"profile": profiled(once, repeats, profile)}


def benchmark_inference(config: ConfigDict, repeats: int) -> dict[str, Any]:
    """Compile time, seconds a batch, images a second, memory: from uint8 images to detections on the device."""
    mesh = data_mesh()
    definition = ModelDefinition(config, made_up_statistics(config.model.num_classes))
    config = definition.config
    state = create_state(definition, create_optimizer(config.optim, lambda step: 0.0), mesh)
    batch = to_devices(made_up_batch(config, config.test.batch_size), mesh)
    started = time.perf_counter()
    predict = jax.jit(make_predict_step(definition, mesh)).lower(state, batch).compile()
    compiled = time.perf_counter() - started
    times = timed(lambda: predict(state, batch), repeats)
    return {"compile_s": compiled, **_images(times, config.test.batch_size), "memory": memory(predict)}


def _images(times: dict[str, float | int], images: int) -> dict[str, float | int]:
    """With the images of a batch, and how many a second that makes."""
    return {"batch_size": images, **times, "images_per_second": images / times["median_s"]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--config", default="configs/quickstart.py", help="recipe for step, inference and loader")
    parser.add_argument("--batch-size", type=int, help="images over all devices; the recipe's if not given")
    parser.add_argument("--repeats", type=int, default=9, help="runs that are timed of conv, detect, step, inference")
    parser.add_argument("--full-size", action="store_true", help="evaluation of as many images as LVIS validates on")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument("--profile", metavar="DIR", help="step: trace as many steps more, and tell the parts' shares")
    parser.add_argument("--compare", nargs=2, metavar="FILE", help="only print two files of --json side by side")
    arguments = parser.parse_args(arguments)
    if arguments.compare:
        try:
            print(compare(*map(read_figures, arguments.compare)))
        except ValueError as error:
            sys.exit(f"benchmark: {error}")
        return
    arguments.parts = ["evaluation" if part == "eval" else part for part in arguments.parts]
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    parts = arguments.parts or PARTS
    if arguments.profile and "step" not in parts:
        parser.error("--profile is of the part step, which is not among those named")
    runtime.start(traced=arguments.profile is not None)
    config = load_config(arguments.config)
    config.train.batch_size = arguments.batch_size or config.train.batch_size
    config.test.batch_size = arguments.batch_size or config.test.batch_size
    config.model.num_classes = config.model.num_classes or 24
    try:  # before minutes of measuring whose figures an error would lose
        images = load_split(config.data, "train") if "loader" in parts else None
    except DataError as error:
        sys.exit(f"benchmark: {error} `make demo` draws the images of configs/quickstart.py.")
    run = {
        "gap": lambda: benchmark_gap(dense=True),
        "losses": benchmark_losses,
        "ranking": lambda: benchmark_ranking(dense=True),
        "conv": lambda: benchmark_conv(arguments.repeats),
        "detect": lambda: benchmark_detect(arguments.repeats),
        "step": lambda: benchmark_step(config, arguments.repeats, arguments.profile),
        "inference": lambda: benchmark_inference(config, arguments.repeats),
        "loader": lambda: benchmark_loader(images, config),
        "evaluation": lambda: (
            benchmark_evaluation(FULL_SIZE) if arguments.full_size else benchmark_evaluation(repeats=3)
        ),
    }
    figures = json.dumps({"machine": machine(), **{part: run[part]() for part in parts}}, indent=2, default=float)
    if arguments.json:
        arguments.json.write_text(figures + "\n")
    print(figures)


if __name__ == "__main__":
    main()
