"""Loops inside `jax.shard_map`, whose checks want a loop's start to vary over the devices as its results do."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def vary_like(values: Tree, references) -> Tree:
    """`values`, marked as varying over each mesh axis that an array of `references` varies over; the numbers stay.

    Outside of `jax.shard_map`, or with its `check_vma=False`, nothing varies and nothing happens.
    """
    axes = frozenset().union(*map(_varying_axes, jax.tree.leaves(references)))

    def vary(array):
        missing = tuple(axes - _varying_axes(array))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary, values)


def _varying_axes(array) -> frozenset:
    return jax.typeof(array).manual_axis_type.varying
