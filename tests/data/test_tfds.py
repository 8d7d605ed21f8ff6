"""TFDS data sets, written by TFDS itself, read without TensorFlow; and the choice of a source by config."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from pycocotools import mask as coco_mask

from configs import common
from rog_jax.data import DataError, load_split, load_tfds
from rog_jax.data.images import read_annotated
from rog_jax.data.loader import train_loader
from rog_jax.data.plan import TrainPlan
from tests.data.test_openimages import FOLDER
from tests.reference.data import data_config, make_records, sampler_config, write_data_set

NAMES = ["cup", "fork", "pan"]
SIZE = (40, 60)


def encoded(picture: np.ndarray, suffix: str) -> io.BytesIO:
    """TFDS stores what is encoded already as it is; encoding itself would take TensorFlow."""
    return io.BytesIO(cv2.imencode(suffix, picture)[1].tobytes())


def picture(i: int) -> np.ndarray:
    canvas = np.full((*SIZE, 3), 20 * i, np.uint8)
    canvas[8:24, 6 + i : 30 + i] = (0, 0, 255)
    return canvas


def box(i: int) -> Any:
    height, width = SIZE
    return tfds.features.BBox(ymin=8 / height, xmin=(6 + i) / width, ymax=24 / height, xmax=(30 + i) / width)


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Six images; `form` says like which of TFDS's data sets they are described."""

    VERSION = tfds.core.Version("1.0.0")
    form = "lvis"

    def _info(self):
        label = tfds.features.ClassLabel(names=NAMES)
        bbox = tfds.features.BBoxFeature()
        features = {"image": tfds.features.Image(encoding_format="png")}
        if self.form == "lvis":
            features |= {
                "image/id": np.int64,
                "neg_category_ids": tfds.features.Sequence(label),
                "not_exhaustive_category_ids": tfds.features.Sequence(label),
                "objects": tfds.features.Sequence(
                    {
                        "id": np.int64,
                        "area": np.int64,
                        "bbox": bbox,
                        "label": label,
                        "segmentation": tfds.features.Image(shape=(None, None, 1)),
                    }
                ),
            }
        elif self.form == "coco":
            features |= {
                "image/id": np.int64,
                "image/filename": tfds.features.Text(),
                "objects": tfds.features.Sequence(
                    {"id": np.int64, "area": np.int64, "bbox": bbox, "label": label, "is_crowd": np.bool_}
                ),
            }
        else:
            verified = {"label": label, "confidence": np.float32, "source": tfds.features.Text()}
            features |= {
                "id": tfds.features.Text(),
                "objects": tfds.features.Sequence(verified),
                "bobjects": tfds.features.Sequence({"label": label, "bbox": bbox, "is_group_of": np.bool_}),
            }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            mask = np.zeros((*SIZE, 1), np.uint8)
            mask[8:24, 6 + i : 30 + i] = 255
            objects = {"id": 100 + i, "area": 384, "bbox": box(i), "label": i % 3}
            example = {"image": encoded(picture(i), ".png"), "image/id": 10 + i}
            if self.form == "lvis":
                objects["segmentation"] = encoded(mask, ".png")
                example |= {"neg_category_ids": [(i + 1) % 3], "not_exhaustive_category_ids": [i % 3] if i else []}
            elif self.form == "coco":
                objects["is_crowd"] = i == 2
                example["image/filename"] = f"{i}.png"
            else:
                del example["image/id"], objects["id"], objects["area"]
                objects["is_group_of"] = i == 1
                verified = [(0, 1.0), (1, 0.0)][: i % 3]
                example |= {
                    "id": f"{2**63 + i:016x}",
                    "objects": [{"label": label, "confidence": c, "source": "v"} for label, c in verified],
                    "bobjects": [objects],
                }
            yield i, {**example, "objects": [objects]} if self.form != "openimages" else example


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    for form in ("lvis", "coco", "openimages"):
        builder = type(f"Tiny{form}", (Tiny,), {"form": form}, skip_registration=True)
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_lvis_has_masks_and_federated_labels(data_dir):
    annotations = load_tfds("tinylvis", "train", data_dir)
    assert annotations.category_names == tuple(NAMES)
    order = np.argsort(annotations.image_ids)  # TFDS shuffles what it writes
    np.testing.assert_array_equal(annotations.image_ids[order], np.arange(10, 16))
    for i, place in enumerate(order):
        (obj,) = range(6)[annotations.objects(place)]
        assert (annotations.annotation_ids[obj], annotations.labels[obj], annotations.areas[obj]) == (
            100 + i,
            i % 3,
            384,
        )
        np.testing.assert_allclose(annotations.boxes[obj], [6 + i, 8, 30 + i, 24], atol=1e-4)
        mask = coco_mask.decode(annotations.segmentation(obj))
        np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=0)), np.arange(6 + i, 30 + i))
        np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=1)), np.arange(8, 24))
        assert annotations.negative_categories(place).tolist() == [(i + 1) % 3]
        assert annotations.not_exhaustive_categories(place).tolist() == ([i % 3] if i else [])
        np.testing.assert_array_equal(read_annotated(annotations, place), picture(i)[..., ::-1])
    assert not annotations.exhaustive.any()
    assert annotations.frequencies == ("r", "r", "r")
    counts = np.array([5, 50, 500])
    assert load_tfds("tinylvis", "train", data_dir, group_counts=counts).frequencies == ("r", "c", "f")


