"""The pages of the results: markdown made from the records that are there."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rog_jax.tools.reproduce.places import Places
from rog_jax.tools.reproduce.records import FIGURES, Record, read_record, seeds_of
from rog_jax.tools.reproduce.runs import CAPS
from rog_jax.tools.reproduce.targets import Row, Target

Figures = dict[str, Any]
KIND_NAMES = {"segm": "masks", "bbox": "boxes"}
FIFTHS = ("AP50", *(f"AP50_{number}" for number in range(1, 6)))
FIGURE_NAMES = {"AP": "AP", "APr": "AP_r", "APc": "AP_c", "APf": "AP_f"}


class Shown:
    """A row with the records of its seeds that are there, all from one backbone.

    Attributes:
        row: of the target.
        records: by seed.
        backbone: the digest of what they started from; "" without records.
        gamma: of NorCal, None without it.
    """

    def __init__(self, row: Row, records: dict[int, Record]):
        self.row, self.records = row, records
        self.backbone = next((record.backbone for record in records.values()), "")
        self.gamma = self._best_gamma() if row.norcal and records else None

    def figures(self, kind: str, cap: int | None = None) -> dict[int, Figures]:
        """Of each seed; seeds without any of that kind are left out."""
        found = {seed: record.figures(kind, self.gamma, cap) for seed, record in self.records.items()}
        return {seed: figures for seed, figures in found.items() if figures}

    def _best_gamma(self) -> float:
        """That of the best AP of masks, as the mean over the seeds, among those that calibrate at all."""
        kept = (gamma for gamma in self.row.run.gammas if gamma)
        return max(
            kept,
            key=lambda gamma: statistics.fmean(
                record.figures("segm", gamma).get("AP", -1.0) for record in self.records.values()
            ),
        )


def read_rows(target: Target, places: Places) -> dict[str, Shown]:
    """The target's rows by label, with the records that are there, of whatever seeds.

    Where the runs of a row started from several backbones, it becomes several rows, the further ones with the digest in
    their label: means over them would hide that they differ.

    Raises:
        RecordError: a record is there that is another run's.
    """
    rows = {}
    for row in target.rows:
        records = {seed: read_record(places, row.run, seed) for seed in seeds_of(places, row.run)}
        for place, backbone in enumerate(dict.fromkeys(record.backbone for record in records.values()) or [""]):
            of_it = {seed: record for seed, record in records.items() if record.backbone == backbone}
            rows[row.label if not place else f"{row.label} [{backbone}]"] = Shown(row, of_it)
    return rows


def _partner(rows: dict[str, Shown], shown: Shown) -> Shown | None:
    """What a row is compared with: of the row that it names, the runs from its own backbone."""
    alike = (row for row in rows.values() if row.backbone == shown.backbone)
    return next((row for row in alike if row.row.label == shown.row.against), None)


def _backbone_numbers(rows: dict[str, Shown]) -> dict[str, str]:
    """Each backbone's digest to a number; {} where all runs of a depth started from the same weights."""
    found: dict[int, dict[str, None]] = {}
    for shown in rows.values():
        if shown.records:
            found.setdefault(shown.row.run.depth, {})[shown.backbone] = None
    if all(len(digests) == 1 for digests in found.values()):
        return {}
    digests = dict.fromkeys(itertools.chain(*found.values()))
    return {digest: str(number) for number, digest in enumerate(digests, 1)}


def _backbones(rows: dict[str, Shown]) -> list[str]:
    """What the numbers of the tables mean."""
    numbers = _backbone_numbers(rows)
    if not numbers:
        return []
    return [
        "",
        "The shared backbone was trained more than once, on different machines, and differs by rounding: only runs of "
        "one backbone are for comparison, and differences are between such runs. By its digest: "
        f"{', '.join(f'{number} is {digest}' for digest, number in numbers.items())}.",
    ]


def page(target: Target, rows: dict[str, Shown], plots: Sequence[str] = ()) -> str:
    """A markdown page: what there is, how it is made, tables, and plots by their paths from the page."""
    lines = [
        f"# {target.title}",
        "",
        f"`python -m rog_jax.tools.reproduce {target.name}`. {_commits(rows)}",
        *_backbones(rows),
        *(["", target.note] if target.note else []),
        *_VIEWS[target.view](rows),
    ]
    for plot in plots:
        lines += ["", f"![{target.title}]({plot})"]
    text = "\n".join(lines)
    while "\n\n\n" in text:  # where there was nothing to compare
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def _commits(rows: dict[str, Shown]) -> str:
    found = sorted({record.content["commit"] or "?" for shown in rows.values() for record in shown.records.values()})
    changed = " (+ is that commit with changes)" if any(commit.endswith("+") for commit in found) else ""
    return f"Commits of the runs: {', '.join(found)}{changed}."


