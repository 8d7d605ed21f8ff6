"""What GAP, AP loss and Rank & Sort have in common: ranks of the positives, and a gradient set by hand from them.

Each scores a positive i from F_i, the negatives above it, and from the other positives; the loss then says what the
gradient at each positive is, and with which weight w_i it is shared out to the negatives: sum_i w_i H(s_j - s_i) at j.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rog_jax.losses.conventions import is_foreground, sum_over_devices
from rog_jax.losses.gap_dense import rank_densely
from rog_jax.losses.gap_interval import ONE_HOT, rank_by_intervals
from rog_jax.losses.gap_positives import Positives, is_negative, pack_positives
from rog_jax.losses.pairs import most_of_a_device
from rog_jax.ops.manual_axes import vary_like

RANKINGS = {
    "interval": rank_by_intervals,
    "one_hot": partial(rank_by_intervals, forms=ONE_HOT),
    "dense": rank_densely,
}
METHODS = ("auto", *RANKINGS)
ONE_HOT_ON_TPU = 1 << 15
"""Positives ranked at once up to which `auto` takes `one_hot` on a TPU: its products grow with them, look-ups do not.
The figures of the compiler are in docs/performance.md."""
USUAL_POSITIVES = 512
"""Slots for the positives of one device that serve every ordinary batch (four images of a detector)."""

Spread = Callable[[Float[Array, " P"]], Float[Array, "N C"]]


class Settings(NamedTuple):
    """What a compiled ranking loss depends on.

    Attributes:
        delta: half width of H, in logits.
        method: one of `METHODS`.
        max_positives: slots for the positives of one device; where some device has more, it takes one slot a row.
        group: positives of one device that are ranked at once. Where there are more, memory stays what it is for so
            many, and only time grows.
        axis_name: of the mesh, or None.
    """

    delta: float | int
    method: str
    max_positives: int
    group: int
    axis_name: str | None


class Verdict(NamedTuple):
    """What a loss makes of the ranks of this device's positives.

    Attributes:
        values: scalars, this device's share of the values.
        weights: [P], with which each positive hands gradient to the negatives above it; 0 in empty slots.
        gradient: [P], at each positive itself.
    """

    values: PyTree
    weights: Float[Array, " P"]
    gradient: Float[Array, " P"]


Judge = Callable[[Positives, Float[Array, " P"]], Verdict]
"""Gets the positives and F of this device's own, [P]."""


def check_settings(loss: str, delta: float | int, method: str, max_positives: int | None) -> None:
    """Refuses what no ranking loss can be computed with; `loss` is the name for messages.

    Raises:
        ValueError: unknown method, negative delta, no slot.
    """
    if method not in METHODS:
        raise ValueError(f"{loss} knows the methods {', '.join(METHODS)}, not {method!r}")
    if delta < 0:
        raise ValueError(f"{loss}: delta is half the width of a step and cannot be negative: {delta}")
    if max_positives is not None and max_positives < 1:
        raise ValueError(f"{loss} needs at least one slot for positives: max_positives={max_positives}")


def flat_settings(
    loss: str, num_rows: int, delta: float | int, method: str, max_positives: int | None, axis_name: str | None
) -> Settings:
    """Checked settings of a loss that may rank long lists: their positives are ranked in groups of `max_positives`.

    Raises:
        ValueError: as `check_settings`.
    """
    check_settings(loss, delta, method, max_positives)
    slots = max(1, min(USUAL_POSITIVES if max_positives is None else max_positives, num_rows))
    return Settings(delta, method, slots, slots, axis_name)


