"""Products and collectives of programs, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from rog_jax.tools.program_cost import Collective, Products, collectives, count_products

X, W = jax.ShapeDtypeStruct((5, 7), jnp.float32), jax.ShapeDtypeStruct((7, 3), jnp.float32)
PRODUCT = 2 * 5 * 7 * 3


def products(function, *arguments) -> Products:
    return count_products(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize(("precision", "passes"), [(None, 1), ("high", 3), ("highest", 6)])
def test_a_float32_product_takes_a_tpu_several_passes(precision, passes):
    assert products(lambda x, w: jnp.dot(x, w, precision=precision), X, W) == (PRODUCT, passes * PRODUCT)
    half = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (X, W)]
    assert products(lambda x, w: jnp.dot(x, w, precision=precision), *half) == (PRODUCT, PRODUCT)


def test_a_scan_counts_for_each_round_and_a_condition_by_its_dearest_branch():
    def scanned(x, w):
        return jax.lax.scan(lambda total, _: (total + jnp.sum(x @ w), None), 0.0, length=11)[0]

    def branched(x, w):
        return jax.lax.cond(jnp.sum(x) > 0, lambda: jnp.sum(x), lambda: jnp.sum(x @ w) + jnp.sum(x @ w))

    assert products(scanned, X, W).flops == 11 * PRODUCT
    assert products(jax.jit(branched), X, W).flops == 2 * PRODUCT


def test_a_gradient_counts_each_of_its_products():
    assert products(jax.grad(lambda x, w: jnp.sum((x @ w) ** 2), (0, 1)), X, W).flops == 3 * PRODUCT


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients_are_equally_dear(stride):
    image, kernel = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = 2 * 2 * (8 // stride) ** 2 * 6 * 3 * 3 * 4
    assert products(convolve, image, kernel).flops == forward
    both = products(jax.grad(lambda *x: jnp.sum(convolve(*x) ** 2), (0, 1)), image, kernel).flops
    assert both == 3 * forward


def test_collectives_are_read_off_a_program():
    text = """
      %a = (u32[9]{0}, bf16[2,9]{1,0:T(8,128)}) all-reduce(%b, %c), to_apply=%add
      %d = f32[] all-reduce-start(%e)
      %f = ((s32[8]{0}, s32[4]{0}), (s32[64]{0}, s32[32]{0})) all-gather-start(%g, %k), dimensions={0}
      ROOT %h = s32[64]{0} all-gather-done(%f)
      %i = s32[64]{0} add(%h, %h)
    """
    assert collectives(text) == [
        Collective("all-reduce", 27, 72),
        Collective("all-reduce", 1, 4),
        Collective("all-gather", 96, 384),
    ]


def test_a_ring_sends_an_array_twice_to_add_it_up_and_once_to_gather_it():
    sent = {kind: Collective(kind, 2, 8).sent(4) for kind in ("all-reduce", "all-gather", "reduce-scatter")}
    assert sent == {"all-reduce": 12, "all-gather": 6, "reduce-scatter": 24}
