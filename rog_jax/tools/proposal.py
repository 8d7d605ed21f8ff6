"""What a recipe for somebody's own data should say, with the reason for each setting."""

import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from rog_jax.data.annotations import Annotations
from rog_jax.data.samplers import repeat_factors
from rog_jax.data.transforms import smallest_shape
from rog_jax.data.views import resized_size

LVIS_SHORT, LVIS_LONG = 800, 1333
"""Sides of the published recipe, pixels."""
CPU_SHORT = 144
"""The short side that two cores train on, pixels: a step of eight such images takes about a second."""
SHORTEST = 64
"""The least short side, pixels: one cell of the FPN's coarsest level."""
ENLARGED = 5 / 3
"""Most that images are enlarged: COCO's, of 480 pixels, to the published 800."""
GIGABYTES_AN_IMAGE = 2.0
"""Of a device's memory that training takes for an image of 832x1344 pixels: the compiler's 3.9 GB for two of ResNet-50
on a TPU v5e (docs/pods.md)."""
USED = 0.7
"""Share of a device's memory that is counted on."""
PUBLISHED_BATCH, PUBLISHED_EPOCHS = 16, 12
MANY_EPOCHS = 72
"""More passes over a small set than this show a detector nothing new."""
FEWEST_SHOWN = 120_000
"""Images that a run on an accelerator shows at least, if `MANY_EPOCHS` allow it: one epoch of COCO."""
CPU_STEPS = 2_800
"""Steps of a run on a CPU: about an hour on two cores."""
THRESHOLD = 1e-3
"""Of repeat factor sampling, as published."""
WORTH_REPEATING = 1.02
"""Mean repeat factor from which repeat factor sampling is another sampling than random."""


class Machine(NamedTuple):
    """Where the run will take place.

    Attributes:
        kind: "cpu", "gpu" or "tpu".
        devices: number of them.
        gigabytes: memory of each; None for a CPU.
    """

    kind: str
    devices: int
    gigabytes: float | None


class Setting(NamedTuple):
    """A setting of a recipe and why it has its value."""

    path: str
    value: Any
    reason: str


def propose(
    train: Annotations, val: Annotations, machine: Machine, weights: bool, *, boxes: bool = False
) -> list[Setting]:
    """The settings in which a recipe for the data differs from configs/common.py, in the order of that file.

    Args:
        train: the training images.
        val: those of validation, of the same categories.
        machine: that it is for.
        weights: whether the run starts from imported weights.
        boxes: no masks, whether there are any or not.

    Raises:
        ValueError: there is nothing to train on.
    """
    if not train.trainable.any():
        raise ValueError(f"{train.source}: no object can be trained on")
    small = machine.kind == "cpu"
    sizes = _sizes(train, val, small)
    batch = batch_size(machine, sizes[0].value)
    parts = [
        sizes,
        _objects(train),
        [Setting("data.workers", 0, "a thread reads ahead: few cores have none to spare")] if small else [],
        _sampling(train),
        _masks(train, val, boxes),
        _small_network(weights) if small else _network(weights),
        _schedule(train, batch, small, mean_factor(train)),
    ]
    return [setting for part in parts for setting in part]


def _sizes(train: Annotations, val: Annotations, small: bool) -> list[Setting]:
    """Padded shapes and sides, from the images' own."""
    median = int(np.median(train.image_sizes.min(axis=1)))
    sizes = np.concatenate([train.image_sizes, val.image_sizes]).astype(np.int64)
    limit = CPU_SHORT if small else LVIS_SHORT
    enlarged = _nearest(median * ENLARGED, 16)
    short = min(limit, max(SHORTEST, enlarged))
    longest = float(np.max(sizes.max(axis=1) / sizes.min(axis=1)))
    long = max(short, min(round(short * LVIS_LONG / LVIS_SHORT), math.ceil(short * longest)))
    if long % 32 <= 8 and long - long % 32 >= short:
        long -= long % 32  # rather a little smaller than 32 pixels of padding for a few
    jitter = tuple(dict.fromkeys(_nearest(short * share, 8) for share in (0.8, 0.84, 0.88, 0.92, 0.96, 1.0)))
    shapes = _shapes(sizes, short, long)
    cause = "what two cores can train on" if short == limit and small else "the published recipe's"
    if enlarged < SHORTEST:
        cause = f"the least that is proposed: {ENLARGED:.2g} times the median {median} would be less"
    elif short < limit:
        cause = f"{ENLARGED:.2g} times the median {median}: more would only enlarge"
    return [
        Setting("data.shapes", shapes, f"padded (height, width) that hold all images at these sides: {_turns(sizes)}"),
        Setting("data.short_sides", jitter, "of the short side in training, 80 to 100 % of that in tests"),
        Setting("data.max_long_side", long, "in the published proportion, or the longest image's"),
        Setting("data.test_short_side", short, cause),
    ]


def _shapes(sizes: np.ndarray, short: int, long: int) -> tuple[tuple[int, int], ...]:
    """As few padded shapes as hold all images: a square one, a wide one, a high one, those of them that are used."""
    low, high = _up(short), _up(long)
    candidates = tuple(dict.fromkeys([(low, low), (low, high), (high, low)]))
    used = Counter(smallest_shape(resized_size(size, short, long), candidates) for size in np.unique(sizes, axis=0))
    kept = [candidates[place] for place in sorted(used)]
    wide_and_high = [shape for shape in kept if shape[0] != shape[1]]
    # A square shape beside an oblong one is a program more to compile, for images that fit there too.
    return tuple(wide_and_high or kept)