def _groups(rows: dict[str, Shown]) -> list[str]:
    lines = []
    for kind, name in KIND_NAMES.items():
        if any(shown.figures(kind) for shown in rows.values()):
            lines += ["", f"AP of {name}, mean ± standard deviation over the seeds, in percent:", ""]
            lines += figure_table(rows, FIGURES, lambda shown, kind=kind: shown.figures(kind), paper=kind == "segm")
            lines += ["", *difference_table(rows, FIGURES, lambda shown, kind=kind: shown.figures(kind))]
    return [*lines, "", *cost_table(rows)]


def figure_table(
    rows: dict[str, Shown],
    names: Sequence[str],
    figures: Callable[[Shown], dict[int, Figures]],
    *,
    paper: bool,
) -> list[str]:
    """A line of each row: its figures and how many seeds they are of.

    Args:
        rows: by label.
        names: of the figures.
        figures: of a row, by seed.
        paper: adds the paper's figures, where they are known.
    """
    numbers = _backbone_numbers(rows)
    more = ["seeds", *(["backbone"] if numbers else []), *(["paper: AP_r / AP_c / AP_f"] if paper else [])]
    header = ["", *(FIGURE_NAMES.get(name, name) for name in names), *more]
    lines = [_line(header), "|---" * len(header) + "|"]
    for label, shown in rows.items():
        found = figures(shown)
        cells = [mean_and_spread([of_seed[name] for of_seed in found.values()]) for name in names]
        gamma = "" if shown.gamma is None else f" (γ = {shown.gamma:g})"
        started = [numbers.get(shown.backbone, "")] if numbers else []
        last = [str(len(found)), *started, *([shown.row.paper] if paper else [])]
        lines.append(_line([label + gamma, *cells, *last]))
    return lines


def difference_table(
    rows: dict[str, Shown], names: Sequence[str], figures: Callable[[Shown], dict[int, Figures]]
) -> list[str]:
    """Each row less the one that it is compared with, by seeds of one backbone; [] where nothing is to compare."""
    lines = []
    for label, shown in rows.items():
        other = _partner(rows, shown)
        if other is None:
            continue
        ours, theirs = figures(shown), figures(other)
        for seed in sorted(ours.keys() & theirs.keys()):
            cells = [f"{100 * (ours[seed][name] - theirs[seed][name]):+.1f}" for name in names]
            lines.append(_line([label, shown.row.against, str(seed), *cells]))
    header = ["", "less", "seed", *(FIGURE_NAMES.get(name, name) for name in names)]
    return [_line(header), "|---" * len(header) + "|", *lines] if lines else []


def cost_table(rows: dict[str, Shown]) -> list[str]:
    """Processor time that a step took, start and compilation included, and what a run took by the clock, with whatever
    else the machine did meanwhile; medians over the seeds."""
    header = ["", "processor time a step", "a run by the clock", "steps", "commit"]
    lines = [
        "What the runs took, start and compilation included, on whatever machine each was made (only `cost` compares):",
        "",
        _line(header),
        "|---" * len(header) + "|",
    ]
    for label, shown in rows.items():
        contents = [record.content for record in shown.records.values()]
        if contents:
            a_step = statistics.median(1000 * c["spent"]["training"]["cpu_seconds"] / c["steps"] for c in contents)
            clock = statistics.median(sum(part["seconds"] for part in c["spent"].values()) for c in contents)
            steps, commits = str(contents[0]["steps"]), ", ".join(dict.fromkeys(c["commit"] or "?" for c in contents))
            lines.append(_line([label, f"{a_step:.0f} ms", f"{clock / 60:.0f} min", steps, commits]))
    return lines


def _caps(rows: dict[str, Shown]) -> list[str]:
    """Table 3: at each number of detections an image, and as AP-fixed."""
    lines = []
    for kind, name in KIND_NAMES.items():
        for cap in CAPS:

            def figures(shown: Shown, kind: str = kind, cap: int = cap) -> dict[int, Figures]:
                return shown.figures(kind, cap)

            lines += ["", f"AP of {name}, best {cap} detections of an image:", ""]
            lines += figure_table(rows, FIGURES, figures, paper=False)
            lines += ["", *difference_table(rows, FIGURES, figures)]

        def fixed(shown: Shown, kind: str = kind) -> dict[int, Figures]:
            figures = shown.figures(kind)
            return {seed: figures[seed]["fixed"] for seed in figures if _wrote_more(shown.records[seed])}

        lines += ["", f"AP-fixed of {name}: best 10,000 of a category, of all that `test.pre_nms` and NMS leave:", ""]
        lines += figure_table(rows, FIGURES, fixed, paper=False)
    return lines


def _wrote_more(record: Record) -> bool:
    """Whether its AP-fixed counts detections that the limit of an image would cut."""
    return record.content.get("written_detections", 0) > max(CAPS)


