"""The made annotation file has the asked counts, and the figures measured on it are of that file."""

from pathlib import Path

import numpy as np
import pytest

from rog_jax.data import load_lvis
from rog_jax.tools.benchmark_annotations import idle_memory, make, start, worker_memory

CATEGORIES = [
    {"id": 3, "name": "bottle", "frequency": "r", "image_count": 7, "instance_count": 30},
    {"id": 8, "name": "cap", "frequency": "c", "image_count": 40, "instance_count": 40},
]


def test_counts_are_those_asked_for_and_outlines_fill_their_boxes(tmp_path):
    path = make(CATEGORIES, tmp_path, num_images=50)
    annotations = load_lvis(path, tmp_path / "images")
    assert annotations.num_images == 50
    np.testing.assert_array_equal(annotations.image_counts, [7, 40])
    np.testing.assert_array_equal(annotations.instance_counts, [30, 40])
    for obj in range(annotations.num_objects):
        (outline,) = annotations.segmentation(obj)
        box = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
        np.testing.assert_allclose(annotations.boxes[obj], box, atol=0.02)
    figures = start(path)
    assert (figures["images"], figures["objects"], figures["categories"]) == (50, 70, 2)
    assert figures["vertices"] == len(annotations.points)
    assert 0 < figures["processor_seconds"] < 60
    assert 1.05 * figures["GB_peak"] > figures["GB_after"] > 0  # the kernel counts them at different times


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")
def test_memory_of_workers(tmp_path):
    annotations = load_lvis(make(CATEGORIES, tmp_path, num_images=64), tmp_path / "images")
    figures = worker_memory(annotations, workers=1, batches=2)
    assert figures["workers"] == 1
    assert 10 < figures["worker_own_MB"] < 2000
    idle = idle_memory()["worker_own_MB"]
    assert 10 < idle < 2000