def test_coco_has_crowds_and_is_searched_for_everything(data_dir):
    annotations = load_tfds("tinycoco", "train", data_dir)
    assert annotations.exhaustive.all()
    np.testing.assert_array_equal(annotations.annotation_ids[annotations.crowd], [102])
    np.testing.assert_array_equal(annotations.trainable, ~annotations.crowd)
    np.testing.assert_array_equal(annotations.instance_counts, [2, 2, 1])


def test_openimages_has_groups_and_verified_labels(data_dir):
    annotations = load_tfds("tinyopenimages", "train", data_dir)
    numbers = annotations.image_ids.astype(np.uint64) - np.uint64(2**63)
    for i, place in enumerate(np.argsort(numbers)):
        assert numbers[place] == i
        assert annotations.positive_categories(place).tolist() == ([0] if i % 3 else [])
        assert annotations.negative_categories(place).tolist() == ([1] if i % 3 == 2 else [])
        assert annotations.crowd[annotations.objects(place)].tolist() == [i == 1]
    assert annotations.trainable.all()
    assert annotations.frequencies == ("1", "2", "3")


def test_a_part_of_a_split(data_dir):
    whole, part = (load_tfds("tinylvis", split, data_dir) for split in ("train", "train[50%:]"))
    np.testing.assert_array_equal(part.image_ids, whole.image_ids[3:])
    np.testing.assert_array_equal(read_annotated(part, 0), read_annotated(whole, 3))


def test_workers_read_from_tfds(data_dir):
    annotations = load_tfds("tinylvis", "train", data_dir)
    batches = []
    for workers in (0, 1):
        data = data_config(workers=workers)
        plan = TrainPlan(annotations, data, sampler_config(), 3, 0)
        loader = train_loader(annotations, plan, data, seed=0, start_step=0, num_steps=2)
        batches.append(list(loader))
        loader.close()
    assert sum(int(batch.unreadable.sum()) for batch in batches[0]) == 0
    assert all(batch.masks.any(axis=(1, 2, 3)).all() for batch in batches[0])
    for left, right in zip(*batches, strict=True):
        np.testing.assert_array_equal(left.image, right.image)
        np.testing.assert_array_equal(left.boxes, right.boxes)


def test_tensorflow_stays_out(data_dir):
    program = (
        f"import sys; from rog_jax.data import load_tfds; a = load_tfds('tinylvis', 'train', {str(data_dir)!r}); "
        "a.image_bytes(0); print('tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_what_cannot_be_read_is_named(data_dir, tmp_path):
    with pytest.raises(DataError, match="tfds:tinylvis, test cannot be opened"):
        load_tfds("tinylvis", "test", data_dir)
    with pytest.raises(DataError, match="tfds:no_such_set, train cannot be opened"):
        load_tfds("no_such_set", "train", data_dir)
    broken = tmp_path / "tinylvis" / "1.0.0"
    broken.mkdir(parents=True)
    for path in (data_dir / "tinylvis" / "1.0.0").iterdir():
        data = bytearray(path.read_bytes())
        if "train" in path.name:
            data[data.index(b"\x89PNG")] = 0
        (broken / path.name).write_bytes(data)
    with pytest.raises(DataError, match=r"tfds:tinylvis, train: record \d: .*Prepare the data set again"):
        load_tfds("tinylvis", "train", tmp_path)


def split_config(**changes: Any) -> ConfigDict:
    data = common.get_config().data
    data.update(changes)
    return data


def test_config_names_the_source(data_dir, tmp_path):
    data = split_config(source="tfds:tinylvis", tfds_dir=str(data_dir))
    assert load_split(data, "val").source == "tfds:tinylvis, validation"
    path, images = write_data_set(tmp_path, make_records())
    for name in ("lvis", "coco"):
        data = split_config(format=name, val_json=str(path), val_images=str(images))
        assert load_split(data, "val").num_images == 8
    options = {"classes_csv": str(FOLDER / "class-descriptions-boxable.csv"), "hierarchy_json": ""}
    where = {f"{split}_{key}": str(FOLDER / value) for split in ("train", "val") for key, value in
             (("json", "boxes.csv"), ("images", "images"))}  # fmt: skip
    data = split_config(format="openimages", openimages=options, **where)
    assert load_split(data, "val").frequencies == load_split(data, "train").frequencies
    assert load_split(data, "val", np.arange(7)[::-1]).frequencies == ("5", "4", "3", "2", "2", "1", "1")
    for bad in ({"source": "lvis"}, {"format": "voc"}):
        with pytest.raises(ValueError, match="must be"):
            load_split(split_config(**bad), "train")
    with pytest.raises(ValueError, match="no split 'test'"):
        load_split(data, "test")
