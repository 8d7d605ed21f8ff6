"""Tables and plots from records whose figures are known."""

import itertools

import cv2
import numpy as np
import pytest

from rog_jax.tools.reproduce.__main__ import write_pages
from rog_jax.tools.reproduce.plots import draw_target
from rog_jax.tools.reproduce.records import write_record
from rog_jax.tools.reproduce.runs import CAPS, GAMMAS
from rog_jax.tools.reproduce.tables import mean_and_spread, paired_differences, read_rows
from rog_jax.tools.reproduce.targets import TARGETS
from tests.tools.reproduce.made_up import content


def sweep(best: float) -> list[dict]:
    """AP rises with the number of detections, and is the best at one of NorCal's gammas."""
    return [
        {"kind": kind, "gamma": gamma, "max_detections": cap}
        | dict.fromkeys(("AP", "APr", "APc", "APf"), 0.3 + cap / 1000 - abs(gamma - best) / 10)
        for kind in ("bbox", "segm")
        for gamma in GAMMAS
        for cap in CAPS
    ]


def write(places, target: str, label: str, seed: int, ap: float, **more) -> None:
    row = next(row for row in TARGETS[target].rows if row.label == label)
    write_record(places, row.run, seed, content(ap, **more))


def lines_of(places, target: str) -> list[str]:
    write_pages([TARGETS[target]], places)
    return (places.out / f"{target}.md").read_text().splitlines()


def test_means_spreads_differences_and_the_papers_figures(places):
    for seed, (plain, ranked) in enumerate(((0.10, 0.14), (0.12, 0.13))):
        write(places, "headline", "sigmoid CE", seed, plain)
        write(places, "headline", "sigmoid CE + GAP", seed, ranked)
    lines = lines_of(places, "headline")
    spread = 100 * np.std([0.10, 0.12], ddof=1)
    assert f"| sigmoid CE | 11.0 ± {spread:.1f} | 5.5 ± {spread / 2:.1f} |" in "\n".join(lines)
    assert any(line.startswith("| sigmoid CE + GAP | 13.5") and "14.1 / 23.7 / 28.0" in line for line in lines)
    assert "| sigmoid CE + GAP | sigmoid CE | 0 | +4.0 | +2.0 | +4.0 | +8.0 |" in lines
    assert "| sigmoid CE + GAP | sigmoid CE | 1 | +1.0 | +0.5 | +1.0 | +2.0 |" in lines
    assert any(line.startswith("| softmax CE | – |") for line in lines)
    assert "| sigmoid CE | 10000 ms | 1 min | 4 | abc |" in lines
    assert any(line.endswith(" Commits of the runs: abc.") for line in lines)
    assert cv2.imread(str(places.out / "plots" / "headline.png")) is not None


def test_runs_from_different_backbones_are_told_apart(places):
    write(places, "headline", "sigmoid CE", 0, 0.1, backbone="aa")
    write(places, "headline", "sigmoid CE + GAP", 0, 0.1, backbone="aa")
    assert not any("trained more than once" in line for line in lines_of(places, "headline"))
    write(places, "headline", "sigmoid CE + GAP", 1, 0.3, backbone="bb", commit="abc+")
    write(places, "headline", "sigmoid CE", 1, 0.1, backbone="aa")
    write(places, "headline", "softmax CE", 0, 0.1, backbone="cc")
    lines = lines_of(places, "headline")
    assert any("1 is aa, 2 is bb, 3 is cc." in line for line in lines)
    ranked = [line.split(" | ") for line in lines if line.startswith("| sigmoid CE + GAP") and "Table 1" in line]
    assert [(cells[1], *cells[5:7]) for cells in ranked] == [("10.0", "1", "1"), ("30.0", "1", "2")]  # no mean of both
    assert ranked[1][0] == "| sigmoid CE + GAP [bb]"
    write(places, "headline", "sigmoid CE", 2, 0.1, backbone="bb")
    write(places, "headline", "sigmoid CE + GAP", 2, 0.2, backbone="bb")
    further = [line for line in lines_of(places, "headline") if line.startswith("| sigmoid CE + GAP [bb] | sigmoid CE")]
    assert [line.split(" | ")[2:4] for line in further] == [["2", "+10.0"]] * 2  # of masks and of boxes
    assert any("Commits of the runs: abc, abc+ (+ is that commit with changes)." in line for line in lines)
    assert any(line.startswith("| softmax CE | 10.0 ") and " | 1 | 3 | " in line for line in lines)
    differences = [line for line in lines if line.startswith("| sigmoid CE + GAP | sigmoid CE |")]
    assert {line.split(" | ")[2] for line in differences} == {"0"}  # of seed 1 the backbones differ


