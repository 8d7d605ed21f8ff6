"""Runs that go on on another number of devices, and evaluations of what each device kept for itself."""

import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.evaluation import evaluated_model
from rog_jax.evaluation.run import validation_set
from rog_jax.training import loop
from rog_jax.training.best import BEST, held, keep_if_best
from rog_jax.training.checkpoint import FORMAT, CheckpointError, Checkpoints
from rog_jax.training.initial import load_initial
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.resume import _warn_of_scopes, evenly, resume
from rog_jax.training.state import ModelDefinition, create_state, data_mesh, inference_state
from tests.tiny import NUM_CLASSES, tiny_config

CHANGES = [(8, 1), (1, 8), (8, 4)]
MEMORY = {"slots": 3, "objects": 2}


def local_config(classification):
    """Everything that can be is each device's own."""
    config = tiny_config()
    config.loss.classification, config.loss.gap.counts_scope = classification, "device"
    config.loss.seesaw.synchronise = False
    config.loss.memory.update(MEMORY)
    return config


@functools.cache
def definition_of(classification):
    return ModelDefinition(local_config(classification))


def start(definition, devices):
    mesh = data_mesh(jax.devices()[:devices])
    return create_state(definition, create_optimizer(definition.config.optim, lambda step: 0.1), mesh), mesh


def disturbed(state):
    """Other numbers in every array, another on each device."""
    rng = np.random.default_rng(0)

    def other(leaf):
        if np.issubdtype(leaf.dtype, np.integer):
            return np.asarray(rng.integers(1, 99, leaf.shape), leaf.dtype)
        return np.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype)

    return jax.tree.map(lambda leaf: jax.device_put(other(leaf), leaf.sharding), state)


def saved(definition, devices, folder):
    state = disturbed(start(definition, devices)[0])
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, {})
    checkpoints.wait()
    return checkpoints, jax.device_get(state)


def assert_same(a, b):
    for (path, x), y in zip(jax.tree_util.tree_flatten_with_path(a)[0], jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("classification", ["seesaw", "loce"])
@pytest.mark.parametrize(("before", "now"), CHANGES)
def test_on_other_devices_counts_are_shared_and_memories_left_out(classification, before, now, tmp_path, caplog):
    definition = definition_of(classification)
    checkpoints, old = saved(definition, before, tmp_path)
    fresh, mesh = start(definition, now)
    with caplog.at_level("WARNING"):
        state, unfilled = resume(checkpoints, fresh, definition, mesh)
    shared = ["class_counts"] + (["loss"] if classification == "seesaw" else [])
    for name in shared:
        counts, total = np.asarray(getattr(state, name)), np.asarray(getattr(old, name)).sum(0)
        assert counts.shape == (now, *total.shape)
        np.testing.assert_array_equal(counts.sum(0), total)
        assert np.ptp(counts, axis=0).max() <= 1
        assert f"{name} of {before} devices: their sums" in caplog.text
    everywhere = ("step", "trainable", "fixed", "optimizer", *({"loss"} - set(shared)))
    for name in everywhere:
        assert_same(getattr(state, name), getattr(old, name))
    assert unfilled == (classification == "loce")
    if unfilled:
        assert state.features.filled.shape == (now, NUM_CLASSES)
        assert not np.asarray(state.features.filled).any()
        assert f"feature memories of {before} devices are left out" in caplog.text
    assert f"config.loss.gap.scope=device: the images of each of {now} devices" in caplog.text
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(start(definition, now)[0]), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)


@pytest.mark.parametrize("classification", ["seesaw", "loce"])
def test_on_as_many_devices_everything_goes_on(classification, tmp_path, caplog):
    definition = definition_of(classification)
    checkpoints, old = saved(definition, 4, tmp_path)
    with caplog.at_level("WARNING"):
        state, unfilled = resume(checkpoints, *(start(definition, 4)[0], definition, data_mesh(jax.devices()[:4])))
    assert_same(state, old)
    assert not unfilled
    assert not [record for record in caplog.records if record.name.startswith("rog_jax")]  # Orbax names the folder


@pytest.mark.parametrize("count", [1, 2])
def test_micro_batches_on_other_devices_are_warned_of(count, caplog):
    config = tiny_config()
    config.loss.gap.scope, config.train.accumulate = "global", count
    with caplog.at_level("WARNING"):
        _warn_of_scopes(ModelDefinition(config), 8, 4)
    assert ("config.train.accumulate=2: a micro-batch has a part" in caplog.text) == (count > 1)
    assert bool(caplog.text) == (count > 1)


