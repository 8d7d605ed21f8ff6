"""Made-up batches of the benchmark have what a config's loss asks for; its figures are whole and can be compared."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.models.recipe import with_recipe
from rog_jax.tools import benchmark
from rog_jax.tools.benchmark import benchmark_inference, benchmark_step, made_up_batch
from rog_jax.tools.benchmark_figures import MEMORY, compare, machine, memory, spread, timed
from tests.tiny import tiny_config


def test_a_batch_says_what_is_verified_where_the_loss_asks_for_it():
    config = tiny_config()
    assert made_up_batch(with_recipe(config), 2).verified is None
    config.loss.classification, config.loss.federated.negatives = "federated", "verified"
    config.model.num_classes = 1203
    batch = made_up_batch(with_recipe(config), 2, objects=4)
    assert batch.verified.shape == (2, 1203)
    for verified, labels in zip(batch.verified, batch.labels, strict=True):
        assert verified[labels[labels >= 0]].all()
        assert len(np.unique(labels[labels >= 0])) < verified.sum() < 100


def test_the_first_runs_do_not_count(monkeypatch):
    clock = iter(np.cumsum([0, 50, 0, 1, 0, 3, 0, 2]).tolist())  # starts and ends: 50 s of warm-up, then 1, 3 and 2
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    times = timed(lambda: jnp.zeros(2), repeats=3)
    assert times == {"median_s": 2, "least_s": 1, "most_s": 3, "spread": 0.5, "repeats": 3}
    assert spread([4.0])["spread"] == 0


def test_memory_is_the_compilers_the_devices_and_the_processs():
    compiled = jax.jit(lambda x: jnp.sort(x)[:2]).lower(jnp.zeros(1000)).compile()
    figures = memory(compiled)
    assert set(figures["compiler"]) == set(MEMORY)
    assert figures["compiler"]["argument_size"] == 4000
    assert figures["compiler"]["output_size"] == 8
    assert figures["device_peak"] is None  # a CPU's backend keeps no account
    assert 50e6 < figures["process_peak"] < 1e12
    assert memory()["compiler"] is None


def test_two_files_of_figures_are_compared(tmp_path, capsys):
    first = {"machine": machine(), "step": {"median_s": 2.0, "memory": {"device_peak": None, "process_peak": 100}}}
    second = {"machine": machine() | {"devices": 64}, "step": {"median_s": 1.0, "memory": {"device_peak": 50}}}
    assert {"device_kind", "devices", "platform", "jax", "jaxlib", "commit"} <= first["machine"].keys()
    for name, figures in (("a.json", first), ("b.json", second)):
        (tmp_path / name).write_text(json.dumps(figures))
    benchmark.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    heading, *table = capsys.readouterr().out.splitlines()
    assert heading == "The machines differ: devices: 8 and 64"
    assert "| step.median_s | 2 | 1 | 0.500 |" in table
    assert "| step.memory.process_peak | 100 | – | – |" in table
    assert "| step.memory.device_peak | – | 50 | – |" in table
    assert compare(first, first).startswith("The same machine and commit.")


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1}'])
def test_what_is_no_benchmarks_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SystemExit, match=r"a\.json is no benchmark's json.*--json"):
        benchmark.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")])


def test_a_profile_is_of_a_step():
    with pytest.raises(SystemExit):
        benchmark.main(["gap", "--profile", "somewhere"])


def test_figures_of_the_parts_asked_for_are_printed_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        benchmark, "benchmark_evaluation", lambda repeats: {"repeats": repeats, "median_s": np.float32(2)}
    )
    monkeypatch.setattr(benchmark, "benchmark_detect", lambda repeats: {"repeats": repeats})
    benchmark.main(["eval", "detect", "--repeats", "4", "--json", str(tmp_path / "figures.json")])
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept == json.loads(capsys.readouterr().out)
    assert kept.keys() == {"machine", "evaluation", "detect"}
    assert (kept["evaluation"], kept["detect"]) == ({"repeats": 3, "median_s": 2.0}, {"repeats": 4})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["step", "inference"])
def test_step_and_inference_say_images_a_second(part, tmp_path):
    config = tiny_config()
    if part == "step":
        figures = benchmark_step(config, repeats=2, profile=tmp_path)
        assert figures["profile"]["steps"] == 2
        assert figures["profile"]["groups"]["RPN"] > 0
    else:
        figures = benchmark_inference(config, repeats=2)
    assert figures["batch_size"] == 8
    assert figures["images_per_second"] == pytest.approx(8 / figures["median_s"])
    assert figures["memory"]["compiler"]["temp_size"] > 0
