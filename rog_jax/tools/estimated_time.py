"""The time that a TPU's compiler expects of a program, by part: `python -m rog_jax.tools.estimated_time FILE.hlo`.

    python -m rog_jax.tools.compile_check --config configs/lvis_r50.py --topology v5e:4x4 --programs train --text texts
    python -m rog_jax.tools.estimated_time texts/train_r50_v5e_4x4_2.hlo --chip v5e --dearest 20

The compiler writes beside most operations how many cycles it expects of them, which is what it chose tiles and layouts
by. Added up along the program they are a time without any measurement. It leaves out what the compiler expects no time
of: gathers, scatters, sorts, exchanges between chips, some large reshapes, and copies that run besides. A loop whose
number from 0 on is compared with a constant counts that often, any other one once; of a condition's branches the one
that a true condition takes, which in this package is the usual one.
"""

import argparse
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rog_jax.tools.profile_shares import format_parts, summary
from rog_jax.tools.topology import CHIPS
from rog_jax.tools.trace_file import Operation, Trace

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.*)$")
_KIND = re.compile(r"(?:^|[\s)}\]])([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PATH = re.compile(r'op_name="([^"]*)"')
_CONSTANT = re.compile(r"\bs?u?\d*\[\](?:\{[^}]*\})? constant\((\d+)\)")
_LIMIT = re.compile(r"compare\(%[\w.\-]+, %([\w.\-]+)\), direction=LT")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|\w+_computations?)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)")
_CONDITION = re.compile(r"\bcondition=%([\w.\-]+)")
_TRUE = re.compile(r"\btrue_computation=%([\w.\-]+)")
_SHAPE = re.compile(r"\b[a-z]+\d*\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")


class Instruction(NamedTuple):
    """An operation of a compiled program.

    Attributes:
        name: such as "fusion.12".
        kind: such as "fusion" or "while".
        cycles: that the compiler expects; None where it says nothing.
        path: of its scopes, such as "jit(update)/jvp(backbone)/dot_general".
        called: names of the computations that it runs.
        condition: of a loop, the name of the computation that says whether it goes on.
        number: of a constant that is a whole number.
        limit: of a comparison with "less than", the name of what it compares with.
        elements: of its result, of all arrays in it.
        is_root: whether its result is the computation's.
    """

    name: str
    kind: str
    cycles: int | None
    path: str
    called: tuple[str, ...]
    condition: str | None
    number: int | None
    limit: str | None
    elements: int
    is_root: bool


class Estimate(NamedTuple):
    """What a program is expected to take.

    Attributes:
        operations: with seconds.
        unknown: number of operations by kind that the compiler expects no time of though their results are large.
        loops: paths of loops that are counted once, since nobody knows how often they run.
    """

    operations: list[Operation]
    unknown: Counter
    loops: list[str]


LARGE = 10_000
"""Elements of a result from which on an operation may take its time."""
WITHOUT_WORK = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "custom-call"),
    *("copy-start", "copy-done", "slice-start", "slice-done"),
}
"""Kinds of operations that do nothing, or run besides; custom calls reserve memory or join buffers."""


