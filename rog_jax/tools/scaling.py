"""Step time on 8 to 4,096 chips, on paper: `python -m rog_jax.tools.scaling [--chip v5e] [--cells FILE]`.

    python -m rog_jax.tools.compile_check --config configs/lvis_r50.py --topology v5e:4x4 \
        --images_per_chip 1,2,4,8 --programs train --out cells.jsonl
    python -m rog_jax.tools.scaling --chip v5e --cells cells.jsonl [--batch 256] [--plot FILE.png]

A chip's own work is the time that the compiler expects of a program (`compile_check`); bytes between chips come from
formulas that tests hold against compiled programs. What is assumed besides stands in `Assumptions`. A real step is
slower: gathers, sorts and others have no expected time; with a slower step exchanges matter less. Without --cells,
R50 on v5e and others as in docs/pods.md; a family with one cell takes larger batches in micro-batches of it.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rog_jax.losses.interval_tally import FRACTION_BITS
from rog_jax.losses.ranking import ONE_HOT_ON_TPU
from rog_jax.tools.topology import CHIPS

WORD = 4
"""Bytes of what is exchanged: float32, int32 and uint32."""

ROWS, POSITIVES, CLASSES = 512, 128, 1203
"""RoIs an image, those of them that can be positives, and categories, of the LVIS recipes."""

ENTRY_TIMES = {512: 3.53, 2048: 6.6, 8192: 13.6, 32768: 46.75}
"""Milliseconds that a v5e's compiler expects of ranking 2,048 rows by one-hot products, by the number of edges
(docs/performance.md), the pairs of positives among them; with more, in proportion. Other chips take as long in
proportion to their products a second."""

GRADIENT = {"gradient_bytes": 200_859_912}
RESNET_50 = [
    {"topology": "v5e:4x4", "images_per_chip": 1, "estimated_ms": 65.93, **GRADIENT},
    {"topology": "v5e:4x4", "images_per_chip": 2, "estimated_ms": 135.21, **GRADIENT},
    {"topology": "v5e:4x4", "images_per_chip": 4, "estimated_ms": 270.37, **GRADIENT},
    {"topology": "v5e:4x4", "images_per_chip": 8, "estimated_ms": 329.85, **GRADIENT},
    {"topology": "v4:2x2x1", "images_per_chip": 2, "estimated_ms": 106.86, **GRADIENT},
    {"topology": "v5p:16x20x28", "images_per_chip": 2, "estimated_ms": 69.95, **GRADIENT},
    {"topology": "v6e:2x2", "images_per_chip": 2, "estimated_ms": 72.23, **GRADIENT},
]
"""Training steps of R50 in docs/pods.md."""


ENTRY_SECONDS = {edges: milliseconds / 1e3 / (2048 * CLASSES) for edges, milliseconds in ENTRY_TIMES.items()}
"""Of ranking one entry."""


class Family(NamedTuple):
    """What a family of TPUs is built like, by Google's documentation of Cloud TPU.

    Attributes:
        dimensions: of the torus that its links make.
        pod: chips that links join; more are joined by the hosts' network.
        host_chips: of one host.
    """

    dimensions: int
    pod: int
    host_chips: int


FAMILIES = {
    "v4": Family(3, 4096, 4),
    "v5e": Family(2, 256, 4),
    "v5p": Family(3, 8960, 4),
    "v6e": Family(2, 256, 4),
}


class Assumptions(NamedTuple):
    """What no compiler and no test here tells.

    Attributes:
        hop: seconds that a message takes from chip to chip, whatever its size.
        network: bytes a second of a host's network, between pods (100 Gbit/s).
        vector: operations a second of a chip's vector unit, as a share of its matrix unit's.
        pair: vector operations that compare a positive with another score or with the edge of an interval: the
            compiler's 8.2 GFLOP of `dense` for 2,048 x 1,203 entries and 256 positives (docs/performance.md).
        look_up: bytes of memory of one entry's look-ups into the intervals, by the compiler (108 GB of 2,048 x 1,203).
        decode: processor seconds of reading an image (docs/performance.md, in the workers).
        feed: processor seconds of an image in the training process, on one core (the same).
        backward: share of a chip's own work during which gradients can be exchanged.
    """

    hop: float = 1e-6
    network: float = 12.5e9
    vector: float = 0.02
    pair: int = 13
    look_up: float = 43.8e3
    decode: float = 13.2e-3
    feed: float = 0.67e-3
    backward: float = 0.5


class Work(NamedTuple):
    """One chip's own work of a step, as compiled.

    Attributes:
        images: of each compiled program, rising; between them work is interpolated, below the fewest it is in
            proportion, and more than the most are taken in micro-batches (`train.accumulate`).
        seconds: that the compiler expects of each.
        gradient: bytes of the gradient, which is summed over all chips.
    """

    images: tuple[float, ...]
    seconds: tuple[float, ...]
    gradient: float

    def of(self, images: float | int) -> float:
        """Seconds of so many images on a chip, at most the most that were compiled."""
        return float(np.interp(images, (0, *self.images), (0, *self.seconds)))


class StepTime(NamedTuple):
    """Seconds of a step and what else limits it.

    Attributes:
        compute: of a chip's own work.
        gradient: of the gradient's sum over chips.
        gap_exchange: of what GAP exchanges; nothing of it is hidden, the backward pass waits for it.
        gap_pairs: of GAP's comparisons of positives with all chips' positives, the term in P^2.
        gap_entries: of ranking a chip's N C entries among all chips' positives, beyond what it does for its own.
        step: with the gradient hidden behind the backward pass as far as it goes.
        images_per_second: of all chips.
        cores: that a host needs for reading images.
        feed: share of one core that the training process of a host spends on batches; 1 is the end.
    """

    compute: float
    gradient: float
    gap_exchange: float
    gap_pairs: float
    gap_entries: float
    step: float
    images_per_second: float
    cores: float
    feed: float


def gap_words(devices: int, slots: int, rows: int, classes: int = CLASSES) -> dict[str, list[int]]:
    """The 32-bit words of GAP's exchanges over all devices' positives, by kind of collective.

    Args:
        devices: that rank together.
        slots: for positives, of each.
        rows: N of each.
        classes: C.

    Returns:
        For "all-gather" and "all-reduce" the words that each device has of each exchange afterwards.
    """
    union, entry_bits = devices * slots, (rows * classes).bit_length()
    width = 32 - (devices - 1).bit_length()  # of a word, so that the sum over devices does not overflow
    intervals = 2 * union + 1
    sums = -(-entry_bits // width) + -(-(entry_bits + FRACTION_BITS["float32"]) // width)
    return {"all-gather": [union] * 2, "all-reduce": [intervals] * sums + [2 * intervals]}


def gap_pairs(devices: int, slots: int) -> int:
    """Comparisons on each device that grow with the positives of all: the term in P^2.

    Each of a device's positives meets all devices' positives, and both edges of each, once to count and once to spread.
    """
    union = devices * slots
    return slots * (union + 2 * (2 * union + 1))


def entry_seconds(positives: int, chip: str, assumed: Assumptions) -> float:
    """Of ranking one entry among so many positives, as `loss.gap.method="auto"` does on TPUs."""
    if positives > ONE_HOT_ON_TPU:
        return assumed.look_up / CHIPS[chip].bandwidth
    edges, most = 2 * positives, max(ENTRY_SECONDS)
    seconds = np.interp(min(edges, most), list(ENTRY_SECONDS), list(ENTRY_SECONDS.values())) * max(1.0, edges / most)
    return float(seconds) * CHIPS["v5e"].flops / CHIPS[chip].flops


def seconds_around(words_bytes: float | int, kind: str, chips: int, chip: str, assumed: Assumptions) -> float:
    """Of one collective over the chips' torus, and over the hosts' network between pods where one pod is too small.

    Args:
        words_bytes: that each chip has afterwards.
        kind: "all-reduce" or "all-gather".
        chips: that take part.
        chip: family.
        assumed: the rest.
    """
    family, rounds = FAMILIES[chip], 2 if kind == "all-reduce" else 1
    within = min(chips, family.pod)
    pods = -(-chips // family.pod)
    side = within ** (1 / family.dimensions)
    hops = rounds * family.dimensions * (side - 1)
    seconds = rounds * (within - 1) / within * words_bytes / CHIPS[chip].links + hops * assumed.hop
    if pods > 1:
        # What a pod has summed, or is to hear, each of its hosts carries its part of.
        hosts = family.pod / family.host_chips
        seconds += rounds * (pods - 1) / pods * words_bytes / hosts / assumed.network + rounds * pods * 10 * assumed.hop
    return seconds


def step_time(
    work: Work, chips: int, images: float | int, chip: str, scope: str = "device", assumed: Assumptions | None = None
) -> StepTime:
    """A step of the LVIS recipe.

    Args:
        work: of a chip.
        chips: in all.
        images: of each.
        chip: family.
        scope: of GAP's ranking, "device" or "global".
        assumed: what is not known.
    """
    assumed = assumed or Assumptions()
    speed, family = CHIPS[chip], FAMILIES[chip]
    turns = math.ceil(images / work.images[-1])  # micro-batches
    each = images / turns
    compute = turns * work.of(each)
    around = partial(seconds_around, chips=chips, chip=chip, assumed=assumed)
    gradient = around(work.gradient, "all-reduce")
    slots, joined = math.ceil(each * POSITIVES), chips if scope == "global" else 1
    vector = assumed.vector * speed.flops
    pairs = turns * gap_pairs(joined, slots) * assumed.pair / vector
    of_all, of_own = (entry_seconds(positives, chip, assumed) for positives in (joined * slots, slots))
    ranking = images * ROWS * CLASSES * (of_all - of_own)
    exchange = turns * around(WORD * CLASSES, "all-reduce")  # the counts of classes
    if joined > 1:
        words = gap_words(joined, slots, math.ceil(each * ROWS), CLASSES)
        exchange += turns * sum(around(WORD * size, kind) for kind, sizes in words.items() for size in sizes)
    step = compute + exchange + pairs + ranking + max(0.0, gradient - assumed.backward * compute / turns)
    rate = chips * images / step
    per_host = rate / chips * family.host_chips
    host = per_host * assumed.decode, per_host * assumed.feed
    return StepTime(compute, gradient, exchange, pairs, ranking, step, rate, *host)


def work_of(cells: list[dict[str, Any]], chip: str) -> Work:
    """What programs of several numbers of images a chip were compiled to.

    The gradient's bytes are those of the trained parameters: what a program exchanges besides is counted apart.

    Args:
        cells: of `compile_check`, of one recipe; those that are training steps of the chip's family and fit are taken.
        chip: family.

    Raises:
        ValueError: there is none, or it was compiled by a `compile_check` that did not yet write all of it.
    """
    own = {
        cell["images_per_chip"]: cell
        for cell in cells
        if cell["topology"].startswith(f"{chip}:")
        and cell.get("program", "train") == "train"
        and cell.get("fits", True)
    }
    if not own:
        raise ValueError(f"no training step compiled for {chip}: python -m rog_jax.tools.compile_check --out FILE")
    images = tuple(sorted(own))
    for name in ("estimated_ms", "gradient_bytes"):
        if not all(cell.get(name) for cell in own.values()):
            raise ValueError(f"the cells lack {name}: compile them anew, python -m rog_jax.tools.compile_check")
    seconds = tuple(own[number]["estimated_ms"] / 1e3 for number in images)
    return Work(images, seconds, own[images[-1]]["gradient_bytes"])


CHIP_COUNTS = tuple(2**power for power in range(3, 13))
"""8 to 4,096."""


def table(work: Work, chip: str, scope: str, images: float | int | None, batch: int | None) -> str:
    """Markdown of weak scaling (`images` a chip) or strong scaling (`batch` over all chips).

    What is ideal is the rate a chip of the fewest, ranking each by itself.
    """
    lines = [
        "| chips | images a chip | own work | gradient | GAP: exchange | P² | entries | step, ms | images/s | of ideal "
        "| cores a host | feeding core |",
        "|---" * 12 + "|",
    ]
    ideal = None
    for chips in CHIP_COUNTS:
        each = images if images is not None else batch / chips
        if each < 1:
            break
        time = step_time(work, chips, each, chip, scope)
        ideal = ideal or step_time(work, chips, each, chip).images_per_second / chips
        times = " | ".join(f"{1e3 * seconds:.2f}" for seconds in time[:6])
        share = time.images_per_second / chips / ideal
        host = f"{share:.0%} | {time.cores:.1f} | {time.feed:.0%}"
        lines.append(f"| {chips} | {each:g} | {times} | {time.images_per_second:,.0f} | {host} |")
    return "\n".join(lines)


def plot(work: Work, chip: str, images: float | int, batch: int, out: str | Path) -> None:
    """Milliseconds of a step over chips, weak and strong, in both scopes of GAP."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    few = [chips for chips in CHIP_COUNTS if chips <= batch]
    for scope, style in (("device", "-"), ("global", "--")):
        weak = [1e3 * step_time(work, chips, images, chip, scope).step for chips in CHIP_COUNTS]
        strong = [1e3 * step_time(work, chips, batch / chips, chip, scope).step for chips in few]
        axes.plot(CHIP_COUNTS, weak, f"C0{style}", marker=".", label=f"{images:g} images a chip, scope={scope}")
        axes.plot(few, strong, f"C1{style}", marker=".", label=f"batch of {batch}, scope={scope}")
    axes.set(xlabel=f"{chip} chips", ylabel="step, ms", yscale="log")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", default="v5e", choices=sorted(FAMILIES))
    parser.add_argument("--cells", type=Path, metavar="FILE", help="json lines of compile_check --out")
    parser.add_argument("--images", type=float, default=2, help="of each chip, for weak scaling")
    parser.add_argument("--batch", type=int, default=256, help="images of all chips, for strong scaling")
    parser.add_argument("--plot", metavar="FILE.png")
    given = parser.parse_args(arguments)
    try:
        cells = [json.loads(line) for line in given.cells.read_text().splitlines()] if given.cells else RESNET_50
        work = work_of(cells, given.chip)
    except (OSError, ValueError) as error:
        sys.exit(f"scaling: {error}")
    for scope in ("device", "global"):
        print(f'\nWeak, {given.images:g} images a chip, loss.gap.scope="{scope}":\n')
        print(table(work, given.chip, scope, given.images, None))
        print(f'\nStrong, {given.batch} images in all, loss.gap.scope="{scope}":\n')
        print(table(work, given.chip, scope, None, given.batch))
    if given.plot:
        plot(work, given.chip, given.images, given.batch, given.plot)


if __name__ == "__main__":
    main()
