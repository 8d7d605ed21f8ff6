import jax.numpy as jnp
import numpy as np

from rog_jax.ops.bfloat16 import bfloat16_parts


def some_numbers():
    """Some of them just below a power of two, whose rounded parts would not add up in any order."""
    numbers = np.random.default_rng(0).normal(0, 3, 1 << 16).astype(np.float32)
    return np.concatenate([numbers, 2 - np.arange(1, 1 << 15, dtype=np.float32) * np.float32(2.0**-23)])


def test_three_parts_add_up_in_any_order():
    numbers = some_numbers()
    first, second, third = (np.asarray(part, np.float32) for part in bfloat16_parts(jnp.asarray(numbers)))
    for total in ((first + second) + third, (first + third) + second, (second + third) + first):
        np.testing.assert_array_equal(total, numbers)


def test_two_parts_lose_what_they_say():
    numbers = some_numbers()
    parts = bfloat16_parts(jnp.asarray(numbers), 2)
    assert [part.dtype for part in parts] == [jnp.bfloat16] * 2
    lost = np.abs(sum(np.asarray(part, np.float64) for part in parts) - numbers) / np.abs(numbers)
    assert 2.0**-17 < lost.max() <= 2.0**-16
