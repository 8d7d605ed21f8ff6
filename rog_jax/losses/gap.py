"""Generalized Average Precision loss of ROG (ICCV 2023, section 3.3): positives against negatives of all classes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.blocks import scan_blocks
from rog_jax.losses.conventions import loss_dtype, sum_over_devices
from rog_jax.losses.gap_positives import Positives
from rog_jax.losses.ranking import Settings, Verdict, check_settings, value_and_gradient
from rog_jax.losses.step import smooth_step

VARIANTS = ("paper", "published")
USUAL_POSITIVE_FRACTION = 0.25
"""Share of foreground rows that the RoI sampler aims at; slots for as many positives serve every ordinary batch."""
PUBLISHED_OMEGA_EPS = 1e-9
PUBLISHED_ABOVE_EPS = 1e-10


class Reading(NamedTuple):
    """What GAP makes of ranks; meanings as in `gap_loss`."""

    variant: str
    exclude_foreground: bool


def gap_loss(
    logits: Float[Array | np.ndarray, "N C"],
    labels: Int[Array | np.ndarray, " N"],
    class_counts: Num[Array | np.ndarray, " C"],
    *,
    delta: float | int = 0.5,
    gamma: float | int | Num[Array | np.ndarray, ""] = 1.0,
    weight: float | int | Num[Array | np.ndarray, ""] = 1.0,
    variant: str = "paper",
    exclude_foreground: bool = True,
    method: str = "auto",
    axis_name: str | None = None,
    max_positives: int | None = None,
) -> Float[Array, ""]:
    """GAP loss of a batch of classified proposals, with its error-driven gradient.

    Sets (eq. 5): P(m) are the entries (i, m) of rows with label m; N-hat are the entries (i, c), c != y_i, of all rows
    and all C foreground columns, the same for every class. K is the number of classes with a positive in the batch, H
    the step of width 2 delta, d_ij = s_j - s_i, and F(i) = sum over j in N-hat of H(d_ij).

    Paper, as read here:
        R(i) = 1 + sum of H(d_ij) over every other foreground entry j: positives of m, positives of other classes,
            N-hat (eqs. 6, 7).
        omega_m = C (1 / n_m)^gamma / sum_k (1 / n_k)^gamma with the running counts n (eq. 9).
        value = weight / K * sum_m omega_m / |P(m)| * sum_{i in P(m)} F(i) / R(i) (eqs. 8, 10).
        gradient (eq. 11), with a_m = weight omega_m / (K |P(m)|): -a_m F(i) / R(i) at i in P(m), and
            sum_m a_m sum_{i in P(m)} H(d_ij) / R(i) at j in N-hat. It is no derivative of the value.

    Published, what the authors' program computes: R(i) = H(0) + sum of H(d_ij) over the other positives of m + F(i),
    without positives of other classes; 1e-9 is added to omega's denominator; positives with F(i) <= 1e-10 have no
    gradient; and the value carries neither omega nor weight, which act in the gradient alone.

    Args:
        logits: raw scores of the foreground columns. float64 is kept, all other types are ranked in float32.
        labels: class of each row; C is the background, -1 padding, which takes part in nothing.
        class_counts: positives of each class so far, this batch included; less than 1 counts as 1. The offline omega
            takes counts of the data set here.
        delta: half width of H in logits; 0 makes a hard step. Part of the compiled program.
        gamma: exponent of omega. 0 makes omega 1 for every class: the ablation without re-weighting.
        weight: lambda_gap.
        variant: "paper" or "published".
        exclude_foreground: False also counts positives of other classes among the negatives of a positive
            (the ablation without Excl. FG): they enter F and receive the gradient of a negative.
        method: "interval" (counts between breakpoints, time N C), "one_hot" (the same in matrix products, for TPUs;
            other compilers hold their operands in memory), "dense" (pairwise) or "auto": one_hot on a TPU unless the
            positives of all devices are too many, interval elsewhere. All are exact to rounding.
        axis_name: mesh axis over whose devices the batches are joined. The value is then the same on each device,
            and the gradient is that of this device's rows in the joined batch times the number of devices, so that a
            mean of gradients over devices is the joined gradient.
        max_positives: slots for the positives of one device. A batch with more takes a slower path with a slot for
            each row; the result is the same. Default: a quarter of the rows, the sampler's share.

    Returns:
        The value, 0 for a batch without positives.

    Raises:
        ValueError: for an unknown variant or method, a negative delta, no slots, or shapes that do not fit.
    """
    logits, labels, class_counts = jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(class_counts)
    if variant not in VARIANTS:
        raise ValueError(f"gap_loss knows the variants {', '.join(VARIANTS)}, not {variant!r}")
    check_settings("gap_loss", delta, method, max_positives)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or class_counts.shape != logits.shape[1:]:
        raise ValueError(
            "gap_loss takes logits [N, C] of the foreground columns, labels [N] and class_counts [C]; got "
            f"{logits.shape}, {labels.shape} and {class_counts.shape}"
        )
    dtype = loss_dtype(logits)
    if not logits.size:
        return jnp.zeros((), dtype)
    omega = class_weights(class_counts.astype(dtype), jnp.asarray(gamma, dtype), variant)
    num_rows = logits.shape[0]
    slots = int(np.ceil(num_rows * USUAL_POSITIVE_FRACTION)) if max_positives is None else max_positives
    settings = Settings(delta, method, min(slots, num_rows), num_rows, axis_name)
    reading = Reading(variant, exclude_foreground)
    return _gap(settings, reading, logits.astype(dtype), labels, omega, jnp.asarray(weight, dtype))


def class_weights(
    counts: Float[Array | np.ndarray, " C"], gamma: float | int | Float[Array, ""], variant: str = "paper"
) -> Float[Array, " C"]:
    """Omega of eq. 9 from positives of each class so far, less than 1 counting as 1.

    Counts are scaled by the smallest first, so that no power underflows to 0 / 0.
    """
    eps = PUBLISHED_OMEGA_EPS if variant == "published" else 0.0
    counts = jnp.maximum(counts, 1)
    smallest = jnp.min(counts)
    power = (smallest / counts) ** gamma
    return counts.shape[0] * power / (jnp.sum(power) + eps * smallest**gamma)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gap(settings: Settings, reading: Reading, logits: Array, labels: Array, omega: Array, weight: Array) -> Array:
    return _forward(settings, reading, logits, labels, omega, weight)[0]


def _forward(
    settings: Settings, reading: Reading, logits: Array, labels: Array, omega: Array, weight: Array
) -> tuple[Array, Array]:
    verdict = partial(judge, reading=reading, delta=settings.delta, omega=omega, weight=weight)
    return value_and_gradient(settings, logits, labels, verdict)


def _backward(
    settings: Settings, reading: Reading, gradient: Array, cotangent: Array
) -> tuple[Array, None, None, None]:
    return cotangent * gradient, None, None, None


_gap.defvjp(_forward, _backward)


def judge(
    positives: Positives,
    above: Float[Array, " P"],
    reading: Reading,
    delta: float | int,
    omega: Float[Array, " C"],
    weight: Float[Array, ""],
) -> Verdict:
    """GAP's value and gradient from F; see `gap_loss` for the arguments."""
    same, other = _compare_positives(positives, delta)
    if not reading.exclude_foreground:
        above = above + other

    if reading.variant == "paper":
        rank = 1 + same + other + (above if reading.exclude_foreground else above - other)
    else:
        rank = smooth_step(jnp.zeros((), above.dtype), delta) + same + above

    share, own_labels = _class_shares(positives, len(omega), above.dtype)
    importance = share * weight * omega[own_labels]  # a_m of each positive
    value = jnp.sum((importance if reading.variant == "paper" else share) * above / rank)
    scale = importance / rank
    if reading.variant == "published":
        scale = jnp.where(above > PUBLISHED_ABOVE_EPS, scale, 0)

    gradient = -scale * above
    if not reading.exclude_foreground:
        gradient = gradient + _spread_to_positives(positives, scale, delta)
    return Verdict(value, scale, gradient)