def value_and_gradient(
    settings: Settings, logits: Float[Array, "N C"], labels: Int[Array, " N"], judge: Judge
) -> tuple[PyTree, Float[Array, "N C"]]:
    """Values of the joined batch of all devices, and this device's rows of its gradient times the number of devices.

    Args:
        settings: of the loss.
        logits: of this device's entries, of which there is at least one.
        labels: [N] 0..C-1 where (i, y_i) is a positive, C for rows without one, -1 for rows that take part in nothing.
        judge: of the loss.
    """
    num_rows, num_classes = logits.shape

    def rank(capacity: int) -> tuple[PyTree, Array]:
        positives = pack_positives(logits, labels, capacity, settings.axis_name)

        def by(method: str) -> tuple[PyTree, Array]:
            return rank_packed(settings._replace(method=method), logits, labels, positives, judge)

        if settings.method != "auto":
            return by(settings.method)
        at_once = min(settings.group, capacity) * (len(positives.scores) // capacity)
        if at_once > ONE_HOT_ON_TPU:
            return by("interval")
        return jax.lax.platform_dependent(tpu=lambda: by("one_hot"), default=lambda: by("interval"))

    if settings.max_positives >= num_rows:
        return rank(num_rows)
    most = jnp.sum(is_foreground(labels, num_classes))
    if settings.axis_name is not None:
        most = jax.lax.pmax(most, settings.axis_name)
    return jax.lax.cond(most <= settings.max_positives, lambda: rank(settings.max_positives), lambda: rank(num_rows))


def rank_packed(
    settings: Settings, logits: Float[Array, "N C"], labels: Int[Array, " N"], positives: Positives, judge: Judge
) -> tuple[PyTree, Float[Array, "N C"]]:
    """`value_and_gradient` of packed positives, by a method that is not "auto"."""
    num_rows, num_classes = logits.shape
    above, spread = rank_in_groups(settings, logits, labels, positives)
    verdict = judge(positives, above)
    at_rows = jnp.zeros(num_rows, logits.dtype).at[positives.rows].set(verdict.gradient, mode="drop")
    at_positives = jnp.where(labels[:, None] == jnp.arange(num_classes), at_rows[:, None], 0)  # [N, C]
    gradient = jnp.where(is_negative(labels, num_classes), spread(verdict.weights), at_positives)
    values, devices = sum_over_devices((verdict.values, 1), settings.axis_name)
    return values, gradient * devices


def rank_in_groups(
    settings: Settings, logits: Float[Array, "N C"], labels: Int[Array, " N"], positives: Positives
) -> tuple[Float[Array, " P"], Spread]:
    """The method's F and its spreading function, for groups of at most `group` positives of each device at a time.

    Arguments and results are those of `rank_by_intervals`, but that weights of empty slots must be 0.
    """
    method, size, slots = RANKINGS[settings.method], settings.group, positives.rows.shape[0]
    if slots <= size:
        return method(logits, labels, positives, settings.delta)
    groups = -(-slots // size)
    used = -(-most_of_a_device(positives) // size)  # the same on all devices, which wait for each other in each group

    def in_groups(x: Array, fill: int) -> Array:
        split = jnp.pad(x.reshape(-1, slots), ((0, 0), (0, groups * size - slots)), constant_values=fill)
        return split.reshape(-1, groups, size)  # [devices, groups, size]

    scores, classes = in_groups(positives.scores, 0), in_groups(positives.labels, -1)
    rows = in_groups(positives.rows, logits.shape[0])[0]
    own = positives.own[0] // slots * size + jnp.arange(size)

    def rank_group(group: Array) -> tuple[Array, Spread]:
        members = positives._replace(
            scores=scores[:, group].reshape(-1), labels=classes[:, group].reshape(-1), own=own, rows=rows[group]
        )
        return method(logits, labels, members, settings.delta)

    def count(group: Array, above: Array) -> Array:
        return above.at[group].set(rank_group(group)[0])

    nothing = vary_like(jnp.zeros((groups, size), logits.dtype), logits)
    above = jax.lax.fori_loop(0, used, count, nothing)

    def spread(weights: Float[Array, " P"]) -> Float[Array, "N C"]:
        split = in_groups(weights, 0)[0]
        nothing = vary_like(jnp.zeros_like(logits), logits)
        return jax.lax.fori_loop(0, used, lambda group, total: total + rank_group(group)[1](split[group]), nothing)

    return above.reshape(-1)[:slots], spread


def number_of_positives(positives: Positives, dtype: jnp.dtype) -> Float[Array, ""]:
    """Of all devices, at least 1."""
    return jnp.maximum(jnp.sum(positives.valid), 1).astype(dtype)


def gather_own(x: Float[Array, " P"], positives: Positives) -> Float[Array, " U"]:
    """What each device knows of its own positives, for all of them."""
    return x if positives.axis_name is None else jax.lax.all_gather(x, positives.axis_name, tiled=True)
