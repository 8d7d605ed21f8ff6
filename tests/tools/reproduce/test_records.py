"""Records that are broken, or another run's."""

import json

import numpy as np
import pytest

from rog_jax.tools.reproduce.records import RecordError, _digest, read_record, record_path, write_record
from rog_jax.tools.reproduce.runs import Run
from rog_jax.tools.reproduce.status import status
from rog_jax.tools.reproduce.targets import TARGETS
from rog_jax.training.initial import InitialWeights, save_initial
from tests.tools.reproduce.made_up import RUN, content


def test_records_of_other_settings_are_refused(places):
    write_record(places, RUN, 0, content())
    changed = Run(RUN.name, RUN.settings | {"loss.gap.weight": 2.0})
    with pytest.raises(RecordError, match=r"other settings \(settings\): move it away"):
        read_record(places, changed, 0)
    record_path(places, RUN, 0).write_text("{")
    with pytest.raises(RecordError, match="remove it"):
        read_record(places, RUN, 0)
    with pytest.raises(RecordError, match=f"{RUN.name}.seed0.json is broken"):
        status(list(TARGETS.values()), places)
    assert "0 of   5 finished" in status([TARGETS["table4"]], places)


@pytest.mark.parametrize("key", ["spent", "figures", "replicates"])
def test_records_that_lack_something_are_named(places, key):
    write_record(places, RUN, 0, content())
    path = record_path(places, RUN, 0)
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    with pytest.raises(RecordError, match=f"{path.name} is broken .*{key}.*: remove it"):
        read_record(places, RUN, 0)


def test_a_backbones_digest_is_of_its_weights(tmp_path):
    def digest(name: str, value: float) -> str | None:
        save_initial(tmp_path / name, InitialWeights({"stem": {"kernel": np.full(3, value, np.float32)}}, {}, {}))
        return _digest(str(tmp_path / name))

    assert digest("a", 1.0) == digest("b", 1.0)
    assert digest("c", 1.0) != digest("d", np.nextafter(np.float32(1), np.float32(2)))
    assert _digest("") is None


def test_quick_records_are_not_taken_for_others(places):
    write_record(places, RUN, 0, content())
    with pytest.raises(RecordError, match=r"other settings \(quick\)"):
        read_record(places._replace(quick=False), RUN, 0)
    path = record_path(places, RUN, 0)
    old = json.loads(path.read_text())
    del old["run"]["quick"]  # as the first records are
    path.write_text(json.dumps(old))
    assert read_record(places._replace(quick=False), RUN, 0) is not None
    with pytest.raises(RecordError, match=r"other settings \(quick\)"):
        read_record(places, RUN, 0)
