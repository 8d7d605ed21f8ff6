import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from rog_jax.losses import classification_loss
from rog_jax.models.box_head import BoxHead, SampledRoIs, box_loss, detect, sample_rois
from rog_jax.models.layers import ParameterDraws
from rog_jax.models.recipe import with_recipe
from tests.reference import models as reference
from tests.reference import ops
from tests.tiny import NUM_CLASSES, tiny_config

ROI = FrozenConfigDict(with_recipe(tiny_config()).roi)  # 16 samples, of which at most 4 are positives
TRUTHS, PROPOSALS = 6, 30
SMALL = FrozenConfigDict({**with_recipe(tiny_config()).roi, "hidden": 8})


def random_boxes(rng, *shape: int) -> np.ndarray:
    corner = rng.uniform(0, 40, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 24, corner.shape)], axis=-1).astype(np.float32)


def scene():
    """Four images: many objects, one object, none, and a padding image with what could be objects."""
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 4, TRUTHS)
    labels = rng.integers(0, NUM_CLASSES, (4, TRUTHS)).astype(np.int32)
    boxes[0, 1], labels[0, :2] = boxes[0, 0], (2, 3)  # one box, two categories
    labels[1, 1:], labels[2] = -1, -1
    proposals = random_boxes(rng, 4, PROPOSALS)
    near = boxes[:, np.arange(12) % TRUTHS] + rng.uniform(-2, 2, (4, 12, 4))
    proposals[:, 3:15] = near
    valid = np.ones((4, PROPOSALS), bool)
    valid[:, 25:] = False
    return proposals, valid, boxes, labels, np.int32([5, 2, 8, -1])


def sample(settings, seed=0) -> SampledRoIs:
    keys = jax.random.split(jax.random.key(seed), 4)
    arrays = (jnp.asarray(x) for x in scene())
    rois = jax.jit(lambda *arrays: tuple(sample_rois(*arrays, NUM_CLASSES, settings, keys)))(*arrays)
    return SampledRoIs(*(np.asarray(x) for x in rois))


def naive_assignment(image):
    """Candidates, ground truths first, with the truth and the label of each; those that are nothing have label -1.

    Proposals are assigned first; then each ground truth joins as a positive of its own.
    """
    proposals, valid, boxes, labels, index = (x[image] for x in scene())
    matched, kind, _ = ops.match(boxes, labels >= 0, np.where(valid[:, None], proposals, 0), 0.5, 0.5, "reassign", 0.5)
    candidates = np.concatenate([boxes, proposals])
    truth = np.concatenate([np.arange(TRUTHS), matched])
    positive = np.concatenate([np.ones(TRUTHS, bool), kind == 1])
    usable = np.concatenate([labels >= 0, valid]) & (index >= 0)
    return candidates, truth, np.where(usable, np.where(positive, labels[truth], NUM_CLASSES), -1)


def test_samples_are_candidates_with_their_own_truth_positives_first():
    rois = sample(ROI)
    assert rois.positives == 4
    assert rois.boxes.shape == (4, 16, 4)
    for image in range(4):
        candidates, truth, labels = naive_assignment(image)
        positives, negatives = ((labels >= 0) & (labels < NUM_CLASSES)).sum(), (labels == NUM_CLASSES).sum()
        taken = min(positives, 4)
        got = rois.labels[image]
        assert ((got[:taken] >= 0) & (got[:taken] < NUM_CLASSES)).all()
        rest = min(negatives, 16 - taken)
        np.testing.assert_array_equal(got[taken:], [NUM_CLASSES] * rest + [-1] * (16 - taken - rest))
        drawn = set()
        for slot in np.flatnonzero(got >= 0):
            here = (candidates == rois.boxes[image, slot]).all(axis=1) & (labels == got[slot])
            if slot < taken:
                here &= truth == rois.matched[image, slot]
            (candidate,) = np.flatnonzero(here)
            drawn.add(candidate)
        assert len(drawn) == taken + rest
    assert (rois.labels[2] == NUM_CLASSES).all()  # no object: background alone
    assert (rois.labels[3] == -1).all()  # index -1: nothing


def test_with_room_for_all_every_candidate_is_drawn_once_and_each_truth_as_itself():
    rois = sample(FrozenConfigDict({**ROI, "samples": 100, "positive_fraction": 1.0}))
    for image in range(4):
        candidates, truth, labels = naive_assignment(image)

        def rows(boxes, matched, labels):
            positive = labels < NUM_CLASSES  # a negative's truth means nothing
            table = np.column_stack([boxes, np.where(positive, matched, -1), labels])[labels >= 0]
            return table[np.lexsort(table.T)]

        got = rows(rois.boxes[image], rois.matched[image], rois.labels[image])
        np.testing.assert_array_equal(got, rows(candidates, truth, labels))
    _, _, boxes, labels, _ = scene()
    for number in (0, 1):  # of the two truths with one box, each has a positive of its own label
        own = (rois.boxes[0] == boxes[0, number]).all(axis=1) & (rois.labels[0] == labels[0, number])
        assert (rois.matched[0][own] == number).sum() == 1


