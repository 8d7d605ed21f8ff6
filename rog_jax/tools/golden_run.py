"""Our detector run as the makers of a golden file ran theirs: every intermediate of an evaluation and a training pass.

Nothing is drawn at random in those passes: every anchor and every proposal takes part in the losses.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from configs import common
from rog_jax.data.batch import Batch
from rog_jax.models.box_head import box_targets
from rog_jax.models.detector import Detector
from rog_jax.models.fpn import STRIDES
from rog_jax.models.mask_head import mask_targets
from rog_jax.models.rpn import level_anchors, rpn_targets
from rog_jax.training.losses import compute_losses
from rog_jax.training.state import AXIS, LossMemory, ModelDefinition, data_mesh

Trace = dict[str, Any]
"""Arrays of one image by name, in NumPy, without the axis of the batch."""

LOSSES = ("rpn_cls", "rpn_box", "cls", "box", "mask")
PRE_NMS, PROPOSALS, DETECTIONS, SCORE_THRESHOLD = 600, 200, 50, 0.02


class Scene(NamedTuple):
    """The input of a golden file.

    Attributes:
        image: float32 [H, W, 3], RGB, 0..255.
        boxes: float32 [G, 4].
        labels: int32 [G], 0..C-1.
        masks: uint8 [G, H, W / 8], whole images packed along x.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def golden_config(settings: dict[str, dict[str, Any]], num_classes: int, scene: Scene, train_all: bool) -> ConfigDict:
    """The config of a golden run: a checkpoint's conventions, few proposals, and nothing left to chance.

    Args:
        settings: from `rog_jax.weights`.
        num_classes: C.
        scene: whose size bounds the points of adaptive RoIAlign, so that it is exact.
        train_all: no stage of the backbone is frozen.
    """
    config = common.get_config()
    for section, values in settings.items():
        config[section].update(values)
    config.model.num_classes = num_classes
    config.model.dtype = "float32"
    if train_all:
        config.model.frozen_stages = -1
    config.loss.ranking = "none"
    config.rpn.update(train_pre_nms=PRE_NMS, test_pre_nms=PRE_NMS, train_proposals=PROPOSALS, test_proposals=PROPOSALS)
    height, width = scene.image.shape[:2]
    config.rpn.samples = sum(map(len, level_anchors((height, width), FrozenConfigDict(config.rpn))))
    config.rpn.positive_fraction = 1.0
    config.roi.samples = PROPOSALS + len(scene.boxes)
    config.roi.positive_fraction = 1.0
    config.roi.max_sampling_ratio = -(-max(height, width) // (STRIDES[0] * config.roi.box_pool))
    config.test.update(score_threshold=SCORE_THRESHOLD, max_detections=DETECTIONS, pre_nms=PROPOSALS * num_classes)
    return config


def make_batch(scene: Scene) -> Batch:
    """The scene as a batch of one image that fills its shape, with masks of the whole image."""
    size = scene.image.shape[:2]
    return Batch(
        image=scene.image[None],
        image_size=np.float32([size]),
        original_size=np.int32([size]),
        index=np.zeros(1, np.int32),
        boxes=scene.boxes[None],
        labels=scene.labels[None],
        masks=scene.masks[None],
        dropped=np.zeros(1, np.int32),
        unreadable=np.zeros(1, np.int32),
    )


class GoldenRun:
    """A detector with given weights on one scene.

    Args:
        config: from `golden_config`.
        parameters: from `rog_jax.weights`, of the whole detector.
        scene: the input.
    """

    def __init__(self, config: ConfigDict, parameters: dict, scene: Scene):
        self.definition = ModelDefinition(config)
        template = self.definition.initial
        self.trainable, self.fixed = (_selected(tree, parameters) for tree in template)
        self.batch = make_batch(scene)

    def evaluation(self) -> Trace:
        """Every intermediate of inference."""
        return self._traced(_evaluation)

    def training(self) -> Trace:
        """Every intermediate of a training pass."""
        return self._traced(_training)

    def _traced(self, function: Any) -> Trace:
        merge = self.definition.merge
        trace = jax.jit(lambda trainable, fixed, batch: function(merge(trainable, fixed), batch))(
            self.trainable, self.fixed, self.batch
        )
        return jax.tree.map(lambda x: np.asarray(x)[0], trace)

    def losses_and_gradients(self) -> tuple[dict[str, float], dict[str, dict]]:
        """Each loss, and the gradients of each alone by its name, and of their sum as "total"."""

        def weighted(trainable, fixed, batch, weights):
            def total(trainable):
                model = self.definition.merge(trainable, fixed)
                counts = jnp.ones(model.num_classes, jnp.int32)
                memory = LossMemory(counts, model.loss.init_state(), ())
                losses, _ = compute_losses(model, batch, memory, jax.random.key(0))
                return sum(weight * losses[name] for weight, name in zip(weights, LOSSES, strict=True)), losses

            return jax.grad(total, has_aux=True)(trainable)

        everywhere = PartitionSpec()
        gradient = jax.jit(
            jax.shard_map(
                weighted,
                mesh=data_mesh(jax.devices()[:1]),
                in_specs=(everywhere, everywhere, PartitionSpec(AXIS), everywhere),
                out_specs=everywhere,
                check_vma=False,
            )
        )
        weights = dict(zip(LOSSES, np.eye(len(LOSSES), dtype=np.float32), strict=True))
        weights["total"] = np.ones(len(LOSSES), np.float32)
        gradients, losses = {}, {}
        for name, weight in weights.items():
            gradients[name], losses = jax.device_get(gradient(self.trainable, self.fixed, self.batch, weight))
        return {name: float(value) for name, value in losses.items()}, gradients


def _selected(template: dict, arrays: dict) -> dict:
    """The arrays at the template's paths."""
    return {
        key: _selected(value, arrays[key]) if isinstance(value, dict) else arrays[key]
        for key, value in template.items()
    }


def _evaluation(model: Detector, batch: Batch) -> Trace:
    settings = model.config.rpn
    stages = model.stages(batch.image, batch.image_size)
    levels = model.fpn(stages)
    rpn = model.rpn(levels)
    counts = {"pre_nms": settings.test_pre_nms, "proposals": settings.test_proposals}
    proposals = model.propose(rpn, batch, **counts)
    pooled = model.pool(levels, proposals.boxes, model.config.roi.box_pool)
    embedding = model.box_head.embed(pooled)
    logits, deltas = model.box_head.classify(embedding), model.box_head.regress(embedding)
    boxes, scores, labels = model.detect(logits, deltas, proposals, batch.image_size)
    mask_pooled = model.pool(levels, boxes, model.config.roi.mask_pool)
    return {
        "stages": stages,
        "levels": levels,
        "rpn_logits": rpn.logits,
        "rpn_deltas": rpn.deltas,
        "proposals": proposals.boxes,
        "proposal_logits": proposals.logits,
        "proposal_valid": proposals.valid,
        "roi_features": pooled,
        "embedding": embedding,
        "logits": logits,
        "deltas": deltas,
        "boxes": boxes,
        "scores": scores,
        "labels": labels,
        "mask_roi_features": mask_pooled,
        "mask_embedding": model.mask_head.embed(mask_pooled[0])[None],
        "mask_logits": model.masks(levels, boxes, labels),
    }


def _training(model: Detector, batch: Batch) -> Trace:
    config, shape = model.config, batch.image.shape[1:3]
    key = jax.random.key(0)
    outputs = model.train_outputs(batch, key)
    rois = outputs.rois
    drawn = rpn_targets(batch.boxes, batch.labels, batch.image_size, batch.index, shape, config.rpn, key[None])
    masks = mask_targets(
        batch.masks[0][rois.matched[0]],
        batch.boxes[0][rois.matched[0]],
        rois.boxes[0],
        outputs.mask_logits.shape[-1],
        config.roi.mask_targets,
    )
    return {
        "rpn_logits": outputs.rpn.logits,
        "rpn_deltas": outputs.rpn.deltas,
        "rpn_kind": drawn.kind,
        "rpn_targets": drawn.deltas,
        "roi_boxes": rois.boxes,
        "roi_labels": rois.labels,
        "roi_matched": rois.matched,
        "logits": outputs.logits,
        "deltas": outputs.deltas,
        "box_targets": box_targets(rois, batch.boxes, config.roi),
        "mask_targets": masks[None],
        "mask_logits": outputs.mask_logits,
    }
