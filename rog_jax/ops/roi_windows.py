"""RoIAlign by windows of a fixed size: for TPUs, where reading a feature here and there is dear and a product is cheap.

All levels lie side by side on one canvas. The cells that a RoI reads are covered by windows of `HEIGHT` x `WIDTH`
cells, one for most RoIs, more for long ones; a window is read in one piece and multiplied by the bilinear weights of
its cells. What the windows of a RoI give adds up to its features. A loop goes over the windows, RoI by RoI, for as
long as there are any, so that the result is exact for every box and shapes are static.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from rog_jax.ops.bfloat16 import bfloat16_parts
from rog_jax.ops.boxes import Array
from rog_jax.ops.manual_axes import vary_like
from rog_jax.ops.roi_samples import Axis, bilinear_weights

HEIGHT, WIDTH = 32, 32
"""Cells of a window; 25 columns are sure, since the first is rounded down to `ALIGNMENT`. A square reads up to 29 cells
a side, but on the coarsest level."""
ALIGNMENT = 8
"""Windows start at multiples of so many columns, and S is padded to one: rows of a TPU's registers."""
GROUP = 16
"""Windows at a time: more are compiled longer, fewer keep a TPU waiting for the next."""
PARTS = 2
"""bfloat16 numbers that stand for a weight beside bfloat16 features: 2^-16 of it is lost; results lose 2^-8."""


class _Canvas(NamedTuple):
    """Where the levels lie: the finest on top, the images beneath each other, the other levels side by side below."""

    corners: tuple[tuple[int, int], ...]  # first row and column of each level's first image
    height: int
    width: int


class _Rois(NamedTuple):
    """All RoIs of a batch, N = B * R; the second axis is rows, columns."""

    position: jax.Array  # [N, 2, S, n], of samples, in cells of the level; S padded
    weight: jax.Array  # [N, 2, S, n]
    corner: jax.Array  # [N, 2], of its image and level on the canvas
    first: jax.Array  # [N, 2], cell of the level that its windows begin with
    windows: jax.Array  # [N, 2], their number


class _Windows(NamedTuple):
    """A group of windows; those beyond the last have no weights."""

    roi: jax.Array  # int32 [G]
    row: jax.Array  # int32 [G], first one, on the canvas
    column: jax.Array  # int32 [G]
    weights: jax.Array  # [G, S * S, HEIGHT * WIDTH]


def pool_by_windows(
    features: Sequence[Float[Array, "B _ _ D"]], levels: Int32[Array, "B R"], rows: Axis, columns: Axis
) -> Float[jax.Array, "B R S S D"]:
    """Features of each RoI from its level, as the mean of its samples; see `roi_align.roi_align`.

    R is at least 1. A feature that is not finite spoils the RoIs whose windows have it, also on other images: windows
    are multiplied as a whole, with 0 where a RoI does not read.
    """
    return _pool(tuple(features), levels, rows, columns)


@jax.custom_vjp
def _pool(features, levels, rows, columns):
    canvas, rois = _canvas_of(features), _rois_of(features, levels, rows, columns)
    cells = _join(canvas, features)  # [height, width, D]
    precise = jnp.promote_types(cells.dtype, rows.weight.dtype)

    def add(total, windows):
        weights = _factors(windows.weights, cells.dtype)  # [G, parts * S * S, K]
        for number in range(GROUP):
            corner = (windows.row[number], windows.column[number], 0)
            window = jax.lax.dynamic_slice(cells, corner, (HEIGHT, WIDTH, depth)).reshape(-1, depth)
            found = _product("qk,kd->qd", weights[number], window, precise)
            total = _add_at(total, (windows.roi[number], 0, 0), found.reshape(-1, *total.shape[1:]).sum(0)[None])
        return total

    batch, num_rois, output_size, _ = rows.position.shape
    depth, padded = cells.shape[-1], rois.position.shape[2]
    start = vary_like(jnp.zeros((batch * num_rois, padded**2, depth), precise), (features, rois))
    pooled = _over_windows(canvas, rois, add, start).reshape(batch, num_rois, padded, padded, depth)
    return pooled[:, :, :output_size, :output_size].astype(cells.dtype)