def _fifths(rows: dict[str, Shown]) -> list[str]:
    lines = ["", "AP50 of boxes over all categories and over each fifth of them, from the rarest (1) on:", ""]
    lines += figure_table(rows, FIFTHS, lambda shown: shown.figures("bbox"), paper=False)
    return [*lines, "", *difference_table(rows, FIFTHS, lambda shown: shown.figures("bbox"))]


def _gradients(rows: dict[str, Shown]) -> list[str]:
    lines = _medians(rows, "gradient_sums", lambda sums: sums[0] / sums[1] if sums[1] else math.nan)
    return ["", "Positive over negative gradients, the median over the categories of a group:", "", *lines]


def _classifiers(rows: dict[str, Shown]) -> list[str]:
    lines = _medians(rows, "classifier_norms", lambda norm: norm)
    return ["", "Norm of the classifier's weights, the median over the categories of a group:", "", *lines]


def _intervals(rows: dict[str, Shown]) -> list[str]:
    """Differences as they were observed, the mean over the seeds, with what they owe to the choice of validation
    images."""
    lines = []
    for kind, name in KIND_NAMES.items():
        pairs = {label: (shown, _partner(rows, shown)) for label, shown in rows.items()}
        found = [(label, paired_differences(*pair, kind)) for label, pair in pairs.items() if pair[1]]
        header = ["less the row without GAP", *(FIGURE_NAMES[figure] for figure in FIGURES), "seeds"]
        table = [
            _line([label, *(_interval(*differences[figure]) for figure in FIGURES), str(seeds)])
            for label, (differences, seeds) in found
            if seeds
        ]
        if table:
            lines += ["", f"AP of {name}: difference in percent points, and its 95 % interval over validation images:"]
            lines += ["", _line(header), "|---" * len(header) + "|", *table]
    return lines


def paired_differences(shown: Shown, other: Shown, kind: str) -> tuple[dict[str, tuple[float, np.ndarray]], int]:
    """What a row differs by from the one that it is compared with, as the mean over the seeds.

    Args:
        shown, other: the two rows, of whose records those with replicates count.
        kind: "bbox" or "segm".

    Returns:
        By figure, the observed difference and those of the replicates, [B], in fractions of 1; and of how many seeds,
        those that both have.
    """
    ours, theirs = (
        {
            seed: (record.figures(kind), record.content["replicates"][kind])
            for seed, record in rows.records.items()
            if kind in record.content["replicates"]
        }
        for rows in (shown, other)
    )
    seeds = sorted(ours.keys() & theirs.keys())

    def difference(part: int, name: str) -> Any:
        values = [np.array([rows[seed][part][name] for seed in seeds], float) for rows in (ours, theirs)]
        return np.mean(values[0] - values[1], axis=0)

    return {name: (difference(0, name), difference(1, name)) for name in FIGURES if seeds}, len(seeds)


def _interval(observed: float, replicates: np.ndarray) -> str:
    """The replicates' spread about the observed difference, which their own mean is off: AP of images drawn anew, some
    of them twice, is not on average that of the set."""
    if math.isnan(observed) or np.isnan(replicates).all():
        return "–"
    low, high = 100 * (observed + np.nanpercentile(replicates, [2.5, 97.5]) - np.nanmean(replicates))
    return f"{100 * observed:+.1f} ({low:+.1f} to {high:+.1f})"


def _bootstrap(rows: dict[str, Shown]) -> list[str]:
    return [*_groups(rows), *_intervals(rows)]


def _medians(rows: dict[str, Shown], name: str, value: Callable) -> list[str]:
    lines = [_line(["", "rare", "common", "frequent"]), "|---" * 4 + "|"]
    for label, shown in rows.items():
        for seed, record in shown.records.items():
            groups, values = record.content["categories"]["group"], record.content["classifier"].get(name, [])
            cells = []
            for group in "rcf":
                found = [value(v) for v, g in zip(values, groups, strict=False) if g == group and v is not None]
                own = [v for v in found if not math.isnan(v)]
                cells.append(f"{statistics.median(own):.3g}" if own else "–")
            lines.append(_line([f"{label}, seed {seed}", *cells]))
    return lines


def defined_percents(fractions: Iterable[float]) -> list[float]:
    """Those that are not NaN, in percent."""
    return [100 * value for value in fractions if not math.isnan(value)]


def mean_and_spread(values: Sequence[float]) -> str:
    """In percent; the standard deviation (of a sample) where there are several."""
    known = defined_percents(values)
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{spread}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_VIEWS: dict[str, Callable[[dict[str, Shown]], list[str]]] = {
    "groups": _groups,
    "bootstrap": _bootstrap,
    "caps": _caps,
    "gradients": _gradients,
    "classifiers": _classifiers,
    "fifths": _fifths,
}
