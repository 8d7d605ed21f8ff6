"""Forms that parts of the detector could have on a TPU, weighed by its compiler, without a TPU.

    pip install -e '.[tpu-compile]'
    python -m rog_jax.tools.compile_choices --chip v5e --images 2

Each form is compiled alone with its gradient, for one chip and images of 832x1344, and compared by the time that the
compiler expects (`rog_jax.tools.estimated_time`), by the bytes that it counts, a loop's body once, and by the memory
that it needs besides arguments. The compiler expects no time of gathers, sorts and some others: their number stands
beside, those in a loop once. Nothing runs. docs/pods.md says what was chosen.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from rog_jax.losses import gap_loss
from rog_jax.losses.ranking import RANKINGS
from rog_jax.models.layers import ParameterDraws
from rog_jax.models.resnet import Bottleneck, max_pool_by_slices, max_pool_by_window
from rog_jax.ops.conv import DIMENSIONS, kernel_gradient
from rog_jax.ops.roi_align import roi_align
from rog_jax.tools.estimated_time import estimate, seconds_of
from rog_jax.tools.topology import CHIPS, TopologyError, topology_devices

SHAPE = (832, 1344)
SMALLEST = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
"""Topologies that libtpu knows, of each chip."""
STEM = ((2, 2), ((3, 3), (3, 3)))
"""Strides and padding."""
HEADER = "| part | form | ms by the compiler | GB accessed | MB of memory | without a time |"


class Choice(NamedTuple):
    """Forms of one part.

    Attributes:
        part: its name.
        forms: by name, functions of the same arguments with about the same results.
        arguments: shapes, or trees of them.
        trained: positions of the arguments that get a gradient.
    """

    part: str
    forms: dict[str, Callable]
    arguments: tuple
    trained: tuple[int, ...]


def shape(*sides: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    """Of an argument."""
    return jax.ShapeDtypeStruct(sides, dtype)


def choices(images: int) -> Iterator[Choice]:
    """What there is to choose, for so many images of a chip."""
    height, width = SHAPE
    stem = {"convolution": stem_by_convolution, "space to depth": stem_by_depth}
    stem_arguments = (shape(7, 7, 3, 64), shape(images, height, width, 3))
    yield Choice("stem, frozen", stem, stem_arguments, ())
    yield Choice("stem, trained", stem, stem_arguments, (0,))
    pools = {"nine slices": max_pool_by_slices, "window reduction": max_pool_by_window}
    pool_arguments = (shape(images, height // 2, width // 2, 64),)
    yield Choice("max pool, frozen", pools, pool_arguments, ())
    yield Choice("max pool, trained", pools, pool_arguments, (0,))
    kernels = {"convolution": kernel_gradient_by_convolution, "products": kernel_gradient_by_products}
    maps = shape(images, height // 8, width // 8, 128)
    yield Choice("gradient of a 3x3 kernel", kernels, (maps, maps), ())
    levels = tuple(shape(images, height // stride, width // stride, 256) for stride in (4, 8, 16, 32))
    methods = {
        method: partial(roi_align, strides=(4, 8, 16, 32), output_size=7, method=method)
        for method in ("windows", "gather")
    }
    yield Choice("RoIAlign, 512 RoIs", methods, (levels, shape(images, 512, 4, dtype=jnp.float32)), (0,))
    yield from _of_a_stage(images)
    logits = shape(512 * images, 1203, dtype=jnp.float32)
    rankings = {method: partial(_gap, method) for method in RANKINGS}
    yield Choice("GAP", rankings, (logits, shape(512 * images, dtype=jnp.int32)), (0,))


def _of_a_stage(images: int) -> Iterator[Choice]:
    """The second stage of a ResNet-50: four blocks, of 512 channels."""
    forms, states = {}, {}
    for dtype in ("bfloat16", "float32"):
        draws = ParameterDraws(0)
        blocks = [Bottleneck(256, 128, stride=2, norm="frozen_batch", dtype=dtype, rngs=draws)]
        blocks += [Bottleneck(512, 128, stride=1, norm="frozen_batch", dtype=dtype, rngs=draws) for _ in range(3)]
        graph, states[dtype] = nnx.split(nnx.List(blocks))
        forms[dtype] = partial(_stage, graph, False)
        forms[f"{dtype}, blocks recomputed"] = partial(_stage, graph, True)
    arguments = jax.eval_shape(lambda: states["bfloat16"]), shape(images, SHAPE[0] // 4, SHAPE[1] // 4, 256)
    yield Choice("second stage", forms, arguments, (0, 1))


def _stage(graph: nnx.GraphDef, recomputed: bool, state: nnx.State, x: jax.Array) -> jax.Array:
    for block in nnx.merge(graph, state):
        x = (jax.checkpoint(block.__call__) if recomputed else block)(x)
    return x


def _gap(method: str, logits: jax.Array, labels: jax.Array) -> jax.Array:
    return gap_loss(logits, labels, np.ones(1203, np.int32), method=method, max_positives=logits.shape[0] // 4)


def stem_by_convolution(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """The 7x7 convolution with stride 2, and its ReLU."""
    return jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, *STEM, dimension_numbers=DIMENSIONS))


def stem_by_depth(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """The same on squares of 2x2 pixels as 12 channels: 4x4 cells without a stride. Sides have to be even."""
    images, height, width, depth = x.shape
    x = x.reshape(images, height // 2, 2, width // 2, 2, depth).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(images, height // 2, width // 2, 4 * depth)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, depth, -1).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 4 * depth, -1)
    padding = ((2, 1), (2, 1))
    return jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS))


def kernel_gradient_by_products(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """That of a 3x3 convolution, by a product for each of its cells."""
    return kernel_gradient(x, gradient, (3, 3), (1, 1), ((1, 1), (1, 1)))


def kernel_gradient_by_convolution(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """That of a 3x3 convolution, by XLA's own."""

    def convolve(kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)

    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], gradient.shape[-1]), x.dtype)
    return jax.linear_transpose(convolve, kernel)(gradient)[0]


