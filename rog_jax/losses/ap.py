"""AP loss (Chen et al., CVPR 2019, "Towards Accurate One-Stage Object Detection with AP-Loss"), class-agnostic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.conventions import loss_dtype
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


def ap_loss(
    logits: Float[Array | np.ndarray, " M"],
    targets: Num[Array | np.ndarray, " M"],
    *,
    delta: float | int = 1.0,
    weight: float | int | Num[Array | np.ndarray, ""] = 1.0,
    method: str = "auto",
    axis_name: str | None = None,
    max_positives: int | None = None,
) -> Float[Array, ""]:
    """AP loss of a flat list of scores, such as the anchors of a batch; its formulae are those of `ap_loss_of_rows`.

    Args:
        logits: raw scores. float64 is kept, all other types are ranked in float32.
        targets: 1 for a positive, 0 for a negative, -1 for an entry that takes part in nothing.
        delta: as in `ap_loss_of_rows`, and so are the other arguments.

    Returns:
        The value, 0 without positives.

    Raises:
        ValueError: for an unknown method, a negative delta, no slots, or shapes that do not fit.
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if logits.ndim != 1 or targets.shape != logits.shape:
        raise ValueError(f"ap_loss takes logits [M] and targets [M]; got {logits.shape} and {targets.shape}")
    labels = jnp.where(targets == 1, 0, jnp.where(targets == 0, 1, -1))
    options = {"weight": weight, "method": method, "axis_name": axis_name, "max_positives": max_positives}
    return ap_loss_of_rows(logits[:, None], labels, delta=delta, **options)


def ap_loss_of_rows(
    logits: Float[Array | np.ndarray, "N C"],
    labels: Int[Array | np.ndarray, " N"],
    *,
    delta: float | int = 1.0,
    weight: float | int | Num[Array | np.ndarray, ""] = 1.0,
    method: str = "auto",
    axis_name: str | None = None,
    max_positives: int | None = None,
) -> Float[Array, ""]:
    """AP loss of a detector's second stage: all foreground columns of all rows are ranked in one list.

    Positives P are the entries (i, y_i), negatives the other entries of all rows. With H the step of width 2 delta:
        A_i = 1 + sum over the other positives j of H(s_j - s_i), F_i = sum over the negatives j of H(s_j - s_i),
        e_i = F_i / (A_i + F_i), one minus the precision at i,
        m_i = the smallest e of the positives that score no higher than i (one minus the interpolated precision).
        value = mean of m_i.
        gradient, error-driven and no derivative of the value: -m_i / |P| at positive i, and at negative j
            1 / |P| sum_i m_i H(s_j - s_i) / F_i (the published 1 / (A_i + F_i), lessened where precision was lifted).

    Args:
        logits: raw scores of the foreground columns. float64 is kept, all other types are ranked in float32.
        labels: class of each row; C is the background, -1 padding, which takes part in nothing.
        delta: half width of H in logits; 0 makes a hard step, at which a tie counts. Part of the compiled program.
        weight: factor of the value and of the gradient (lambda).
        method: "interval" (time M log |P|), "one_hot" (the same for TPUs), "dense" (pairwise, time M |P|) or "auto":
            one_hot on a TPU unless the positives of all devices are too many, interval elsewhere. All are exact to
            rounding.
        axis_name: mesh axis over whose devices the batches are joined. The value is then the same on each device,
            and the gradient is that of this device's rows in the joined batch times the number of devices, so that a
            mean of gradients over devices is the joined gradient.
        max_positives: slots for the positives of one device, 512 by default. A batch with more takes a slower path,
            which ranks them in groups of that many; the result is the same.

    Returns:
        The value, 0 without positives.

    Raises:
        ValueError: for an unknown method, a negative delta, no slots, or shapes that do not fit.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"ap_loss_of_rows takes logits [N, C] and labels [N]; got {logits.shape} and {labels.shape}")
    settings = flat_settings("ap_loss", logits.shape[0], delta, method, max_positives, axis_name)
    dtype = loss_dtype(logits)
    if not logits.size:
        return jnp.zeros((), dtype)
    return jnp.asarray(weight, dtype) * _ap(settings, logits.astype(dtype), labels)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ap(settings: Settings, logits: Array, labels: Array) -> Array:
    return _forward(settings, logits, labels)[0]


def _forward(settings: Settings, logits: Array, labels: Array) -> tuple[Array, Array]:
    return value_and_gradient(settings, logits, labels, partial(_judge, delta=settings.delta))


def _backward(settings: Settings, gradient: Array, cotangent: Array) -> tuple[Array, None]:
    return cotangent * gradient, None


_ap.defvjp(_forward, _backward)


def _judge(positives: Positives, above: Float[Array, " P"], delta: float | int) -> Verdict:
    own_scores, valid = positives.scores[positives.own], positives.valid[positives.own]

    def compare(own: list[Array], others: list[Array]) -> tuple[Array]:
        return (smooth_step(others[0] - own[0], delta),)

    (same,) = sum_over_pairs(compare, 1, positives, (own_scores,), (positives.scores,))
    same = same + (1 - smooth_step(jnp.zeros((), above.dtype), delta))  # A: each positive counts itself as 1
    rank = jnp.where(valid, same + above, 1)
    error = jnp.where(valid, above / rank, 0)
    least = _least_so_far(gather_own(error, positives), positives)[positives.own]
    count = number_of_positives(positives, above.dtype)
    share = jnp.where(valid, least / count, 0)
    weights = jnp.where(error > 0, share / jnp.where(error > 0, error, 1) / rank, 0)
    return Verdict(jnp.sum(share), weights, -share)


def _least_so_far(error: Float[Array, " U"], positives: Positives) -> Float[Array, " U"]:
    """The smallest error of the positives with no higher score: one minus the interpolated precision."""
    order = jnp.argsort(jnp.where(positives.valid, positives.scores, jnp.inf))
    return jnp.zeros_like(error).at[order].set(jax.lax.cummin(error[order]))
