"""Scans over blocks against the same sums without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses.blocks import scan_blocks, with_block_of_platform


@pytest.mark.parametrize("length", [1, 5, 16, 37])
@pytest.mark.parametrize("max_entries", [1, 12, 60, 1000])
def test_blocks_give_the_sums_of_the_whole(length, max_entries):
    x = jnp.arange(1.0, length + 1)
    sizes = []

    def body(total, block):
        sizes.append(len(block))
        return total + block.sum(), 2 * block

    total, doubled = scan_blocks(body, jnp.float32(0), (x,), (0,), 3, max_entries)
    assert total == x.sum()
    np.testing.assert_array_equal(doubled, 2 * x)
    (size,) = set(sizes)
    assert size == length or (size & (size - 1) == 0 and 3 * size <= max(max_entries, 3))


def test_blocks_follow_the_platform_compiled_for():
    def run(x, block):
        return x * block

    blocks = {"cpu": 4, "default": 8}
    for platform, factor in (("cpu", 4), ("tpu", 8), ("cuda", 8)):
        traced = jax.jit(lambda x: with_block_of_platform(run, x, blocks=blocks, entries=5)).trace(jnp.ones(5))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"dense<{factor}.0" in text
        assert f"dense<{12 - factor}.0" not in text
    np.testing.assert_array_equal(with_block_of_platform(run, jnp.ones(3), blocks=blocks, entries=3), [4, 4, 4])
