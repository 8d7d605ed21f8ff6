"""Sums over a long axis in blocks, so that no pairwise table grows beyond a fixed size."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rog_jax.ops.manual_axes import vary_like

MAX_PAIRS = 1 << 19
"""Entries of the largest pairwise table held at once (2 MB in float32)."""


def scan_blocks(
    body: Callable[..., tuple[PyTree, PyTree]],
    init: PyTree,
    arrays: tuple[Array, ...],
    fill: tuple[float | int, ...],
    width: int,
    max_entries: int = MAX_PAIRS,
) -> tuple[PyTree, PyTree]:
    """Runs `body(carry, *blocks) -> (carry, outputs)` over blocks of the arrays' first axis.

    Args:
        body: gets blocks [T, ...] of each array; its outputs have first axis T too.
        init: the first carry.
        arrays: arrays with the same first axis L.
        fill: value for each array that pads L to a whole number of blocks.
        width: entries of the table that `body` makes for one element of the axis.
        max_entries: bound of T * width. T is a power of two unless one block holds all: then the usual lengths, such as
            2048 rows, need no padding, which would copy the arrays.

    Returns:
        The last carry, and the outputs joined along their first axis, cut to L.
    """
    length = arrays[0].shape[0]
    size = max(1, max_entries // max(width, 1))
    size = length if size >= length else 1 << (size.bit_length() - 1)
    blocks = -(-length // size)
    pad = blocks * size - length
    split = tuple(
        jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1), constant_values=value).reshape(blocks, size, *x.shape[1:])
        for x, value in zip(arrays, fill, strict=True)
    )
    # Bodies close over arrays of their own, so only a carry that came out of one tells over which axes it varies.
    after_one, _ = body(init, *(x[0] for x in split))
    init = vary_like(init, (after_one, split))
    carry, outputs = jax.lax.scan(lambda carry, block: body(carry, *block), init, split)
    return carry, jax.tree.map(lambda y: y.reshape(blocks * size, *y.shape[2:])[:length], outputs)


def with_block_of_platform(
    function: Callable[..., PyTree], *arrays: Array, blocks: dict[str, int], entries: int
) -> PyTree:
    """function(*arrays, block=b) with the block of the platform that the program is compiled for.

    Args:
        function: its result does not depend on the block.
        arrays: arguments.
        blocks: for "cpu" and "default", entries in a block.
        entries: in all; where the smallest block holds them, the choice is none and the function is traced once.
    """
    smallest = min(blocks.values())
    if entries <= smallest:
        return function(*arrays, block=smallest)
    return jax.lax.platform_dependent(*arrays, **{name: partial(function, block=b) for name, b in blocks.items()})