def test_norcals_gamma_is_that_of_masks_and_of_the_mean_of_the_seeds(places):
    """By boxes it would be 1, by seed 0 alone 0.75."""
    at = {0: {0.25: 0.1, 0.5: 0.3, 0.75: 0.4}, 1: {0.25: 0.2, 0.5: 0.3, 0.75: 0.1}}
    for seed, of_seed in at.items():
        rows = [
            row | dict.fromkeys(("AP", "APr", "APc", "APf"), of_seed.get(row["gamma"], 0.0))
            if row["kind"] == "segm"
            else row
            for row in sweep(1.0)
        ]
        write(places, "headline", "softmax CE", seed, 0.1, sweep=rows)
    found = [line for line in lines_of(places, "headline") if line.startswith("| CE + NorCal (γ = ")]
    assert [line.split(" | ")[:2] for line in found] == [
        ["| CE + NorCal (γ = 0.5)", "30.0 ± 0.0"],
        ["| CE + NorCal (γ = 0.5)", "35.0 ± 0.0"],  # boxes, at that of masks
    ]


def test_norcal_is_shown_at_its_best_gamma_and_never_at_none(places):
    for best, row in ((0.75, "0.75"), (0.0, "0.25")):
        write(places, "headline", "softmax CE", 0, 0.1, sweep=sweep(best))
        lines = lines_of(places, "headline")
        value = 100 * (0.3 + 0.1 - abs(best - float(row)) / 10)
        assert any(line.startswith(f"| CE + NorCal (γ = {row}) | {value:.1f} |") for line in lines)
    assert any("on the very validation images that are reported" in line for line in lines)


def test_table3_has_each_number_of_detections(places):
    write(places, "table3", "sigmoid CE", 0, 0.1, sweep=sweep(0.0))
    assert not write_pages([TARGETS["table3"]], places)  # nothing to compare
    write(places, "table3", "sigmoid CE + GAP", 0, 0.1, sweep=sweep(0.0))
    lines = lines_of(places, "table3")
    assert "" not in [line for line, following in itertools.pairwise(lines) if not following]
    shown = [line.split(" | ")[1] for line in lines if line.startswith("| sigmoid CE |")]
    assert shown[:4] == ["32.0", "35.0", "40.0", "–"]
    assert (places.out / "plots" / "table3.png").is_file()


def test_ap_fixed_is_shown_of_runs_that_wrote_more_than_the_limit(places):
    """Of the others it would be AP by another name."""
    values = {name: dict.fromkeys(("AP", "APr", "APc", "APf"), value) for name, value in (("own", 0.1), ("fixed", 0.2))}
    figures = {"segm": values["own"] | {"fixed": values["fixed"]}}
    for seed, written in enumerate((100, 300)):
        for label in ("sigmoid CE", "sigmoid CE + GAP"):
            more = {"figures": figures, "sweep": sweep(0.0), "written_detections": written}
            write(places, "table3", label, seed, 0.1, **more)
    lines = lines_of(places, "table3")
    fixed = lines[next(number for number, line in enumerate(lines) if line.startswith("AP-fixed of masks")) :]
    assert next(line for line in fixed if line.startswith("| sigmoid CE |")).startswith("| sigmoid CE | 20.0 |")
    assert next(line for line in fixed if line.startswith("| sigmoid CE |")).endswith("| 1 |")