def _pool_forward(features, levels, rows, columns):
    return _pool(features, levels, rows, columns), (features, levels, rows, columns)


def _pool_backward(saved, gradient):
    features, levels, rows, columns = saved  # of the features, XLA keeps the shapes alone
    canvas, rois = _canvas_of(features), _rois_of(features, levels, rows, columns)
    precise = jnp.promote_types(gradient.dtype, rows.weight.dtype)
    depth, padded = gradient.shape[-1], rois.position.shape[2]
    padding = (0, padded - gradient.shape[2])
    gradient = jnp.pad(gradient, ((0, 0), (0, 0), padding, padding, (0, 0))).reshape(-1, padded**2, depth)

    def add(total, windows):
        weights = _factors(windows.weights, gradient.dtype)
        for number in range(GROUP):
            own = jax.lax.dynamic_index_in_dim(gradient, windows.roi[number], keepdims=False)
            own = jnp.tile(own, (weights.shape[1] // padded**2, 1))  # once for each part of the weights
            found = _product("qk,qd->kd", weights[number], own, precise).reshape(HEIGHT, WIDTH, depth)
            total = _add_at(total, (windows.row[number], windows.column[number], 0), found)
        return total

    start = vary_like(jnp.zeros((canvas.height, canvas.width, depth), precise), (gradient, rois))
    total = _over_windows(canvas, rois, add, start)
    return _split(canvas, total, features), None, None, None


_pool.defvjp(_pool_forward, _pool_backward)


def _canvas_of(features) -> _Canvas:
    batch, height, width, _ = features[0].shape
    corners, column, highest = [(0, 0)], 0, 0
    for level in features[1:]:
        corners.append((batch * height, column))
        column += _aligned(level.shape[2])
        highest = max(highest, level.shape[1])
    return _Canvas(
        tuple(corners), max(batch * (height + highest), HEIGHT), max(_aligned(width), column, _aligned(WIDTH))
    )


def _aligned(cells: int) -> int:
    return -(-cells // ALIGNMENT) * ALIGNMENT


def _join(canvas: _Canvas, features):
    depth = features[0].shape[-1]
    cells = jnp.zeros((canvas.height, canvas.width, depth), features[0].dtype)
    for level, (row, column) in zip(features, canvas.corners, strict=True):
        flat = level.reshape(-1, *level.shape[2:])
        cells = cells.at[row : row + len(flat), column : column + flat.shape[1]].set(flat)
    return cells


def _split(canvas: _Canvas, cells, features):
    """Levels of a canvas, with the features' shapes and types."""
    levels = []
    for level, (row, column) in zip(features, canvas.corners, strict=True):
        batch, height, width, _ = level.shape
        flat = cells[row : row + batch * height, column : column + width]
        levels.append(flat.astype(level.dtype).reshape(level.shape))
    return tuple(levels)


def _rois_of(features, levels, rows: Axis, columns: Axis) -> _Rois:
    (first_row, last_row), (first_column, last_column) = _extent(rows), _extent(columns)
    first_column = first_column // ALIGNMENT * ALIGNMENT
    first = jnp.stack([first_row, first_column], axis=-1)  # [B, R, 2]
    reach = jnp.stack([last_row - first_row, last_column - first_column], axis=-1)
    windows = jnp.maximum(reach // jnp.array([HEIGHT, WIDTH]) + 1, 1)
    heights = jnp.asarray([level.shape[1] for level in features], jnp.int32)
    image = jnp.arange(len(levels), dtype=jnp.int32)[:, None]
    corner = jnp.asarray(_canvas_of(features).corners, jnp.int32)[levels].at[..., 0].add(image * heights[levels])

    def join(row, column):  # S padded, so that the products of row and column weights need no other layout
        joined = jnp.stack([row, column], axis=2)
        return jnp.pad(joined, ((0, 0),) * 3 + ((0, -row.shape[2] % ALIGNMENT), (0, 0)))

    rois = _Rois(join(rows.position, columns.position), join(rows.weight, columns.weight), corner, first, windows)
    return _Rois(*(array.reshape(-1, *array.shape[2:]) for array in rois))


def _extent(axis: Axis):
    """First and last cell that samples with a weight read, int32 [B, R]; first is after last where none has."""
    counted = axis.weight > 0
    end = axis.size - 1
    lowest = jnp.where(counted, axis.position, end[..., None, None]).min((-1, -2))
    highest = jnp.where(counted, axis.position, 0).max((-1, -2))
    return jnp.floor(lowest).astype(jnp.int32), jnp.minimum(jnp.floor(highest).astype(jnp.int32) + 1, end)


def _over_windows(canvas: _Canvas, rois: _Rois, add, total):
    """`add(total, windows)` for the windows of all RoIs, RoI by RoI, in groups."""
    num_rois = len(rois.windows)
    ends = jnp.cumsum(rois.windows.prod(-1))  # [N]

    def step(group, total):
        number = group * GROUP + jnp.arange(GROUP)
        owner = (ends <= number[:, None]).sum(-1)  # N after the last window
        roi = jnp.minimum(owner, num_rois - 1)
        number_of_roi = number - jnp.where(owner > 0, ends[owner - 1], 0)
        own = _Rois(*(array[roi] for array in rois))
        return add(total, _windows_of(canvas, own, roi, number_of_roi, owner < num_rois))

    # Each RoI has a window: so many rounds the compiler knows of, and can say what time it expects of them.
    total = jax.lax.fori_loop(0, num_rois // GROUP, step, total)
    return jax.lax.fori_loop(num_rois // GROUP, -(-ends[-1] // GROUP), step, total)


def _windows_of(canvas: _Canvas, rois: _Rois, roi, number, exists) -> _Windows:
    """Windows `number` [G] of RoIs [G]; windows lie row by row."""
    across = rois.windows[:, 1]
    # Rows and columns of all cells: a product of [S, HEIGHT] and [S, WIDTH] would have to be laid out anew.
    offsets = jnp.divmod(jnp.arange(HEIGHT * WIDTH), WIDTH)

    def along(side, step, length, end):
        """First row or column of each window on the canvas, and weights [G, S, K] of its cells."""
        corner, first = rois.corner[:, side], rois.first[:, side] + step * length
        start = jnp.minimum(corner + first, end - length)
        cells = (start - corner)[:, None] + offsets[side]  # [G, K], of the level
        cells = jnp.where(cells < first[:, None], -2, cells)  # a window before has them; out of any sample's reach
        return start, bilinear_weights(rois.position[:, side], rois.weight[:, side], cells.astype(rois.position.dtype))

    row, row_weights = along(0, number // across, HEIGHT, canvas.height)
    column, column_weights = along(1, number % across, WIDTH, canvas.width)
    weights = (row_weights * exists[:, None, None])[:, :, None] * column_weights[:, None]
    return _Windows(roi, row, column, weights.reshape(len(weights), -1, HEIGHT * WIDTH))


def _factors(weights, dtype):
    """Weights as they are multiplied with numbers of a type: for bfloat16 in parts, one after the other."""
    if dtype != jnp.bfloat16:
        return weights
    return jnp.concatenate(bfloat16_parts(weights.astype(jnp.float32), PARTS), axis=1)


def _product(letters: str, weights, numbers, precise):
    return jnp.einsum(letters, weights, numbers, precision=jax.lax.Precision.HIGHEST, preferred_element_type=precise)


def _add_at(total, corner, numbers):
    before = jax.lax.dynamic_slice(total, corner, numbers.shape)
    return jax.lax.dynamic_update_slice(total, before + numbers, corner)
