"""The detector as a whole, with arbitrary parameters, on images of 64x64 pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.models.detector import Detector, image_keys
from rog_jax.models.recipe import with_recipe
from rog_jax.training.state import ModelDefinition
from tests.tiny import NUM_CLASSES, random_batch, tiny_config

IMAGES = 2


def make_config(**model):
    config = tiny_config()
    config.model.norm = "frozen_batch"
    config.model.update(model)
    return with_recipe(config)


@functools.cache
def build():
    """The detector's definition and its parameters with noise on them, statistics and biases included."""
    definition = ModelDefinition(make_config())
    rng = np.random.default_rng(0)

    def disturb(x):
        return (x * rng.uniform(0.7, 1.3, x.shape) + rng.normal(0, 0.02, x.shape)).astype(np.float32)

    trainable, fixed = jax.tree.map(disturb, definition.initial)
    # Untrained scores hardly differ: larger weights make some boxes sure and others not.
    trainable["box_head"]["classifier"]["kernel"] *= 10
    return definition, trainable, fixed


@functools.cache
def predict_step():
    definition, trainable, fixed = build()
    step = jax.jit(lambda *state_and_batch: definition.merge(*state_and_batch[:2]).predict(state_and_batch[2]))
    return lambda batch: jax.device_get(step(trainable, fixed, jax.device_put(batch)))


def images(*seeds: int, sizes=((56, 64), (40, 50))):
    """A batch of one noise image a seed."""
    batch = random_batch(0, size=IMAGES)
    pixels = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8) for seed in seeds]
    return batch._replace(image=np.stack(pixels), image_size=np.float32(sizes))


def assert_same(got, want, **tolerance):
    np.testing.assert_array_equal(got.labels, want.labels)
    for a, b in ((got.boxes, want.boxes), (got.scores, want.scores), (got.masks, want.masks)):
        np.testing.assert_allclose(a, b, **tolerance)


def one(detections, image: int):
    return jax.tree.map(lambda x: x[image], detections)


def test_detections_lie_in_the_image_and_are_sorted():
    batch = images(0, 1)
    found = predict_step()(batch)
    slots = tiny_config().test.max_detections
    assert found.boxes.shape == (IMAGES, slots, 4)
    assert found.masks.shape == (IMAGES, slots, 14, 14)
    for image, (height, width) in enumerate(batch.image_size):
        boxes = found.boxes[image]
        assert (boxes >= 0).all()
        assert (boxes <= (width, height, width, height)).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        assert (np.diff(found.scores[image]) <= 0).all()
        assert set(found.labels[image]) <= {-1, *range(NUM_CLASSES)}
        assert (found.labels[image] >= 0).sum() > 1
    assert ((found.masks >= 0) & (found.masks <= 1)).all()
    assert found.masks.std() > 0
    assert len(set(found.labels.ravel())) > 1


def test_empty_slots_have_no_label():
    batch = images(0, 1, sizes=((56, 64), (0, 0)))
    found = predict_step()(batch)
    assert (found.labels[1] == -1).all()
    assert not found.boxes[1].any()
    assert not found.scores[1].any()
    assert (found.labels[0] >= 0).any()


def test_detections_depend_neither_on_other_images_nor_on_pixels_of_the_padding_nor_on_truths():
    predict = predict_step()
    found = predict(images(0, 1))
    other = images(2, 0, sizes=((64, 64), (56, 64)))  # at another place, beside another image
    other.image[1, 56:] = 255
    other = other._replace(boxes=other.boxes + 3, labels=other.labels[::-1])
    moved = predict(other)
    assert_same(one(moved, 1), one(found, 0), rtol=1e-4, atol=1e-4)
    assert (moved.scores[0] != found.scores[1]).any()


def pointwise(tree):
    """Convolutions that look at their centre alone."""

    def centre(x):
        if x.ndim != 4 or x.shape[0] != x.shape[1] or x.shape[0] == 1:
            return x
        kernel = np.zeros_like(x)
        middle = x.shape[0] // 2
        kernel[middle, middle] = x[middle, middle]
        return kernel

    return jax.tree.map(centre, tree)


