"""Side by side with torchvision: `python -m rog_jax.tools.benchmark_torchvision [PART ...]` (needs `.[bench]`).

Parts: backbone (ResNet-50 with FPN, forward and backward), step (a training step: forward, all losses, backward,
update), inference. Both programs have the same weights, settings and images: Mask R-CNN R50-FPN, 1,204 outputs,
float32, equal numbers of proposals, sampled RoIs and mask rows. Runs alternate, ours first; figures are medians, and
their ratio ours / torchvision. `gap_step` is our step with sigmoid cross-entropy and GAP against the same torchvision
step.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from configs import common
from rog_jax.data.batch import Batch
from rog_jax.models.recipe import with_recipe
from rog_jax.tools.benchmark import made_up_batch
from rog_jax.tools.golden_weights import torchvision_state
from rog_jax.training import runtime
from rog_jax.training.initial import overwritten, with_settings
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_predict_step, make_train_step, to_devices
from rog_jax.weights import from_torchvision

PARTS = ("backbone", "step", "gap_step", "inference")
PROPOSALS = 1000
TRUTHS = 140  # an image: more than the 128 positives that a sampler takes, so that both take as many
LEARNING_RATE = 1e-8  # the weights stay as they are: every step does the same work


class Task(NamedTuple):
    """One part in both programs; each call does the work once and waits for it."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    facts: dict[str, Any]


class Scene(NamedTuple):
    """What both programs run on: the model's weights by torchvision's names, and a batch."""

    state: dict[str, np.ndarray]
    num_classes: int
    batch: Batch


def our_config(scene: Scene) -> tuple[ConfigDict, dict]:
    """Our model with torchvision's settings, and its parameters."""
    settings, parameters = from_torchvision(scene.state)
    config = with_settings(common.get_config(), settings, "torchvision", everything=True)
    config.data.shapes = (scene.batch.image.shape[1:3],)
    config.data.max_objects = TRUTHS
    config.model.dtype = "float32"
    config.rpn.train_proposals = PROPOSALS
    config.loss.ranking = "none"
    config.optim.lr = LEARNING_RATE
    config.optim.clip_norm = 0.0
    config.train.batch_size = config.test.batch_size = len(scene.batch.image)
    return with_recipe(config), parameters


def their_model(scene: Scene) -> MaskRCNN:
    """torchvision's Mask R-CNN with the same weights."""
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    side = {"min_size": scene.batch.image.shape[1], "max_size": scene.batch.image.shape[2]}
    model = MaskRCNN(backbone, scene.num_classes + 1, rpn_post_nms_top_n_train=PROPOSALS, **side)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in scene.state.items()})
    return model