def test_full_counts_stay_full_and_other_states_are_refused():
    full = np.full((8, 2), np.iinfo(np.int32).max, np.int32)
    assert (evenly(full, 1) == np.iinfo(np.int32).max).all()
    np.testing.assert_array_equal(evenly(np.int32([[5, 0], [6, 1]]), 4), [[3, 1], [3, 0], [3, 0], [2, 0]])
    with pytest.raises(TypeError, match="float32 cannot be shared"):
        evenly(np.ones((8, 2), np.float32), 4)


def test_an_empty_memory_is_made_on_its_devices(monkeypatch):
    from rog_jax.losses import feature_memory

    made = []
    inner = feature_memory.create_memory

    def create(*args, **kwargs):
        made.append(inner(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(feature_memory, "create_memory", create)
    state, mesh = start(definition_of("loce"), 8)
    assert [isinstance(leaf, jax.core.Tracer) for memory in made for leaf in memory] == [True] * 4
    for leaf in state.features:
        assert leaf.shape[0] == mesh.size
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, *leaf.shape[1:])}
        assert len({shard.device for shard in leaf.addressable_shards}) == mesh.size


def test_a_second_stage_in_a_trained_folder_is_told_so(tmp_path):
    """LOCE's second stage with the first one's --workdir: the first one's config is no remedy."""
    checkpoints, _ = saved(definition_of("seesaw"), 1, tmp_path)
    config = local_config("loce")
    config.init_from = "runs/loce1"
    definition = ModelDefinition(config)
    fresh, mesh = start(definition, 1)
    message = r"(?s)written by another model.*init_from is looked at before the first step.*another --workdir\.$"
    with pytest.raises(CheckpointError, match=message):
        loop.resumed(checkpoints, fresh, definition, mesh)


def change_meta(folder, change):
    """Rewrites what was saved beside a checkpoint's arrays."""
    (file,) = (path for path in (folder / "checkpoints").rglob("metadata") if path.parent.name == "meta")
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))


def test_other_formats_are_named(tmp_path):
    definition = definition_of("seesaw")
    checkpoints, old = saved(definition, 1, tmp_path)
    fresh, mesh = start(definition, 1)
    change_meta(tmp_path, lambda meta: (meta.pop("format"), meta["about"].update(commit="abc123")))
    message = rf"format 1 of an older program, and only format {FORMAT}.*init_from={tmp_path}.*abc123"
    with pytest.raises(CheckpointError, match=message):
        resume(checkpoints, fresh, definition, mesh)
    kernel = checkpoints.parameters()["box_head"]["fc1"]["kernel"]  # weights are read
    np.testing.assert_array_equal(kernel, old.trainable["box_head"]["fc1"]["kernel"])
    change_meta(tmp_path, lambda meta: meta.update(format=FORMAT + 1))
    for use in (checkpoints.parameters, checkpoints.about, lambda: resume(checkpoints, fresh, definition, mesh)):
        with pytest.raises(
            CheckpointError, match=rf"format {FORMAT + 1}, and this program reads formats up to {FORMAT}"
        ):
            use()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    settings = SyntheticSettings(
        train_images=16, val_images=8, num_categories=6, height=64, width=64, object_size=(16, 32), val_instances=3
    )
    paths = make_dataset(tmp_path_factory.mktemp("set"), settings)

    def of(classification):
        config = local_config(classification)
        config.model.num_classes = 0
        config.model.trained_parts = ()
        config.data.train_json, config.data.val_json = str(paths["train_json"]), str(paths["val_json"])
        config.data.train_images = config.data.val_images = str(paths["images"])
        return config

    return of


def use_devices(monkeypatch, devices):
    for module in (loop, evaluated_model):
        monkeypatch.setattr(module, "data_mesh", lambda: data_mesh(jax.devices()[:devices]))


