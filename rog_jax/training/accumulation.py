"""Gradient accumulation: a device's images in micro-batches, one after the other, with the memory of one of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rog_jax.data.batch import Batch

Carry = Any
Result = Any


def over_micro_batches(
    function: Callable[[Carry, Batch, Array], tuple[Carry, Result]], carry: Carry, batch: Batch, key: Array, count: int
) -> tuple[Carry, Result]:
    """Calls a function for each micro-batch, with what its last call left.

    Args:
        function: of what is carried along, images, and a random key of their own, to what goes on and a result.
        carry: for the first call.
        batch: this device's images; a micro-batch has as many as the others, in the batch's order. Which images of the
            whole batch share one therefore depends on the number of devices.
        key: of the step.
        count: micro-batches. With one, the function is called with batch and key as they are.

    Returns:
        What the last call left, and the results with a first axis of micro-batches.

    Raises:
        ValueError: the images cannot be shared evenly.
    """
    if count == 1:
        carry, result = function(carry, batch, key)
        return carry, jax.tree.map(lambda x: x[None], result)
    images = len(batch.image)
    if images % count:
        raise ValueError(
            f"{images} images of a device are not {count} micro-batches of one size: config.train.batch_size must be a "
            "multiple of the number of devices times config.train.accumulate"
        )
    parts = jax.tree.map(lambda x: x.reshape(count, images // count, *x.shape[1:]), batch)

    def turn(carry: Carry, part: tuple[Array, Batch]) -> tuple[Carry, Result]:
        number, images = part
        return function(carry, images, jax.random.fold_in(key, number))

    return jax.lax.scan(turn, carry, (jnp.arange(count), parts))


def mean_gradient(
    function: Callable[[Any, Batch, Array], tuple[Any, Any, Any]],
    like: Any,
    memory: Any,
    batch: Batch,
    key: Array,
    count: int,
) -> tuple[Any, Any, Any]:
    """Means over micro-batches of gradients and losses, and the memory of the losses after the last.

    Args:
        function: of the memory, images and a key to gradients, losses and the memory that follows.
        like: arrays of the gradients' shapes and types.
        memory: from the step before.
        batch: this device's images.
        key: of the step.
        count: micro-batches; with one, the function's own results are returned.

    Raises:
        ValueError: as `over_micro_batches`.
    """
    if count == 1:
        return function(memory, batch, key)

    def add(carry: tuple[Any, Any], images: Batch, key: Array) -> tuple[tuple[Any, Any], Any]:
        total, memory = carry
        gradients, losses, memory = function(memory, images, key)
        return (jax.tree.map(jnp.add, total, gradients), memory), losses

    zeros = jax.tree.map(jnp.zeros_like, like)
    (total, memory), losses = over_micro_batches(add, (zeros, memory), batch, key, count)
    return jax.tree.map(lambda x: x / count, total), jax.tree.map(lambda x: x.mean(0), losses), memory
