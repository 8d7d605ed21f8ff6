"""Which candidate box answers for which ground truth, and which candidates take part in a loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32, PRNGKeyArray

from rog_jax.ops.boxes import Array, pairwise_iou
from rog_jax.ops.manual_axes import vary_like
from rog_jax.ops.topk import top_k_large

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
BLOCK_IOUS = 2**21
"""Overlaps held at once while matching one image (8 MiB in float32)."""


class Matches(NamedTuple):
    """The ground truth of each candidate.

    Attributes:
        index: int32 [A], ground truth that the candidate answers for; 0 where it overlaps none.
        kind: int32 [A], 1 positive, 0 negative, -1 ignored.
        iou: float32 [A], the candidate's largest overlap with any ground truth.
    """

    index: Int32[Array, "A"]
    kind: Int32[Array, "A"]
    iou: Float[Array, "A"]


class Samples(NamedTuple):
    """Candidates drawn for a loss: positives by rising index, negatives by rising index, then empty slots.

    Attributes:
        index: int32 [num], place among the candidates; 0 in an empty slot.
        kind: int32 [num], 1 positive, 0 negative, -1 empty slot.
    """

    index: Int32[Array, "num"]
    kind: Int32[Array, "num"]


def match(
    gt_boxes: Float[Array, "G 4"],
    gt_valid: Bool[Array, "G"],
    candidates: Float[Array, "A 4"],
    positive_iou: float,
    negative_iou: float,
    low_quality: str = "none",
    min_positive_iou: float | None = None,
) -> Matches:
    """Assigns candidates to ground truths by overlap.

    A candidate takes the ground truth of its largest IoU: positive from `positive_iou`, negative below `negative_iou`,
    ignored between. `low_quality` says what becomes of the candidates that reach exactly the largest IoU of some ground
    truth, if this is above 0 and at least `min_positive_iou` (default: `negative_iou`): with "reassign" they are
    positive for that ground truth, the last such one (MMDetection's MaxIoUAssigner); with "keep" they are positive for
    the ground truth that they overlap most (Detectron2's and torchvision's allow_low_quality_matches, in which a ground
    truth that overlaps nothing would make every candidate positive that overlaps nothing); with "none", nothing.

    Ground truths are compared in blocks of at most `BLOCK_IOUS` overlaps, and blocks after the last valid ground truth
    are skipped: 280k anchors need some 20 MiB, and time for the ground truths that there are. No gradient passes.
    """
    if low_quality not in ("reassign", "keep", "none"):
        raise ValueError(f"low_quality={low_quality!r} is unknown; choose one of reassign, keep, none")
    gt_boxes, candidates = jax.lax.stop_gradient((gt_boxes, candidates))
    total, num_candidates = gt_boxes.shape[0], candidates.shape[0]
    if total == 0:
        nothing = jnp.zeros(num_candidates, jnp.int32)
        return Matches(nothing, nothing, jnp.zeros(num_candidates, candidates.dtype))
    block = max(1, min(total, BLOCK_IOUS // num_candidates))
    padding = -total % block
    gt_boxes = jnp.pad(gt_boxes, ((0, padding), (0, 0)))
    gt_valid = jnp.pad(gt_valid, (0, padding))
    threshold = negative_iou if min_positive_iou is None else min_positive_iou

    def compare(number, carry):
        best_iou, best_index, forced_index = carry  # each [A]
        start = number * block
        boxes = jax.lax.dynamic_slice_in_dim(gt_boxes, start, block)
        valid = jax.lax.dynamic_slice_in_dim(gt_valid, start, block)
        iou = jnp.where(valid[:, None], pairwise_iou(boxes, candidates), -1.0)  # [block, A]
        # Kept in memory: computed twice, in two fusions, equal overlaps could differ in the last bit.
        iou = jax.lax.optimization_barrier(iou)
        block_iou = iou.max(axis=0)
        block_index = start + iou.argmax(axis=0).astype(jnp.int32)
        better = block_iou > best_iou
        best_iou, best_index = jnp.where(better, block_iou, best_iou), jnp.where(better, block_index, best_index)
        if low_quality != "none":
            largest = iou.max(axis=1, keepdims=True)
            forced = (iou == largest) & (largest >= threshold) & (largest > 0) & valid[:, None]
            numbers = start + jnp.arange(block, dtype=jnp.int32)[:, None]
            forced_index = jnp.maximum(forced_index, jnp.where(forced, numbers, -1).max(axis=0))
        return best_iou, best_index, forced_index

    last = jnp.where(gt_valid, jnp.arange(1, total + padding + 1), 0).max()
    start = (
        jnp.zeros(num_candidates, candidates.dtype),
        jnp.zeros(num_candidates, jnp.int32),
        jnp.full(num_candidates, -1, jnp.int32),
    )
    start = vary_like(start, (gt_boxes, gt_valid, candidates))
    iou, index, forced_index = jax.lax.fori_loop(0, (last + block - 1) // block, compare, start)
    kind = jnp.where(iou >= positive_iou, POSITIVE, jnp.where(iou < negative_iou, NEGATIVE, IGNORED))
    forced = forced_index >= 0
    kind = jnp.where(forced, POSITIVE, kind).astype(jnp.int32)
    return Matches(jnp.where(forced, forced_index, index) if low_quality == "reassign" else index, kind, iou)


def sample(key: PRNGKeyArray, kind: Int[Array, "A"], num: int, positive_fraction: float) -> Samples:
    """Draws at most `num` candidates at random, positives first, as MMDetection's RandomSampler.

    At most floor(num * positive_fraction) positives are drawn; negatives fill the other slots, as far as there are any.
    The draw is a function of the key and of the candidates' places alone, so a key folded with an image's id gives the
    same sample wherever in the batch, and on whichever device, the image sits.
    """
    size = kind.shape[0]
    positives, negatives = _draw(key, kind, num, positive_fraction)
    # One sort puts the drawn ones in order: a negative's code is its index plus the size, an empty slot's is larger.
    empty = 2 * size
    positives, negatives = (
        jnp.where(positives < size, positives, empty),
        jnp.where(negatives < size, negatives + size, empty),
    )
    codes = jnp.sort(jnp.concatenate([positives, negatives, jnp.full(num, empty, jnp.int32)]))[:num]  # [num]
    kinds = jnp.where(codes < size, POSITIVE, jnp.where(codes < empty, NEGATIVE, IGNORED))
    return Samples(codes % max(size, 1), kinds.astype(jnp.int32))


def sample_mask(key: PRNGKeyArray, kind: Int[Array, "A"], num: int, positive_fraction: float) -> Int32[jax.Array, "A"]:
    """The draw of `sample` as a copy of `kind` with -1 at every candidate that was not drawn."""
    positives, negatives = _draw(key, kind, num, positive_fraction)
    nothing = jnp.full(kind.shape[0], IGNORED, jnp.int32)
    return nothing.at[positives].set(POSITIVE, mode="drop").at[negatives].set(NEGATIVE, mode="drop")


def _draw(key, kind, num, positive_fraction):
    """Indices of the positives and of the negatives drawn, luckiest first; A in the places that stay empty."""
    size = kind.shape[0]
    max_positives, max_negatives = min(int(num * positive_fraction), size), min(num, size)
    luck = jax.random.uniform(key, (size,))
    num_positives = jnp.minimum((kind == POSITIVE).sum(), max_positives)
    num_negatives = jnp.minimum((kind == NEGATIVE).sum(), num - num_positives)
    _, positives = top_k_large(jnp.where(kind == POSITIVE, luck, -1.0), max_positives)
    _, negatives = top_k_large(jnp.where(kind == NEGATIVE, luck, -1.0), max_negatives)
    positives = jnp.where(jnp.arange(max_positives) < num_positives, positives, size)
    negatives = jnp.where(jnp.arange(max_negatives) < num_negatives, negatives, size)
    return positives.astype(jnp.int32), negatives.astype(jnp.int32)
