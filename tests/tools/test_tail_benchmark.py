"""The point of it all: GAP lifts the rare classes of a long tail and takes next to nothing from the frequent ones."""

import numpy as np
import pytest

from rog_jax.tools.tail_benchmark import benchmark_tail, class_precisions, format_table


@pytest.fixture(scope="module")
def table():
    """Figures by (loss, ranking) of one seed."""
    rows = benchmark_tail(("sigmoid_ce",), ("none", "gap", "gap_published"))
    rows += benchmark_tail(("softmax_ce",), ("none", "gap"))
    return {(row["loss"], row["ranking"]): row for row in rows if row["norcal"] is None}


def test_the_plain_losses_show_the_disease(table):
    for loss in ("sigmoid_ce", "softmax_ce"):
        figures = table[loss, "none"]
        assert 0 < figures["AP_r"][0] < figures["AP_f"][0] - 40


@pytest.mark.parametrize("loss", ["sigmoid_ce", "softmax_ce"])
def test_gap_lifts_the_rare_and_spares_the_frequent(table, loss):
    before, after = table[loss, "none"], table[loss, "gap"]
    assert after["AP_r"][0] >= before["AP_r"][0] + 20
    assert after["AP_f"][0] >= before["AP_f"][0] - 2


def test_both_variants_do_alike(table):
    for group in ("AP_r", "AP_c", "AP_f"):
        assert abs(table["sigmoid_ce", "gap"][group][0] - table["sigmoid_ce", "gap_published"][group][0]) < 5


def test_precision_of_cases_worked_out_by_hand():
    """Two images of two rows, two classes, one detection an image: class 0 is found once of twice, class 1 never."""
    labels = np.array([0, 2, 1, 0])
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.8, 0.6], [0.1, 0.2]])  # the second image's best takes 1 for 0
    precisions = class_precisions(scores, labels, images=2, detections=1)
    np.testing.assert_allclose(precisions, [51 / 101, 0])
    everything = class_precisions(scores, labels, images=2, detections=4)
    assert (everything >= precisions).all()
    assert everything[1] > 0


def test_table_is_markdown():
    row = {"loss": "softmax_ce", "ranking": "gap", "norcal": [0.3], "AP_r": [1.0], "AP_c": [2.0], "AP_f": [3.0]}
    lines = format_table([row | {"AP": [2.0]}]).splitlines()
    assert lines[0].startswith("| classification | ranking | AP_r")
    assert lines[-1] == "| softmax_ce, NorCal 0.3 | gap | 1.0 ± 0.0 | 2.0 ± 0.0 | 3.0 ± 0.0 | 2.0 ± 0.0 |"
