"""Draws the losses of a run: `python -m rog_jax.tools.plot_log WORKDIR --out FILE.png`.

Reads `train_log.jsonl`, in which each line holds the means since the line before it.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

LOSSES = ("loss", "rpn_cls", "rpn_box", "cls", "gap", "box", "mask")


def read_log(workdir: str | Path) -> list[dict[str, float | int]]:
    """The lines of a run's log by rising step; of a step that was done twice, after a resume, the later one.

    Raises:
        ValueError: there is no log, or a line of it is no json.
    """
    path = Path(workdir) / "train_log.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): is {workdir} the folder of a run?") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} holds a line that is no json ({error})") from error
    by_step = {line["step"]: line for line in lines if "step" in line}
    return [by_step[step] for step in sorted(by_step)]


def plot_losses(lines: list[dict[str, float | int]], out: str | Path) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("--out", required=True, metavar="FILE.png")
    arguments = parser.parse_args()
    try:
        plot_losses(read_log(arguments.workdir), arguments.out)
    except ValueError as error:
        sys.exit(f"plot_log: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
