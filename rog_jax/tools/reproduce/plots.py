"""The plots of the results, made from the records that are there."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rog_jax.evaluation.report_plots import draw_all
from rog_jax.tools.reproduce.records import FIGURES
from rog_jax.tools.reproduce.runs import CAPS
from rog_jax.tools.reproduce.tables import FIFTHS, FIGURE_NAMES, KIND_NAMES, Shown, defined_percents
from rog_jax.tools.reproduce.targets import Target

_PIXELS_PER_INCH = 100
# Okabe and Ito's palette, which stays apart without colour vision; hatches say the same again.
_COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#F0E442", "#CC79A7")
_HATCHES = ("", "//", "\\\\", "..", "xx", "--")
_REPORT_FIGURES = {
    "gradients": ("gradients_over_frequency",),
    "classifiers": ("norms_over_frequency", "ap_over_frequency"),
}


def draw_target(target: Target, rows: dict[str, Shown], out: Path) -> list[Path]:
    """Writes the plots of a target into `OUT/plots`; none where no run of it is finished."""
    there = {label: shown for label, shown in rows.items() if shown.records}
    if not there:
        return []
    if target.view in _REPORT_FIGURES:
        runs = [next(iter(shown.records.values())).evaluated(label) for label, shown in there.items()]
        return list(draw_all(runs, out / "plots" / target.name, _REPORT_FIGURES[target.view]).values())
    path = out / "plots" / f"{target.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _DRAWN[target.view](there).savefig(path)
    return [path]


def _groups(rows: dict[str, Shown]) -> Figure:
    kinds = [kind for kind in KIND_NAMES if any(shown.figures(kind) for shown in rows.values())]
    figure = Figure(figsize=(6.4 * len(kinds), 0.5 + 0.55 * len(rows)), dpi=_PIXELS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for ax, kind in zip(axes, kinds, strict=True):
        _bars(ax, rows, FIGURES, lambda shown, kind=kind: list(shown.figures(kind).values()))
        ax.set(xlabel=f"AP of {KIND_NAMES[kind]}, percent; a dot is a seed")
    return figure


def _fifths(rows: dict[str, Shown]) -> Figure:
    figure = Figure(figsize=(7, 0.5 + 0.8 * len(rows)), dpi=_PIXELS_PER_INCH, layout="constrained")
    ax = figure.subplots()
    _bars(ax, rows, FIFTHS, lambda shown: list(shown.figures("bbox").values()))
    ax.set(xlabel="AP50 of boxes, percent; 1 is the rarest fifth")
    return figure


def _bars(
    ax: Axes, rows: dict[str, Shown], names: Sequence[str], figures: Callable[[Shown], list[dict[str, Any]]]
) -> None:
    """A group of bars for each row, the first row on top: means over the seeds, and each seed as a dot."""
    thickness = 0.8 / len(names)
    for place, name in enumerate(names):
        values = [defined_percents(of_seed[name] for of_seed in figures(shown)) for shown in rows.values()]
        at = np.arange(len(rows)) + (place - (len(names) - 1) / 2) * thickness
        means = [_mean(of_row) for of_row in values]
        style = {"color": _COLORS[place], "hatch": _HATCHES[place], "edgecolor": "white", "linewidth": 0}
        ax.barh(at, means, thickness, label=FIGURE_NAMES.get(name, name), **style)
        dots = [(value, y) for of_row, y in zip(values, at, strict=True) if len(of_row) > 1 for value in of_row]
        if dots:
            ax.plot(*zip(*dots, strict=True), "o", ms=3, mfc="white", mec="black", mew=0.7)
    ax.set_yticks(np.arange(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False)


def _caps(rows: dict[str, Shown]) -> Figure:
    """AP of each group over the number of detections an image."""
    kinds = list(KIND_NAMES)
    figure = Figure(figsize=(5 * len(kinds), 4), dpi=_PIXELS_PER_INCH, layout="constrained")
    for ax, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for dash, (label, shown) in zip(("-", "--", ":", "-."), rows.items(), strict=False):
            for name, color in zip(FIGURES, _COLORS, strict=False):
                found = [
                    defined_percents(of_seed[name] for of_seed in shown.figures(kind, cap).values()) for cap in CAPS
                ]
                means = [_mean(values) for values in found]
                ax.plot(CAPS, means, dash, marker=".", color=color, label=f"{FIGURE_NAMES[name]}, {label}")
        ax.set(xlabel="detections an image", ylabel=f"AP of {KIND_NAMES[kind]}")
        ax.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=2)
    return figure


def _mean(values: Sequence[float]) -> float:
    """NaN, which draws nothing, where there is no value."""
    return statistics.fmean(values) if values else math.nan


_DRAWN: dict[str, Callable[[dict[str, Shown]], Figure]] = {
    "groups": _groups,
    "bootstrap": _groups,
    "caps": _caps,
    "fifths": _fifths,
}