@pytest.mark.slow
def test_a_run_goes_on_and_is_evaluated_on_fewer_devices(dataset, tmp_path, monkeypatch, caplog):
    config = dataset("loce")
    config.train.steps, config.train.checkpoint_every = 1, 1
    use_devices(monkeypatch, 8)
    first = jax.device_get(loop.train(config, tmp_path))
    assert first.features.filled.shape == (8, 6)
    use_devices(monkeypatch, 1)
    annotations, _ = validation_set(config)
    model = evaluated_model.evaluated_model(config, tmp_path, annotations)
    assert_same((model.state.trainable, model.state.fixed), (first.trainable, first.fixed))
    assert jax.tree.leaves(model.state[3:]) == []
    assert (model.facts["step"], int(model.state.step)) == (1, 1)
    use_devices(monkeypatch, 4)
    config.train.steps = 2
    with caplog.at_level("WARNING"):
        second = jax.device_get(loop.train(config, tmp_path))
    assert second.features.filled.shape == (4, 6)
    # The pass before step 2 stores 2 objects of each of 16 images, 16 boxes around each, in places for 3.
    assert second.features.filled.sum() > 4 * MEMORY["slots"]
    assert second.class_counts.sum() > first.class_counts.sum() > 0
    assert "feature memories of 8 devices are left out: 4 devices begin with empty ones" in caplog.text


def untrained(config):
    """The validation images, what a checkpoint says of a run on them, and its state before the first step."""
    annotations, _ = validation_set(config)
    config.model.num_classes = annotations.num_classes
    definition = ModelDefinition(config)
    state = create_state(definition, create_optimizer(definition.config.optim, lambda step: 0.1), data_mesh())
    return annotations, loop.describe_run(definition.config, annotations), state


def test_a_last_layer_of_another_kind_is_not_evaluated(dataset, tmp_path):
    config = dataset("seesaw")
    annotations, about, state = untrained(config)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, about)
    checkpoints.close()
    assert evaluated_model.evaluated_model(config, tmp_path, annotations).facts["step"] == 0
    for name, kind, own in (("predictor", "linear", "normed"), ("mask_predictor", "conv", "normed")):
        other = config.copy_and_resolve_references()
        other.roi[name] = kind
        with pytest.raises(CheckpointError, match=rf"config\.roi\.{name}: checkpoint {own}, here {kind}"):
            evaluated_model.evaluated_model(other, tmp_path, annotations)


def test_the_best_checkpoint_is_evaluated_and_started_from(dataset, tmp_path):
    config = dataset("seesaw")
    annotations, about, fresh = untrained(config)
    checkpoints, states = Checkpoints(tmp_path), []
    for step in (3, 4):
        trainable = jax.tree.map(lambda x, step=step: x * step, fresh.trainable)
        states.append(fresh._replace(step=fresh.step + step, trainable=trainable))
        checkpoints.save(states[-1], about)
        checkpoints.wait()
    with held(tmp_path, 3) as copy:
        keep_if_best(tmp_path, copy, "segm/AP", 0.1, {})
    model = evaluated_model.evaluated_model(config, tmp_path, annotations, BEST)
    assert (model.facts["step"], int(model.state.step)) == (3, 3)
    assert_same(model.state.trainable, states[0].trainable)
    initial = load_initial(tmp_path / "best")
    assert (initial.about["step"], load_initial(tmp_path).about["step"]) == (3, 4)
    np.testing.assert_array_equal(
        initial.parameters["rpn"]["conv"]["kernel"], states[0].trainable["rpn"]["conv"]["kernel"]
    )


@pytest.mark.parametrize(("step", "folder", "expected"), [(None, ".", [4]), (BEST, "best", [-1]), (3, ".", [3])])
def test_hosts_evaluate_the_checkpoint_that_the_first_one_finds(dataset, tmp_path, monkeypatch, step, folder, expected):
    """This host, the second, sees a newer one, and no best one at all."""
    config = dataset("seesaw")
    annotations, _ = validation_set(config)
    sent, loaded = [], []

    def broadcast(own):
        sent.append(own)
        return np.int32(3)

    def load(*given):
        loaded.append((given[1], given[3]))
        return evaluated_model.EvaluatedModel(config, None, None, {})

    (tmp_path / "checkpoints").mkdir()
    seen = SimpleNamespace(latest=lambda: 4, close=lambda: None)
    monkeypatch.setattr(evaluated_model, "Checkpoints", lambda *_, **__: seen)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    monkeypatch.setattr(evaluated_model, "trained_model", load)
    evaluated_model.evaluated_model(config, tmp_path, annotations, step)
    assert sent == expected
    assert loaded == [(tmp_path / folder, 3)]


def test_evaluation_holds_parameters_alone():
    definition = definition_of("loce")
    state = inference_state(definition, data_mesh(), 7)
    assert int(state.step) == 7
    assert_same((state.trainable, state.fixed), definition.initial)
    assert jax.tree.leaves(state[3:]) == []
