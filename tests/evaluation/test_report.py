import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from configs import common
from rog_jax.evaluation.diagnosis import diagnose
from rog_jax.evaluation.lvis import read_both
from rog_jax.evaluation.pictures import picture_name
from rog_jax.evaluation.report import write_report
from rog_jax.evaluation.report_data import read_runs
from rog_jax.evaluation.report_plots import _ap_over_frequency, _gradients_over_frequency
from rog_jax.evaluation.run import evaluate_results
from tests.evaluation.cases import random_case, written
from tests.evaluation.test_analysis import scene


def test_a_diagnosis_worked_out_by_hand(tmp_path):
    truth, results = read_both(*written(tmp_path, *scene()), "bbox")
    found = diagnose(truth, results, 3)
    assert found["outcomes"]["r"] == {"found": 0, "cut_off": 1, "other_category": 1, "missed": 0}
    assert (found["max_detections"], found["written_detections"]) == (3, 5)
    assert found["confused_categories"] == [{"category_id": 3, "taken_for": 2, "objects": 1}]
    assert found["calibration"]["all"]["counts"] == [0, 0, 0, 0, 0, 0, 0, 0, 2, 1]  # of the best three alone
    assert found["tide"]["counts"]["Cls"] == 2
    assert found["worst_images"] == [1]
    assert found["best_images"] == []
    assert json.loads(json.dumps(found))["precision_curves"]["f"] == pytest.approx([1.0] * 101)


