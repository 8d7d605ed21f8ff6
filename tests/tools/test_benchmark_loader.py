"""The loader's benchmark runs and its figures fit together."""

import pytest
from ml_collections import ConfigDict

from rog_jax.data import load_lvis
from rog_jax.tools.benchmark_loader import benchmark_loader
from tests.reference.data import data_config, make_records, sampler_config, write_data_set


def test_rates_fit_together(tmp_path):
    annotations = load_lvis(*write_data_set(tmp_path, make_records(12)))
    config = ConfigDict({"train": {"batch_size": 2, "seed": 0}, "model": {"masks": True}})
    config.data, config.sampler = data_config(), sampler_config()
    figures = benchmark_loader(annotations, config, seconds=0.2)
    assert figures["batches"] >= 1
    assert figures["images_per_second_and_core"] * figures["cores"] == pytest.approx(figures["images_per_second"])
    assert figures["images_per_second"] <= figures["batches"] * 2 / 0.2
