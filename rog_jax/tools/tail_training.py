"""A classifier with one hidden layer, trained on a made-up long tail with any classification and any ranking loss.

Batches, schedule and clipping are in the proportions of the published detector: 16 images, a quarter of the rows
foreground, SGD with momentum, the rate divided by ten after 8 and 11 of 12 parts, the gradient's norm clipped at 5.
They are the same for every loss; columns, initial weights and predictor are the loss's own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from rog_jax.losses import (
    ClassificationLoss,
    accumulate_counts,
    ap_loss_of_rows,
    classification_loss,
    feature_memory,
    gap_loss,
    rank_sort_loss_of_rows,
)
from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.losses.feature_memory import FeatureMemory
from rog_jax.models.layers import ParameterDraws, constant, normal, unit, xavier_uniform, zeros
from rog_jax.tools.tail_set import (
    FEATURES,
    IMAGE_OBJECTS,
    NUM_CLASSES,
    Objects,
    Rows,
    class_counts,
    class_image_counts,
    make_rows,
    train_labels,
)
from rog_jax.training.optimizer import create_optimizer, learning_rate

BATCH_IMAGES = 16
POSITIVES = BATCH_IMAGES * IMAGE_OBJECTS
PARTS_PER_OBJECT = 3
HIDDEN = 128
TEMPERATURE = 20.0
"""Of the normed predictor, as published."""
LEARNING_RATE, WARMUP_STEPS = 0.1, 100
LVIS_RARE_IMAGES = 109
"""In as many of 99,388 images a class is where EQL's and DropLoss's published threshold, 0.0011, draws the line."""

Parameters = dict[str, Array]

RANKINGS: dict[str, Callable[[Array, Rows, Array], Array | float]] = {
    "none": lambda logits, rows, counts: 0.0,
    "gap": lambda logits, rows, counts: gap_loss(logits, rows.labels, counts),
    "gap_published": lambda logits, rows, counts: gap_loss(logits, rows.labels, counts, variant="published"),
    "ap": lambda logits, rows, counts: ap_loss_of_rows(logits, rows.labels, max_positives=POSITIVES),
    "rank_sort": lambda logits, rows, counts: sum(
        rank_sort_loss_of_rows(logits, rows.labels, rows.shown, max_positives=POSITIVES)
    ),
}
"""By name, each at weight 1: of the foreground logits, the rows and the running class counts. What a row shows of its
object stands for the IoU of Rank & Sort."""


class Progress(NamedTuple):
    """What one step hands to the next; `memory` is LOCE's, () for every other loss."""

    params: Parameters
    optimizer: Any
    loss_state: Any
    counts: Array
    memory: FeatureMemory | tuple[()]


def make_loss(name: str) -> ClassificationLoss:
    """The loss of that name with the statistics of the made-up training set.

    Two settings that are numbers of LVIS are put into those of this set: which classes EQL and DropLoss call rare, and
    ECM's share of background rows.
    """
    images = len(train_labels())
    known = {
        "counts": class_counts(),
        "image_counts": class_image_counts(),
        "frequency": class_image_counts() / images,
    }
    options = {option: known[option] for option in CLASSIFICATION_LOSSES[name].data_options}
    if "frequency" in options:
        options["threshold"] = LVIS_RARE_IMAGES / images
    if name == "ecm":
        options["background_ratio"] = PARTS_PER_OBJECT
    return classification_loss(name, NUM_CLASSES, **options)


def initial_parameters(loss: ClassificationLoss, seed: int) -> Parameters:
    """A hidden layer by Xavier's rule, and the last one as the loss wants it."""
    draws = ParameterDraws(seed).params()
    distribution, value = loss.weight_init
    init = {"normal": normal, "constant": constant}[distribution](value)
    bias = np.broadcast_to(np.asarray(loss.bias_init, np.float32), loss.num_outputs)
    arrays = {
        "hidden": xavier_uniform(draws, (FEATURES, HIDDEN), np.float32),
        "hidden_bias": zeros(draws, (HIDDEN,), np.float32),
        "classifier": init(draws, (HIDDEN, loss.num_outputs), np.float32),
        "bias": bias,
    }
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def classify(loss: ClassificationLoss, params: Parameters, features: Float[Array, "N D"]) -> Float[Array, "N Q"]:
    """Raw logits."""
    x = jax.nn.relu(features @ params["hidden"] + params["hidden_bias"])
    if loss.predictor == "normed":
        return TEMPERATURE * unit(x, -1) @ unit(params["classifier"], 0) + params["bias"]
    return x @ params["classifier"] + params["bias"]