def test_samples_follow_the_key_alone():
    a, b, c = sample(ROI, 0), sample(ROI, 0), sample(ROI, 1)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    assert (a.boxes != c.boxes).any()


@pytest.mark.parametrize(("sets", "beta"), [(NUM_CLASSES, 0.0), (1, 0.5)])
def test_box_loss_equals_naive(sets, beta):
    rng = np.random.default_rng(1)
    rois = sample(ROI)
    boxes = scene()[2]
    deltas = rng.standard_normal((4, rois.positives, sets, 4)).astype(np.float32)
    got = box_loss(
        jnp.asarray(deltas),
        SampledRoIs(*(jnp.asarray(x) for x in rois[:3]), rois.positives),
        jnp.asarray(boxes),
        NUM_CLASSES,
        FrozenConfigDict({**ROI, "smooth_l1_beta": beta}),
        jnp.float32(37),
    )
    expected = reference.box_loss(deltas, *rois[:3], boxes, ROI.box_stds, 37, NUM_CLASSES, beta)
    assert expected > 0
    np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize("pre_nms", [25, 1000])
@pytest.mark.parametrize("threshold", [0.02, 0.7])
def test_detections_equal_the_naive_pipeline(pre_nms, threshold):
    rng = np.random.default_rng(2)
    proposals = random_boxes(rng, 3, 20)
    proposals[:, 10:] = proposals[:, :10] + rng.uniform(-3, 3, (3, 10, 4))  # something to suppress
    scores = (rng.uniform(0, 1, (3, 20, NUM_CLASSES)) ** 4).astype(np.float32)
    deltas = rng.normal(0, 0.5, (3, 20, NUM_CLASSES, 4)).astype(np.float32)
    valid = rng.uniform(size=(3, 20)) < 0.8
    valid[2] = False
    sizes = np.float32([[56, 64], [50, 40], [64, 64]])
    settings = FrozenConfigDict(
        {**with_recipe(tiny_config()).test, "score_threshold": threshold, "pre_nms": pre_nms, "max_detections": 15}
    )
    arrays = (jnp.asarray(x) for x in (scores, deltas, proposals, valid, sizes))
    got = jax.jit(lambda *arrays: detect(*arrays, ROI.box_stds, settings))(*arrays)
    assert [x.shape for x in got] == [(3, 15, 4), (3, 15), (3, 15)]
    for image in range(3):
        arrays = (x[image] for x in (scores, deltas, proposals, valid, sizes))
        boxes, best, labels = reference.detect(*arrays, ROI.box_stds, threshold, pre_nms, settings.nms_iou, 15)
        count = len(labels)
        assert (count == 0) == (image == 2)
        got_boxes, got_scores, got_labels = (np.asarray(x[image]) for x in got)
        np.testing.assert_array_equal(got_labels, np.pad(labels, (0, 15 - count), constant_values=-1))
        np.testing.assert_array_equal(got_scores, np.pad(np.float32(best), (0, 15 - count)))
        expected = np.concatenate([np.reshape(boxes, (-1, 4)), np.zeros((15 - count, 4))])
        np.testing.assert_allclose(got_boxes, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "columns"), [("sigmoid_ce", NUM_CLASSES + 1), ("softmax_ce", NUM_CLASSES + 1)])
