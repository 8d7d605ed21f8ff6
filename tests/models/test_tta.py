"""Test-time augmentation against a twin that looks at each view by itself, with OpenCV and loops."""

import functools

import cv2
import jax
import numpy as np
import pytest

from rog_jax.models.recipe import with_recipe
from rog_jax.models.tta import AugmentedView, moved, pooled, seen, view_size, views_of
from rog_jax.training.config import check_config
from rog_jax.training.state import ModelDefinition
from tests.models.test_detector import build, images, make_config
from tests.reference import ops as reference
from tests.tiny import tiny_config

VIEWS = [AugmentedView(1.0, False), AugmentedView(1.0, True), AugmentedView(1.5, False), AugmentedView(1.5, True)]


def test_views_that_a_config_asks_for():
    config = tiny_config()
    assert views_of(config.test) == VIEWS[:1]
    config.test.update({"scales": (1.0, 1.5), "flip": True})
    assert views_of(config.test) == VIEWS
    for scales in ((), (1.0, 0.0), (-1.0,), (float("inf"),)):
        config.test.scales = scales
        with pytest.raises(ValueError, match=r"config\.test\.scales=.* give positive factors"):
            check_config(with_recipe(config), 1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_is_shown_as_opencv_shows_it(scale, mirrored):
    batch, view = images(0, 1), AugmentedView(scale, mirrored)
    shown = jax.jit(functools.partial(seen, view=view))(batch)
    assert shown.image.shape[1:3] == tuple(-(-int(64 * scale) // 32) * 32 for _ in range(2))
    for row, (height, width) in enumerate(batch.image_size.astype(int)):
        content = np.ascontiguousarray(batch.image[row, :height, :width]).astype(np.float32)
        size = round(height * scale), round(width * scale)
        expected = cv2.resize(content, size[::-1], interpolation=cv2.INTER_LINEAR)
        expected = expected[:, ::-1] if mirrored else expected
        np.testing.assert_array_equal(shown.image_size[row], size)
        np.testing.assert_allclose(shown.image[row, : size[0], : size[1]], expected, atol=0.02)


def test_boxes_worked_out_by_hand_and_back():
    size, boxes = np.float32([[40, 50]]), np.float32([[[10, 4, 30, 20]]])
    view = AugmentedView(0.5, True)
    small = np.asarray(view_size(size, view))
    np.testing.assert_allclose(moved(boxes, size, small, view), [[[25 - 15, 2, 25 - 5, 10]]])
    np.testing.assert_allclose(moved(moved(boxes, size, small, view), small, size, view), boxes)


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_against_the_naive_twin(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (3, 1, 12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 20, corner.shape)], -1).astype(np.float32)
    scores = -np.sort(-rng.uniform(size=(3, 1, 12)).astype(np.float32), axis=-1)
    labels = rng.integers(0, 3, (3, 1, 12)).astype(np.int32)
    labels[:, :, 9:] = -1
    found = jax.device_get(pooled(list(zip(boxes, scores, labels, strict=True)), 0.4, 8))
    expected = naive_pool([(b[0], s[0], c[0]) for b, s, c in zip(boxes, scores, labels, strict=True)], 0.4, 8)
    assert len(expected[2]) == 8
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got[0], want)


def naive_pool(found, threshold, limit):
    """Boxes, scores and labels of the best that no better one of the same label overlaps."""
    rows = [row for view in found for row in zip(*view, strict=True) if row[2] >= 0]
    rows.sort(key=lambda row: -row[1])
    boxes, scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    keep = np.flatnonzero(reference.nms(boxes, labels, np.ones(len(rows), bool), threshold))[:limit]
    return boxes[keep], scores[keep], labels[keep]


@functools.cache
def augmented():
    """The tiny detector's detections, from all views and from the plain image alone, and its masks of given boxes."""
    _, trainable, fixed = build()
    config = make_config()
    config.test.update({"scales": (1.0, 1.5), "flip": True})
    definitions = ModelDefinition(config), build()[0]

    def predicting(definition):
        step = jax.jit(lambda trainable, fixed, batch: definition.merge(trainable, fixed).predict(batch))
        return lambda batch: jax.device_get(step(trainable, fixed, batch))

    @jax.jit
    def masks(trainable, fixed, batch, boxes, labels):
        model = definitions[0].merge(trainable, fixed)
        return jax.nn.sigmoid(model.masks(model.features(batch.image, batch.image_size), boxes, labels))

    return *map(predicting, definitions), functools.partial(masks, trainable, fixed)


def test_the_detector_against_the_twin_view_by_view():
    batch = images(0, 1)
    predict, plain, masks_of = augmented()
    got = predict(batch)
    shown = [jax.device_get(seen(batch, view)) for view in VIEWS]
    found = [plain(view_batch) for view_batch in shown]
    masks = []
    for view_batch, view in zip(shown, VIEWS, strict=True):
        there = moved(got.boxes, batch.image_size, view_batch.image_size, view)
        of_view = np.asarray(masks_of(view_batch, there, got.labels))
        masks.append(of_view[..., ::-1] if view.mirrored else of_view)
    for row, size in enumerate(batch.image_size):
        back = [
            (in_image(detections.boxes[row], size, view), detections.scores[row], detections.labels[row])
            for detections, view in zip(found, VIEWS, strict=True)
        ]
        boxes, scores, labels = naive_pool(back, 0.5, got.labels.shape[1])
        filled = got.labels[row] >= 0
        np.testing.assert_array_equal(got.labels[row, filled], labels)
        np.testing.assert_allclose(got.scores[row, filled], scores, rtol=1e-4)
        np.testing.assert_allclose(got.boxes[row, filled], boxes, atol=1e-2)
        np.testing.assert_allclose(got.masks[row, filled], np.mean(masks, axis=0)[row, filled], atol=1e-3)
    assert (plain(batch).labels != got.labels).any() or not np.allclose(plain(batch).boxes, got.boxes)


def in_image(boxes, size, view):
    """Boxes of a view in pixels of the image, one after the other."""
    shown = np.round(size * view.scale)
    moved_back = []
    for x1, y1, x2, y2 in boxes:
        if view.mirrored:
            x1, x2 = shown[1] - x2, shown[1] - x1
        (sy, sx) = size / shown
        moved_back.append([x1 * sx, y1 * sy, x2 * sx, y2 * sy])
    return np.array(moved_back)


def test_a_mirrored_image_has_mirrored_detections():
    batch = images(2, 3)
    mirrored = batch._replace(image=batch.image.copy())
    for row, width in enumerate(batch.image_size[:, 1].astype(int)):
        mirrored.image[row, :, :width] = batch.image[row, :, :width][:, ::-1]
    predict, plain, _ = augmented()
    here, there = predict(batch), predict(mirrored)
    filled = here.labels >= 0
    assert filled.sum() > 4
    np.testing.assert_array_equal(here.labels, there.labels)
    np.testing.assert_allclose(here.scores, there.scores, rtol=1e-4)
    width = np.broadcast_to(batch.image_size[:, 1:], here.labels.shape)[..., None]
    flipped = np.concatenate(
        [width - there.boxes[..., 2:3], there.boxes[..., 1:2], width - there.boxes[..., :1], there.boxes[..., 3:]], -1
    )
    np.testing.assert_allclose(here.boxes[filled], flipped[filled], atol=1e-2)
    np.testing.assert_allclose(here.masks[filled], there.masks[filled][..., ::-1], atol=1e-3)
    assert not np.allclose(plain(batch).scores, plain(mirrored).scores, rtol=1e-3)  # one view alone does not do it