def read_program(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a compiled program's text, and the name of the one that it begins with.

    Raises:
        ValueError: it is no text of a compiled program.
    """
    computations: dict[str, list[Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(found[2], found[3], found[1] is not None))
    if entry is None:
        raise ValueError("no text of a compiled program: nothing in it is marked ENTRY")
    return computations, entry


def _instruction(name: str, body: str, is_root: bool) -> Instruction:
    def found(pattern: re.Pattern) -> str | None:
        match = pattern.search(body)
        return match[1] if match else None

    cycles, number, true = found(_CYCLES), found(_CONSTANT), found(_TRUE)
    called = [called for names in _CALLED.findall(body) for called in _NAME.findall(names)]
    kind = _KIND.search(body)
    shapes = _SHAPE.findall(body[: kind.start()] if kind else body)
    return Instruction(
        name,
        kind[1] if kind else "",
        None if cycles is None else int(cycles),
        found(_PATH) or "",
        (true,) if true else tuple(called),
        found(_CONDITION),
        None if number is None else int(number),
        found(_LIMIT),
        sum(math.prod(int(side) for side in shape.split(",") if side) for shape in shapes),
        is_root,
    )


def _rounds(condition: list[Instruction]) -> int | None:
    """How often a loop runs that counts from 0 to a constant; None of others."""
    numbers = {one.name: one.number for one in condition}
    return next((numbers.get(one.limit) for one in condition if one.limit and one.is_root), None)


def estimate(text: str, hertz: float) -> Estimate:
    """The operations of a compiled program with the time that its compiler expects of each.

    Args:
        text: `jax.stages.Compiled.as_text` of a program for a TPU.
        hertz: cycles of the chip in a second.

    Raises:
        ValueError: it is no text of a compiled program, or of none for a TPU.
    """
    computations, entry = read_program(text)
    if not any(one.cycles for instructions in computations.values() for one in instructions):
        raise ValueError("no operation in it has estimated_cycles: programs compiled for TPUs have")
    return _estimate(computations, entry, hertz)


def _estimate(computations: dict[str, list[Instruction]], name: str, hertz: float) -> Estimate:
    operations, unknown, loops = [], Counter(), []
    for one in computations[name]:
        if one.cycles is not None:
            paths = [one.path] if one.path else [inner.path for c in one.called for inner in computations.get(c, ())]
            operations.append(Operation(paths, one.name, one.cycles / hertz))
            continue
        if one.kind not in ("while", "conditional", "call"):
            if one.kind not in WITHOUT_WORK and one.elements >= LARGE:
                unknown[_telling_kind(computations, one)] += 1
            continue
        usual = _estimate(computations, one.called[-1], hertz)
        rounds = _rounds(computations.get(one.condition, [])) if one.kind == "while" else 1
        operations += [operation._replace(seconds=(rounds or 1) * operation.seconds) for operation in usual.operations]
        unknown += usual.unknown
        loops += usual.loops + ([one.path] if rounds is None else [])
    return Estimate(operations, unknown, loops)


def _telling_kind(computations: dict[str, list[Instruction]], one: Instruction) -> str:
    """Of a fusion around a gather or a scatter, theirs; else an operation's own, whether it is awaited or not."""
    fused = [inner for called in one.called for inner in computations.get(called, ())] if one.kind == "fusion" else []
    kinds = {_telling_kind(computations, inner) for inner in fused}
    return next((kind for kind in ("gather", "scatter") if kind in kinds), one.kind.removesuffix("-start"))


def seconds_of(operations: list[Operation]) -> float | int:
    """Of one after the other."""
    return sum(operation.seconds for operation in operations)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.hlo", type=Path, help="what compile_check --text kept")
    parser.add_argument("--chip", choices=CHIPS, default="v5e", help="that it was compiled for [v5e]")
    parser.add_argument("--dearest", type=int, default=0, metavar="N", help="also list so many operations")
    given = parser.parse_args(arguments)
    try:
        found = estimate(given.file.read_text(), CHIPS[given.chip].hertz)
    except (OSError, ValueError) as error:
        sys.exit(f"estimated_time: {given.file}: {error}")
    seconds = seconds_of(found.operations)
    print(f"{1e3 * seconds:.2f} ms on one {given.chip}, by the compiler's estimate\n")
    print(format_parts(summary(Trace(found.operations, 1, 1, [], seconds))))
    print(f"\nWithout an estimate: {', '.join(f'{number} {kind}' for kind, number in found.unknown.most_common())}")
    for path in found.loops:
        print(f"Counted once, its rounds are not known: {path}")
    for operation in sorted(found.operations, key=lambda operation: -operation.seconds)[: given.dearest]:
        print(f"{1e3 * operation.seconds:9.3f} ms  {operation.name}  {operation.paths[0] if operation.paths else ''}")


if __name__ == "__main__":
    main()
