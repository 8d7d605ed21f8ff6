"""Faster and Mask R-CNN with FPN: the parts put together, for training and for inference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.batch import Batch, Detections
from rog_jax.data.statistics import ClassStatistics
from rog_jax.models.box_head import BoxHead, SampledRoIs, detect, sample_rois
from rog_jax.models.fpn import FPN, STRIDES
from rog_jax.models.layers import ParameterDraws
from rog_jax.models.mask_head import MaskHead
from rog_jax.models.objective import configured_loss
from rog_jax.models.resnet import ResNet, normalise_image
from rog_jax.models.rpn import Proposals, RPNHead, RPNOutputs, propose
from rog_jax.models.tta import moved, pooled, seen, view_size, views_of
from rog_jax.ops.roi_align import roi_align

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class TrainOutputs(NamedTuple):
    """What the losses need from one forward pass in training.

    Attributes:
        rpn: of the head, for all anchors.
        rois: the sampled regions, positives first in each image.
        logits: float32 [B, R, Q], raw, of the classifier.
        deltas: float32 [B, P, C or 1, 4], of the leading P slots, which hold all positives.
        mask_logits: float32 [B, P, M, M], of each slot's class; None without a mask head.
        features: of the pyramid.
    """

    rpn: RPNOutputs
    rois: SampledRoIs
    logits: Array
    deltas: Array
    mask_logits: Array | None
    features: list[Array]


class RawOutputs(NamedTuple):
    """What a forward pass of inference knows before the classifier's outputs are read as scores.

    Attributes:
        features: the levels of the pyramid.
        proposals: of the RPN.
        logits: float32 [B, R, Q], raw, of the classifier.
        deltas: float32 [B, R, sets, 4].
    """

    features: list[Array]
    proposals: Proposals
    logits: Array
    deltas: Array


ScoreFunction = Callable[[Float[Array, "N Q"]], Float[Array, "N C"]]
"""Raw outputs of the classifier to foreground scores."""


class Detector(nnx.Module):
    """A two-stage detector built from the sections `model`, `rpn`, `roi`, `loss` and `test` of a config.

    Args:
        config: with `model.num_classes` set, and nothing left open (`rog_jax.models.recipe.with_recipe`).
        seed: of the initial parameters.
        statistics: of the training set, for the losses and calibrations that are built from its counts.

    Raises:
        ValueError: a setting has no meaning; the message names it.
    """

    def __init__(self, config: ConfigDict, seed: int, statistics: ClassStatistics | None = None):
        self.config = FrozenConfigDict(config)
        model, roi = self.config.model, self.config.roi
        if model.dtype not in DTYPES:
            raise ValueError(f"config.model.dtype={model.dtype!r} is unknown; choose one of {sorted(DTYPES)}")
        if model.num_classes < 1:
            raise ValueError(f"config.model.num_classes={model.num_classes}: the detector needs at least one category")
        self.statistics = statistics
        self.loss = configured_loss(self.config.loss, model.num_classes, statistics)
        dtype = DTYPES[model.dtype]
        head_norm = None if model.norm == "frozen_batch" else model.norm
        kwargs = {"dtype": dtype, "rngs": ParameterDraws(seed)}
        body = {"width": model.width, "stride_in_1x1": model.stride_in_1x1, "norm": model.norm}
        self.backbone = ResNet(model.depth, **body, **kwargs)
        pyramid = {"extra_level": model.fpn_extra_level, "norm": head_norm}
        self.fpn = FPN(self.backbone.channels, model.fpn_channels, **pyramid, **kwargs)
        self.rpn = RPNHead(model.fpn_channels, len(self.config.rpn.ratios), **kwargs)
        cells = roi.box_pool**2 * model.fpn_channels
        self.box_head = BoxHead(cells, model.num_classes, self.loss, roi, **kwargs)
        self.mask_head = self._mask_head(head_norm, **kwargs) if model.masks else None

    def _mask_head(self, norm: str | None, *, dtype: Any, rngs: ParameterDraws) -> MaskHead:
        model, roi = self.config.model, self.config.roi
        return MaskHead(
            model.fpn_channels,
            roi.mask_channels,
            roi.mask_convs,
            1 if roi.class_agnostic_masks else model.num_classes,
            predictor=roi.mask_predictor,
            temperature=roi.temperature,
            norm=norm,
            dtype=dtype,
            rngs=rngs,
        )

    @property
    def num_classes(self) -> int:
        """C, the number of foreground categories."""
        return self.config.model.num_classes

    def features(self, image: Array, image_size: Float[Array, "B 2"]) -> list[Float[Array, "B _h _w D"]]:
        """RGB images [B, H, W, 3] in 0..255 to the five levels of the pyramid."""
        return self.fpn(self.stages(image, image_size))

    @jax.named_scope("backbone")
    def stages(self, image: Array, image_size: Float[Array, "B 2"]) -> list[Float[Array, "B _h _w _d"]]:
        """RGB images [B, H, W, 3] in 0..255 to the backbone's four stages."""
        model = self.config.model
        pixels = {"mean": model.pixel_mean, "std": model.pixel_std, "order": model.pixel_order}
        return self.backbone(normalise_image(image, image_size, dtype=DTYPES[model.dtype], **pixels))

    @jax.named_scope("roi_align")
    def pool(self, features: list, boxes: Float[Array, "B R 4"], size: int) -> Float[Array, "B R S S D"]:
        """RoIAlign on the four finest levels."""
        roi = self.config.roi
        return roi_align(
            features[:4],
            boxes,
            STRIDES[:4],
            size,
            sampling_ratio=roi.sampling_ratio,
            aligned=roi.aligned,
            method=roi.align_method,
            max_sampling_ratio=roi.max_sampling_ratio,
            level_epsilon=roi.level_epsilon,
        )

    @jax.named_scope("proposals")
    def propose(self, rpn: RPNOutputs, batch: Batch, *, pre_nms: int, proposals: int) -> Proposals:
        """What the RPN proposes for the images of a batch."""
        return propose(
            rpn,
            batch.image_size,
            batch.image.shape[1:3],
            self.config.rpn,
            pre_nms=pre_nms,
            proposals=proposals,
            clamp=self.config.model.box_clamp,
        )

    def train_outputs(self, batch: Batch, key: Array) -> TrainOutputs:
        """Forward pass of training: proposals, sampled RoIs and what each head says of them.

        Args:
            batch: images and ground truths.
            key: of the step; each image's draws follow its `index`, wherever it stands in the batch.
        """
        settings = self.config.rpn
        features = self.features(batch.image, batch.image_size)
        rpn = self.rpn(features)
        counts = {"pre_nms": settings.train_pre_nms, "proposals": settings.train_proposals}
        proposals = self.propose(rpn, batch, **counts)
        keys = image_keys(key, batch.index)
        rois = sample_rois(
            proposals.boxes,
            proposals.valid,
            batch.boxes,
            batch.labels,
            batch.index,
            self.num_classes,
            self.config.roi,
            keys,
        )
        embedding = self.box_head.embed(self.pool(features, rois.boxes, self.config.roi.box_pool))
        positives = rois.positives
        return TrainOutputs(
            rpn,
            rois,
            self.box_head.classify(embedding),
            self.box_head.regress(embedding[:, :positives]),
            self._train_masks(features, rois),
            features,
        )

    def _train_masks(self, features: list, rois: SampledRoIs) -> Array | None:
        if self.mask_head is None:
            return None
        boxes = rois.boxes[:, : rois.positives]
        labels = rois.labels[:, : rois.positives]
        return self.masks(features, boxes, jnp.where(labels == self.num_classes, 0, labels))

    def masks(self, features: list, boxes: Float[Array, "B P 4"], labels: Int[Array, "B P"]) -> Float[Array, "B P M M"]:
        """Mask logits of each box for its label; of no meaning where the label is -1."""
        pooled = self.pool(features, boxes, self.config.roi.mask_pool)  # [B, P, S, S, D]
        logits = self.mask_head(pooled.reshape(-1, *pooled.shape[2:]), jnp.maximum(labels, 0).reshape(-1))
        return logits.reshape(*labels.shape, *logits.shape[1:])

    def predict(self, batch: Batch, score_function: ScoreFunction | None = None) -> Detections:
        """Detections of each image, best first; ground truths are not looked at."""
        return self.detections(self.raw_outputs(batch), batch.image_size, score_function)

    def raw_outputs(self, batch: Batch) -> list[RawOutputs]:
        """All of inference but the reading of scores, the last NMS and the masks, for each view of test-time
        augmentation (`rog_jax.models.tta`); without one, of the images alone."""
        return [self._raw_outputs(seen(batch, view)) for view in views_of(self.config.test)]

    def _raw_outputs(self, batch: Batch) -> RawOutputs:
        settings = self.config.rpn
        features = self.features(batch.image, batch.image_size)
        counts = {"pre_nms": settings.test_pre_nms, "proposals": settings.test_proposals}
        proposals = self.propose(self.rpn(features), batch, **counts)
        embedding = self.box_head.embed(self.pool(features, proposals.boxes, self.config.roi.box_pool))
        return RawOutputs(features, proposals, self.box_head.classify(embedding), self.box_head.regress(embedding))

    def detections(
        self, raw: list[RawOutputs], image_size: Float[Array, "B 2"], score_function: ScoreFunction | None = None
    ) -> Detections:
        """The rest of inference; several score functions share one `raw`.

        Args:
            raw: from `raw_outputs`.
            image_size: (height, width) of each image inside the padding.
            score_function: instead of the classification loss's own.
        """
        views, test, found = views_of(self.config.test), self.config.test, []
        for view, own in zip(views, raw, strict=True):
            size = view_size(image_size, view)
            boxes, scores, labels = self.detect(own.logits, own.deltas, own.proposals, size, score_function)
            found.append((moved(boxes, size, image_size, view), scores, labels))
        boxes, scores, labels = pooled(found, test.nms_iou, test.max_detections)
        if self.mask_head is None:
            return Detections(boxes, scores, labels, None)
        masks = []
        for view, own in zip(views, raw, strict=True):
            there = moved(boxes, image_size, view_size(image_size, view), view)
            shown = jax.nn.sigmoid(self.masks(own.features, there, labels))  # [B, K, M, M]
            masks.append(shown[..., ::-1] if view.mirrored else shown)
        return Detections(boxes, scores, labels, sum(masks) / len(masks))

    @jax.named_scope("detections")
    def detect(
        self,
        logits: Float[Array, "B R Q"],
        deltas: Float[Array, "B R sets 4"],
        proposals: Proposals,
        image_size: Float[Array, "B 2"],
        score_function: ScoreFunction | None = None,
    ) -> tuple[Float[Array, "B K 4"], Float[Array, "B K"], Int[Array, "B K"]]:
        """Boxes, scores and labels (-1 in empty slots) of the best detections, from what the box head says."""
        scores_of = self.loss.scores if score_function is None else score_function
        scores = scores_of(logits.reshape(-1, logits.shape[-1])).reshape(*logits.shape[:2], -1)
        return detect(
            scores,
            deltas,
            proposals.boxes,
            proposals.valid,
            image_size,
            self.config.roi.box_stds,
            self.config.test,
            self.config.model.box_clamp,
        )


def image_keys(key: Array, image_index: Int[Array, "B"]) -> Array:
    """One random key an image, a function of the step's key and of the image's index alone."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(image_index)
