"""What a run says of itself, and the watch over its losses and images."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.data import DataError
from rog_jax.training.log import LAG, MetricsWatch, NonFiniteLoss, RunLog, truncate_log
from tests.run_logs import read_log


def test_watch_names_loss_and_images():
    watch = MetricsWatch(np.array([501, 502, 503]), max_unreadable=0, max_skipped=0)
    good = {name: jnp.ones(()) for name in ("cls", "loss", "finite")}
    good |= {name: jnp.zeros(()) for name in ("unreadable", "dropped")}
    for step in range(LAG):
        assert watch.push(step, np.array([0, 1]), good) == []
    assert watch.push(LAG, np.array([2, -1]), good | {"cls": jnp.asarray(jnp.nan), "finite": jnp.zeros(())})[0][0] == 0
    with pytest.raises(NonFiniteLoss, match=r"step 2: cls not finite; image ids of this host: \[503\]"):
        watch.flush()


def test_watch_goes_on_counting_in_a_resumed_run():
    watch = MetricsWatch(np.array([501]), 5, 5, {"skipped_steps": 5, "unreadable_images": 2, "dropped_objects": 1})
    metrics = {name: jnp.ones(()) for name in ("loss", "dropped", "unreadable")}
    watch.push(1, np.array([0]), metrics | {"finite": jnp.ones(())})
    watch.flush()
    assert watch.counts == {"skipped_steps": 5, "unreadable_images": 3, "dropped_objects": 2}
    watch.push(2, np.array([0]), metrics | {"finite": jnp.zeros(())})
    with pytest.raises(NonFiniteLoss, match=r"so far: 6, allowed by train.max_skipped_steps: 5"):
        watch.flush()


def test_watch_counts_what_all_hosts_left_out_and_stops_at_its_limit():
    watch = MetricsWatch(np.array([501]), max_unreadable=2, max_skipped=0)
    metrics = {name: jnp.ones(()) for name in ("loss", "finite")} | {"unreadable": jnp.asarray(1.0)}
    for step in range(LAG + 2):
        done = watch.push(step, np.array([0]), metrics | {"dropped": jnp.asarray(3.0)})
    assert done == [(1, {"loss": 1.0, "finite": 1.0})]
    assert (watch.unreadable, watch.dropped) == (2, 6)
    with pytest.raises(DataError, match=r"3 images could not be read, more than config.data.max_unreadable = 2"):
        watch.flush()


@pytest.mark.parametrize(
    ("first", "mean"), [({"cls": 1.0}, 2.0), ({"cls": 1.0, "gap": 1.0}, 3.0)], ids=["same", "other"]
)
def test_a_resumed_line_is_the_mean_of_all_its_steps_unless_the_losses_are_others(tmp_path, first, mean):
    def log(start, pending=None):
        return RunLog(tmp_path, start=start, total=4, every=4, batch_size=2, active=True, pending=pending)

    before = log(0)
    for step in (1, 2):
        before.add(step, {"lr": 0.1, "finite": 1.0, **first}, {})
    pending = json.loads(json.dumps(before.pending))
    before.close()
    after = log(2, pending)
    for step in (3, 4):
        after.add(step, {"lr": 0.1, "finite": 1.0, "cls": 3.0}, {})
    after.close()
    (line,) = read_log(tmp_path)
    assert (line["step"], line["cls"], "gap" in line) == (4, mean, False)


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6)) + '{"step": 8, "lo')
    truncate_log(path, 5)
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n'
