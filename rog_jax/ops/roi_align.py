"""RoIAlign over the levels of a feature pyramid (Mask R-CNN, section 3; level rule of FPN, equation 1).

Each output cell averages bilinear samples of the features, and bilinear weights separate into rows and columns. So both
forms start from sample positions along each axis (`roi_samples`): `gather`, which is here, reads the feature cells that
they touch; `windows` (`roi_windows`) multiplies weights with all cells around a RoI.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from rog_jax.ops import boxes as box_ops
from rog_jax.ops.boxes import Array
from rog_jax.ops.manual_axes import vary_like
from rog_jax.ops.roi_samples import Axis, sample_axis
from rog_jax.ops.roi_windows import pool_by_windows

FINEST_SCALE = 56.0
"""Half the side of a square box, in pixels, that is pooled from the second level (FPN's 224 on its third)."""
UNROLLED_TAPS = 4
"""Taps an axis, up to which the gather form is unrolled: those of sampling ratio 2."""


class _Taps(NamedTuple):
    """Cells that each output cell reads: flat cell = rows[..., i] + columns[..., j], weight the product of theirs."""

    rows: jax.Array  # int32 [B, R, S, T], place of the row's first cell among all cells of the batch
    columns: jax.Array  # int32 [B, R, S, T]
    row_weights: jax.Array  # [B, R, S, T]
    column_weights: jax.Array  # [B, R, S, T]


def roi_levels(boxes: Float[Array, "*batch 4"], num_levels: int, epsilon: float = 1e-6) -> Int32[jax.Array, "*batch"]:
    """Pyramid level of each box: floor(log2(sqrt(area) / 56 + epsilon)), limited to 0..num_levels - 1."""
    scale = jnp.sqrt(box_ops.area(boxes))
    level = jnp.floor(jnp.log2(scale / FINEST_SCALE + epsilon))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def roi_align(
    features: Sequence[Float[Array, "B _ _ D"]],
    boxes: Float[Array, "B R 4"],
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
    method: str = "auto",
    *,
    max_sampling_ratio: int = 8,
    level_epsilon: float = 1e-6,
) -> Float[jax.Array, "B R {output_size} {output_size} D"]:
    """Features of each box, pooled from its level to `output_size` cells a side.

    Border rules are torchvision's: a sample up to one cell outside the level takes the border's value, one further out
    is zero. Weights and sums are float32 (float64 for float64 boxes), the result has the features' type. Boxes get no
    gradient.

    Args:
        features: one array [B, H_l, W_l, D] a level, finest first.
        boxes: in pixels of the padded image; boxes of no area give finite features.
        strides: pixels per cell of each level.
        output_size: cells a side of the result, S.
        sampling_ratio: samples a side in each cell of the result; 0 is one for each feature cell that a side of the
            cell has or begins, as MMDetection and Detectron2 do.
        aligned: shifts samples by half a feature cell (MMDetection, Detectron2); False is torchvision's older rule, by
            which a box also has at least one feature cell a side.
        method: "gather", "windows" (both exact, but for `roi_windows.PARTS` with bfloat16 features), or "auto": windows
            on TPUs, where gathers are dear, gather elsewhere. By windows a feature that is not finite spoils RoIs near
            it, also of other images.
        max_sampling_ratio: most samples a side for `sampling_ratio` 0, where shapes have to be static. It is exact for
            boxes of up to `max_sampling_ratio * output_size` feature cells a side; beyond, as many cells as that,
            evenly spaced, are averaged.
        level_epsilon: see `roi_levels`.

    Raises:
        ValueError: for an unknown method, another number of strides than of levels, or no samples.
    """
    if len(features) != len(strides):
        raise ValueError(f"roi_align: {len(features)} levels of features but {len(strides)} strides; give one each")
    if method != "auto" and method not in _METHODS:
        raise ValueError(f"roi_align: unknown method {method!r}; choose one of {', '.join(_METHODS)} or auto")
    if sampling_ratio < 0 or (sampling_ratio or max_sampling_ratio) < 1:
        raise ValueError(f"roi_align: sampling_ratio={sampling_ratio}, {max_sampling_ratio=}: there are no samples")
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes))
    levels = roi_levels(boxes, len(features), level_epsilon)  # [B, R]
    corners = boxes / jnp.asarray(strides, boxes.dtype)[levels][..., None] - (0.5 if aligned else 0.0)

    def axis(side, dimension):
        size = jnp.asarray([level.shape[dimension] for level in features], jnp.int32)[levels]
        length = corners[..., side + 2] - corners[..., side]
        length = length if aligned else jnp.maximum(length, 1)
        samples = (sampling_ratio,) if sampling_ratio else (max_sampling_ratio, True)
        return sample_axis(corners[..., side], length, size, output_size, *samples)

    samples = (levels, axis(1, 1), axis(0, 2))
    if method == "auto":  # decided where the program is compiled, which may be for machines that are not there
        return jax.lax.platform_dependent(tuple(features), *samples, tpu=pool_by_windows, default=_gather)
    return _METHODS[method](features, *samples)