def test_figures_4_and_5_from_what_runs_kept(places):
    categories = {
        "category_id": [1, 2, 3, 4, 5],
        "name": ["a", "b", "c", "d", "e"],
        "group": ["r", "c", "f", "f", "f"],
        "train_images": [2, 50, 500, 600, 700],
        "segm_AP": [0.1, None, 0.3, 0.3, 0.3],
        "bbox_AP": [0.1, 0.2, 0.3, 0.3, 0.3],
    }
    # Of the last two nothing is known: they are left out.
    classifier = {
        "classifier_norms": [1.0, 2.0, 3.0, None, float("nan")],
        "gradient_sums": [[1.0, 4.0], [3.0, 4.0], [8.0, 4.0], None, [1.0, 0.0]],
    }
    for label in ("sigmoid CE", "sigmoid CE + GAP"):
        write(places, "figure4", label, 0, 0.1, categories=categories, classifier=classifier)
    assert "| sigmoid CE, seed 0 | 0.25 | 0.75 | 2 |" in lines_of(places, "figure4")
    assert "| sigmoid CE + GAP, seed 0 | 1 | 2 | 3 |" in lines_of(places, "figure5")
    rows = read_rows(TARGETS["figure5"], places)
    assert [path.name for path in draw_target(TARGETS["figure5"], rows, places.out)] == [
        "ap_over_frequency.png",
        "norms_over_frequency.png",
    ]


def test_table6_has_fifths(places):
    figures = {"bbox": {"AP50": 0.5} | {f"AP50_{k}": k / 10 for k in range(1, 6)}}
    for label in ("EQL", "EQLv2"):
        write(places, "table6", label, 0, 0.1, figures=figures)
    assert "| EQL | 50.0 | 10.0 | 20.0 | 30.0 | 40.0 | 50.0 | 1 |" in lines_of(places, "table6")


def test_intervals_pair_the_replicates(places):
    noise, gain = np.linspace(0, 0.2, 101), 0.01 + 0.1 * np.linspace(0, 1, 101) ** 2  # skewed
    order = np.random.default_rng(0).permutation(101)  # percentiles that are not of differences would be others
    for seed, ap in enumerate((0.10, 0.14)):
        for label, more, lift in (("sigmoid CE", 0.0, 0.0), ("sigmoid CE + GAP", gain[order] * (1 + seed), 0.04)):
            values = dict.fromkeys(("AP", "APr", "APc", "APf"), (noise + more).tolist())
            write(places, "ccp", label, seed, ap + (1 + seed) * lift, replicates={"segm": values, "bbox": values})
    write(places, "ccp", "sigmoid CE", 2, 0.9)  # has no partner
    rows = read_rows(TARGETS["ccp"], places)
    differences, seeds = paired_differences(rows["sigmoid CE + GAP"], rows["sigmoid CE"], "segm")
    assert seeds == 2
    observed, replicates = differences["AP"]
    assert observed == pytest.approx(0.06)
    np.testing.assert_allclose(replicates, 1.5 * gain[order])
    # Percentiles of 1.5 times the gain less their mean, -5.0 and +9.2, about each point.
    at = {"+6.0": "+1.0 to +15.2", "+3.0": "-2.0 to +12.2", "+12.0": "+7.0 to +21.2"}
    cells = " | ".join(f"{point} ({at[point]})" for point in ("+6.0", "+3.0", "+6.0", "+12.0"))
    assert f"| sigmoid CE + GAP | {cells} | 2 |" in lines_of(places, "ccp")


def test_every_seed_that_is_there_is_shown(places):
    for seed in (0, 7):
        write(places, "table4", "sigmoid CE", seed, 0.1 + seed / 100)
        write(places, "table4", "ω from counts online", seed, 0.2)
    assert list(read_rows(TARGETS["table4"], places)["sigmoid CE"].records) == [0, 7]
    assert "| ω from counts online | sigmoid CE | 7 | +3.0 |" in "\n".join(lines_of(places, "table4"))


def test_figures_that_are_not_defined_are_left_out():
    assert mean_and_spread([float("nan"), 0.5]) == "50.0"
    assert mean_and_spread([float("nan")]) == "–"
    assert mean_and_spread([0.1, 0.3]) == "20.0 ± 14.1"
