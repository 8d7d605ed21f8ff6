"""Draws the losses of a run, or of several side by side.

    python -m rog_jax.tools.plot_log RUN --out FILE.png
    python -m rog_jax.tools.plot_log FLOAT32 BFLOAT16 --out FILE.png      # a picture a loss, a curve a run

Reads `train_log.jsonl`, in which each line holds the means since the line before it. Of two runs the largest difference
of each loss is printed, between means of --window lines.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

LOSSES = ("loss", "rpn_cls", "rpn_box", "cls", "gap", "box", "mask")
Log = list[dict[str, float | int]]


def read_log(workdir: str | Path) -> Log:
    """The lines of a run's log by rising step; of a step that was done twice, after a resume, the later one.

    Raises:
        ValueError: there is no log, or a line of it is no json, or none has a loss.
    """
    path = Path(workdir) / "train_log.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): is {workdir} the folder of a run?") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} holds a line that is no json ({error})") from error
    by_step = {line["step"]: line for line in lines if "step" in line}
    if not any(name in line for line in by_step.values() for name in LOSSES):
        raise ValueError(f"{path} holds no line with a loss: the run has logged no step yet")
    return [by_step[step] for step in sorted(by_step)]


def plot_losses(lines: Log, out: str | Path) -> None:
    """Every loss of the log over the steps, on a logarithmic axis."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in LOSSES:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(
                *zip(*points, strict=True), label="sum" if name == "loss" else name, lw=2 if name == "loss" else 1
            )
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(ncols=4, fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def plot_runs(runs: dict[str, Log], out: str | Path) -> None:
    """Each loss in a picture of its own, with a curve for each run."""
    names = [name for name in LOSSES if any(name in line for lines in runs.values() for line in lines)]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(2.9 * columns, 2.4 * rows), squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        for run, lines in runs.items():
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=run, lw=1)
        axes.set_title("sum" if name == "loss" else name, fontsize="medium")
        axes.set(yscale="log", xlabel="step")
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(names) :]:
        axes.axis("off")
    grid.flat[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    pyplot.close(figure)


def differences(first: Log, second: Log, window: int) -> dict[str, tuple[float, float, int]]:
    """The largest difference of each loss between two runs, both averaged over some lines.

    Args:
        first: a run's log.
        second: another's, with lines at the same steps; those of one alone are left out.
        window: lines that are averaged; fewer where there are not as many.

    Returns:
        By loss the largest difference, the same as a share of the first run's loss there, and the step of the last line
        averaged.

    Raises:
        ValueError: the runs have no step in common.
    """
    seconds = {line["step"]: line for line in second}
    pairs = [(line, seconds[line["step"]]) for line in first if line["step"] in seconds]
    if not pairs:
        raise ValueError("the runs have logged no step in common")
    found = {}
    for name in LOSSES:
        both = np.array([(a["step"], a[name], b[name]) for a, b in pairs if name in a and name in b])
        if not len(both):
            continue
        size = min(window, len(both))
        one, two = (np.convolve(both[:, k], np.full(size, 1 / size), "valid") for k in (1, 2))
        place = int(np.argmax(np.abs(two - one)))
        most = abs(two[place] - one[place])
        found[name] = float(most), float(most / abs(one[place])), int(both[place + size - 1, 0])
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", required=True, metavar="FILE.png")
    parser.add_argument("--window", type=int, default=5, help="lines that differences are averaged over")
    given = parser.parse_args(arguments)
    try:
        runs = {Path(workdir).name: read_log(workdir) for workdir in given.workdirs}
        if len(runs) < len(given.workdirs):
            raise ValueError("runs need folders of different names, which stand beside the curves")
        if len(runs) == 1:
            plot_losses(*runs.values(), given.out)
        else:
            plot_runs(runs, given.out)
        found = differences(*runs.values(), given.window) if len(runs) == 2 else {}
    except ValueError as error:
        sys.exit(f"plot_log: {error}")
    for name, (most, share, step) in found.items():
        print(f"{name}: at most {most:.4f} apart ({share:.1%}), up to step {step}")
    print(given.out)


if __name__ == "__main__":
    main()
