"""Tables and plots from records whose figures are known."""

import itertools

import cv2
import numpy as np

from rog_jax.tools.reproduce.__main__ import write_pages
from rog_jax.tools.reproduce.plots import draw_target
from rog_jax.tools.reproduce.records import write_record
from rog_jax.tools.reproduce.runs import CAPS, GAMMAS
from rog_jax.tools.reproduce.tables import mean_and_spread, paired_replicates, read_rows
from rog_jax.tools.reproduce.targets import TARGETS
from tests.tools.reproduce.test_runner import content


def sweep(best: float) -> list[dict]:
    """AP rises with the number of detections, and is the best at one of NorCal's gammas."""
    return [
        {"kind": kind, "gamma": gamma, "max_detections": cap}
        | dict.fromkeys(("AP", "APr", "APc", "APf"), 0.3 + cap / 1000 - abs(gamma - best) / 10)
        for kind in ("bbox", "segm")
        for gamma in GAMMAS
        for cap in CAPS
    ]


def write(out, target: str, label: str, seed: int, ap: float, **more) -> None:
    row = next(row for row in TARGETS[target].rows if row.label == label)
    write_record(out, row.run, seed, content(ap, **more))


def lines_of(out, target: str) -> list[str]:
    write_pages([TARGETS[target]], out)
    return (out / f"{target}.md").read_text().splitlines()


def test_means_spreads_differences_and_the_papers_figures(tmp_path):
    for seed, (plain, ranked) in enumerate(((0.10, 0.14), (0.12, 0.13))):
        write(tmp_path, "headline", "sigmoid CE", seed, plain)
        write(tmp_path, "headline", "sigmoid CE + GAP", seed, ranked)
    lines = lines_of(tmp_path, "headline")
    spread = 100 * np.std([0.10, 0.12], ddof=1)
    assert f"| sigmoid CE | 11.0 ± {spread:.1f} | 5.5 ± {spread / 2:.1f} |" in "\n".join(lines)
    assert any(line.startswith("| sigmoid CE + GAP | 13.5") and "14.1 / 23.7 / 28.0" in line for line in lines)
    assert "| sigmoid CE + GAP | sigmoid CE | 0 | +4.0 | +2.0 | +4.0 | +8.0 |" in lines
    assert "| sigmoid CE + GAP | sigmoid CE | 1 | +1.0 | +0.5 | +1.0 | +2.0 |" in lines
    assert any(line.startswith("| softmax CE | – |") for line in lines)
    assert "| sigmoid CE | 10000 ms | 1 min | 4 |" in lines
    assert cv2.imread(str(tmp_path / "plots" / "headline.png")) is not None


def test_norcal_is_shown_at_its_best_gamma_and_never_at_none(tmp_path):
    for best, row in ((0.75, "0.75"), (0.0, "0.25")):
        write(tmp_path, "headline", "softmax CE", 0, 0.1, sweep=sweep(best))
        lines = lines_of(tmp_path, "headline")
        value = 100 * (0.3 + 0.1 - abs(best - float(row)) / 10)
        assert any(line.startswith(f"| CE + NorCal (γ = {row}) | {value:.1f} |") for line in lines)


def test_table3_has_each_number_of_detections(tmp_path):
    write(tmp_path, "table3", "sigmoid CE", 0, 0.1, sweep=sweep(0.0))
    assert not write_pages([TARGETS["table3"]], tmp_path)  # nothing to compare
    write(tmp_path, "table3", "sigmoid CE + GAP", 0, 0.1, sweep=sweep(0.0))
    lines = lines_of(tmp_path, "table3")
    assert "" not in [line for line, following in itertools.pairwise(lines) if not following]
    shown = [line.split(" | ")[1] for line in lines if line.startswith("| sigmoid CE |")]
    assert shown[:4] == ["32.0", "35.0", "40.0", "–"]
    assert (tmp_path / "plots" / "table3.png").is_file()


def test_figures_4_and_5_from_what_runs_kept(tmp_path):
    categories = {
        "category_id": [1, 2, 3],
        "name": ["a", "b", "c"],
        "group": ["r", "c", "f"],
        "train_images": [2, 50, 500],
        "segm_AP": [0.1, None, 0.3],
        "bbox_AP": [0.1, 0.2, 0.3],
    }
    classifier = {"classifier_norms": [1.0, 2.0, 3.0], "gradient_sums": [[1.0, 4.0], [3.0, 4.0], [8.0, 4.0]]}
    for label in ("sigmoid CE", "sigmoid CE + GAP"):
        write(tmp_path, "figure4", label, 0, 0.1, categories=categories, classifier=classifier)
    assert "| sigmoid CE, seed 0 | 0.25 | 0.75 | 2 |" in lines_of(tmp_path, "figure4")
    assert "| sigmoid CE + GAP, seed 0 | 1 | 2 | 3 |" in lines_of(tmp_path, "figure5")
    rows = read_rows(TARGETS["figure5"], tmp_path)
    assert [path.name for path in draw_target(TARGETS["figure5"], rows, tmp_path)] == [
        "ap_over_frequency.png",
        "norms_over_frequency.png",
    ]


def test_table6_has_fifths(tmp_path):
    figures = {"bbox": {"AP50": 0.5} | {f"AP50_{k}": k / 10 for k in range(1, 6)}}
    for label in ("EQL", "EQLv2"):
        write(tmp_path, "table6", label, 0, 0.1, figures=figures)
    assert "| EQL | 50.0 | 10.0 | 20.0 | 30.0 | 40.0 | 50.0 | 1 |" in lines_of(tmp_path, "table6")


def test_intervals_pair_the_replicates(tmp_path):
    noise = np.linspace(0, 0.2, 101)
    for label, more in (("sigmoid CE", 0.0), ("sigmoid CE + GAP", 0.03)):
        values = dict.fromkeys(("AP", "APr", "APc", "APf"), (noise + more).tolist())
        write(tmp_path, "ccp", label, 0, 0.1, replicates={"segm": values, "bbox": values})
    rows = read_rows(TARGETS["ccp"], tmp_path)
    differences, seeds = paired_replicates(rows["sigmoid CE + GAP"], rows["sigmoid CE"], "segm")
    assert seeds == 1
    np.testing.assert_allclose(differences["AP"], 0.03)
    cell = "+3.0 (+3.0 to +3.0)"
    assert f"| sigmoid CE + GAP | {cell} | {cell} | {cell} | {cell} | 1 |" in lines_of(tmp_path, "ccp")


def test_figures_that_are_not_defined_are_left_out():
    assert mean_and_spread([float("nan"), 0.5]) == "50.0"
    assert mean_and_spread([float("nan")]) == "–"
    assert mean_and_spread([0.1, 0.3]) == "20.0 ± 14.1"
