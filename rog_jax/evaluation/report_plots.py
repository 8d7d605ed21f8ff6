"""The figures of a report, each of one run or of several side by side, readable without colour."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from rog_jax.evaluation.analysis import OUTCOMES
from rog_jax.evaluation.report_data import GROUP_NAMES, GROUPS, Evaluated
from rog_jax.evaluation.tide import ERRORS
from rog_jax.training.storage import whole_file

# Okabe and Ito's palette, which stays apart without colour vision; shape, hatch or dash says the same again.
_COLORS = {"all": "#000000", "r": "#D55E00", "c": "#0072B2", "f": "#009E73"}
_MARKERS = {"all": "x", "r": "o", "c": "^", "f": "s"}
_DASHES = {"all": "-", "r": "-", "c": "--", "f": ":"}
_OUTCOME_STYLE = {
    "found": ("#009E73", ""),
    "cut_off": ("#F0E442", "//"),
    "other_category": ("#D55E00", "xx"),
    "missed": ("#BBBBBB", ".."),
}
_OUTCOME_NAMES = {
    "found": "found",
    "cut_off": "lost by the cut",
    "other_category": "taken for another category",
    "missed": "missed",
}
_RUN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_RUN_HATCHES = ("", "//", "..", "xx")
_WINDOW = 25  # categories in a running mean
_PIXELS_PER_INCH = 110
_LOW_AP = 40  # percent: the axis of AP goes to 100 only if a category is above this
_LOWEST_TOP = 10  # percent, of the axis of a run that has found next to nothing
_WIDE = 50  # largest over smallest value of a logarithmic axis that has numbers enough


def draw_all(runs: Sequence[Evaluated], folder: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """Writes every figure that one of the runs has data for as `NAME.png`; returns the paths by name.

    Args:
        runs: side by side.
        folder: made if absent.
        names: of the figures that are wanted; all if none is named.
    """
    paths = {}
    for name, (draw, has_data, shared) in _FIGURES.items():
        if (names and name not in names) or not any(map(has_data, runs)):
            continue
        columns = 1 if shared else len(runs)
        figure = Figure(figsize=(6.2 * columns, 3.8), dpi=_PIXELS_PER_INCH, layout="constrained")
        own_numbers = name == "outcomes"  # of objects, at the groups' names
        axes = figure.subplots(1, columns, squeeze=False, sharey=not own_numbers)[0]
        if shared:
            draw(axes[0], runs)
        else:
            for ax, run in zip(axes, runs, strict=True):
                (draw if has_data(run) else _not_recorded)(ax, run)
                if len(runs) > 1:
                    ax.set_title(run.name)
            next(ax for ax in axes if ax.axison).tick_params(labelleft=True)  # the first may be empty
        paths[name] = folder / f"{name}.png"
        with whole_file(paths[name]) as partial:
            figure.savefig(partial, format="png")
    return paths


def _not_recorded(ax: Axes, run: Evaluated) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not recorded", ha="center", va="center", color="#444444", transform=ax.transAxes)


def _ap_over_frequency(ax: Axes, run: Evaluated) -> None:
    """The paper's Figure 5b."""
    images, ap = run.column("train_images"), 100 * run.column(f"{run.main_kind}_AP")
    _scatter_of_groups(ax, run, images, ap)
    known = np.flatnonzero(~np.isnan(images) & ~np.isnan(ap))
    order = known[np.argsort(images[known], kind="stable")]
    window = min(_WINDOW, max(len(order) // 4, 1))
    if len(order) >= 2 * window:
        means = np.convolve(ap[order], np.ones(window) / window, "valid")
        at = np.convolve(images[order], np.ones(window) / window, "valid")
        ax.plot(np.maximum(at, 0.7), means, color="black", lw=1.5, label=f"mean of {window}")
    best = np.nanmax(ap, initial=0)
    _set_top(ax, 102 if best > _LOW_AP else max(1.25 * best, _LOWEST_TOP), bottom=-0.02)
    ax.set(xlabel="training images of the category", ylabel="AP")
    ax.legend(fontsize=8)


def _norms_over_frequency(ax: Axes, run: Evaluated) -> None:
    """The paper's Figure 5a."""
    norms = run.diagnosis["classifier_norms"]
    values = np.array([norms.get(row["category_id"], np.nan) for row in run.categories], np.float64)
    _scatter_of_groups(ax, run, run.column("train_images"), values)
    ax.set(xlabel="training images of the category", ylabel="norm of the classifier's weights")
    _set_top(ax, 1.3 * np.nanmax(values, initial=0) or 1)
    ax.legend(fontsize=8)


def _gradients_over_frequency(ax: Axes, run: Evaluated) -> None:
    """The paper's Figure 4. A category that was never a positive has the ratio 0, and stands on the lower edge."""
    sums = run.diagnosis["gradient_sums"]
    known = [sums.get(row["category_id"], (np.nan, np.nan)) for row in run.categories]
    positive, negative = np.array(known, np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(negative > 0, positive / negative, np.nan)
    lowest = np.min(ratio[ratio > 0], initial=1.0) / 2
    _scatter_of_groups(ax, run, run.column("train_images"), np.where(ratio == 0, lowest, ratio))
    ax.axhline(1, color="black", lw=1, ls="--", label="balance")
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis)
    ax.set(xlabel="training images of the category", ylabel="positive / negative gradients")
    ax.legend(fontsize=8)


def _scatter_of_groups(ax: Axes, run: Evaluated, images: np.ndarray, values: np.ndarray) -> None:
    groups = np.array([row["group"] for row in run.categories])
    for group in GROUPS:
        own = groups == group
        style = {"s": 18, "facecolors": "none", "edgecolors": _COLORS[group], "marker": _MARKERS[group]}
        ax.scatter(np.maximum(images[own], 0.7), values[own], label=GROUP_NAMES[group], **style)
    ax.set_xscale("log")
    _plain_numbers(ax.xaxis)
    ax.grid(alpha=0.3)


def _set_top(ax: Axes, top: float | int, bottom: float | int = 0) -> None:
    """An axis from `bottom` (as a part of the top) to at least `top`: runs side by side share the largest."""
    if not ax.get_autoscaley_on():  # another run's axis set it
        top = max(top, ax.get_ylim()[1])
    ax.set_ylim(bottom * top, top)


def _plain_numbers(axis: Axis) -> None:
    """100, not 10 to the 2, on a logarithmic axis; 20 and 50 too where there would be hardly a number."""
    axis.set_major_formatter("{x:,g}")
    low, high = axis.get_view_interval()
    if high < _WIDE * low:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter("{x:,g}")


def _outcomes(ax: Axes, run: Evaluated) -> None:
    """The two causes of the paper's Figure 1, and what is neither."""
    table = run.diagnosis[run.main_kind]["outcomes"]
    names = [name for name in ("all", *GROUPS) if sum(table[name].values())]
    left = np.zeros(len(names))
    totals = np.array([sum(table[name].values()) for name in names])
    for outcome in OUTCOMES:
        share = 100 * np.array([table[name][outcome] for name in names]) / totals
        color, hatch = _OUTCOME_STYLE[outcome]
        ax.barh(names, share, left=left, color=color, hatch=hatch, edgecolor="white", label=_OUTCOME_NAMES[outcome])
        for place, part in enumerate(share):
            if part >= 6:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
                ax.text(left[place] + part / 2, place, f"{part:.0f}", ha="center", va="center", fontsize=8, bbox=box)
        left += share
    ax.set_yticks(range(len(names)), [f"{GROUP_NAMES[n]}\n({t})" for n, t in zip(names, totals, strict=True)])
    ax.set(xlabel="objects, percent", xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def _tide(ax: Axes, runs: Sequence[Evaluated]) -> None:
    height = 0.8 / len(runs)
    for place, run in enumerate(runs):
        gain = run.diagnosis[run.main_kind]["tide"]["gain"]
        at = np.arange(len(ERRORS)) + (place - (len(runs) - 1) / 2) * height
        values = [100 * gain[error] for error in ERRORS]
        style = {"color": _RUN_COLORS[place % 4], "hatch": _RUN_HATCHES[place % 4], "edgecolor": "white"}
        bars = ax.barh(at, values, height, label=run.name, **style)
        ax.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    names = ("wrong category", "poor overlap", "both", "found twice", "background", "never detected")
    ax.set_yticks(range(len(ERRORS)), names)
    ax.invert_yaxis()
    ax.set(xlabel="AP50 gained if mended")
    ax.margins(x=0.12)
    if len(runs) > 1:
        ax.legend(fontsize=8)


def _calibration(ax: Axes, run: Evaluated) -> None:
    ax.plot([0, 1], [0, 1], color="grey", lw=1)
    for group, measured in run.diagnosis[run.main_kind]["calibration"].items():
        scores, precision = (np.array(measured[key], np.float64) for key in ("scores", "precision"))
        label = f"{GROUP_NAMES[group]} (error {measured['error']:.2f})"
        style = {"color": _COLORS[group], "marker": _MARKERS[group], "ls": _DASHES[group], "ms": 4}
        ax.plot(scores, precision, label=label, **style)
    ax.set(xlabel="score", ylabel="part that is right", xlim=(0, 1), ylim=(-0.02, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _precision_curves(ax: Axes, run: Evaluated) -> None:
    for group, curve in run.diagnosis[run.main_kind]["precision_curves"].items():
        if not np.isnan(curve[0]):
            style = {"color": _COLORS[group], "ls": _DASHES[group], "marker": _MARKERS[group], "markevery": 20, "ms": 4}
            ax.plot(np.linspace(0, 1, len(curve)), curve, label=GROUP_NAMES[group], **style)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(-0.02, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _always(run: Evaluated) -> bool:
    return True


def _has_norms(run: Evaluated) -> bool:
    return bool(run.diagnosis.get("classifier_norms"))


def _has_gradients(run: Evaluated) -> bool:
    return bool(run.diagnosis.get("gradient_sums"))


_FIGURES: dict[str, tuple[Callable, Callable[[Evaluated], bool], bool]] = {
    "outcomes": (_outcomes, _always, False),
    "ap_over_frequency": (_ap_over_frequency, _always, False),
    "norms_over_frequency": (_norms_over_frequency, _has_norms, False),
    "gradients_over_frequency": (_gradients_over_frequency, _has_gradients, False),
    "tide": (_tide, _always, True),
    "precision_curves": (_precision_curves, _always, False),
    "calibration": (_calibration, _always, False),
}