def their_batch(batch: Batch) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images in 0..1 and targets with masks of the whole image."""
    images = [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in batch.image]
    targets = []
    for boxes, labels in zip(batch.boxes, batch.labels, strict=True):
        masks = torch.zeros((len(boxes), *batch.image.shape[1:3]), dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        boxes, labels = torch.from_numpy(boxes), torch.from_numpy(labels).long() + 1
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return images, targets


def step_task(scene: Scene, *, gap: bool = False) -> Task:
    """A training step."""
    config, parameters = our_config(scene)
    if gap:
        config.loss.classification, config.loss.ranking = "sigmoid_ce", "gap"
    mesh = data_mesh(jax.devices()[:1])
    definition = ModelDefinition(config)
    definition.initial = overwritten(definition.initial, parameters, "torchvision")
    schedule = lambda step: LEARNING_RATE  # noqa: E731
    optimizer = create_optimizer(config.optim, schedule)
    holder = [create_state(definition, optimizer, mesh)]
    batch = to_devices(scene.batch, mesh)
    started = time.perf_counter()
    step = make_train_step(definition, optimizer, schedule, mesh).lower(holder[0], batch).compile()
    facts: dict[str, Any] = {"compile_s": time.perf_counter() - started}

    def ours():
        holder[0], metrics = step(holder[0], batch)
        facts["our_losses"] = {name: float(value) for name, value in jax.block_until_ready(metrics).items()}

    model = their_model(scene).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(trained, LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    images, targets = their_batch(scene.batch)
    heads = {"box_head": model.roi_heads.box_head, "mask_head": model.roi_heads.mask_head}
    for name, head in heads.items():
        head.register_forward_hook(lambda _, inputs, __, name=name: facts.update({f"their_{name}": len(inputs[0])}))

    def theirs():
        losses = model(images, targets)
        sgd.zero_grad()
        sum(losses.values()).backward()
        sgd.step()
        facts["their_losses"] = {name: float(value) for name, value in losses.items()}

    facts["our_box_head"] = config.roi.samples * len(images)
    facts["our_mask_head"] = int(config.roi.samples * config.roi.positive_fraction) * len(images)
    return Task(ours, theirs, facts)


def inference_task(scene: Scene) -> Task:
    """From images to detections with mask probabilities inside their boxes.

    torchvision's pasting into whole images is left out: ours is not part of the device's work.
    """
    config, parameters = our_config(scene)
    mesh = data_mesh(jax.devices()[:1])
    definition = ModelDefinition(config)
    definition.initial = overwritten(definition.initial, parameters, "torchvision")
    state = create_state(definition, create_optimizer(config.optim, lambda step: 0.0), mesh)
    predict = make_predict_step(definition, mesh)
    batch = to_devices(scene.batch, mesh)
    facts: dict[str, Any] = {}

    def ours():
        labels = jax.block_until_ready(predict(state, batch)).labels
        facts["our_detections"] = np.asarray((labels >= 0).sum(1)).tolist()

    model = their_model(scene).eval()
    model.transform.postprocess = lambda result, *_: result
    images, _ = their_batch(scene.batch)

    def theirs():
        with torch.no_grad():
            facts["their_detections"] = [len(image["labels"]) for image in model(images)]

    return Task(ours, theirs, facts)


def backbone_task(scene: Scene) -> Task:
    """Backbone and pyramid, forward and backward with respect to what is trained."""
    config, parameters = our_config(scene)
    definition = ModelDefinition(config)
    definition.initial = overwritten(definition.initial, parameters, "torchvision")
    trainable, fixed = definition.initial
    trained = {name: trainable[name] for name in ("backbone", "fpn")}

    @jax.jit
    def gradient(trained, rest, fixed, image, size):
        def loss(trained):
            features = definition.merge(rest | trained, fixed).features(image, size)
            return sum(jnp.square(level).mean() for level in features)

        return jax.grad(loss)(trained)

    arguments = jax.device_put((trained, trainable, fixed, scene.batch.image, scene.batch.image_size))
    model = their_model(scene).train()
    images, _ = their_batch(scene.batch)
    pixels = model.transform(images)[0].tensors

    def theirs():
        model.zero_grad()
        sum(level.square().mean() for level in model.backbone(pixels).values()).backward()

    return Task(lambda: jax.block_until_ready(gradient(*arguments)), theirs, {})


def measure(task: Task, repeats: int) -> dict[str, Any]:
    """Medians of alternating runs, after one of each to warm up."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for run in range(repeats + 1):
        for name, times in seconds.items():
            started = time.perf_counter()
            getattr(task, name)()
            if run:
                times.append(time.perf_counter() - started)
    ours, theirs = (statistics.median(times) for times in seconds.values())
    return {"ours_s": ours, "torchvision_s": theirs, "ratio": ours / theirs, "runs_s": seconds, **task.facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--size", type=int, default=512, help="side of the images, pixels")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    runtime.start()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = common.get_config()
    config.data.shapes = ((arguments.size, arguments.size),)
    config.data.max_objects = TRUTHS
    config.model.num_classes = arguments.classes
    state = torchvision_state(50, arguments.classes + 1)
    scene = Scene(state, arguments.classes, made_up_batch(config, arguments.batch_size, objects=TRUTHS))
    tasks = {
        "backbone": backbone_task,
        "step": step_task,
        "gap_step": lambda scene: step_task(scene, gap=True),
        "inference": inference_task,
    }
    figures = {part: measure(tasks[part](scene), arguments.repeats) for part in arguments.parts or PARTS}
    print(json.dumps({"device": jax.devices()[0].device_kind, "threads": torch.get_num_threads(), **figures}, indent=2))


if __name__ == "__main__":
    main()
