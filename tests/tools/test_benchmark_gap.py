"""The benchmark of the ranking loss runs at small sizes, and its yardstick computes what it should."""

import importlib.util
import sys

import jax
import numpy as np
import pytest

from rog_jax.losses import gap_loss
from rog_jax.losses.ranking import RANKINGS
from rog_jax.tools import benchmark_gap as program
from rog_jax.tools.benchmark_gap import SCENES, benchmark_gap
from rog_jax.tools.benchmark_gap_aot import compile_ahead, compile_global
from tests.reference import losses as reference


def test_benchmark_times_both_methods_and_cross_entropy():
    figures = benchmark_gap(rows=16, classes=11, positives=4, rounds=1, dense=True)
    for scene in SCENES:
        measured = figures[scene]
        assert min(measured[f"{name}_ms"] for name in ("sigmoid_ce", "interval", "dense")) > 0
        assert measured["interval_over_sigmoid_ce"] > 0
        assert measured["interval_memory"] > 1  # the gradient alone is as large as the logits


def test_published_loop_in_pytorch_agrees_with_the_double_loop_and_with_ours():
    pytest.importorskip("torch")
    from rog_jax.tools.benchmark_gap_published import prepare

    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1, (14, 6)).astype(np.float32)
    labels = np.array([0, 3, 3, 6, 5, 3, 0, 6, 6, 6, 1, 6, 6, 6])
    counts = generator.integers(0, 50, 6)
    value, gradient = prepare(logits, labels, counts)()
    expected = reference.gap(logits, labels, counts, variant="published")
    ours = jax.value_and_grad(gap_loss)(logits, labels, counts, variant="published", max_positives=14)
    for other_value, other_gradient in (expected, ours):
        np.testing.assert_allclose(value, other_value, rtol=1e-5)
        np.testing.assert_allclose(gradient, other_gradient, rtol=1e-4, atol=1e-7)


def test_exchanged_words_are_those_of_the_slots():
    figures = compile_global(devices=8, rows=32, classes=40, slots=4)
    assert figures["usual"]["words"] < figures["overflow"]["words"]
    assert figures["usual"]["words_per_slot"] < 15
    assert figures["overflow"]["words_per_slot"] < 15


@pytest.mark.slow
def test_a_tpus_compiler_weighs_every_ranking():
    pytest.importorskip("libtpu", reason="pip install -e '.[tpu-compile]'")
    figures = compile_ahead("v5e:2x2", rows=256, classes=130, slots=32)
    assert set(figures) == set(RANKINGS)
    for name, found in figures.items():
        assert set(found) == {"milliseconds", "untimed", "gigaflops", "gigabytes", "memory"}
        assert found["gigabytes"] > 0, name
        assert found["memory"] > 1, name  # the gradient alone is as large as the logits
    # That of the one-hot products is a time without gaps; it is what they are chosen by.
    assert figures["one_hot"]["milliseconds"] > 0
    assert not {"gather", "scatter"} & set(figures["one_hot"]["untimed"])
    assert "gather" in figures["interval"]["untimed"]


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("libtpu", ["--aot", "v5e:2x2"], "tpu-compile"), ("torch", ["--published"], "bench")],
)
def test_a_missing_package_is_named_by_its_extra(package, arguments, extra, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    monkeypatch.setattr(sys, "argv", ["benchmark_gap", *arguments])
    with pytest.raises(SystemExit, match=rf"{extra}\]"):
        program.main()
