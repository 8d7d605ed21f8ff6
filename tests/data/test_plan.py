"""The plan of a run: batches of one shape, no image lost, the same by whatever way a step is asked for."""

import itertools
import logging
import pickle

import numpy as np
import pytest

from rog_jax.data import Annotations, DataError, load_lvis
from rog_jax.data.plan import TrainPlan, eval_batches
from tests.reference.data import changed, data_config, make_records, sampler_config, write_data_set


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Annotations:
    return load_lvis(*write_data_set(tmp_path_factory.mktemp("plan"), make_records(23)))


def make_plan(annotations: Annotations, batch_size: int = 4, seed: int = 0, **sampler) -> TrainPlan:
    return TrainPlan(annotations, data_config(), sampler_config(**sampler), batch_size, seed)


def test_batches_have_one_shape_that_holds_their_images_at_every_scale(annotations):
    plan = make_plan(annotations)
    for step in range(20):
        batch = plan.batch(step)
        sizes = annotations.image_sizes[batch.indices]
        landscape = sizes[:, 1] > sizes[:, 0]
        assert batch.shape == ((64, 96) if landscape[0] else (96, 64))
        assert (landscape == landscape[0]).all()


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "random"},
        {"name": "repeat_factor", "rounding": "stochastic"},
        {"name": "instance_aware"},
        {"name": "class_aware"},
        {"name": "bi_level"},
    ],
)
def test_leftovers_go_to_the_next_epoch_and_nothing_is_lost(annotations, sampler):
    plan = make_plan(annotations, **sampler)
    drawn, shown = np.zeros(23, int), np.zeros(23, int)
    for epoch in range(6):
        drawn += np.bincount(plan.sampler.epoch(0, epoch), minlength=23)
        for step in range(plan.step_of_epoch(epoch), plan.step_of_epoch(epoch + 1)):
            batch = plan.batch(step)
            assert batch.epoch == epoch
            shown += np.bincount(batch.indices, minlength=23)
        missing = drawn - shown
        assert (missing >= 0).all()
        assert missing.sum() <= 2 * 3  # less than a batch for each of two shapes


def test_a_step_is_the_same_in_any_order_and_process(annotations):
    forward = [make_plan(annotations).batch(step) for step in range(30)]
    plan = make_plan(annotations)
    backward = [plan.batch(step) for step in reversed(range(30))][::-1]
    restored = pickle.loads(pickle.dumps(plan))
    for step, (a, b) in enumerate(zip(forward, backward, strict=True)):
        c = restored.batch(step)
        assert a.epoch == b.epoch == c.epoch
        assert a.shape == b.shape == c.shape
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.indices, c.indices)


def test_order_depends_on_seed_and_epoch_and_mixes_shapes(annotations):
    plan = make_plan(annotations, batch_size=2)
    epochs = [
        np.concatenate([plan.batch(s).indices for s in range(plan.step_of_epoch(e), plan.step_of_epoch(e + 1))])
        for e in range(2)
    ]
    assert not np.array_equal(*epochs)
    other = make_plan(annotations, batch_size=2, seed=1)
    assert not np.array_equal(epochs[0][:10], np.concatenate([other.batch(s).indices for s in range(5)]))
    shapes = [plan.batch(s).shape for s in range(plan.step_of_epoch(3))]
    changes = sum(before != after for before, after in itertools.pairwise(shapes))
    assert changes > 10  # of 33; sorted within each epoch there would be 5 at most


def test_steps_and_epochs(annotations, caplog):
    caplog.set_level(logging.INFO)
    plan = make_plan(annotations)  # 12 landscape and 11 portrait images in batches of 4
    assert plan.num_images == 23
    assert [plan.steps_per_epoch(epoch) for epoch in range(5)] == [5, 6, 6, 6, 5]
    assert [plan.step_of_epoch(epoch) for epoch in (5, 0, 1, 2)] == [28, 0, 5, 11]
    assert "an epoch of random sampling shows 23 images, 23 different ones take part: 5 steps of 4" in caplog.text


def test_repeated_images_come_ceil_times(annotations):
    plan = make_plan(annotations, batch_size=1, name="repeat_factor", threshold=0.9)
    indices = np.concatenate([plan.batch(step).indices for step in range(plan.steps_per_epoch(0))])
    np.testing.assert_array_equal(np.bincount(indices), np.ceil(plan.sampler.factors))
    assert plan.steps_per_epoch(0) == 46


def test_empty_and_small_images_stay_out(tmp_path):
    records = changed(make_records(6), "images", 1, height=15)
    records["annotations"][1]["bbox"] = [5, 5, 8, 8]
    del records["annotations"][4]
    annotations = load_lvis(*write_data_set(tmp_path, records))
    for keep, expected in ((False, {0, 2, 3, 5}), (True, {0, 2, 3, 4, 5})):
        data = data_config(keep_empty_images=keep, shapes=((96, 96),))
        plan = TrainPlan(annotations, data, sampler_config(), 1, 0)
        assert {int(plan.batch(s).indices[0]) for s in range(plan.steps_per_epoch(0))} == expected


def test_too_few_images_and_too_small_shapes_are_errors(annotations, tmp_path):
    with pytest.raises(DataError, match=r"23 of 23 images .* too few for a batch of 13"):
        make_plan(annotations, batch_size=13)
    with pytest.raises(DataError, match=r"001.png \(image 11\) becomes 96 x 64 .* config.data.shapes"):
        TrainPlan(annotations, data_config(shapes=((64, 96),)), sampler_config(), 2, 0)
    records = make_records(2)
    records["annotations"] = []
    empty = load_lvis(*write_data_set(tmp_path, records))
    with pytest.raises(DataError, match="0 of 2 images"):
        make_plan(empty, batch_size=1)


def test_evaluation_sees_each_image_once(annotations):
    batches = eval_batches(annotations, data_config(), 5)
    indices = np.concatenate([batch.indices for batch in batches])
    np.testing.assert_array_equal(np.sort(indices[indices >= 0]), np.arange(23))
    assert [batch.shape for batch in batches] == [(64, 96)] * 3 + [(96, 64)] * 3
    assert [(batch.indices < 0).sum() for batch in batches] == [0, 0, 3, 0, 0, 4]
