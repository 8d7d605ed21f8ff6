"""The loader's benchmark runs and its figures fit together."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from rog_jax.data import load_lvis
from rog_jax.tools.benchmark_loader import benchmark_loader, make_pictures
from tests.reference.data import data_config, make_records, sampler_config, write_data_set


def test_rates_fit_together(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records(12)))
    config = ConfigDict({"train": {"batch_size": 2, "seed": 0}, "model": {"masks": True}})
    config.data, config.sampler = data_config(), sampler_config()
    figures = benchmark_loader(annotations, config, seconds=0.2)
    assert figures["batches"] >= 1
    assert figures["images_per_second_and_core"] * figures["cores"] == pytest.approx(figures["images_per_second"])
    assert figures["batch"]["repeats"] == figures["batches"]
    assert figures["images_per_second"] <= figures["batches"] * 2 / 0.2
    assert figures["cpu_ms_per_image"] == pytest.approx(figures["cpu_ms_per_image_here"])  # no workers


def test_made_pictures_have_ten_objects_each(tmp_path):
    annotations = make_pictures(tmp_path, 120, 160, images=24)
    assert annotations.num_images == 24
    assert set(np.diff(annotations.offsets)) == {10}
    assert annotations.image_path(0).suffix == ".jpg"
