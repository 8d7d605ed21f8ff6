"""Mask crops against naive and COCO's rasterisation; whole examples against the pixels of their image."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rog_jax.data import load_lvis
from rog_jax.data.batch import MASK_CROP
from rog_jax.data.segmentation import crop_mask, rasterize
from rog_jax.data.transforms import (
    ExampleSettings,
    choose_objects,
    make_example,
    smallest_shape,
)
from rog_jax.data.views import resized_size
from tests.reference.data import (
    COLORS,
    changed,
    data_config,
    make_records,
    naive_rasterize,
    paste_crop,
    rectangle,
    resize_mask,
    unpack_mask,
    write_data_set,
)

SHAPE = (96, 96)


def star(points: int, center: tuple[float, float], outer: float, inner: float) -> np.ndarray:
    """A star polygon, [2 points, 2]."""
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, inner, outer)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + center).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_rasterize_equals_naive_even_odd(seed):
    rng = np.random.default_rng(seed)
    polygon = rng.uniform(-4, 20, (rng.integers(3, 12), 2)).astype(np.float32)  # crosses itself and the border
    if seed % 2:
        polygon = np.round(polygon * 2) / 2  # vertices on centres of cells
    got = rasterize(polygon, (16, 16))
    np.testing.assert_array_equal(got, naive_rasterize(polygon.astype(np.float64), 16))
    assert got.any()


def test_polygon_and_run_length_crops_agree_with_coco_masks():
    size, polygons = (90, 120), [star(5, (52.3, 44.6), 38, 17), star(4, (95.2, 60.1), 20, 9)]
    rle = coco_mask.merge(coco_mask.frPyObjects([p.reshape(-1).tolist() for p in polygons], *size))
    full = coco_mask.decode(rle).astype(bool)
    corners = np.concatenate(polygons)
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    for segmentation in (polygons, rle):
        pasted = paste_crop(crop_mask(segmentation, box), box, size)
        assert (pasted & full).sum() / (pasted | full).sum() > 0.97
    exact = crop_mask(rle, np.array([10.0, 5.0, 10.0 + MASK_CROP / 2, 5.0 + MASK_CROP / 4]))
    np.testing.assert_array_equal(exact, full[5:33, 10:66].repeat(4, axis=0).repeat(2, axis=1))


def test_polygons_of_one_object_are_joined_not_subtracted():
    square = np.array([[0, 0], [8, 0], [8, 8], [0, 8]], np.float32)
    assert crop_mask([square, square], np.array([0.0, 0.0, 8.0, 8.0])).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 1000), (400, 1333)), ((1, 5000), (1, 1333))],
)
def test_resized_size(size, expected):
    assert resized_size(size, 800, 1333) == expected


def test_smallest_shape():
    shapes = ((128, 128), (64, 96), (96, 64))
    assert smallest_shape((64, 96), shapes) == 1
    assert smallest_shape((65, 64), shapes) == 2
    assert smallest_shape((65, 65), shapes) == 0
    assert smallest_shape((129, 1), shapes) is None


def example_settings(**changes) -> ExampleSettings:
    return ExampleSettings.training(data_config(**changes), masks=True, num_classes=3)


@pytest.mark.parametrize("seed", range(12))
def test_box_and_mask_follow_the_pixels(tmp_path, seed):
    records = make_records(2)
    annotations = load_lvis(*write_data_set(tmp_path, records))
    example = make_example(annotations, seed % 2, SHAPE, example_settings(), np.random.default_rng(seed))
    height, width = example.image_size.astype(int)
    assert min(height, width) in (48, 56, 64)
    assert not example.image[height:].any()
    assert not example.image[:, width:].any()
    object_pixels = example.image.astype(int)[..., COLORS[seed % 2].index(255)] > 127
    rows, columns = np.flatnonzero(object_pixels.any(axis=1)), np.flatnonzero(object_pixels.any(axis=0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(example.boxes[0], seen, atol=1.0)
    pasted = paste_crop(unpack_mask(example.masks[0]), example.boxes[0], SHAPE)
    assert (pasted & object_pixels).sum() / (pasted | object_pixels).sum() > 0.93
    np.testing.assert_array_equal(example.labels, [seed % 2, -1, -1, -1])
    np.testing.assert_array_equal(example.original_size, annotations.image_sizes[seed % 2])
    assert (example.index, example.dropped, example.unreadable) == (seed % 2, 0, 0)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_asymmetric_mask_matches_the_resized_full_mask(tmp_path, flip):
    corners = [[4, 6, 24, 6, 24, 14, 12, 14, 12, 30, 4, 30]]
    records = changed(make_records(1), "annotations", 0, segmentation=corners)
    annotations = load_lvis(*write_data_set(tmp_path, records))
    settings = example_settings(flip=flip, short_sides=(64,))
    example = make_example(annotations, 0, SHAPE, settings, np.random.default_rng(0))
    full = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(corners, 40, 60)))
    resized = resize_mask(full, (64, 96))
    resized = resized[:, ::-1] if flip else resized
    pasted = paste_crop(unpack_mask(example.masks[0]), example.boxes[0], (64, 96))
    assert (pasted & resized).sum() / (pasted | resized).sum() > 0.97


def test_tests_take_the_test_scale_without_a_flip(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records(1)))
    example = make_example(annotations, 0, SHAPE, example_settings(test_short_side=40, flip=1.0))
    np.testing.assert_array_equal(example.image_size, [40, 60])
    np.testing.assert_array_equal(example.boxes[0], [4, 6, 24, 30])
    assert (example.image[6:30, 4:24] == COLORS[0]).all()


def test_surplus_objects_are_left_out_at_random_and_counted(tmp_path):
    records = make_records(1)
    for i in range(6):
        box = [i * 8, 0, 6, 5]
        records["annotations"].append(
            {"id": i, "image_id": 10, "category_id": 9, "bbox": box, "segmentation": rectangle(*box)}
        )
    annotations = load_lvis(*write_data_set(tmp_path, records))
    kept = set()
    for seed in range(20):
        example = make_example(annotations, 0, SHAPE, example_settings(flip=0.0), np.random.default_rng(seed))
        assert example.dropped == 3
        assert (example.labels >= 0).all()
        scale = example.image_size[1] / 60
        kept |= set(np.round(example.boxes[:, 0] / scale).astype(int).tolist())
    assert kept == {4, 0, 8, 16, 24, 32, 40}
    np.testing.assert_array_equal(choose_objects(5, 3, None), [0, 1, 2])
    np.testing.assert_array_equal(choose_objects(2, 3, None), [0, 1])


def test_objects_that_resizing_makes_thinner_than_a_pixel_are_dropped(tmp_path):
    records = changed(make_records(1), "annotations", 0, bbox=[4, 6, 20, 1.5], segmentation=rectangle(4, 6, 20, 1.5))
    annotations = load_lvis(*write_data_set(tmp_path, records))
    example = make_example(annotations, 0, SHAPE, example_settings(test_short_side=20))
    assert (example.labels == -1).all()
    assert example.index == 0
    assert example.dropped == 0
    example = make_example(annotations, 0, SHAPE, example_settings(test_short_side=40))
    assert example.labels[0] == 0


def test_unreadable_image_takes_part_in_nothing(tmp_path, caplog):
    path, images = write_data_set(tmp_path, make_records(2))
    annotations = load_lvis(path, images)
    (images / "001.png").write_text("no picture")
    example = make_example(annotations, 1, SHAPE, example_settings(), np.random.default_rng(0))
    assert (example.index, example.unreadable) == (-1, 1)
    assert not example.image.any()
    assert (example.labels == -1).all()
    assert (example.image_size > 0).all()
    assert "001.png is left out" in caplog.text


def test_image_that_does_not_fit_is_an_error(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records(1)))
    with pytest.raises(ValueError, match="do not fit"):
        make_example(annotations, 0, (32, 32), example_settings())


def test_without_masks_the_mask_field_is_empty(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records(1)))
    example = make_example(annotations, 0, SHAPE, ExampleSettings.training(data_config(), masks=False, num_classes=3))
    assert example.masks.shape == (4, 0, 0)
    assert example.labels[0] == 0