def program_of(form: Callable, arguments: tuple, trained: tuple[int, ...]) -> tuple[Callable, tuple]:
    """The form with its gradient for any gradient of its result, and the shapes of what that program takes."""
    if not trained:
        return form, arguments

    def program(arguments: tuple, cotangent: jax.Array) -> tuple:
        def of_trained(*chosen: Any) -> jax.Array:
            given = list(arguments)
            for position, value in zip(trained, chosen, strict=True):
                given[position] = value
            return form(*given)

        result, pull = jax.vjp(of_trained, *(arguments[position] for position in trained))
        return result, pull(cotangent)

    return program, (arguments, jax.eval_shape(form, *arguments))


class Weight(NamedTuple):
    """What a form costs by the compiler: ms, 10^9 and 10^6 bytes, and numbers of operations without a time, by kind."""

    milliseconds: float
    gigabytes: float
    megabytes: float
    untimed: dict[str, int]


def weigh(choice: Choice, chip: str) -> dict[str, Weight]:
    """What each form costs.

    Raises:
        TopologyError: libtpu is missing.
    """
    device = SingleDeviceSharding(topology_devices(SMALLEST[chip])[0])
    weights = {}
    for name, form in choice.forms.items():
        program, arguments = program_of(form, choice.arguments, choice.trained)
        compiled = jax.jit(program, in_shardings=device, out_shardings=device).lower(*arguments).compile()
        found = estimate(compiled.as_text(), CHIPS[chip].hertz)
        accessed, memory = compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes
        weights[name] = Weight(1e3 * seconds_of(found.operations), accessed / 1e9, memory / 1e6, dict(found.unknown))
    return weights


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=CHIPS, default="v5e", help="[v5e]")
    parser.add_argument("--images", type=int, default=2, help="of a chip [2]")
    parser.add_argument("--part", help="only those whose name has this in it")
    given = parser.parse_args(arguments)
    print(HEADER, "|---|---|---|---|---|---|", sep="\n", flush=True)
    for choice in choices(given.images):
        if given.part and given.part not in choice.part:
            continue
        try:
            weights = weigh(choice, given.chip)
        except TopologyError as error:
            sys.exit(f"compile_choices: {error}")
        for number, (form, weight) in enumerate(weights.items()):
            figures = f"{weight.milliseconds:.2f} | {weight.gigabytes:.2f} | {weight.megabytes:.0f}"
            untimed = ", ".join(f"{times} {kind}" for kind, times in weight.untimed.items())
            print(f"| {'' if number else choice.part} | {form} | {figures} | {untimed} |", flush=True)


if __name__ == "__main__":
    main()
