"""Programs for machines that are not there: lowered for each platform, and their arguments' shapes."""

import sys

import jax
import pytest
from jax.sharding import PartitionSpec

from rog_jax.tools import compile_check as program
from rog_jax.tools.topology import CHIPS, TopologyError, topology_devices
from rog_jax.training.state import AXIS, data_mesh
from tests.tiny import NUM_CLASSES, tiny_config


@pytest.mark.parametrize("name", program.PROGRAMS)
def test_the_programs_lower_for_cpu_cuda_and_tpu_at_once(name):
    figures = program.lower_program(tiny_config(), images=1, program=name)
    assert figures["platforms"] == ["cpu", "cuda", "tpu"]
    assert figures["megabytes"] > 0


def test_arguments_have_the_shapes_of_all_devices():
    config, mesh = tiny_config(), data_mesh(jax.devices()[:4])
    config.loss.gap.counts_scope = "device"
    config.model.num_classes = 0  # left to the data
    _, (state, batch) = program.abstract_program(config, mesh, 3, "train")
    assert batch.image.shape == (12, 64, 64, 3)
    assert batch.image.sharding.spec == PartitionSpec(AXIS)
    assert state.class_counts.shape == (4, 1203)
    assert state.step.sharding.spec == PartitionSpec()


def test_micro_batches_are_those_of_the_config():
    config = tiny_config()
    config.train.accumulate = 2
    step, arguments = program.abstract_program(config, data_mesh(jax.devices()[:1]), 3, "train")
    with pytest.raises(ValueError, match="3 images of a device are not 2 micro-batches"):
        step.trace(*arguments)


def test_the_slowest_of_products_memory_and_links_decides():
    chip = CHIPS["v5e"]
    assert program.seconds_at_best(chip, chip.flops, 0, 0) == 1
    assert program.seconds_at_best(chip, chip.flops, 2 * chip.bandwidth, 0) == 2
    assert program.seconds_at_best(chip, chip.flops, 0, 3 * chip.links) == 3


def test_micro_batches_count_as_often_as_they_are_in_training_alone():
    """By hand: 10 bytes in the loop of 4 and 2 outside of it are 42; all of the compiler's 12 taken 4 times are 48."""
    assert program.accessed_at_most(12, "train", 4) == 48
    assert program.accessed_at_most(12, "train", 1) == program.accessed_at_most(12, "inference", 4) == 12


def test_the_compilers_complaint_tells_what_a_program_needs():
    words = program.TOO_LARGE.search("RESOURCE_EXHAUSTED: Ran out of memory. Used 18.50G of 15.75G hbm. Exceeded by")
    assert program._gigabytes(*words.groups()) == 19.86


def test_the_table_has_a_dash_for_what_did_not_fit():
    cell = dict.fromkeys(program.COLUMNS) | {"program": "train", "fits": False, "gigabytes": 19.86}
    header, rule, row = program.format_table([cell]).splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| train | – | – | no | 19.86 | – |")


def test_a_missing_compiler_and_an_unknown_topology_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=r"tpu-compile\]"):
        topology_devices("v5e:2x2")


def test_flags_that_make_no_sense_together_are_refused(monkeypatch):
    given = {"programs": ["train"], "images": ["2"], "lower": True, "topology": "v5e:2x2"}

    def run(**changed):
        holders = {name: type("Holder", (), {"value": value}) for name, value in (given | changed).items()}
        program.main([sys.argv[0]], holders)

    with pytest.raises(program.app.UsageError, match="either --topology"):
        run()
    with pytest.raises(program.app.UsageError, match="choose of train, inference"):
        run(programs=["training"])
    with pytest.raises(program.app.UsageError, match="whole numbers"):
        run(images=["0"])


@pytest.mark.slow
def test_the_true_step_compiles_for_a_tpu():
    pytest.importorskip("libtpu", reason="pip install -e '.[tpu-compile]'")
    figures = program.check_program(tiny_config(), "v5e:2x2", 1, "train")
    assert figures["fits"]
    assert 0 < figures["gigabytes"] < 1
    assert figures["exchanges"]["all-reduce"] > 4 * NUM_CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_a_device_is_a_chip(topology):
    """Also of chips with two cores, whose figures are those of both."""
    pytest.importorskip("libtpu", reason="pip install -e '.[tpu-compile]'")
    assert len(topology_devices(topology)) == 4
