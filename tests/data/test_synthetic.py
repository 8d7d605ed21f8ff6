"""The synthetic set: its tail, its masks, its LVIS fields, and that a seed decides every byte."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rog_jax.data import load_lvis, scenes
from rog_jax.data.annotations import frequency_group
from rog_jax.data.presets import PRESETS, preset
from rog_jax.data.procedural import MAX_CATEGORIES, SHIFTED_BACKGROUNDS, USUAL_BACKGROUNDS, category_looks
from rog_jax.data.scenes import SHIFTED, USUAL, SceneSettings, compose, mask_to_polygons
from rog_jax.data.sprites import PhotoBackgrounds, SpriteObjects, common_categories, styles_in
from rog_jax.data.synthetic import SyntheticSettings, make_dataset, plan_categories
from rog_jax.data.tail import LVIS_V1_COUNTS, assign_categories, fit_counts, zipf_counts
from rog_jax.tools.make_dataset import main, read_counts
from tests.reference.scenes import polygons_to_mask

COUNTS = (24, 20, 16, 12, 8, 5, 3, 2, 1)
SMALL = SyntheticSettings(
    train_images=40,
    val_images=12,
    num_categories=9,
    height=96,
    width=112,
    object_size=(16, 48),
    val_instances=4,
    counts=COUNTS,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small")
    make_dataset(out, SMALL)
    return out


def read(folder: Path, split: str) -> dict:
    return json.loads((folder / f"{split}.json").read_text())


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_whatever_the_workers(small, tmp_path):
    make_dataset(tmp_path / "again", SMALL, workers=2)
    first = digest(small)
    assert digest(tmp_path / "again") == first
    assert len(first) == 2 + SMALL.train_images + SMALL.val_images
    make_dataset(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    other = digest(tmp_path / "other")
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


def test_no_two_images_are_alike(small):
    hashes = [value for name, value in digest(small).items() if name.endswith(".jpg")]
    assert len(set(hashes)) == len(hashes)


def test_training_image_counts_are_hit_exactly(small):
    data = read(small, "train")
    images = [{a["image_id"] for a in data["annotations"] if a["category_id"] == c["id"]} for c in data["categories"]]
    assert [len(found) for found in images] == list(COUNTS)
    for category in data["categories"]:
        assert category["image_count"] == COUNTS[category["id"] - 1]
        assert category["frequency"] == frequency_group(category["image_count"])
        instances = sum(a["category_id"] == category["id"] for a in data["annotations"])
        assert category["instance_count"] == instances
    assert read(small, "val")["categories"] == data["categories"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_objects_an_image_and_fields(small, split):
    data = read(small, split)
    every = {c["id"] for c in data["categories"]}
    assert data.keys() == {"info", "licenses", "categories", "images", "annotations"}
    assert set(data["categories"][0]) == {
        *("id", "name", "synset", "synonyms", "def", "image_count", "instance_count", "frequency"),
    }
    assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
    for image in data["images"]:
        found = [a["category_id"] for a in data["annotations"] if a["image_id"] == image["id"]]
        assert 3 <= len(found) <= 8
        assert set(image["neg_category_ids"]) == every - set(found)
        assert image["not_exhaustive_category_ids"] == []
        assert cv2.imread(str(small / "images" / image["file_name"])).shape == (96, 112, 3)
        assert (image["height"], image["width"]) == (96, 112)


def test_splits_share_no_image(small):
    train, val = ({i["id"] for i in read(small, split)["images"]} for split in ("train", "val"))
    assert not train & val


def test_validation_is_balanced(small):
    data = read(small, "val")
    instances = np.bincount([a["category_id"] for a in data["annotations"]], minlength=10)[1:]
    assert instances.min() >= SMALL.val_instances
    assert np.ptp(instances) <= 1


def test_boxes_areas_and_polygons_are_those_of_one_mask(small):
    data = read(small, "train")
    seen = {image["id"]: np.zeros((image["height"], image["width"]), int) for image in data["images"]}
    for annotation in data["annotations"]:
        mask = polygons_to_mask(annotation["segmentation"], 96, 112)
        decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], 96, 112)))
        np.testing.assert_array_equal(decoded.astype(bool), mask)
        y, x = mask.nonzero()
        box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum() >= SMALL.min_pixels
        seen[annotation["image_id"]] += mask
    assert max(s.max() for s in seen.values()) == 1  # no pixel shows two objects


def test_polygons_give_the_mask_back():
    rng = np.random.default_rng(0)
    for case in range(300):
        height, width = rng.integers(1, 30, 2)
        if case % 2:
            mask = rng.random((height, width)) < rng.uniform(0.05, 0.98)  # holes, diagonals, single pixels
        else:
            noise = rng.normal(size=(6, 6)).astype(np.float32)
            mask = cv2.resize(noise, (int(width), int(height)), interpolation=cv2.INTER_CUBIC) > rng.uniform(-0.7, 0.7)
        polygons = mask_to_polygons(mask)
        if not mask.any():
            assert polygons == []
            continue
        decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, int(height), int(width))))
        np.testing.assert_array_equal(decoded.astype(bool), mask)


class _Squares:
    """Opaque squares, so that the picture itself tells which object each pixel shows."""

    names = definitions = tuple("abcdefgh")

    def __init__(self):
        self.sizes: dict[int, int] = {}  # of the last drawing, the one that was kept

    def render(self, category: int, size: int, rotation: float, rng: np.random.Generator) -> np.ndarray:
        self.sizes[category] = size
        return np.full((size, size, 4), (20 * category + 20, 0, 0, 255), np.uint8)


class _Blue:
    def render(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        return np.full((height, width, 3), (0, 0, 200), np.uint8)


def test_masks_are_what_the_picture_shows():
    calm = USUAL._replace(gain=(1.0, 1.0), noise=(0.0, 0.0), blur=(0.0, 0.0))
    settings = SceneSettings(64, 80, (12, 36), 0.0, 0.25, 40)
    hidden = 0
    for seed in range(20):
        squares = _Squares()
        scene = compose(range(8), squares, _Blue(), settings, calm, np.random.default_rng(seed))
        assert scene.categories == list(range(8))
        red = scene.image[..., 0].astype(int)  # the gain differs by 5 % at most between colours
        for category, mask in zip(scene.categories, scene.masks, strict=True):
            np.testing.assert_array_equal(np.abs(red - 20 * (category + 1)) <= 9, mask)
            assert mask.sum() >= max(40, 0.25 * squares.sizes[category] ** 2)
            hidden += mask.sum() < squares.sizes[category] ** 2
    assert hidden > 20  # occlusion does occur


def test_no_room_is_an_error():
    settings = SceneSettings(16, 16, (12, 14), 0.0, 0.5, 100)
    with pytest.raises(RuntimeError, match="larger images, smaller objects or fewer"):
        compose(range(8), _Squares(), _Blue(), settings, USUAL, np.random.default_rng(0))


def test_an_unlucky_scene_is_begun_anew(monkeypatch):
    original, calls = scenes._place, []

    def unlucky(category, *rest):
        calls.append(category)
        if len(calls) == 2:
            raise scenes._NoRoom("no room")
        return original(category, *rest)

    monkeypatch.setattr(scenes, "_place", unlucky)
    settings = SceneSettings(96, 96, (12, 24), 0.0, 0.25, 40)
    scene = compose(range(3), _Squares(), _Blue(), settings, USUAL, np.random.default_rng(0))
    assert calls == [0, 1, 0, 1, 2]
    assert len(scene.masks) == 3
    assert all(mask.sum() >= 40 for mask in scene.masks)


@pytest.mark.parametrize("num_categories", [1, 2, 7, 24, 300, MAX_CATEGORIES])
def test_rare_categories_have_a_frequent_double(num_categories):
    looks = category_looks(num_categories)
    assert len(set(looks)) == len({look.name for look in looks}) == num_categories
    heads = looks[: max(1, num_categories // 3)]
    if num_categories <= 300:
        for look in looks[len(heads) :]:
            assert min(sum(a != b for a, b in zip(look, head, strict=True)) for head in heads) == 1
    assert looks == category_looks(num_categories)


def test_all_three_attributes_tell_doubles_apart():
    looks = category_looks(24)
    changed = [{i for i in range(3) if look[i] != head[i]} for look, head in zip(looks[8:], looks[:8] * 2, strict=True)]
    assert {frozenset(c) for c in changed} == {frozenset({i}) for i in range(3)}


def test_demo_has_enough_of_each_group():
    plan = plan_categories(SyntheticSettings(), "train")
    counts = np.bincount(np.concatenate([np.unique(kinds) for kinds in plan]), minlength=24)
    groups = [frequency_group(int(c)) for c in counts]
    assert min(groups.count(letter) for letter in "rcf") >= 5
    assert list(counts) == sorted(counts, reverse=True)


def test_tail_keeps_lvis_shares_where_the_images_allow():
    counts = fit_counts(np.array(LVIS_V1_COUNTS), 100, 20000, 120000)
    groups = [frequency_group(int(c)) for c in counts]
    assert [groups.count(letter) for letter in "rcf"] == [27, 40, 33]
    np.testing.assert_array_equal(fit_counts(np.array([5, 200, 30]), 3, 10**4, 10**5), [200, 30, 5])  # room: as given
    tight = fit_counts(np.array(LVIS_V1_COUNTS), 24, 1000, 5500)
    assert tight.max() <= 600
    assert tight.sum() <= 0.85 * 5500
    assert np.array_equal(tight[tight <= 100], fit_counts(np.array(LVIS_V1_COUNTS), 24, 10**6, 10**7)[tight <= 100])


def test_tail_of_too_few_images_keeps_all_groups():
    counts = fit_counts(np.array(LVIS_V1_COUNTS), 300, 3000, 16500)
    groups = [frequency_group(int(c)) for c in counts]
    assert min(groups.count(letter) for letter in "rcf") >= 30
    assert 0.95 * 0.85 * 16500 < counts.sum() <= 0.85 * 16500
    assert (np.diff(counts) <= 0).all()


def test_zipf():
    counts = zipf_counts(1.0, 10, 10000, 10**6)
    np.testing.assert_array_equal(counts, 6000 // np.arange(1, 11))
    squeezed = zipf_counts(0.5, 50, 100, 400)
    assert squeezed.sum() <= 340
    assert squeezed.min() >= 1
    assert (np.diff(squeezed) <= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_exact_when_it_is_tight(seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 5, 60)
    counts = np.array([50, 20, 5, 1, 1])
    plan = assign_categories(counts, numbers, rng)
    assert [len(kinds) for kinds in plan] == numbers.tolist()
    assert np.bincount(np.concatenate([np.unique(kinds) for kinds in plan])).tolist() == counts.tolist()


@pytest.mark.parametrize(
    ("counts", "numbers", "message"),
    [([3, 3], [1] * 5, "have room"), ([2, 1], [3] * 5, "without an object")],
)
def test_impossible_assignments_say_what_to_change(counts, numbers, message):
    with pytest.raises(ValueError, match=message):
        assign_categories(np.array(counts), np.array(numbers), np.random.default_rng(0))


@pytest.mark.slow
def test_a_set_of_the_size_of_lvis_has_its_very_image_counts(shared):
    real = read_counts(shared / "data" / "lvis_v1_categories.json")
    settings = SyntheticSettings(
        train_images=100_170, val_images=19_809, num_categories=1203, objects=(3, 22), counts=real
    )
    plan = plan_categories(settings, "train")
    counts = np.bincount(np.concatenate([np.unique(kinds) for kinds in plan]), minlength=1203)
    assert counts.tolist() == sorted(real, reverse=True)
    assert Counter(map(frequency_group, counts.tolist())) == {"r": 337, "c": 461, "f": 405}
    val = np.bincount(np.concatenate(plan_categories(settings, "val")), minlength=1203)
    assert val.min() > 200


def test_simplified_polygons_stay_close_and_nothing_else_changes(small, tmp_path):
    make_dataset(tmp_path, dataclasses.replace(SMALL, polygon_error=1.0))
    exact, fewer = read(small, "train")["annotations"], read(tmp_path, "train")["annotations"]
    assert digest(small / "images") == digest(tmp_path / "images")
    vertices = [sum(map(len, annotation["segmentation"])) for annotation in (*exact, *fewer)]
    assert sum(vertices[len(exact) :]) < 0.5 * sum(vertices[: len(exact)])
    overlaps = []
    for a, b in zip(exact, fewer, strict=True):
        assert {key: a[key] for key in a if key != "segmentation"} == {
            key: b[key] for key in b if key != "segmentation"
        }
        one, other = (polygons_to_mask(annotation["segmentation"], 96, 112) for annotation in (a, b))
        overlaps.append((one & other).sum() / (one | other).sum())
    assert np.mean(overlaps) > 0.9
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"polygon_error is {wrong}"):
            SyntheticSettings(polygon_error=wrong)


def test_federated_labels(tmp_path):
    settings = dataclasses.replace(SMALL, federated=0.5, not_exhaustive=1.0)
    make_dataset(tmp_path, settings)
    data = read(tmp_path, "train")
    plan = plan_categories(settings, "train")
    marked = 0
    for image, kinds in zip(data["images"], plan, strict=True):
        found = [a["category_id"] - 1 for a in data["annotations"] if a["image_id"] == image["id"]]
        twice = sorted(c for c in set(kinds.tolist()) if np.count_nonzero(kinds == c) > 1)
        assert [c - 1 for c in image["not_exhaustive_category_ids"]] == twice
        assert len(found) == len(kinds) - len(twice)
        assert set(found) == set(kinds.tolist())  # one of a category always stays
        assert len(image["neg_category_ids"]) == round(0.5 * (9 - len(set(found))))
        assert not {c - 1 for c in image["neg_category_ids"]} & set(found)
        marked += len(twice)
    assert marked > 10


def test_readers_and_evaluators_accept_it(small, tmp_path):
    annotations = load_lvis(small / "train.json", small / "images")
    assert len(annotations.image_ids) == SMALL.train_images
    hotcoco = pytest.importorskip("hotcoco")
    data = read(small, "val")
    results = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 1.0,
            "segmentation": _rle(polygons_to_mask(a["segmentation"], 96, 112)),
        }
        for a in data["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    truth = hotcoco.COCO(str(small / "val.json"))
    evaluation = hotcoco.COCOeval(truth, truth.load_res(str(tmp_path / "results.json")), "segm", lvis_style=True)
    evaluation.run()
    assert evaluation.get_results()["AP"] == pytest.approx(1.0)


def _rle(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode()}


def write_sprite(path: Path, colour: tuple[int, int, int]) -> None:
    picture = np.zeros((40, 60, 4), np.uint8)
    picture[8:32, 10:50] = (*colour[::-1], 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


@pytest.fixture
def sprites(tmp_path) -> Path:
    """Two styles: a zip in red, a folder in green, of categories a, b, c and b, c, d."""
    for stem in "abc":
        write_sprite(tmp_path / "loose" / f"{stem}.png", (200, 0, 0))
    with zipfile.ZipFile(tmp_path / "sprites.zip", "w") as archive:
        for stem in "abc":
            archive.write(tmp_path / "loose" / f"{stem}.png", f"deep/{stem}.png")
    folder = tmp_path / "styles"
    folder.mkdir()
    (tmp_path / "sprites.zip").rename(folder / "red.zip")
    for stem in "bcd":
        write_sprite(folder / "green" / "sub" / f"{stem}.png", (0, 200, 0))
    (folder / "categories.json").write_text('[{"codepoint": "b", "name": "big bee"}]')
    return folder


def test_sprites_from_zip_and_folder(sprites):
    assert styles_in(sprites) == ("green", "red")
    assert common_categories(sprites, ("red", "green")) == ("b", "c")
    objects = SpriteObjects(sprites, ["red"], ["b", "c"])
    assert objects.names == ("big bee", "c")
    rng = np.random.default_rng(0)
    rgba = objects.render(0, 20, 0.0, rng)
    ys, xs = (rgba[..., 3] >= 128).nonzero()
    assert 18 <= np.ptp(xs) + 1 <= 20  # the longer side of what is opaque, after a jitter of the aspect
    assert 10 <= np.ptp(ys) + 1 <= 13
    opaque = rgba[rgba[..., 3] > 0]  # edges keep the colour: nothing of the transparent black
    assert (opaque[:, 0] >= 160).all()
    assert (opaque[:, 1:3] <= 2).all()


def test_held_out_style_is_never_trained_on(sprites, tmp_path):
    settings = dataclasses.replace(
        SMALL,
        num_categories=2,
        sprites=str(sprites),
        val_styles=("green",),
        train_images=6,
        val_images=6,
        counts=(6, 6),
    )
    paths = make_dataset(tmp_path / "out", settings)
    for split, channel in (("train", 2), ("val", 1)):  # BGR
        data = json.loads(paths[f"{split}_json"].read_text())
        assert {c["name"] for c in data["categories"]} == {"big_bee", "c"}
        for annotation in data["annotations"]:
            name = next(i["file_name"] for i in data["images"] if i["id"] == annotation["image_id"])
            mask = polygons_to_mask(annotation["segmentation"], 96, 112)
            assert cv2.imread(str(paths["images"] / name))[mask].mean(axis=0).argmax() == channel


def test_shifted_conditions_are_unseen():
    for usual, shifted in zip(USUAL, SHIFTED, strict=True):
        assert usual[1] <= shifted[0] or shifted[1] <= usual[0]


def test_shifted_backgrounds_are_unseen():
    usual, shifted = USUAL_BACKGROUNDS, SHIFTED_BACKGROUNDS
    for name in ("brightness", "weave_period", "strokes"):
        assert getattr(usual, name)[1] <= getattr(shifted, name)[0]
    assert not set(usual.cells) & set(shifted.cells)


def test_shift_changes_validation_only(small, tmp_path):
    make_dataset(tmp_path, dataclasses.replace(SMALL, val_shift=True))
    shifted, usual = digest(tmp_path), digest(small)
    same = {name for name in usual if usual[name] == shifted[name]}
    assert same == {name for name in usual if "train" in name}


def test_photographs_as_backgrounds(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((50, 30, 3), (10, 20, 30), np.uint8))
    image = PhotoBackgrounds(tmp_path).render(40, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(image, np.broadcast_to((30, 20, 10), (40, 64, 3)))


def test_an_existing_set_is_not_overwritten_unasked(small, tmp_path):
    with pytest.raises(FileExistsError, match="overwrite"):
        make_dataset(small, SMALL)
    larger = dataclasses.replace(SMALL, val_images=14)
    make_dataset(tmp_path, larger)
    make_dataset(tmp_path, SMALL, overwrite=True)
    assert digest(tmp_path) == digest(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_categories": MAX_CATEGORIES + 1, "train_images": 4000, "val_images": 4000}, "folder of sprites"),
        ({"num_categories": 40, "train_images": 5}, "more training images"),
        ({"val_instances": 500}, "more validation images"),
        ({"objects": (4, 3)}, "objects is 4 to 3"),
        ({"federated": 1.5}, "a share"),
        ({"train_images": 0}, "at least 1"),
        ({"val_styles": ("noto",)}, "folder of the sprites"),
        ({"counts": ()}, "counts"),
        ({"zipf": -1.0}, "negative"),
        ({"disjoint_from": MAX_CATEGORIES - 8}, "1 to 8 categories beside"),
        ({"disjoint_from": -1}, "disjoint_from"),
    ],
)
def test_wrong_settings_say_what_to_change(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path, dataclasses.replace(SMALL, **change))
    assert not (tmp_path / "train.json").exists()


def test_missing_files_are_named(sprites, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no style 'blue'.*green, red"):
        common_categories(sprites, ("blue",))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        styles_in(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="backgrounds"):
        PhotoBackgrounds(sprites / "green" / "sub" / "none")
    cv2.imwrite(str(sprites / "green" / "sub" / "b.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b\.png is no PNG of 8-bit RGBA"):
        SpriteObjects(sprites, ["green"], ["b"]).render(0, 8, 0.0, np.random.default_rng(0))


def test_counts_from_files(tmp_path):
    path = tmp_path / "counts.json"
    for content in (
        "[3, 7]",
        '[{"image_count": 3}, {"image_count": 7}]',
        '{"categories": [{"image_count": 3}, {"image_count": 7}]}',
    ):
        path.write_text(content)
        assert read_counts(path) == (3, 7)
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"counts\.json"):
        read_counts(path)


def test_command_line(small, tmp_path, capsys):
    (tmp_path / "counts.json").write_text(json.dumps(COUNTS))
    flags = "--train-images 40 --val-images 12 --num-categories 9 --size 96 112 --object-size 16 48 --val-instances 4"
    flags += f" --counts {tmp_path / 'counts.json'}"
    main(["--out", str(tmp_path / "out"), "--preview", str(tmp_path / "p.png"), *flags.split()])
    assert digest(tmp_path / "out") == digest(small)
    assert "9 categories: " in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    with pytest.raises(SystemExit, match="overwrite"):
        main(["--out", str(tmp_path / "out"), *flags.split()])


def test_categories_of_the_backbone_are_none_of_the_benchmark():
    of_benchmark, of_backbone = preset("mini_lvis"), preset("mini_lvis_backbone")
    looks = category_looks(of_backbone.num_categories, of_backbone.disjoint_from)
    assert len(set(looks)) == of_backbone.num_categories
    assert not set(looks) & set(category_looks(of_benchmark.num_categories))
    every = category_looks(MAX_CATEGORIES)
    assert [set(kinds) for kinds in zip(*looks, strict=True)] == [set(kinds) for kinds in zip(*every, strict=True)]


def test_mini_lvis_has_the_tail_of_lvis():
    settings = preset("mini_lvis")
    plan = plan_categories(settings, "train")
    counts = np.bincount(np.concatenate([np.unique(kinds) for kinds in plan]), minlength=settings.num_categories)
    shares = Counter(frequency_group(int(count)) for count in counts)
    assert {group: shares[group] / len(counts) for group in "rcf"} == pytest.approx(
        {"r": 0.28, "c": 0.38, "f": 0.34}, abs=0.015
    )
    tail = np.sort(counts)[::-1][shares["f"] :]
    middles = (np.arange(len(counts)) + 0.5) * len(LVIS_V1_COUNTS) / len(counts)
    np.testing.assert_array_equal(tail, np.array(LVIS_V1_COUNTS)[middles.astype(int)][shares["f"] :])
    instances = np.bincount(np.concatenate(plan_categories(settings, "val")), minlength=settings.num_categories)
    assert instances.min() >= 20


@pytest.mark.parametrize("name", [name for name in PRESETS if "sprites" not in name])
def test_a_preset_is_made_by_its_name(name, tmp_path):
    few = {"train_images": 3, "val_images": 2, "num_categories": 3, "val_instances": 1, "counts": (3,)}
    make_dataset(tmp_path / "here", preset(name, **few))
    (tmp_path / "counts.json").write_text("[3]")
    flags = f"--train-images 3 --val-images 2 --num-categories 3 --val-instances 1 --counts {tmp_path}/counts.json"
    main(["--out", str(tmp_path / "out"), "--preset", name, *flags.split()])
    assert digest(tmp_path / "out") == digest(tmp_path / "here")


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="'mini'; there are mini_lvis"):
        preset("mini")


def test_help_needs_no_accelerator():
    command = [sys.executable, "-m", "rog_jax.tools.make_dataset", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--val-styles" in result.stdout
    assert "examples:" in result.stdout
