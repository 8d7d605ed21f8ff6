"""One html file that shows where the tail is lost: figures, diagnosis and pictures of a run, or of two side by side."""

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from rog_jax.evaluation.pictures import picture_name
from rog_jax.evaluation.report_data import GROUP_NAMES, GROUPS, Evaluated, read_runs
from rog_jax.evaluation.report_plots import draw_all
from rog_jax.evaluation.summary import COLUMNS
from rog_jax.training.storage import whole_file

_ROWS = ("fixed", "pooled", "boundary")
_PICTURE_WIDTH = 1200  # pixels: all of the page's, so that names can be read
_CONFUSED = 12
_CAPTIONS = {
    "outcomes": (
        "What became of the objects",
        "At IoU 0.5, by the frequency of their category. <b>Lost by the cut</b>: a detection of the right category "
        "finds the object, but is not among the best K of the image. <b>Taken for another category</b>: only "
        "detections of other categories lie over it.",
    ),
    "ap_over_frequency": ("AP of each category over its training images", "The paper's Figure 5b."),
    "norms_over_frequency": ("Norms of the classifier's weights", "The paper's Figure 5a."),
    "gradients_over_frequency": (
        "How hard training pulled each category up and down",
        "The paper's Figure 4: the sum of the sizes of all gradients by the category's logit in rows of the category, "
        "over the sum in all other rows. Below the dashed line, the category was pushed down more than up; on the "
        "lower edge stands what was never seen.",
    ),
    "tide": ("What each kind of error costs", "TIDE: the AP50 that mending one kind of error would gain."),
    "precision_curves": (
        "Precision over recall",
        "At IoU 0.5, the mean over the categories of a group: each counts as much as the next.",
    ),
    "calibration": (
        "What a score is worth",
        "The part of the detections of a score that is right, at IoU 0.5. On the grey line, scores are probabilities.",
    ),
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 0.6rem 0; } td, th { padding: 0.2rem 0.7rem; text-align: right; }
th:first-child, td:first-child, .word { text-align: left; } tr:nth-child(even) td { background: #f4f4f4; }
thead th { border-bottom: 2px solid #111; } img { max-width: 100%; } figure { margin: 0.5rem 0; }
figcaption, .note { color: #444; font-size: 0.9rem; } pre { overflow-x: auto; background: #f4f4f4; padding: 0.7rem; }
.sides { display: flex; gap: 2rem; flex-wrap: wrap; }
.plots { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); }
.plots.wide { display: block; } details { margin: 0.4rem 0; }
"""


def write_report(workdirs: Sequence[str | Path], path: str | Path) -> Path:
    """Writes a report of one evaluated run, or of several side by side.

    Nothing is loaded from elsewhere when it is opened: pictures and figures are in the file. The figures are also
    written as pngs into the folder `report` beside it.

    Args:
        workdirs: folders of runs that `eval.py` has evaluated.
        path: of the html file.

    Returns:
        The path.

    Raises:
        FileNotFoundError, ValueError: a run has not been evaluated, or its files are broken.
    """
    runs, path = read_runs(workdirs), Path(path)
    plots = draw_all(runs, path.parent / "report")
    title = " and ".join(run.name for run in runs)
    parts = [f"<h1>{html.escape(title)}</h1>", _headline(runs)]
    sections = [_plot(name, file, runs) for name, file in plots.items()]
    parts.append(f'<div class="plots{" wide" if len(runs) > 1 else ""}">{"".join(sections)}</div>')
    parts += [f"<h2>What is taken for what</h2>{_sides(runs, _confusion)}", _pictures(runs)]
    parts.append(f"<h2>How it was made</h2>{_sides(runs, _facts)}")
    body = "\n".join(part for part in parts if part)
    with whole_file(path) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n",
            encoding="utf-8",
        )
    return path


def _plot(name: str, file: Path, runs: Sequence[Evaluated]) -> str:
    heading, caption = _CAPTIONS[name]
    notes = _sides(runs, _outcome_note) if name == "outcomes" else ""
    return f"<section><h2>{heading}</h2>{_figure(file.read_bytes(), 'png', heading, caption)}{notes}</section>"


def _headline(runs: Sequence[Evaluated]) -> str:
    rows = []
    for kind in ("bbox", "segm"):
        for row in ("", *_ROWS):
            for run in runs:
                figures = run.metrics.get(kind, {})
                figures = figures.get(row) if row else figures
                if figures:
                    label = f"{kind} {row}".strip() + (f", {run.name}" if len(runs) > 1 else "")
                    rows.append([label, *(_percent(figures.get(name, math.nan)) for name in COLUMNS)])
    fixed = [run for run in runs if "fixed" in run.metrics[run.main_kind]]
    notes = [
        f"{html.escape(run.name)}: {run.metrics[run.main_kind]['fixed']['scarce_categories']} of "
        f"{run.metrics[run.main_kind]['fixed']['evaluated_categories']} categories have fewer than the 10,000 "
        "detections that AP-fixed counts."
        for run in fixed
    ]
    return _table(["", *COLUMNS], rows) + "".join(f'<p class="note">{note}</p>' for note in notes)


def _outcome_note(run: Evaluated) -> str:
    diagnosis = run.diagnosis[run.main_kind]
    limit, written = diagnosis["max_detections"], diagnosis["written_detections"]
    if limit == -1 or written > limit:
        return f'<p class="note">K = {limit}; the results have up to {written} detections an image.</p>'
    return (
        f'<p class="note">K = {limit}, and the results have no more, so that nothing can be seen to be lost by the '
        "cut: --config.test.written_detections=1000 would show it.</p>"
    )


def _confusion(run: Evaluated) -> str:
    diagnosis = run.diagnosis[run.main_kind]
    confusion = diagnosis["confusion"]
    rows = [[GROUP_NAMES[own], *(str(confusion[own][other]) for other in GROUPS)] for own in GROUPS]
    groups = _table(["objects of a group, taken for", *(GROUP_NAMES[group] for group in GROUPS)], rows)
    names = {row["category_id"]: f"{row['name']} ({row['group']})" for row in run.categories}
    pairs = [
        [names[str(pair["category_id"])], names[str(pair["taken_for"])], str(pair["objects"])]
        for pair in diagnosis["confused_categories"][:_CONFUSED]
    ]
    return groups + (_table(["category", "taken for", "objects"], pairs, words=2) if pairs else "")


def _pictures(runs: Sequence[Evaluated]) -> str:
    parts = []
    for key, heading in (("worst_images", "Most objects lost"), ("best_images", "Most objects found, none lost")):
        shown = [
            _picture(run, image, f"{run.name}: " if len(runs) > 1 else "")
            for run in runs
            for image in run.diagnosis[run.main_kind][key]
        ]
        if any(shown):
            parts.append(f"<h2>{heading}</h2>{''.join(shown)}")
    return "\n".join(parts)


def _picture(run: Evaluated, image_id: int, prefix: str) -> str:
    path = run.folder / "pictures" / picture_name(image_id)
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        picture.thumbnail((_PICTURE_WIDTH, 10 * _PICTURE_WIDTH))
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=85)
    text = f"{prefix}image {image_id}, truth at the left"
    return _figure(data.getvalue(), "jpeg", text, html.escape(text))


def _facts(run: Evaluated) -> str:
    facts = dict(run.metrics["run"])
    training = dict(facts.pop("training", None) or {})
    config = training.pop("config", None)
    rows = [(name, value) for name, value in (facts | training).items() if name != "test"]
    table = _table(["", ""], [[name, json.dumps(value)] for name, value in rows], words=2)
    folded = {"settings of the evaluation": facts.get("test"), "settings of the training": config}
    details = [
        f"<details><summary>{name}</summary><pre>{html.escape(json.dumps(value, indent=1))}</pre></details>"
        for name, value in folded.items()
        if value
    ]
    return table + "".join(details)


def _sides(runs: Sequence[Evaluated], part: Any) -> str:
    heading = [f"<h3>{html.escape(run.name)}</h3>" if len(runs) > 1 else "" for run in runs]
    sides = [f"<div>{head}{part(run)}</div>" for head, run in zip(heading, runs, strict=True)]
    return f'<div class="sides">{"".join(sides)}</div>'


def _figure(data: bytes, kind: str, text: str, caption: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{html.escape(text)}"><figcaption>{caption}</figcaption></figure>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first columns, `words` of them, are text and the others numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [tag if place >= words or place == 0 else f'{tag} class="word"' for place in range(len(row))]
        return "".join(f"<{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    head = cells("th", header)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