def test_head_is_two_layers_then_two_linear_ones(name, columns):
    loss = classification_loss(name, num_classes=NUM_CLASSES)
    head = BoxHead(2 * 2 * 3, NUM_CLASSES, loss, SMALL, dtype=jnp.float32, rngs=ParameterDraws(0))
    np.testing.assert_array_equal(head.classifier.bias[...], np.broadcast_to(np.float32(loss.bias_init), columns))
    pooled = np.random.default_rng(0).standard_normal((2, 4, 2, 2, 3)).astype(np.float32)
    embedding = head.embed(jnp.asarray(pooled))
    x = pooled.reshape(2, 4, 12)
    for layer in (head.fc1, head.fc2):
        x = np.maximum(x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    np.testing.assert_allclose(embedding, x, rtol=1e-4, atol=1e-5)
    logits, deltas = head.classify(embedding), head.regress(embedding)
    assert logits.shape == (2, 4, columns)
    np.testing.assert_allclose(logits, x @ head.classifier.kernel[...] + head.classifier.bias[...], atol=1e-5)
    flat = (x @ np.asarray(head.deltas.kernel[...])).reshape(2, 4, NUM_CLASSES, 4)
    np.testing.assert_allclose(deltas, flat, atol=1e-5)


def test_unknown_kinds_of_layers_are_refused():
    loss = classification_loss("softmax_ce", num_classes=NUM_CLASSES)
    for name, value in (("predictor", "cosine"), ("init", "zeros")):
        with pytest.raises(ValueError, match=f"config.roi.{name}='{value}' is unknown"):
            BoxHead(4, 2, loss, FrozenConfigDict({**SMALL, name: value}), dtype=jnp.float32, rngs=ParameterDraws(0))


def test_layers_start_as_the_loss_wants():
    class Constant:
        predictor, weight_init, bias_init, num_outputs = "linear", ("constant", 0.001), -2.0, 3

    settings = FrozenConfigDict({**SMALL, "init": "pytorch"})
    head = BoxHead(4, 2, Constant(), settings, dtype=jnp.float32, rngs=ParameterDraws(0))
    np.testing.assert_array_equal(head.classifier.kernel[...], np.full((8, 3), 0.001, np.float32))
    np.testing.assert_array_equal(head.classifier.bias[...], np.full(3, -2.0, np.float32))
    for layer, inputs in ((head.fc1, 4), (head.fc2, 8), (head.deltas, 8)):
        for values in (layer.kernel[...], layer.bias[...]):  # PyTorch's default: uniform up to 1 / sqrt(inputs)
            assert 0.5 * inputs**-0.5 < np.abs(values).max() <= inputs**-0.5


def test_class_agnostic_deltas_serve_every_class():
    loss = classification_loss("softmax_ce", num_classes=NUM_CLASSES)
    settings = FrozenConfigDict({**SMALL, "class_agnostic_boxes": True})
    head = BoxHead(4, NUM_CLASSES, loss, settings, dtype=jnp.float32, rngs=ParameterDraws(0))
    assert head.regress(jnp.ones((3, 8))).shape == (3, 1, 4)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 1, (1, 6, NUM_CLASSES)).astype(np.float32)
    one_set = rng.normal(0, 0.5, (1, 6, 1, 4)).astype(np.float32)
    arrays = random_boxes(rng, 1, 6), np.ones((1, 6), bool), np.float32([[64, 64]])
    test = FrozenConfigDict(with_recipe(tiny_config()).test)
    detections = [
        detect(jnp.asarray(scores), jnp.asarray(deltas), *map(jnp.asarray, arrays), ROI.box_stds, test)
        for deltas in (one_set, one_set.repeat(NUM_CLASSES, axis=2))
    ]
    for got, want in zip(*detections, strict=True):
        np.testing.assert_array_equal(got, want)


def test_small_boxes_are_no_detections():
    scores = jnp.full((1, 2, NUM_CLASSES), 0.5)
    proposals = jnp.asarray([[[0, 0, 20, 20], [30, 30, 34, 50.0]]])
    deltas = jnp.zeros((1, 2, 1, 4))
    arrays = jnp.ones((1, 2), bool), jnp.asarray([[64, 64.0]])
    for min_size, rows in ((-1.0, 2), (5.0, 1)):
        test = FrozenConfigDict({**with_recipe(tiny_config()).test, "min_size": min_size})
        _, _, labels = detect(scores, deltas, proposals, *arrays, ROI.box_stds, test)
        assert int((labels >= 0).sum()) == rows * NUM_CLASSES


def test_normed_classifier_is_the_scaled_cosine_plus_bias():
    loss = classification_loss("softmax_ce", num_classes=NUM_CLASSES)
    settings = FrozenConfigDict({**SMALL, "predictor": "normed"})
    head = BoxHead(4, NUM_CLASSES, loss, settings, dtype=jnp.bfloat16, rngs=ParameterDraws(0))
    head.classifier.bias[...] = np.arange(NUM_CLASSES + 1, dtype=np.float32)
    embedding = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    embedding[2] = 0
    logits = head.classify(jnp.asarray(embedding))
    for row, column in np.ndindex(logits.shape):
        x, weight = embedding[row].astype(float), np.asarray(head.classifier.kernel[...])[:, column].astype(float)
        cosine = (x / (np.linalg.norm(x) + 1e-6)) @ (weight / (np.linalg.norm(weight) + 1e-6))
        np.testing.assert_allclose(logits[row, column], 20 * cosine + column, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda x: head.classify(x).sum())(jnp.asarray(embedding))
    assert jnp.isfinite(gradient).all()
