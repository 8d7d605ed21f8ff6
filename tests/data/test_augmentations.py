"""Augmented examples: every object's box and mask are where its colour is in the picture."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.data import Annotations, load_lvis
from rog_jax.data.copy_paste import PasteSource
from rog_jax.data.photometric import distort
from rog_jax.data.segmentation import crop_mask
from rog_jax.data.transforms import ExampleSettings, fitted, make_example
from rog_jax.data.views import View, cropped_view, jittered_view, whole_view
from tests.reference.data import data_config, naive_rasterize, paste_crop, unpack_mask, write_json

SHAPES = ((192, 256), (256, 192))
OBJECTS = 3  # an image
IMAGES = 6
PALETTE = np.array([(r, g, b) for r in (20, 130, 240) for g in (20, 130, 240) for b in (20, 130, 240)], np.uint8)
PALETTE = np.array([colour for colour in PALETTE.tolist() if len(set(colour)) > 1][: OBJECTS * IMAGES], np.uint8)
BACKGROUND = (75, 75, 75)


def outline(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    radii = radius * rng.uniform(0.6, 1, len(angles))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Annotations:
    """Pictures with three blobs side by side, every one of a category and a colour of its own."""
    folder = tmp_path_factory.mktemp("blobs")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    records = {"images": [], "annotations": [], "categories": [{"id": c + 1, "name": f"c{c}"} for c in range(18)]}
    for i in range(IMAGES):
        height, width = (120, 160) if i % 2 == 0 else (160, 120)
        picture = np.full((height, width, 3), BACKGROUND, np.uint8)
        for k in range(OBJECTS):
            along = (k + 0.5) / OBJECTS
            centre = (along * width, height * rng.uniform(0.3, 0.7)) if i % 2 == 0 else (width / 2, along * height)
            blob = outline(rng, centre, 24)
            category = i * OBJECTS + k
            inside = np.zeros((height, width), np.uint8)
            cv2.fillPoly(inside, [np.round((blob - 0.5) * 256).astype(np.int32)], 1, shift=8)
            picture[inside > 0] = PALETTE[category]
            (left, top), (right, bottom) = blob.min(axis=0), blob.max(axis=0)
            records["annotations"].append(
                {
                    "id": category + 1,
                    "image_id": i + 1,
                    "category_id": category + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": [blob.reshape(-1).tolist()],
                }
            )
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture[..., ::-1])
        records["images"].append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
    return load_lvis(write_json(folder, records), folder / "images")


def example_of(annotations: Annotations, image: int, seed: int, **changes):
    data = data_config(shapes=SHAPES, short_sides=(150, 192), max_long_side=256, max_objects=20)
    paste = changes.pop("copy_paste", {})
    data.update(changes)
    data.copy_paste.update(paste)
    settings = ExampleSettings.training(data, masks=True, num_classes=18)
    source = PasteSource(annotations, data.copy_paste.even) if settings.paste else None
    return make_example(annotations, image, SHAPES[image % 2], settings, np.random.default_rng(seed), source)


def near(image: np.ndarray, label: int) -> np.ndarray:
    """Pixels of a category's colour."""
    return (np.abs(image.astype(int) - PALETTE[label]).max(axis=-1) < 20) & image.any(axis=-1)


