"""Every classification loss, alone and with each ranking loss, in whole training steps of the tiny detector."""

import jax
import numpy as np
import pytest

from rog_jax.losses.classification import CLASSIFICATION_LOSSES
from rog_jax.models.recipe import LOSS_SETTINGS
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.step import to_devices
from tests.tiny import random_batch, tiny_config
from tests.training.test_step import build_from

QUICK = [("none", "gap"), ("seesaw", "gap"), ("eqlv2", "none"), ("gol", "gap"), ("loce", "gap"), ("sigmoid_ce", "ap")]
"""Pairs that every test run trains; the others are slow tests. Rank & Sort is in `test_rank_sort_trains_the_heads`."""
TABLE_4 = [
    {"omega": "none"},
    {"omega": "offline"},
    {"exclude_foreground": False},
    {"variant": "published"},
    {"scope": "global"},
]


def config_of(classification, ranking, **gap):
    config = tiny_config()
    config.loss.classification, config.loss.ranking = classification, ranking
    config.loss.gap.update({"weight": 1.0, **gap})
    config.loss.memory.update({"slots": 6, "objects": 3})
    config.loss.eql.threshold = config.loss.gol.threshold = 0.2  # of five categories two are rare
    return config


def train_steps(config, steps, devices=1):
    """The total losses of some steps on one batch, the last state, and the mesh."""
    step, start, mesh = build_from(config, devices)
    verified = config.loss.federated.negatives == "verified"
    state, batch, history = start(), to_devices(random_batch(0, verified=verified), mesh), []
    for _ in range(steps):
        state, metrics = step(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    return history, state, start


def check(config, tmp_path, steps):
    """Losses are finite and fall; the state comes back from a checkpoint bit for bit."""
    history, state, start = train_steps(config, steps)
    assert all(np.isfinite(list(metrics.values())).all() for metrics in history)
    totals = [metrics["loss"] for metrics in history]
    assert np.mean(totals[-5:]) < np.mean(totals[:3])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {})
    checkpoints.wait()
    restored = checkpoints.restore(start())
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    return history, state


@pytest.mark.parametrize(("classification", "ranking"), QUICK)
def test_a_handful_trains(classification, ranking, tmp_path):
    history, state = check(config_of(classification, ranking), tmp_path, steps=12)
    assert (ranking in history[0]) == (ranking != "none")
    if classification == "none":
        assert history[0]["cls"] == 0
        assert history[0]["gap"] > 0
    if classification == "loce":
        assert int(state.features.filled.sum()) > 0
        assert (np.asarray(state.loss)[:-1] != np.float32(0.01)).any()


WITHOUT_GAP = [(name, "none") for name in CLASSIFICATION_LOSSES if name != "none"]
WITH_GAP = [(name, "gap") for name in CLASSIFICATION_LOSSES]
TABLE_2 = [(name, ranking) for name in ("none", "sigmoid_ce") for ranking in ("ap", "rank_sort")]
OTHERS = [pair for pair in WITHOUT_GAP + WITH_GAP + TABLE_2 if pair not in QUICK]


@pytest.mark.slow
@pytest.mark.parametrize(("classification", "ranking"), OTHERS)
def test_every_pair_trains(classification, ranking, tmp_path):
    check(config_of(classification, ranking), tmp_path, steps=50)


@pytest.mark.slow
@pytest.mark.parametrize("gap", TABLE_4, ids=str)
def test_every_ablation_trains(gap, tmp_path):
    check(config_of("sigmoid_ce", "gap", **gap), tmp_path, steps=50)


def test_rank_sort_trains_the_heads(tmp_path):
    config = config_of("none", "rank_sort")
    config.loss.rank_sort.balance_heads = True
    history, _ = check(config, tmp_path, steps=12)
    for metrics in history:  # self-balancing: boxes and masks weigh what the ranking weighs
        both = metrics["rank"] + metrics["sort"]
        np.testing.assert_allclose([metrics["box"], metrics["mask"]], both, rtol=1e-4)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("classification", "ranking"),
    [("seesaw", "gap"), slow("gol", "rank_sort"), slow("eqlv2", "ap")],
)
def test_eight_devices_equal_one(classification, ranking):
    check_devices(config_of(classification, ranking, scope="global"), steps=2)


@pytest.mark.parametrize(
    ("classification", "options"),
    [
        ("loce", {}),
        slow("federated", {"negatives": "verified"}),
        slow("federated", {"num_sample_cats": 3}),
        slow("ecm", {}),
        slow("droploss", {"threshold": 0.2}),
    ],
)
def test_a_step_on_eight_devices_equals_one(classification, options):
    """LOCE without its memory, which is other on each device by design."""
    config = config_of(classification, "none")
    config.loss[classification].update(options)
    config.loss.memory.slots = 0
    # A normed predictor divides by the lengths of 8 features, of which some are nearly 0: rounding is magnified.
    config.roi.mask_predictor = "conv"
    # After one update the momentum is the gradient, and the weights times their decay.
    one, eight = (jax.tree_util.tree_flatten_with_path(s.optimizer)[0] for s in check_devices(config, steps=1))
    scale = max(np.abs(leaf).max() for _, leaf in one if leaf.ndim)
    for (path, a), (_, b) in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5 * scale, err_msg=jax.tree_util.keystr(path))


def check_devices(config, steps):
    """Metrics and the loss's state are the same on one device and on eight; returns both states."""
    config.loss.ap.scope = config.loss.rank_sort.scope = "global"
    config.loss.rank_sort.balance_heads = config.loss.ranking == "rank_sort"
    one, state_one, _ = train_steps(config, steps)
    eight, state_eight, _ = train_steps(config, steps, devices=8)
    for a, b in zip(one, eight, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(state_one.loss), jax.tree.leaves(state_eight.loss), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # EQLv2's sums carry their rounding errors along
    return state_one, state_eight


def test_a_memory_in_bfloat16():
    """LOCE as its recipe has it: features, and with them the memory, in half as many bits as losses and scores."""
    config = config_of("loce", "none")
    config.model.dtype = "bfloat16"
    history, state, _ = train_steps(config, 3, devices=2)
    assert state.features.features.dtype == np.dtype("bfloat16")
    assert state.features.deltas.dtype == state.loss.dtype == np.float32
    stored = np.asarray(state.features.features, np.float32)
    assert np.isfinite(stored).all()
    assert np.abs(stored).sum((1, 2, 3, 4, 5)).min() > 0  # on each device
    assert (stored[0] != stored[1]).any()
    assert all(np.isfinite(list(metrics.values())).all() for metrics in history)
    assert (np.asarray(state.loss)[:-1] != np.float32(0.01)).any()


def test_a_state_of_each_device_is_spread_and_adds_up():
    config = config_of("seesaw", "none")
    config.loss.seesaw.synchronise = False
    _, state, _ = train_steps(config, 1, devices=8)
    assert state.loss.shape == (8, 6)
    together, *_ = train_steps(config_of("seesaw", "none"), 1, devices=8)[1:]
    np.testing.assert_array_equal(np.asarray(state.loss).sum(0), together.loss)


def test_every_loss_has_its_settings():
    assert LOSS_SETTINGS.keys() == CLASSIFICATION_LOSSES.keys()