def _gather(features, levels, rows, columns):
    batch, _, _, depth = features[0].shape
    sizes = [level.shape[1] * level.shape[2] for level in features]
    flat = jnp.concatenate([level.reshape(batch, -1, depth) for level in features], axis=1)  # [B, cells, D]
    image_starts = jnp.arange(batch, dtype=jnp.int32)[:, None] * sum(sizes)
    level_starts = jnp.asarray([sum(sizes[:number]) for number in range(len(sizes))], jnp.int32)[levels]
    starts = (image_starts + level_starts)[..., None, None]

    row_index, row_weights = _axis_taps(rows)
    column_index, column_weights = _axis_taps(columns)
    row_starts = starts + row_index * columns.size[..., None, None]
    taps = _Taps(row_starts, column_index, row_weights, column_weights)
    return _pool(flat.reshape(-1, depth), taps, batch * sum(sizes))


def _axis_taps(axis: Axis):
    """Cells that each output cell reads along one axis, and their weights: [B, R, S, T] each."""
    low = jnp.floor(axis.position).astype(jnp.int32)
    last = axis.size[..., None, None] - 1
    if axis.sparse is None:  # the two cells beside each sample
        part = axis.position - low
        cells = jnp.concatenate([low, jnp.minimum(low + 1, last)], axis=-1)
        return cells, jnp.concatenate([(1 - part) * axis.weight, part * axis.weight], axis=-1)
    # Samples at most a cell apart touch neighbouring cells, two more than they are; others stand on cells themselves.
    sparse = axis.sparse[..., None, None]
    window = low[..., :1] + jnp.arange(axis.position.shape[-1] + 2)
    distance = jnp.abs(axis.position[..., None] - window[..., None, :])  # [B, R, S, n, T]
    weights = (jnp.maximum(1 - distance, 0) * axis.weight[..., None]).sum(-2)
    two_more = ((0, 0),) * 3 + ((0, 2),)
    cells = jnp.where(sparse, jnp.pad(low, two_more), jnp.minimum(window, last))
    return cells, jnp.where(sparse, jnp.pad(axis.weight, two_more), weights)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pool(flat, taps: _Taps, num_cells: int):
    """Weighted sums of feature cells, [num_cells, D] -> [B, R, S, S, D].

    A few taps are unrolled, so that they fuse to one loop; many would be long in compiling.
    """
    num_taps = taps.rows.shape[-1]

    def add(number, total):
        cells, weights = _tap(taps, number // num_taps, number % num_taps)
        return total + weights * flat.at[cells].get(mode="promise_in_bounds")

    start = add(0, 0)
    if num_taps <= UNROLLED_TAPS:
        total = reduce(lambda total, number: add(number, total), range(1, num_taps**2), start)
    else:
        total = jax.lax.fori_loop(1, num_taps**2, add, start)
    return total.astype(flat.dtype)


def _pool_forward(flat, taps, num_cells):
    return _pool(flat, taps, num_cells), taps


def _pool_backward(num_cells, taps, gradient):
    """Scatters tap by tap: a round's updates stay in the cache, two to three times faster on a CPU than all at once."""
    num_taps, depth = taps.rows.shape[-1], gradient.shape[-1]

    def scatter(total, number):
        cells, weights = _tap(taps, number // num_taps, number % num_taps)
        updates = (weights * gradient).reshape(-1, depth)
        return total.at[cells.reshape(-1)].add(updates, mode="promise_in_bounds"), None

    start = jnp.zeros((num_cells, depth), taps.row_weights.dtype)
    start = vary_like(start, (gradient, taps))
    total, _ = jax.lax.scan(scatter, start, jnp.arange(num_taps**2))
    return total.astype(gradient.dtype), None


_pool.defvjp(_pool_forward, _pool_backward)


def _tap(taps: _Taps, i, j):
    """Cells [B, R, S, S] and weights [B, R, S, S, 1] of row tap i with column tap j."""
    rows, columns, row_weights, column_weights = taps
    row, row_weight = rows[..., :, None, i], row_weights[..., :, None, i]
    column, column_weight = columns[..., None, :, j], column_weights[..., None, :, j]
    return row + column, (row_weight * column_weight)[..., None]


_METHODS = {"gather": _gather, "windows": pool_by_windows}
