"""What a program costs: products counted in its jaxpr, collectives read off its compiled text."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

PASSES = {jax.lax.Precision.HIGH: 3, jax.lax.Precision.HIGHEST: 6}
"""bfloat16 products of a TPU's matrix unit that make one of float32 operands; one elsewhere."""

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
"""Of the types in a compiled program's text that have not four."""

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
COLLECTIVE = re.compile(rf"= (.*?) ({KINDS})(-start)?\(")


class Products(NamedTuple):
    """Floating-point operations of matrix products and convolutions.

    Attributes:
        flops: two for each product and sum.
        passes: those that a TPU's matrix unit does, which multiplies float32 in several passes.
    """

    flops: float
    passes: float


class Collective(NamedTuple):
    """One exchange between devices: its kind, and what each device has of it afterwards."""

    kind: str
    elements: int
    bytes: int

    def sent(self, devices: int) -> float | int:
        """Bytes that leave each device where they go round in a ring, which is the least that can."""
        shares = {"all-reduce": 2 * (devices - 1) / devices, "reduce-scatter": devices - 1, "collective-permute": 1}
        return self.bytes * shares.get(self.kind, (devices - 1) / devices)


def count_products(program: Any) -> Products:
    """Products of one device's part of a program.

    A scan counts for each of its rounds, a `while` once, and of a condition's branches the dearest. Products with the
    zeros between the elements of a dilated image are left out.

    Args:
        program: a jaxpr, closed or not.
    """
    total = np.zeros(2)
    for equation in getattr(program, "jaxpr", program).eqns:
        params = equation.params
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += _weighed(equation, math.prod(shape[axis] for axis in contracted))
        elif equation.primitive.name == "conv_general_dilated":
            kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
            taps = math.prod(kernel[axis] for axis in spec[1:]) / math.prod(params["lhs_dilation"])
            total += _weighed(equation, taps)
        elif equation.primitive.name == "cond":
            total += max(count_products(branch) for branch in params["branches"])
        else:
            rounds = params["length"] if equation.primitive.name == "scan" else 1
            total += sum((rounds * np.array(count_products(inner)) for inner in inner_programs(params)), np.zeros(2))
    return Products(*map(float, total))


def _weighed(equation: Any, terms: float | int) -> np.ndarray:
    """Flops and passes of an equation whose every result is a sum of so many products."""
    flops = 2 * terms * math.prod(equation.outvars[0].aval.shape)
    precision = equation.params["precision"]
    of_left = precision[0] if isinstance(precision, tuple) else precision
    is_float32 = equation.invars[0].aval.dtype == np.float32
    return flops * np.array([1, PASSES.get(of_left, 1) if is_float32 else 1])


def inner_programs(params: dict[str, Any]) -> Iterator[Any]:
    """Programs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                yield item


def collectives(text: str) -> list[Collective]:
    """The collectives in the text of a compiled program, in order; one in a loop is listed once.

    A collective that is started in one place and awaited in another has its operands before its results there, but for
    an all-reduce; a permutation has numbers of its own besides, and counts by its largest array.
    """
    return [_collective(*found) for found in COLLECTIVE.findall(text)]


def _collective(result: str, kind: str, start: str) -> Collective:
    arrays = [
        (math.prod(int(n) for n in size.split(",") if n), BYTES.get(dtype, 4))
        for dtype, size in re.findall(r"(\w+)\[([\d,]*)\]", result)
    ]
    if start and kind == "collective-permute":
        arrays = [max(arrays, key=math.prod)]
    elif start and kind != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]
    return Collective(kind, sum(n for n, _ in arrays), sum(n * width for n, width in arrays))
