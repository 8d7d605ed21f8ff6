"""A profile that `jax.profiler` wrote: the operations that ran, and which part of the program each belongs to.

A trace carries the compiled programs besides their operations' times (`xplane.proto` and `hlo.proto` of OpenXLA). JAX
reads the times (`jax.profiler.ProfileData`); the programs are read here, field by field, which needs no package more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rog_jax.training.profile import STEP_MARK, WAIT_MARK

METADATA = "/host:metadata"
# Numbers of the fields read, by message.
_PLANES, _PLANE_NAME, _EVENT_METADATA, _MAP_VALUE = 1, 2, 4, 2  # XSpace; XPlane; its map from number to XEventMetadata
_PROGRAM_NAME, _STATS, _STAT_BYTES = 2, 5, 6  # XEventMetadata; XStat
_MODULE, _COMPUTATIONS, _INSTRUCTIONS = 1, 3, 2  # HloProto; HloModuleProto; HloComputationProto
_COMPUTATION_NUMBER, _NAME, _METADATA, _CALLED, _OP_NAME = 5, 1, 7, 38, 2  # the same; HloInstructionProto; OpMetadata

Paths = dict[str, dict[str, list[str]]]
"""By program, such as "jit_update(3)", and instruction: the names of the scopes around it and its kind, such as
"jit(update)/transpose(jvp(backbone))/dot_general"; of a fusion without, those of what was fused."""


class TraceError(ValueError):
    """There is no trace, or nothing of use in it."""


class Operation(NamedTuple):
    """A run of one operation of a compiled program.

    Attributes:
        paths: of its scopes, as in `Paths`.
        name: of the instruction in the program.
        seconds: that it took itself, those of operations within (a loop's body) left out.
    """

    paths: list[str]
    name: str
    seconds: float


class Trace(NamedTuple):
    """What is read of a profile.

    Attributes:
        operations: of all devices, in no order.
        devices: that operations ran on.
        steps: that the host marked.
        waits: seconds of each wait for a batch that the host marked.
        seconds: from the first mark or operation to the end of the last.
    """

    operations: list[Operation]
    devices: int
    steps: int
    waits: list[float]
    seconds: float


def read_trace(folder: str | Path) -> Trace:
    """The newest trace in a folder that was given to `jax.profiler`, or to `train.py --profile`.

    Raises:
        TraceError: there is none, or it holds no operation of a compiled program.
    """
    files = sorted(Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise TraceError(f"{folder} holds no *.xplane.pb: was it given to train.py --profile?")
    serialized = files[-1].read_bytes()
    try:
        trace = read_planes(jax.profiler.ProfileData.from_serialized_xspace(serialized), program_paths(serialized))
    except (ValueError, IndexError, RuntimeError) as error:
        raise TraceError(f"{files[-1]} is no whole trace ({error}); write it anew") from error
    if not trace.operations:
        raise TraceError(
            f"{files[-1]} holds no operation of a compiled program: no step ran while it was written, or the tracer of "
            "operations was off"
        )
    return trace


def read_planes(profile: jax.profiler.ProfileData, paths: Paths) -> Trace:
    """Operations and marks of a profile, the operations with their paths."""
    own: list[tuple[tuple, float | int]] = []
    devices, times = set(), []
    marks: dict[str, list[float]] = {STEP_MARK: [], WAIT_MARK: []}
    for plane in profile.planes:
        lines = list(plane.lines)
        if plane.name.startswith("/device:"):
            # A TPU's lines show the same time as steps, programs and operations: only the last is taken.
            lines = [line for line in lines if line.name == "XLA Ops"] or lines
        for line in lines:
            runs = []
            for event in line.events:
                start, duration = event.start_ns / 1e9, event.duration_ns / 1e9
                stats = dict(event.stats)
                if event.name in marks:
                    marks[event.name].append(duration)
                elif "hlo_op" in stats:
                    devices.add((plane.name, stats.get("device_ordinal", 0)))
                    number = int(stats.get("program_id", 0)) % 2**64  # written with a sign or without
                    runs.append((start, duration, (str(stats.get("hlo_module")), number, str(stats["hlo_op"]))))
                else:
                    continue
                times += [start, start + duration]
            own += own_seconds(runs)
    operations = _with_paths(own, paths)
    seconds = max(times) - min(times) if times else 0.0
    return Trace(operations, len(devices), len(marks[STEP_MARK]), marks[WAIT_MARK], seconds)


def _with_paths(own: list[tuple[tuple, float | int]], paths: Paths) -> list[Operation]:
    """Operations from (module, number, instruction) and seconds.

    The number that operations have of their program is not always that under which the trace keeps it: if not, it is
    the one of the same name that has most of the instructions that ran.
    """
    ran: dict[tuple[str, int], set[str]] = {}
    for (module, number, name), _ in own:
        ran.setdefault((module, number), set()).add(name)

    def program(module: str, number: int) -> dict[str, list[str]]:
        if f"{module}({number})" in paths:
            return paths[f"{module}({number})"]
        alike = [paths[name] for name in sorted(paths) if name.rpartition("(")[0] == module]
        return max(alike, key=lambda known: len(ran[module, number] & known.keys()), default={})

    programs = {key: program(*key) for key in ran}
    return [Operation(programs[module, number].get(name, []), name, seconds) for (module, number, name), seconds in own]


def own_seconds(runs: list[tuple[float | int, float | int, Any]]) -> Iterator[tuple[Any, float | int]]:
    """The time of each run on one thread without that of the runs within it.

    Args:
        runs: (start, duration, key), in any order.
    """
    open_runs: list[list] = []  # end, key, own time
    for start, duration, key in sorted(runs, key=lambda run: (run[0], -run[1])):
        while open_runs and open_runs[-1][0] <= start:
            _, done, own = open_runs.pop()
            yield done, own
        if open_runs:
            open_runs[-1][2] -= duration
        open_runs.append([start + duration, key, duration])
    yield from ((key, own) for _, key, own in reversed(open_runs))


def program_paths(serialized: bytes) -> Paths:
    """The scopes of every instruction of the programs in a trace."""
    paths: Paths = {}
    for plane in _all(memoryview(serialized), _PLANES):
        if bytes(_first(plane, _PLANE_NAME)).decode() != METADATA:
            continue
        for entry in _all(plane, _EVENT_METADATA):
            metadata = _first(entry, _MAP_VALUE)
            for stat in _all(metadata, _STATS):
                program = _first(stat, _STAT_BYTES)
                if program:
                    paths[bytes(_first(metadata, _PROGRAM_NAME)).decode()] = _paths_of(_first(program, _MODULE))
    return paths


def _paths_of(module: memoryview) -> dict[str, list[str]]:
    own: dict[str, str] = {}
    callees: dict[str, list[int]] = {}
    members: dict[int, list[str]] = {}
    for computation in _all(module, _COMPUTATIONS):
        names = members.setdefault(_first(computation, _COMPUTATION_NUMBER), [])
        for instruction in _all(computation, _INSTRUCTIONS):
            name = bytes(_first(instruction, _NAME)).decode()
            names.append(name)
            own[name] = bytes(_first(_first(instruction, _METADATA) or b"", _OP_NAME) or b"").decode()
            callees[name] = [number for packed in _all(instruction, _CALLED) for number in _numbers(packed)]
    return {
        name: [path] if path else [own[inner] for callee in callees[name] for inner in members[callee]]
        for name, path in own.items()
    }


def _fields(message: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a serialized protocol buffer; messages and texts as they lie there."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if position + length > len(message):
            raise ValueError("it ends within a field")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview | bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def _numbers(field: int | memoryview) -> Iterator[int]:
    """A repeated number: one, or packed."""
    if isinstance(field, int):
        yield field
        return
    position = 0
    while position < len(field):
        value, position = _varint(field, position)
        yield value


def _all(message: memoryview | bytes, number: int) -> Iterator:
    return (value for found, value in _fields(message) if found == number)


def _first(message: memoryview | bytes, number: int):
    """The field's value; None where it is not set."""
    return next(_all(message, number), None)