class Page(HTMLParser):
    """Sources, headings and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.sources, self.headings, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)
            self.tags.append("")


def run_of(folder, seed: int):
    """An evaluated run of made-up results, with a picture of each image."""
    truth, boxes, masks = random_case(seed)
    for place, category in enumerate(truth["categories"]):
        category |= {"image_count": 3**place, "instance_count": 3**place}
    truth_json, boxes_json = written(folder, truth, boxes)
    (folder / "masks.json").write_text(json.dumps(masks))
    config = common.get_config()
    config.data.val_json, config.test.max_detections = str(truth_json), 10
    evaluate_results(config, [boxes_json, folder / "masks.json"], folder)
    (folder / "eval" / "pictures").mkdir()
    for image in truth["images"]:
        Image.new("RGB", (1600, 400), "green").save(folder / "eval" / "pictures" / picture_name(image["id"]))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return [run_of(tmp_path_factory.mktemp(f"run{seed}"), seed) for seed in (80, 81)]


def test_a_report_holds_all_that_it_shows(runs, tmp_path):
    text = write_report(runs[:1], tmp_path / "new" / "report.html").read_text()
    page = Page(text)
    assert not re.search(r"https?://", text)
    assert all(source.startswith("data:image/") for source in page.sources)
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in page.sources]
    assert max(picture.width for picture in pictures if picture.format == "JPEG") <= 1200
    names = {"outcomes", "ap_over_frequency", "tide", "precision_curves", "calibration"}  # no weights, so no norms
    assert {file.stem for file in (tmp_path / "new" / "report").iterdir()} == names
    assert sum(picture.format == "PNG" for picture in pictures) == len(names)
    for heading in ("What became of the objects", "What is taken for what", "Most objects lost", "How it was made"):
        assert heading in page.headings
    metrics = json.loads((runs[0] / "eval" / "metrics.json").read_text())
    assert f"<td>{100 * metrics['segm']['AP']:.1f}</td>" in text
    assert "the results have up to" in text


def test_two_runs_stand_side_by_side(runs, tmp_path):
    text = write_report(runs, tmp_path / "compare.html").read_text()
    for run in runs:
        assert f"segm fixed, {run.name}" in text
        assert f"<h3>{run.name}</h3>" in text
    single = Image.open(runs[0] / "eval" / "report" / "outcomes.png")
    assert Image.open(tmp_path / "report" / "outcomes.png").width == 2 * single.width


def test_what_the_classifier_says_is_drawn_where_known(runs, tmp_path):
    path = runs[1] / "eval" / "diagnosis.json"
    diagnosis = json.loads(path.read_text())
    norms = {str(category): 1.0 for category in range(6)}
    sums = {str(category): [float(category), 2.0] for category in range(5)} | {"5": [0.0, 0.0]}
    path.write_text(json.dumps(diagnosis | {"classifier_norms": norms, "gradient_sums": sums}))
    text = write_report(runs[1:], tmp_path / "report.html").read_text()
    path.write_text(json.dumps(diagnosis))
    assert "Norms of the classifier" in text
    assert "How hard training pulled each category" in text


def drawn(monkeypatch):
    """The figures that will be drawn from now on, by name."""
    figures, save = {}, Figure.savefig

    def savefig(self, to, **options):
        figures[to.name.partition(".")[0]] = self
        save(self, to, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


@pytest.mark.parametrize("without", [0, 1])
def test_what_one_of_two_runs_lacks_is_an_empty_panel(runs, tmp_path, monkeypatch, without):
    path = runs[1 - without] / "eval" / "diagnosis.json"
    diagnosis = json.loads(path.read_text())
    norms = {str(category): 1.0 for category in range(6)}
    path.write_text(json.dumps(diagnosis | {"classifier_norms": norms}))
    figures = drawn(monkeypatch)
    text = write_report(runs, tmp_path / "compare.html").read_text()
    path.write_text(json.dumps(diagnosis))
    assert "Norms of the classifier" in text
    assert "gradients_over_frequency" not in figures
    panels = figures["norms_over_frequency"].axes
    assert [[said.get_text() for said in panel.texts] for panel in panels] == [
        ["not recorded"] if place == without else [] for place in range(2)
    ]
    assert [panel.get_title() for panel in panels] == [run.name for run in runs]
    shown = panels[1 - without].yaxis.get_major_ticks()[0]
    assert shown.label1.get_visible()


def test_runs_side_by_side_share_the_larger_axis(runs, tmp_path, monkeypatch):
    kept = []
    for run, norm in zip(runs, (8.0, 1.0), strict=True):
        path = run / "eval" / "diagnosis.json"
        kept.append((path, path.read_text()))
        norms = {str(category): norm for category in range(6)}
        path.write_text(json.dumps(json.loads(kept[-1][1]) | {"classifier_norms": norms}))
    figures = drawn(monkeypatch)
    write_report(runs, tmp_path / "compare.html")
    for path, text in kept:
        path.write_text(text)
    for panel in figures["norms_over_frequency"].axes:
        assert panel.get_ylim() == pytest.approx((0, 1.3 * 8))
    low, high = figures["ap_over_frequency"].axes[0].get_ylim()
    best = max(100 * np.nanmax(run.column("segm_AP")) for run in read_runs(runs))
    assert (low, high) == pytest.approx((-2.04, 102) if best > 40 else (-0.025 * best, 1.25 * best))


@pytest.mark.parametrize(("best", "top"), [(0.41, 102), (0.32, 40), (0.04, 10), (0, 10)])
def test_the_axis_of_ap_fits_runs_that_find_little(runs, best, top):
    run = read_runs(runs[:1])[0]
    for row in run.categories:
        row["segm_AP"] = "0"
    run.categories[0]["segm_AP"] = str(best)
    ax = Figure().subplots()
    _ap_over_frequency(ax, run)
    assert ax.get_ylim() == pytest.approx((-0.02 * top, top))


def test_ratios_of_gradients_worked_out_by_hand(runs):
    run = read_runs(runs[1:])[0]
    sums = {"0": (0.0, 2.0), "1": (1.0, 4.0), "2": (3.0, 1.0), "3": (0.0, 0.0)}
    run.diagnosis["gradient_sums"] = sums
    ax = Figure().subplots()
    _gradients_over_frequency(ax, run)
    points = np.concatenate([np.asarray(drawn.get_offsets()) for drawn in ax.collections])
    drawn = {round(images): ratio for images, ratio in points if np.isfinite(ratio)}
    assert drawn == {1: 0.125, 3: 0.25, 9: 3.0}  # never a positive: half of the smallest; never seen at all: not drawn


def test_a_file_at_its_limit_says_that_the_cut_cannot_be_seen(tmp_path, case):
    config = common.get_config()
    config.data.val_json = str(case / "truth.json")
    evaluate_results(config, case / "results_bbox.json", tmp_path)
    text = (tmp_path / "eval" / "report.html").read_text()
    assert "--config.test.written_detections=1000 would show it" in text


def test_a_run_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json: run eval\.py on that run first"):
        write_report([tmp_path], tmp_path / "report.html")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json is broken"):
        write_report([tmp_path], tmp_path / "report.html")
