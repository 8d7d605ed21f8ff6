"""The share of a step that each part takes, from a trace: `python -m rog_jax.tools.profile_shares DIR [--json FILE]`.

    python train.py --config configs/quickstart.py --workdir RUN --profile DIR
    python -m rog_jax.tools.profile_shares DIR

Parts are the `jax.named_scope`s of the model and the step; the compiler keeps their names with each operation, and a
gradient's operations have those of what they are the gradient of. Times are those of operations on the devices (on a
CPU: in the threads that run them), without the operations within: of two that run at once both count. A fused operation
counts for the part in its own name, or without a name for the most frequent part of those fused into it.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rog_jax.tools.trace_file import Trace, TraceError, read_trace
from rog_jax.training.profile import start_trace, step_mark

PARTS = {
    "backbone": "backbone and FPN",
    "fpn": "backbone and FPN",
    "rpn_head": "RPN",
    "proposals": "RPN",
    "rpn_loss": "RPN",
    "roi_sampling": "RoI heads",
    "roi_align": "RoI heads",
    "box_head": "RoI heads",
    "box_loss": "RoI heads",
    "mask_head": "RoI heads",
    "mask_loss": "RoI heads",
    "feature_memory": "RoI heads",
    "cls_loss": "classification loss",
    "ranking": "ranking loss",
    "gradient_mean": "optimizer",
    "optimizer": "optimizer",
    "detections": "detections",
}
"""The scopes, and the group that each belongs to."""

OTHER = "other"
"""Operations outside of all scopes, such as random keys."""

_SCOPE = re.compile(rf"\b({'|'.join(PARTS)})\b")


class Share(NamedTuple):
    """Milliseconds of a step on one device: of all that is no gradient, and of the backward pass."""

    forward: float
    backward: float


def part_of(path: str) -> tuple[str, bool]:
    """The innermost part that a path of scopes names, and whether it is a gradient's.

    Args:
        path: such as "jit(update)/transpose(jvp(backbone))/dot_general".
    """
    found = _SCOPE.findall(path)
    return (found[-1] if found else OTHER), "transpose(" in path


def part_of_operation(paths: list[str]) -> tuple[str, bool]:
    """The part of an operation: of those fused into it, the most frequent that has a name."""
    counts = Counter(map(part_of, paths))
    named = {part: count for part, count in counts.items() if part[0] != OTHER}
    return max(named or counts, key=counts.get, default=(OTHER, False))


def shares(trace: Trace) -> dict[str, Share]:
    """The time of each part a step and device, in the order of `PARTS`; those without operations are left out."""
    seconds = Counter()
    for paths, _, own in trace.operations:
        seconds[part_of_operation(paths)] += own
    per = 1e3 / (max(trace.steps, 1) * trace.devices)
    found = {part: Share(per * seconds[part, False], per * seconds[part, True]) for part in (*PARTS, OTHER)}
    return {part: share for part, share in found.items() if sum(share) > 0}


def summary(trace: Trace) -> dict[str, Any]:
    """Figures of a trace.

    Returns:
        "steps" and "devices"; "step_ms", from the first step's start to the last one's end, divided by the steps;
        "operations_ms", a step and device, which is more than a step takes where operations run at once; "data_wait",
        the host's waits for batches as a share of the whole, None where it marked none; "parts": of each part its
        group, "forward_ms" and "backward_ms" of a step, and "share" of all operations; "groups": the shares of groups.
    """
    found = shares(trace)
    total = sum(map(sum, found.values()))
    groups = Counter()
    for part, share in found.items():
        groups[PARTS.get(part, OTHER)] += sum(share) / total
    return {
        "steps": trace.steps,
        "devices": trace.devices,
        "step_ms": 1e3 * trace.seconds / max(trace.steps, 1),
        "operations_ms": total,
        "data_wait": sum(trace.waits) / trace.seconds if trace.waits else None,
        "groups": dict(groups),
        "parts": {
            part: {
                "group": PARTS.get(part, OTHER),
                "forward_ms": share.forward,
                "backward_ms": share.backward,
                "share": sum(share) / total,
            }
            for part, share in found.items()
        },
    }


def profiled(once: Callable[[], Any], steps: int, folder: str | Path) -> dict[str, Any]:
    """The summary of some steps, whose trace is written to a folder.

    Args:
        once: makes one step, which is compiled; returns what is waited for.
        steps: how many.
        folder: made.
    """
    start_trace(folder)
    try:
        for number in range(steps):
            with step_mark(number):
                jax.block_until_ready(once())
    finally:
        jax.profiler.stop_trace()
    return summary(read_trace(folder))


def format_parts(figures: dict[str, Any]) -> str:
    """Markdown of a summary's parts."""
    lines = ["| | | forward, ms | backward, ms | share | group's share |", "|---|---|---|---|---|---|"]
    told = set()
    for part, share in figures["parts"].items():
        group = share["group"]
        name, whole = ("", "") if group in told else (group, f"{figures['groups'][group]:.1%}")
        told.add(group)
        times = f"{share['forward_ms']:.2f} | {share['backward_ms']:.2f} | {share['share']:.1%}"
        lines.append(f"| {name} | {part} | {times} | {whole} |")
    return "\n".join(lines)


def format_table(figures: dict[str, Any]) -> str:
    """Markdown of a summary."""
    waited = "not marked" if figures["data_wait"] is None else f"{figures['data_wait']:.1%} of the time"
    return "\n".join(
        [
            f"{figures['steps']} steps on {figures['devices']} devices, {figures['step_ms']:.1f} ms a step, in which "
            f"operations ran for {figures['operations_ms']:.1f} ms a device; the host's wait for data: {waited}.",
            "",
            format_parts(figures),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="folder of the trace")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    given = parser.parse_args(arguments)
    try:
        figures = summary(read_trace(given.folder))
    except TraceError as error:
        sys.exit(f"profile_shares: {error}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    print(format_table(figures))


if __name__ == "__main__":
    main()