def _turns(sizes: np.ndarray) -> str:
    wide = float(np.mean(sizes[:, 1] > sizes[:, 0]))
    return f"{100 * wide:.0f} % of the images are wide, {100 * float(np.mean(sizes[:, 1] < sizes[:, 0])):.0f} % high"


def _objects(train: Annotations) -> list[Setting]:
    counts = np.bincount(train.images_of_objects[train.trainable], minlength=train.num_images)
    most = int(counts.max())
    room = min(300, max(16, _up(int(np.quantile(counts, 0.999)), 8)))
    return [Setting("data.max_objects", room, f"objects an image; the fullest has {most}")]


def mean_factor(train: Annotations) -> float:
    """Images that an epoch of the proposed sampling shows, over those of random sampling."""
    mean = float(np.mean(repeat_factors(train.object_categories(), THRESHOLD)))
    return mean if mean >= WORTH_REPEATING else 1.0


def _sampling(train: Annotations) -> list[Setting]:
    mean = mean_factor(train)
    if mean >= WORTH_REPEATING:
        reason = f"repeat factor sampling at {THRESHOLD:g} shows {mean:.2f} times as many images an epoch"
        return [
            Setting("sampler.name", "repeat_factor", reason),
            Setting("loss.gap.weight", 0.1, "the paper's with repeat factor sampling"),
        ]
    return [
        Setting("sampler.name", "random", "no category is so rare that repeat factor sampling would differ"),
        Setting("loss.gap.weight", 1.0, "the paper's with random sampling"),
    ]


def _masks(train: Annotations, val: Annotations, boxes: bool) -> list[Setting]:
    if boxes:
        return [Setting("model.masks", False, "Faster R-CNN, boxes alone, as it was asked for")]
    lacking = [name for name, one in (("training", train), ("validation", val)) if not _all_have_masks(one)]
    if not lacking:
        return []
    return [Setting("model.masks", False, f"some {lacking[0]} objects have no mask: Faster R-CNN, boxes alone")]


def _all_have_masks(annotations: Annotations) -> bool:
    return bool(annotations.has_segmentation[annotations.trainable].all())


def batch_size(machine: Machine, shapes: tuple[tuple[int, int], ...]) -> int:
    """Images a step over all devices: the published 16, if the memory allows and the devices divide it."""
    if machine.gigabytes is None:
        return machine.devices * math.ceil(8 / machine.devices)
    pixels = max(height * width for height, width in shapes)
    of_one = max(1, int(USED * machine.gigabytes / (GIGABYTES_AN_IMAGE * pixels / (832 * 1344))))
    wanted = max(1, PUBLISHED_BATCH // machine.devices)
    return machine.devices * min(of_one, wanted)


def _network(weights: bool) -> list[Setting]:
    if weights:
        return []
    return [
        Setting("model.norm", "group", "no weights to start from, for which the frozen norms are"),
        Setting("model.frozen_stages", -1, "nor for which the first stage is kept as it is"),
    ]


def _small_network(weights: bool) -> list[Setting]:
    of_weights = [] if weights else _network(weights)
    heads = {
        "rpn.samples": 128,
        "rpn.train_pre_nms": 500,
        "rpn.train_proposals": 300,
        "rpn.test_pre_nms": 500,
        "rpn.test_proposals": 300,
        "roi.samples": 64,
    }
    body = [] if weights else [
        Setting("model.depth", 18, "what two cores can train"),
        Setting("model.width", 32, "half the published channels"),
        Setting("model.fpn_channels", 64, "a quarter of the published"),
        Setting("roi.hidden", 256, "a quarter"),
        Setting("roi.mask_channels", 32, "an eighth"),
        Setting("roi.mask_convs", 2, "half"),
    ]  # fmt: skip
    return [
        *body,
        *of_weights,
        Setting("model.dtype", "float32", "bfloat16 is slow on a CPU"),
        *(Setting(path, value, "fewer for a CPU") for path, value in heads.items()),
        Setting("test.pre_nms", 1000, "fewer for a CPU"),
    ]


def _schedule(train: Annotations, batch: int, small: bool, factor: float) -> list[Setting]:
    images = max(1, round(factor * np.sum(np.diff(train.offsets) > 0)))
    if small:
        wanted = round(CPU_STEPS * batch / images)
        epochs = min(MANY_EPOCHS, max(1, wanted))
        reason = f"about {CPU_STEPS} steps, an hour on two cores"
        if wanted != epochs:
            reason = "one pass" if epochs == 1 else "more passes over so few images show nothing new"
    else:
        epochs = min(MANY_EPOCHS, max(PUBLISHED_EPOCHS, math.ceil(FEWEST_SHOWN / images)))
        reason = "the published" if epochs == PUBLISHED_EPOCHS else f"so few images need more than {PUBLISHED_EPOCHS}"
    steps = max(1, images // batch) * epochs
    every = max(50, min(5000, steps // 10))
    return [
        *(
            [Setting("optim.lr_batch_size", 8, "steps are larger than the published for so short a run")]
            if small
            else []
        ),
        Setting("optim.milestones", _milestones(epochs), "at 8 and 11 twelfths, as published"),
        *([Setting("optim.warmup_steps", 200, "shorter than the published 500")] if small else []),
        Setting("train.batch_size", batch, "images of all devices; the learning rate follows"),
        Setting("train.epochs", epochs, f"{reason}: {images} images an epoch, {steps} steps at the least"),
        Setting("train.checkpoint_every", every, "steps" + (", a tenth of the run" if every == steps // 10 else "")),
        Setting("test.batch_size", batch, "images of all devices"),
    ]


def _milestones(epochs: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(max(1, round(epochs * share / 12)) for share in (8, 11)))


def _nearest(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _up(value: int, step: int = 32) -> int:
    return math.ceil(value / step) * step