def pasted(crop: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """As `paste_crop`, a row and a column at a time."""
    places = [
        (np.arange(side) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * len(crop)
        for axis, side in enumerate(shape[::-1])
    ]
    (x, y), inside = (
        (np.clip(place, 0, len(crop) - 1).astype(int) for place in places),
        [(place >= 0) & (place < len(crop)) for place in places],
    )
    return crop[y[:, None], x[None, :]] & inside[1][:, None] & inside[0][None, :]


AUGMENTATIONS = {
    "jitter": {"scale_jitter": (0.3, 2.0)},
    "crop": {"crop": 1.0},
    "paste": {"copy_paste": {"probability": 1.0}},
    "even paste": {"copy_paste": {"probability": 1.0, "even": True}},
    "all": {"scale_jitter": (0.5, 2.0), "copy_paste": {"probability": 1.0, "max_objects": 2}},
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("seed", range(8))
def test_boxes_and_masks_are_where_the_colours_are(annotations, name, seed):
    example = example_of(annotations, seed % IMAGES, seed, **AUGMENTATIONS[name])
    height, width = example.image_size.astype(int)
    assert not example.image[height:].any()
    assert not example.image[:, width:].any()
    labels = example.labels[example.labels >= 0]
    for label in range(18):
        pixels = near(example.image, label)
        slots = np.flatnonzero(labels == label)
        if not len(slots):
            assert pixels.sum() <= 320  # a tenth of the largest blobs at the largest scale
            continue
        masks = [pasted(unpack_mask(example.masks[s]), example.boxes[s], example.image.shape[:2]) for s in slots]
        together = np.logical_or.reduce(masks)
        # Edges are blended with what is behind them, about a pixel all around.
        outer = cv2.dilate(pixels.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        inner = cv2.erode(pixels.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert not (together & ~outer).any()
        assert (inner & ~together).sum() <= 4  # corners at the picture's edge
        if len(slots) == 1:
            rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
            seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(example.boxes[slots[0]], seen, atol=3.5)


def test_the_quick_pasting_of_these_tests_equals_the_naive_one():
    crop, box = np.random.default_rng(0).random((112, 112)) < 0.5, np.array([3.2, -1.0, 40.7, 22.5])
    np.testing.assert_array_equal(pasted(crop, box, (30, 50)), paste_crop(crop, box, (30, 50)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale_jitter": (2.0, 0.1)}, "scale_jitter"),
        ({"scale_jitter": (0.0, 1.0)}, "scale_jitter"),
        ({"scale_jitter": (1.0,)}, "scale_jitter"),
        ({"crop_shares": (0.5, 1.5)}, "crop_shares"),
        ({"crop": 1.5}, "crop is 1.5"),
        ({"photometric": -0.5}, "photometric is -0.5"),
        ({"copy_paste": {"probability": 2.0}}, "copy_paste.probability is 2.0"),
        ({"copy_paste": {"max_objects": 0, "probability": 0.5}}, "copy_paste.max_objects"),
    ],
)
def test_settings_without_a_meaning(annotations, changes, words):
    with pytest.raises(ValueError, match=f"config.data.{words}"):
        example_of(annotations, 0, 0, **changes)


def test_each_augmentation_happens(annotations):
    plain = [example_of(annotations, 0, seed) for seed in range(12)]
    assert all((np.sort(e.labels[:3]) == [0, 1, 2]).all() and (e.labels[3:] == -1).all() for e in plain)
    jittered = [example_of(annotations, 0, seed, scale_jitter=(0.1, 2.0)) for seed in range(30)]
    sizes = np.array([e.image_size for e in jittered])
    assert sizes[:, 0].min() < 60
    assert (sizes == [192, 256]).all(axis=1).any()
    assert any((e.labels >= 0).sum() < 3 for e in jittered)
    cropped = [example_of(annotations, 0, seed, crop=1.0) for seed in range(20)]
    assert all((e.labels >= 0).any() for e in cropped)
    assert any((e.labels >= 0).sum() < 3 for e in cropped)
    pasted = [example_of(annotations, 0, s, copy_paste={"probability": 1.0, "max_objects": 2}) for s in range(20)]
    foreign = [set(e.labels[e.labels > 2].tolist()) for e in pasted]
    assert any(foreign)
    assert all(len(labels) <= 2 for labels in foreign)
    assert all(len({label // OBJECTS for label in labels}) <= 1 for labels in foreign)  # of one other image
    changed = [example_of(annotations, 0, seed, photometric=1.0) for seed in range(6)]
    for a, b in zip(plain, changed, strict=False):
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert any((a.image != b.image).any() for a, b in zip(plain, changed, strict=False))


def test_examples_depend_on_the_seed_alone(annotations):
    for changes in AUGMENTATIONS.values():
        first, second = (example_of(annotations, 1, 5, photometric=0.5, **changes) for _ in range(2))
        for a, b in zip(first[:-1], second[:-1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_pasted_categories_are_verified(annotations):
    seen = []
    for seed in range(10):
        example = example_of(annotations, 0, seed, negatives=True, copy_paste={"probability": 1.0})
        assert example.verified[example.labels[example.labels >= 0]].all()
        seen.append(example.verified.all())
    assert all(seen)  # the file has no neg_category_ids: all categories are known in every image


def test_even_pasting_draws_categories_alike(tmp_path, annotations):
    """Objects 0 to 16 become one category and object 17 another: half of the draws are of the second."""
    changed = annotations.__class__(
        **{k: v for k, v in annotations.__dict__.items() if k in annotations.__dataclass_fields__}
        | {"labels": (np.arange(18) == 17).astype(np.int32)}
    )
    rng = np.random.default_rng(0)
    for even, low, high in ((True, 0.4, 0.6), (False, 0.05, 0.25)):
        source = PasteSource(changed, even)
        draws = [source.draw(changed, 10, rng) for _ in range(300)]
        assert all((changed.images_of(objects) == image).all() for image, objects in draws)
        if even:
            assert all(len(set(changed.labels[objects])) == 1 for _, objects in draws)
        assert low < np.mean([17 in objects for _, objects in draws]) < high
    without = annotations.__class__(
        **{k: v for k, v in annotations.__dict__.items() if k in annotations.__dataclass_fields__}
        | {"trainable": np.zeros(18, bool)}
    )
    assert PasteSource(without, True).draw(without, 3, rng) is None


def test_unreadable_image_is_not_pasted_from(annotations, tmp_path, caplog):
    import dataclasses

    only_first = dataclasses.replace(annotations, image_folder=str(tmp_path))
    (tmp_path / "0.png").write_bytes(annotations.image_path(0).read_bytes())
    for seed in range(8):
        example = example_of(only_first, 0, seed, copy_paste={"probability": 1.0})
        assert example.unreadable == 0
        assert set(example.labels[example.labels >= 0].tolist()) <= {0, 1, 2}
    assert "is left out" in caplog.text


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from(SHAPES),
    st.floats(0.05, 2),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_views_stay_inside_file_and_shape_and_lead_back(size, shape, scale, flip, seed):
    rng = np.random.default_rng(seed)
    whole = whole_view(size, 150, 256, flip)
    anchor = np.sort(rng.uniform(0, 1, (2, 2)), axis=0).reshape(-1) * np.tile(size[::-1], 2)
    views = [
        jittered_view(size, shape, (scale, 2.0), flip, rng),
        cropped_view(whole, shape, (0.3, 1.0), anchor, (150, 256), rng),
        fitted(whole, shape),
    ]
    for view in views:
        left, top, right, bottom = view.window
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        assert 1 <= view.size[0] <= shape[0]
        assert 1 <= view.size[1] <= shape[1]
        np.testing.assert_allclose(view.to_file(view.to_example(anchor)), anchor, atol=1e-6)
    centre = (anchor[:2] + anchor[2:]) / 2
    assert (views[1].window[:2] <= centre).all()
    assert (centre <= views[1].window[2:]).all()


def test_view_maps_boxes_by_hand():
    view = View((10, 20, 50, 100), (40, 80), flip=False)  # x twice as large, y half as large
    np.testing.assert_allclose(view.to_example(np.array([10.0, 20, 30, 60])), [0, 0, 40, 20])
    np.testing.assert_allclose(view._replace(flip=True).to_example(np.array([10.0, 20, 30, 60])), [40, 0, 80, 20])
    np.testing.assert_allclose(view.clip(np.array([-5.0, 3, 90, 50])), [0, 3, 80, 40])


@pytest.mark.parametrize("cells", [(7, 30), (30, 7), (1, 1)])
def test_masks_are_sampled_on_any_grid(cells):
    rng = np.random.default_rng(1)
    blob = outline(rng, (20, 30), 18).astype(np.float32)
    box = np.array([3.0, 10.0, 40.0, 47.0])
    got = crop_mask([blob], box, cells)
    side = 210  # a multiple of both: a fine grid whose cells' centres include those of the coarse one
    fine = naive_rasterize(((blob - box[:2]) / (box[2:] - box[:2]) * side).astype(np.float64), side)
    rows = ((np.arange(cells[0]) + 0.5) * side / cells[0]).astype(int)
    columns = ((np.arange(cells[1]) + 0.5) * side / cells[1]).astype(int)
    assert (got == fine[rows[:, None], columns[None, :]]).mean() > 0.98


@pytest.mark.parametrize("seed", range(20))
def test_light_and_colour_equal_a_naive_pixel(seed):
    image = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    rng = np.random.default_rng([seed, 1])
    got = distort(image, np.random.default_rng([seed, 1]))
    shift = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    factor = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-18, 18) if rng.random() < 0.5 else 0.0
    for row in range(3):
        for column in range(4):
            pixel = np.clip(np.round((image[row, column] + shift) * factor), 0, 255)
            h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
            expected = np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v)) * 255
            np.testing.assert_allclose(got[row, column], expected, atol=10)  # hue and saturation have 8 bits
