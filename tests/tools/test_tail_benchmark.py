"""The point of it all: GAP lifts the rare classes of a long tail and takes next to nothing from the frequent ones."""

import json

import jax
import numpy as np
import pytest

from rog_jax.tools import tail_set
from rog_jax.tools.tail_benchmark import benchmark_tail, class_precisions, format_table, main
from rog_jax.tools.tail_training import PARTS_PER_OBJECT, image_order, make_loss, make_trainer


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
    """Of three seeds, AP_r differs by 2 to 9 (docs/losses.md); either is some 60 points over the plain loss."""
    for group, most in {"AP_r": 10, "AP_c": 4, "AP_f": 4}.items():
        assert abs(table["sigmoid_ce", "gap"][group][0] - table["sigmoid_ce", "gap_published"][group][0]) < most


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


def naive_precisions(scores, labels, detections):
    """The 101-point rule from its definition; scores [B, R, C], labels [B, R]."""
    found = []
    for of_image, of_rows in zip(scores, labels, strict=True):
        entries = [(of_image[r, c], c, of_rows[r] == c) for r in range(len(of_rows)) for c in range(of_image.shape[1])]
        found += sorted(entries, key=lambda entry: -entry[0])[:detections]
    result = []
    for c in range(scores.shape[2]):
        ranked = sorted((entry for entry in found if entry[1] == c), key=lambda entry: -entry[0])
        points, objects = [], int((labels == c).sum())
        for last in range(len(ranked)):
            hits = sum(right for *_, right in ranked[: last + 1])
            points.append((hits / objects, hits / (last + 1)))
        at = [max((p for r, p in points if r >= recall - 1e-9), default=0.0) for recall in np.linspace(0, 1, 101)]
        result.append(np.mean(at))
    return np.array(result)


@pytest.mark.parametrize("seed", range(4))
def test_precision_is_that_of_the_definition(seed):
    generator = np.random.default_rng(seed)
    images, rows, classes = 7, 9, 4
    labels = generator.integers(0, classes + 1, (images, rows))
    own = labels[..., None] == np.arange(classes)
    scores = (own + generator.normal(0, 0.7, (images, rows, classes))).astype(np.float32)
    for detections in (3, rows * classes):
        got = class_precisions(scores.reshape(-1, classes), labels.reshape(-1), images=images, detections=detections)
        np.testing.assert_allclose(got, naive_precisions(scores, labels, detections), atol=1e-12)


def test_set_has_a_long_tail_to_train_on_and_none_to_test_on():
    tail, counts = tail_set.make_tail_set(1), tail_set.class_counts()
    np.testing.assert_array_equal(counts, np.bincount(tail.train.labels.ravel(), minlength=tail_set.NUM_CLASSES))
    assert counts[-1] == 1
    assert 1490 <= counts[0] <= 1500
    assert np.all(np.diff(counts[1:]) <= 0)
    for images in (tail.test, tail.tuning):
        np.testing.assert_array_equal(np.bincount(images.labels.ravel()), np.full(tail_set.NUM_CLASSES, 20))
    image_counts = tail_set.class_image_counts()
    assert np.all((image_counts <= counts) & (image_counts >= np.ceil(counts / tail_set.IMAGE_OBJECTS)))
    assert not np.array_equal(tail.train.features, tail_set.make_tail_set(2).train.features)


def test_rows_are_objects_and_parts_of_the_same_image():
    objects = tail_set.Objects(*(array[:2] for array in tail_set.make_tail_set(0).train))
    rows = tail_set.make_rows(jax.random.key(0), objects, PARTS_PER_OBJECT)
    labels, shown = np.asarray(rows.labels).reshape(2, 4, 8), np.asarray(rows.shown).reshape(2, 4, 8)
    np.testing.assert_array_equal(labels[:, 0], objects.labels)
    assert np.all(labels[:, 1:] == tail_set.NUM_CLASSES)
    assert shown[:, 0].min() >= tail_set.LEAST_OBJECT
    assert shown[:, 1:].max() < tail_set.MOST_PART
    # What is left without the object's share is clutter of unit variance, whatever the object.
    features = np.asarray(rows.features).reshape(2, 4, 8, -1)
    clutter = (features - shown[..., None] * objects.features[:, None]) / (1 - shown[..., None])
    assert clutter.mean() == pytest.approx(0, abs=0.1)
    assert clutter.std() == pytest.approx(1, abs=0.1)


def test_every_image_comes_once_before_any_comes_again():
    order, images = image_order(0, 200), len(tail_set.train_labels())
    np.testing.assert_array_equal(np.sort(order.ravel()[:images]), np.arange(images))
    assert len(np.unique(order.ravel()[images:])) == order.size - images


def test_equal_seeds_train_equal_classifiers():
    train, objects = make_trainer(make_loss("seesaw"), "gap", 3), tail_set.make_tail_set(0).train
    first, again, other = (train(objects, seed)[0] for seed in (0, 0, 1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["classifier"], other["classifier"])


def test_nothing_to_train_by_is_an_error():
    with pytest.raises(ValueError, match="nothing would be trained"):
        make_trainer(make_loss("none"), "none", 3)
    with pytest.raises(ValueError, match="unknown ranking loss 'sort'"):
        make_trainer(make_loss("none"), "sort", 3)


def test_command_prints_a_table_and_writes_every_seed(tmp_path, capsys):
    """Softmax stands there with and without NorCal; neither a classification nor a ranking loss is no row."""
    file = tmp_path / "figures.json"
    arguments = ["--losses", "softmax_ce", "none", "--rankings", "none", "rank_sort", "--seeds", "2", "--steps", "3"]
    main([*arguments, "--json", str(file)])
    lines, results = capsys.readouterr().out.splitlines(), json.loads(file.read_text())
    pairs = [(row["loss"], row["ranking"], row["norcal"] is not None) for row in results]
    of_softmax = [("softmax_ce", ranking, norcal) for ranking in ("none", "rank_sort") for norcal in (False, True)]
    assert pairs == [*of_softmax, ("none", "rank_sort", False)]
    assert len(lines) == 2 + len(results)
    assert len(results[1]["norcal"]) == len(results[1]["AP_r"]) == 2
    assert f"{np.mean(results[1]['AP_f']):.1f}" in lines[3]
