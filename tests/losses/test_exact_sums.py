"""Limbs against Python's integers, which know no bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses.exact_sums import (
    add_word,
    add_words,
    sum_over_devices_exactly,
    to_float,
    zero_limbs,
)

WORDS = {"uint32": 32, "uint64": 64}


def number(limbs):
    half = limbs[0].dtype.itemsize * 4
    assert all(int(limb.max()) < 2**half for limb in limbs)
    return sum(np.asarray(limb).astype(object) << (half * k) for k, limb in enumerate(limbs))


def random_words(words, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 2 ** WORDS[words], shape, dtype=words)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("shift", [0, 5, 16, 27, 33])
def test_sums_of_words_are_those_of_whole_numbers(words, shift):
    with jax.enable_x64(words == "uint64"):
        table = random_words(words, (300, 7))
        table[:, 0] = 2 ** WORDS[words] - 1  # all carries at once
        limbs = zero_limbs((7,), jnp.dtype(words), WORDS[words] + 9 + shift)
        for _ in range(2):
            limbs = add_words(limbs, jnp.asarray(table[:150]), shift)
            limbs = add_words(limbs, jnp.asarray(table[150:]), shift)
        expected = 2 * (table.astype(object).sum(0) << shift)
        np.testing.assert_array_equal(number(limbs), expected % 2 ** (len(limbs) * WORDS[words] // 2))
        assert (expected < 2 ** (len(limbs) * WORDS[words] // 2)).all()


@pytest.mark.parametrize("devices", [1, 2, 3, 870, 4096, 70_000])
@pytest.mark.parametrize("bits", [22, 33, 49])
def test_no_number_of_devices_overflows(devices, bits):
    """Each device holds nearly the most that its bits allow; int32 counters would overflow beyond 870 devices."""
    numbers = [2**bits - 1 - device % 3 for device in range(devices)]
    limbs = tuple(
        jnp.asarray([n >> (16 * k) & 0xFFFF for n in numbers], jnp.uint32)[:, None] for k in range(-(-bits // 16))
    )
    total = jax.jit(jax.vmap(lambda x: sum_over_devices_exactly(x, bits, "devices"), axis_name="devices"))(limbs)
    np.testing.assert_array_equal(number(total)[0], [sum(numbers)])
    np.testing.assert_allclose(to_float(total, 27, jnp.dtype("float32"))[0], sum(numbers) / 2**27, rtol=1e-7)


def test_an_axis_exchanges_no_more_words_than_it_needs():
    def words(devices, bits):
        limbs = [jnp.zeros(5, jnp.uint32)] * -(-bits // 16)
        make = jax.make_jaxpr(lambda *x: sum_over_devices_exactly(x, bits, "devices"), axis_env=[("devices", devices)])
        return sum(len(eqn.invars) for eqn in make(*limbs).eqns if eqn.primitive.name.startswith("psum"))

    assert words(1024, 22) == 1  # the counts of 2048 x 1203 entries
    assert words(1025, 22) == 2
    assert words(8, 49) == 2  # their offsets
    assert words(256, 49) == 3


def test_one_device_sums_nothing():
    limbs = add_word(zero_limbs((3,), jnp.dtype("uint32"), 40), jnp.uint32(7), 20)
    assert sum_over_devices_exactly(limbs, 40, None) is limbs
    np.testing.assert_array_equal(number(limbs), [7 << 20] * 3)
    np.testing.assert_array_equal(to_float(limbs, 20, jnp.dtype("float32")), [7, 7, 7])
