"""Rank & Sort loss (Oksuz et al., ICCV 2021, "Rank & Sort Loss for Object Detection and Instance Segmentation")."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.conventions import is_foreground, loss_dtype
from rog_jax.losses.gap_positives import Positives
from rog_jax.losses.pairs import sum_over_pairs
from rog_jax.losses.ranking import (
    Settings,
    Verdict,
    flat_settings,
    gather_own,
    number_of_positives,
    value_and_gradient,
)
from rog_jax.losses.step import smooth_step

PUBLISHED_EPS = 1e-10
"""Sums of H that are no larger give no gradient."""

Values = tuple[Float[Array, ""], Float[Array, ""]]


def rank_sort_loss(
    logits: Float[Array | np.ndarray, " M"],
    iou_targets: Num[Array | np.ndarray, " M"],
    *,
    delta: float | int = 0.5,
    weight: float | int | Num[Array | np.ndarray, ""] = 1.0,
    method: str = "auto",
    axis_name: str | None = None,
    max_positives: int | None = None,
) -> Values:
    """Rank & Sort of a flat list of scores, such as the anchors of a batch.

    Formulae and gradient are those of `rank_sort_loss_of_rows`.

    Args:
        logits: raw scores. float64 is kept, all other types are ranked in float32.
        iou_targets: IoU in (0, 1] of a positive's box with its object, 0 for a negative, -1 for an entry that takes
            part in nothing. So a positive whose IoU is exactly 0 is a negative.
        delta: as in `rank_sort_loss_of_rows`, and so are the other arguments.

    Returns:
        Ranking and sorting loss, both 0 without positives.

    Raises:
        ValueError: for an unknown method, a negative delta, no slots, or shapes that do not fit.
    """
    logits, ious = jnp.asarray(logits), jnp.asarray(iou_targets)
    if logits.ndim != 1 or ious.shape != logits.shape:
        raise ValueError(f"rank_sort_loss takes logits [M] and iou_targets [M]; got {logits.shape} and {ious.shape}")
    labels = jnp.where(ious > 0, 0, jnp.where(ious == 0, 1, -1))
    options = {"weight": weight, "method": method, "axis_name": axis_name, "max_positives": max_positives}
    return rank_sort_loss_of_rows(logits[:, None], labels, ious, delta=delta, **options)


def rank_sort_loss_of_rows(
    logits: Float[Array | np.ndarray, "N C"],
    labels: Int[Array | np.ndarray, " N"],
    ious: Num[Array | np.ndarray, " N"],
    *,
    delta: float | int = 0.5,
    weight: float | int | Num[Array | np.ndarray, ""] = 1.0,
    method: str = "auto",
    axis_name: str | None = None,
    max_positives: int | None = None,
) -> Values:
    """Rank & Sort of a detector's second stage: all foreground columns of all rows are ranked in one list.

    Positives P are the entries (i, label of i) of foreground rows with an IoU y_i > 0, negatives the other entries of
    all rows. With H the step of width 2 delta, H_ij = H(s_j - s_i), and sums over positives j that include i itself
    (paper, eqs. 7 and 8):
        R_i = sum over the positives of H_ij, F_i = sum over the negatives of H_ij.
        ranking error e_i = F_i / (R_i + F_i).
        sorting error q_i = sum_j H_ij (1 - y_j) / R_i - sum_j T_ij (1 - y_j) / sum_j T_ij, T_ij = H_ij if y_j >= y_i:
            how much better the boxes above i would be, were those sorted right.
        values: means of e and of q.
        gradient, error-driven and no derivative of the values: -(e_i + q_i) / |P| at i; e_i goes to the negatives above
            in proportion to H_ij, q_i to the positives above with a smaller y. Errors whose sum of H is not over 1e-10
            move nothing.

    The whole gradient, that of sorting too, comes with the cotangent of the ranking loss, as published; that of the
    sorting loss counts for nothing. So add both to the training loss, with the same factor.

    Args:
        logits: raw scores of the foreground columns. float64 is kept, all other types are ranked in float32.
        labels: class of each row; C is the background, -1 padding, which takes part in nothing.
        ious: IoU of each foreground row's box with its object; a foreground row without overlap (0) is a negative in
            all its columns. Of no meaning in other rows. No gradient goes to them.
        delta: half width of H in logits; 0 makes a hard step, at which a tie counts. Part of the compiled program.
        weight: factor of both values and of the gradient.
        method: "interval" (time M log |P|), "one_hot" (the same for TPUs), "dense" (pairwise, time M |P|) or "auto":
            one_hot on a TPU unless the positives of all devices are too many, interval elsewhere. All are exact to
            rounding; sorting takes |P|².
        axis_name: mesh axis over whose devices the batches are joined. The values are then the same on each device,
            and the gradient is that of this device's rows in the joined batch times the number of devices, so that a
            mean of gradients over devices is the joined gradient.
        max_positives: slots for the positives of one device, 512 by default. A batch with more takes a slower path,
            which ranks them in groups of that many; the result is the same.

    Returns:
        Ranking and sorting loss, both 0 without positives. (The published function fails there; its detector puts 1
        in place of each loss.)

    Raises:
        ValueError: for an unknown method, a negative delta, no slots, or shapes that do not fit.
    """
    logits, labels, ious = jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(ious)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or ious.shape != labels.shape:
        raise ValueError(
            "rank_sort_loss_of_rows takes logits [N, C], labels [N] and ious [N]; got "
            f"{logits.shape}, {labels.shape} and {ious.shape}"
        )
    num_rows, num_classes = logits.shape
    settings = flat_settings("rank_sort_loss", num_rows, delta, method, max_positives, axis_name)
    dtype = loss_dtype(logits)
    if not logits.size:
        return jnp.zeros((), dtype), jnp.zeros((), dtype)
    labels = jnp.where(is_foreground(labels, num_classes) & ~(ious > 0), num_classes, labels)
    rank, sort = _rank_sort(settings, logits.astype(dtype), labels, ious.astype(dtype))
    weight = jnp.asarray(weight, dtype)
    return weight * rank, weight * sort


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rank_sort(settings: Settings, logits: Array, labels: Array, ious: Array) -> Values:
    return _forward(settings, logits, labels, ious)[0]


def _forward(settings: Settings, logits: Array, labels: Array, ious: Array) -> tuple[Values, Array]:
    return value_and_gradient(settings, logits, labels, partial(_judge, ious=ious, delta=settings.delta))


def _backward(settings: Settings, gradient: Array, cotangents: Values) -> tuple[Array, None, None]:
    return cotangents[0] * gradient, None, None


_rank_sort.defvjp(_forward, _backward)


def _judge(positives: Positives, above: Float[Array, " P"], ious: Float[Array, " N"], delta: float | int) -> Verdict:
    valid = positives.valid[positives.own]
    own_ious = ious.at[positives.rows].get(mode="fill", fill_value=0)  # [P]
    own = positives.scores[positives.own], own_ious
    others = positives.scores, gather_own(own_ious, positives)

    def compare(own: list[Array], others: list[Array]) -> tuple[Array, ...]:
        (score, iou), (other_score, other_iou) = own, others
        step = smooth_step(other_score - score, delta)
        right = jnp.where(other_iou >= iou, step, 0)
        wrong = jnp.where(other_iou >= iou, 0, step)
        return right, right * (other_iou - iou), wrong, wrong * (iou - other_iou)

    right, better, wrong, worse = (jnp.where(valid, x, 0) for x in sum_over_pairs(compare, 4, positives, own, others))
    right = jnp.where(valid, right, 1)
    num_positives = right + wrong  # R
    # q is the mean loss of IoU among those that stand above wrongly plus the mean gain among the others, times the
    # share of the former: sums of numbers >= 0, where the difference of two means of 1 - y would lose digits.
    mean_gap = jnp.where(wrong > 0, worse / jnp.where(wrong > 0, wrong, 1), 0) + better / right
    sorting = mean_gap * wrong / num_positives  # q
    ranking = jnp.where(valid, above / (num_positives + above), 0)  # e

    count = number_of_positives(positives, above.dtype)
    ranks = valid & (above > PUBLISHED_EPS)
    sorts = wrong > PUBLISHED_EPS
    handed = jnp.where(sorts, mean_gap / num_positives, 0)  # q / (sum of H over those above wrongly)
    received = _receive(positives, own, others, gather_own(handed, positives), delta)
    gradient = received - jnp.where(ranks, ranking, 0) - jnp.where(sorts, sorting, 0)
    return Verdict(
        (jnp.sum(ranking) / count, jnp.sum(sorting) / count),
        jnp.where(ranks, 1 / (num_positives + above), 0) / count,
        jnp.where(valid, gradient, 0) / count,
    )


def _receive(
    positives: Positives,
    own: tuple[Array, Array],
    others: tuple[Array, Array],
    handed: Float[Array, " U"],
    delta: float | int,
) -> Float[Array, " P"]:
    """What each of this device's positives gets for standing above positives of higher IoU."""

    def hand_over(own: list[Array], others: list[Array]) -> tuple[Array]:
        (score, iou), (other_score, other_iou, other_handed) = own, others
        step = smooth_step(score - other_score, delta)
        return (jnp.where(iou < other_iou, step * other_handed, 0),)

    return sum_over_pairs(hand_over, 1, positives, own, (*others, handed))[0]
