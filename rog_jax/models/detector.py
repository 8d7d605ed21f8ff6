"""Faster and Mask R-CNN with FPN: the parts put together, for training and for inference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.batch import Batch, Detections
from rog_jax.losses import classification_loss
from rog_jax.models.box_head import BoxHead, SampledRoIs, detect, sample_rois
from rog_jax.models.fpn import FPN, STRIDES
from rog_jax.models.layers import ParameterDraws
from rog_jax.models.mask_head import MaskHead
from rog_jax.models.resnet import ResNet, normalise_image
from rog_jax.models.rpn import RPNHead, RPNOutputs, propose
from rog_jax.ops.roi_align import roi_align

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class TrainOutputs(NamedTuple):
    """What the losses need from one forward pass in training.

    Attributes:
        rpn: of the head, for all anchors.
        rois: the sampled regions, positives first in each image.
        logits: float32 [B, R, Q], raw, of the classifier.
        deltas: float32 [B, P, C, 4], of the leading P slots, which hold all positives.
        mask_logits: float32 [B, P, M, M], of each slot's class; None without a mask head.
    """

    rpn: RPNOutputs
    rois: SampledRoIs
    logits: Array
    deltas: Array
    mask_logits: Array | None


class Detector(nnx.Module):
    """A two-stage detector built from the sections `model`, `rpn`, `roi`, `loss` and `test` of a config.

    Args:
        config: with `model.num_classes` set.
        seed: of the initial parameters.

    Raises:
        ValueError: a setting has no meaning; the message names it.
    """

    def __init__(self, config: ConfigDict, seed: int):
        self.config = FrozenConfigDict(config)
        model, roi = self.config.model, self.config.roi
        if model.dtype not in DTYPES:
            raise ValueError(f"config.model.dtype={model.dtype!r} is unknown; choose one of {sorted(DTYPES)}")
        if model.num_classes < 1:
            raise ValueError(f"config.model.num_classes={model.num_classes}: the detector needs at least one category")
        self.loss = classification_loss(self.config.loss.classification, num_classes=model.num_classes)
        dtype = DTYPES[model.dtype]
        head_norm = None if model.norm == "frozen_batch" else model.norm
        kwargs = {"dtype": dtype, "rngs": ParameterDraws(seed)}
        self.backbone = ResNet(model.depth, width=model.width, norm=model.norm, **kwargs)
        self.fpn = FPN(self.backbone.channels, model.fpn_channels, norm=head_norm, **kwargs)
        self.rpn = RPNHead(model.fpn_channels, len(self.config.rpn.ratios), **kwargs)
        cells = roi.box_pool**2 * model.fpn_channels
        self.box_head = BoxHead(cells, roi.hidden, model.num_classes, self.loss, **kwargs)
        head = {"channels": roi.mask_channels, "convs": roi.mask_convs, "num_classes": model.num_classes}
        self.mask_head = MaskHead(model.fpn_channels, **head, norm=head_norm, **kwargs) if model.masks else None

    @property
    def num_classes(self) -> int:
        """C, the number of foreground categories."""
        return self.config.model.num_classes

    def features(self, image: Array, image_size: Float[Array, "B 2"]) -> list[Float[Array, "B _h _w D"]]:
        """uint8 RGB images [B, H, W, 3] to the five levels of the pyramid."""
        model = self.config.model
        x = normalise_image(image, image_size, model.pixel_mean, model.pixel_std, DTYPES[model.dtype])
        return self.fpn(self.backbone(x))

    def pool(self, features: list, boxes: Float[Array, "B R 4"], size: int) -> Float[Array, "B R S S D"]:
        """RoIAlign on the four finest levels."""
        roi = self.config.roi
        return roi_align(
            features[:4], boxes, STRIDES[:4], size, sampling_ratio=roi.sampling_ratio, method=roi.align_method
        )

    def train_outputs(self, batch: Batch, key: Array) -> TrainOutputs:
        """Forward pass of training: proposals, sampled RoIs and what each head says of them.

        Args:
            batch: images and ground truths.
            key: of the step; each image's draws follow its `index`, wherever it stands in the batch.
        """
        settings = self.config.rpn
        shape = batch.image.shape[1:3]
        features = self.features(batch.image, batch.image_size)
        rpn = self.rpn(features)
        proposals, valid = propose(
            rpn,
            batch.image_size,
            shape,
            settings,
            pre_nms=settings.train_pre_nms,
            proposals=settings.train_proposals,
        )
        keys = image_keys(key, batch.index)
        rois = sample_rois(
            proposals, valid, batch.boxes, batch.labels, batch.index, self.num_classes, self.config.roi, keys
        )
        embedding = self.box_head.embed(self.pool(features, rois.boxes, self.config.roi.box_pool))
        positives = rois.positives
        return TrainOutputs(
            rpn,
            rois,
            self.box_head.classify(embedding),
            self.box_head.regress(embedding[:, :positives]),
            self._train_masks(features, rois),
        )

    def _train_masks(self, features: list, rois: SampledRoIs) -> Array | None:
        if self.mask_head is None:
            return None
        boxes = rois.boxes[:, : rois.positives]
        labels = rois.labels[:, : rois.positives]
        return self._masks(features, boxes, jnp.where(labels == self.num_classes, 0, labels))

    def _masks(
        self, features: list, boxes: Float[Array, "B P 4"], labels: Int[Array, "B P"]
    ) -> Float[Array, "B P M M"]:
        pooled = self.pool(features, boxes, self.config.roi.mask_pool)  # [B, P, S, S, D]
        logits = self.mask_head(pooled.reshape(-1, *pooled.shape[2:]), jnp.maximum(labels, 0).reshape(-1))
        return logits.reshape(*labels.shape, *logits.shape[1:])

    def predict(self, batch: Batch) -> Detections:
        """Detections of each image, best first; ground truths are not looked at."""
        settings = self.config.rpn
        features = self.features(batch.image, batch.image_size)
        rpn = self.rpn(features)
        proposals, valid = propose(
            rpn,
            batch.image_size,
            batch.image.shape[1:3],
            settings,
            pre_nms=settings.test_pre_nms,
            proposals=settings.test_proposals,
        )
        scores, deltas = self._scores_and_deltas(features, proposals)
        boxes, scores, labels = detect(
            scores, deltas, proposals, valid, batch.image_size, self.config.roi.box_stds, self.config.test
        )
        masks = None
        if self.mask_head is not None:
            masks = jax.nn.sigmoid(self._masks(features, boxes, labels))
        return Detections(boxes, scores, labels, masks)

    def _scores_and_deltas(
        self, features: list, proposals: Float[Array, "B R 4"]
    ) -> tuple[Float[Array, "B R C"], Float[Array, "B R C 4"]]:
        embedding = self.box_head.embed(self.pool(features, proposals, self.config.roi.box_pool))
        logits = self.box_head.classify(embedding)
        scores = self.loss.scores(logits.reshape(-1, logits.shape[-1])).reshape(*logits.shape[:2], -1)
        return scores, self.box_head.regress(embedding)


def image_keys(key: Array, image_index: Int[Array, "B"]) -> Array:
    """One random key an image, a function of the step's key and of the image's index alone."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(image_index)