def _class_shares(
    positives: Positives, num_classes: int, dtype: jnp.dtype
) -> tuple[Float[Array, " P"], Int[Array, " P"]]:
    """1 / (K |P(m)|) of each of this device's positives, 0 in empty slots, and their labels, 0 in empty slots."""
    slots = jnp.where(positives.valid, positives.labels, num_classes)
    sizes = jnp.zeros(num_classes, jnp.int32).at[slots].add(1, mode="drop")  # |P(m)|
    present = jnp.sum(sizes > 0)
    labels = jnp.maximum(positives.labels[positives.own], 0)
    share = 1 / (jnp.maximum(present, 1) * jnp.maximum(sizes[labels], 1)).astype(dtype)
    return jnp.where(positives.valid[positives.own], share, 0), labels


def _compare_positives(positives: Positives, delta: float | int) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
    """For each of this device's positives, sums of H over the others of its class and over those of other classes."""
    own_scores, own_labels = positives.scores[positives.own], positives.labels[positives.own]

    def add(sums: tuple[Array, Array], score: Array, label: Array, slot: Array) -> tuple[tuple[Array, Array], None]:
        step = smooth_step(score[:, None] - own_scores, delta)  # [T, P]
        is_same = label[:, None] == own_labels
        same = jnp.where(is_same & (slot[:, None] != positives.own), step, 0)
        other = jnp.where(~is_same & (label[:, None] >= 0), step, 0)
        return (sums[0] + jnp.sum(same, axis=0), sums[1] + jnp.sum(other, axis=0)), None

    zeros = jnp.zeros_like(own_scores)
    table = (positives.scores, positives.labels, jnp.arange(positives.scores.shape[0]))
    sums, _ = scan_blocks(add, (zeros, zeros), table, (0, -1, -1), own_scores.shape[0])
    return sums


def _spread_to_positives(positives: Positives, scale: Float[Array, " P"], delta: float | int) -> Float[Array, " P"]:
    """Gradient that this device's positives get as negatives of the positives of other classes, on all devices."""
    own_scores, own_labels = positives.scores[positives.own], positives.labels[positives.own]

    def collect(carry: None, score: Array, label: Array) -> tuple[None, Array]:
        step = smooth_step(score[:, None] - own_scores, delta)  # [T, P]
        return carry, jnp.sum(jnp.where(label[:, None] != own_labels, step, 0) * scale, axis=1)

    _, received = scan_blocks(collect, None, (positives.scores, positives.labels), (0, -1), own_scores.shape[0])
    return sum_over_devices(received, positives.axis_name)[positives.own]