def image_order(seed: int, steps: int) -> Int[np.ndarray, "steps 16"]:
    """Which images are in the batch of each step: every image once before any comes again (random sampling)."""
    generator, images = np.random.default_rng(seed), len(train_labels())
    epochs = -(-steps * BATCH_IMAGES // images)
    order = np.concatenate([generator.permutation(images) for _ in range(epochs)])
    return order[: steps * BATCH_IMAGES].reshape(steps, BATCH_IMAGES).astype(np.int32)


def make_trainer(
    loss: ClassificationLoss, ranking: str, steps: int
) -> Callable[[Objects, int], tuple[Parameters, Float[Array, " steps"]]]:
    """A function of training objects and seed to trained parameters and the loss at each step; compiled once.

    Args:
        loss: classification loss.
        ranking: a key of `RANKINGS`.
        steps: updates, 196 an epoch.

    Raises:
        ValueError: the ranking is unknown, or there is nothing to train by.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"unknown ranking loss {ranking!r}; there are {', '.join(RANKINGS)}")
    if ranking == "none" and type(loss) is CLASSIFICATION_LOSSES["none"]:
        raise ValueError("neither a classification loss nor a ranking loss: nothing would be trained")
    settings = ConfigDict(
        {
            **{"lr": LEARNING_RATE, "lr_batch_size": BATCH_IMAGES, "momentum": 0.9, "weight_decay": 1e-4},
            **{"warmup_steps": min(WARMUP_STEPS, steps // 10), "warmup_ratio": 1e-3, "decay": 0.1, "clip_norm": 5.0},
        }
    )
    schedule = learning_rate(settings, BATCH_IMAGES, (steps * 8 // 12, steps * 11 // 12))
    optimizer = create_optimizer(settings, schedule)

    @jax.jit
    def run(objects: Objects, order: Array, key: Array, params: Parameters):
        def step(progress: Progress, at: tuple[Array, Array]) -> tuple[Progress, Array]:
            number, images = at
            batch = Objects(*(jnp.asarray(array)[images] for array in objects))
            return _step(loss, ranking, optimizer, progress, batch, jax.random.fold_in(key, number))

        memory = feature_memory.create_memory(NUM_CLASSES, 1, FEATURES, dtype=jnp.float32)
        start = Progress(
            params=params,
            optimizer=optimizer.init(params),
            loss_state=loss.init_state(),
            counts=jnp.zeros(NUM_CLASSES, jnp.int32),
            memory=memory if _uses_memory(loss) else (),
        )
        progress, values = jax.lax.scan(step, start, (jnp.arange(steps), order))
        return progress.params, values

    return lambda objects, seed: run(
        objects, image_order(seed, steps), jax.random.key(seed), initial_parameters(loss, seed)
    )


def _step(
    loss: ClassificationLoss,
    ranking: str,
    optimizer: optax.GradientTransformation,
    progress: Progress,
    batch: Objects,
    key: Array,
) -> tuple[Progress, Float[Array, ""]]:
    of_rows, of_loss, of_memory = jax.random.split(key, 3)
    rows = make_rows(of_rows, batch, PARTS_PER_OBJECT)
    counts = accumulate_counts(progress.counts, rows.labels)
    inputs: dict[str, Any] = {
        "key": of_loss,
        "image_keys": jax.random.split(of_loss, BATCH_IMAGES),
        "gt_ids": jnp.arange(len(rows.labels)),  # each foreground row is an object of its own
    }
    inputs = {name: inputs[name] for name in loss.extra_inputs if name in inputs}
    memory, drawn = progress.memory, None
    if _uses_memory(loss):
        stored = rows.features[:, None, None, :]  # cells of 1 x 1
        memory = feature_memory.insert(memory, stored, jnp.zeros((len(stored), 4)), rows.labels)
        drawn = feature_memory.draw(memory, progress.loss_state, of_memory)

    def objective(params: Parameters) -> tuple[Array, Any]:
        logits = classify(loss, params, rows.features)
        more = {}
        if drawn is not None:
            more = {"memory_logits": classify(loss, params, drawn.features[:, 0, 0]), "memory_labels": drawn.labels}
        value, state = loss(logits, rows.labels, None, progress.loss_state, **inputs, **more)
        return value + RANKINGS[ranking](loss.foreground_logits(logits), rows, counts), state

    (value, state), gradient = jax.value_and_grad(objective, has_aux=True)(progress.params)
    updates, optimizer_state = optimizer.update(gradient, progress.optimizer, progress.params)
    params = optax.apply_updates(progress.params, updates)
    return Progress(params, optimizer_state, state, counts, memory), value


def _uses_memory(loss: ClassificationLoss) -> bool:
    return "memory_logits" in loss.extra_inputs