def test_features_depend_on_the_padded_shape_by_what_crosses_the_border_alone():
    """Strides, pooling and upsampling keep an image's cells where they are, whatever shape it is padded to.

    It takes convolutions of single pixels to see that: others read, at the border of an image that fills its shape,
    zeros, and in a larger shape what the layers before have made of the padding, by their biases and by what reaches
    over the image's edge. So detections do depend on the padded shape, here as in the detectors of PyTorch.
    """
    definition, *parameters = build()
    batch = images(0, 1)

    @jax.jit
    def features(trainable, fixed, image):
        return definition.merge(trainable, fixed).features(image, jnp.asarray(batch.image_size))

    wide = np.concatenate([batch.image, np.full((IMAGES, 64, 32, 3), 99, np.uint8)], axis=2)
    levels, wide_levels = (jax.device_get(features(*map(pointwise, parameters), x)) for x in (batch.image, wide))
    for stride, level, wide_level in zip((4, 8, 16, 32, 64), levels, wide_levels, strict=True):
        assert level.shape[2] == 64 // stride
        assert wide_level.shape[2] == -(-96 // stride)
        assert level.std() > 0
        np.testing.assert_allclose(wide_level[:, :, : level.shape[2]], level, rtol=1e-4, atol=1e-5)


def test_without_a_mask_head_masks_are_none():
    config = make_config(masks=False)
    batch = random_batch(0, size=IMAGES, masks=False)
    model = Detector(config, seed=0)
    assert model.mask_head is None
    found = jax.eval_shape(model.predict, batch)
    assert found.masks is None
    assert found.boxes.shape == (IMAGES, config.test.max_detections, 4)
    assert jax.eval_shape(model.train_outputs, batch, jax.random.key(0)).mask_logits is None


@pytest.mark.parametrize("norm", ["group", "frozen_batch"])
def test_bfloat16_features_end_in_float32_outputs(norm):
    config = make_config(dtype="bfloat16", norm=norm)
    model, batch = Detector(config, seed=0), random_batch(0, size=IMAGES)
    levels = jax.eval_shape(model.features, batch.image, batch.image_size)
    assert [level.dtype for level in levels] == [jnp.bfloat16] * 5
    outputs = jax.eval_shape(model.train_outputs, batch, jax.random.key(0))
    assert [level.dtype for level in outputs.features] == [jnp.bfloat16] * 5
    samples, positives = config.roi.samples, int(config.roi.samples * config.roi.positive_fraction)
    assert outputs.logits.shape == (IMAGES, samples, NUM_CLASSES + 1)
    assert outputs.deltas.shape == (IMAGES, positives, NUM_CLASSES, 4)
    assert outputs.mask_logits.shape == (IMAGES, positives, 14, 14)
    found = jax.eval_shape(model.predict, batch)
    floats = [
        x for x in jax.tree.leaves((outputs._replace(features=[]), found)) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}
    assert found.labels.dtype == jnp.int32


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"dtype": "float16"}, r"config\.model\.dtype='float16' is unknown.*bfloat16"),
        ({"num_classes": 0}, r"config\.model\.num_classes=0.*at least one"),
        ({"depth": 20}, r"config\.model\.depth=20"),
        ({"norm": "batch"}, r"config\.model\.norm='batch'"),
    ],
)
def test_settings_without_meaning_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        Detector(make_config(**model), seed=0)


def test_an_images_key_follows_its_index_alone():
    key = jax.random.key(3)
    a, b = (jax.random.key_data(image_keys(key, jnp.asarray(index))) for index in ([4, 9, -1], [9, 4, 7]))
    np.testing.assert_array_equal(a[:2], b[1::-1])
    assert len({tuple(data) for data in np.concatenate([a, b]).tolist()}) == 4
