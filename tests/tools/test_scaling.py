"""The model on paper against compiled programs: what it says that devices exchange, they exchange."""

import itertools
import json

import jax
import pytest

from rog_jax.tools import scaling as program
from rog_jax.tools.benchmark_gap_aot import compile_global
from rog_jax.tools.program_cost import collectives
from rog_jax.tools.scaling import (
    WORD,
    Assumptions,
    entry_seconds,
    gap_words,
    seconds_around,
    step_time,
    work_of,
)
from rog_jax.tools.topology import CHIPS
from rog_jax.training.state import data_mesh
from tests.tiny import NUM_CLASSES, tiny_config

IMAGES = 2


@pytest.mark.parametrize("devices", [2, 8])
def test_gaps_exchange_is_that_of_the_compiled_loss(devices):
    rows, classes, slots = 32, 40, 4
    figures = compile_global(devices, rows, classes, slots)
    for path, own_slots in (("usual", slots), ("overflow", rows)):
        expected = sum(map(sum, gap_words(devices, own_slots, rows, classes).values()))
        assert 0 <= figures[path]["words"] - expected <= 4  # the value, a number of devices


@pytest.mark.parametrize(
    ("devices", "scope", "method"),
    [
        (8, "device", "interval"),
        (8, "global", "interval"),
        pytest.param(2, "device", "interval", marks=pytest.mark.slow),
        pytest.param(2, "global", "interval", marks=pytest.mark.slow),
        pytest.param(2, "global", "one_hot", marks=pytest.mark.slow),
        pytest.param(8, "global", "one_hot", marks=pytest.mark.slow),
    ],
)
def test_a_steps_exchange_is_the_gradient_the_counts_and_gap(devices, scope, method):
    """Of the true training step, as it is handed to the compiler; what TPUs rank by exchanges as much."""
    from rog_jax.tools.compile_check import abstract_program, gradient_bytes

    config = tiny_config()
    config.loss.gap.update({"scope": scope, "method": method})
    step, (state, batch) = abstract_program(config, data_mesh(jax.devices()[:devices]), IMAGES, "train")
    text = step.lower(state, batch).compiler_ir("hlo").as_hlo_text()
    found = {"all-reduce": 0, "all-gather": 0}
    for exchange in collectives(text):
        found[exchange.kind] += exchange.elements

    expected = {"all-reduce": gradient_bytes(state) // WORD + NUM_CLASSES, "all-gather": 0}
    if scope == "global":
        rows = IMAGES * config.roi.samples
        # Both branches stand in the program: the usual one, and a slot a row where positives are too many.
        for slots in (int(rows * config.roi.positive_fraction), rows):
            for kind, sizes in gap_words(devices, slots, rows, NUM_CLASSES).items():
                expected[kind] += sum(sizes)
    assert found["all-gather"] == expected["all-gather"]
    assert 0 <= found["all-reduce"] - expected["all-reduce"] < 32  # losses and their normalisers


def test_counted_words_grow_where_a_sum_needs_more_digits():
    """By hand: 2,463,744 entries are 22 bits; a word of 2^d devices' sum has 32 - d."""
    small, large = (sum(gap_words(devices, 256, 2048)["all-reduce"]) for devices in (8, 4096))
    assert small == (1 + 2 + 2) * (2 * 8 * 256 + 1)
    assert large == (2 + 3 + 2) * (2 * 4096 * 256 + 1)


def test_a_rings_time_by_hand():
    assumed, links = Assumptions(hop=0), CHIPS["v5e"].links

    def seconds(kind, chips):
        return seconds_around(8e9, kind, chips, "v5e", assumed)

    assert seconds("all-reduce", 16) == pytest.approx(2 * 15 / 16 * 8e9 / links)
    assert seconds("all-gather", 16) == pytest.approx(15 / 16 * 8e9 / links)
    hops = seconds_around(0, "all-reduce", 256, "v5e", Assumptions(hop=1))
    assert hops == 2 * 2 * 15  # there and back in both directions of 16x16 chips
    beyond = seconds("all-reduce", 512) - seconds("all-reduce", 256)
    assert beyond == pytest.approx(2 * 1 / 2 * 8e9 / 64 / assumed.network)  # two pods of 64 hosts


def cell(topology, images, milliseconds):
    """As `compile_check` writes it; without figures where it did not fit."""
    return {
        "topology": topology,
        "program": "train",
        "images_per_chip": images,
        "fits": milliseconds is not None,
        "estimated_ms": milliseconds,
        "gradient_bytes": 4_000_000_000,
    }


def test_a_steps_parts_by_hand():
    cells = [cell("v5e:4x4", images, 20 + 5 * images) for images in (1, 2, 4)]
    cells += [cell("v5e:4x4", 8, None), cell("v4:2x2x1", 1, 99)]
    cells[2]["exchanges"] = {"all-reduce": 9e9}  # of scope="global", with what GAP sums
    work = work_of(cells, "v5e")
    assert work == ((1, 2, 4), (0.025, 0.03, 0.04), 4e9)
    assert work.of(3) == pytest.approx(0.035)
    assert work.of(0.5) == pytest.approx(0.0125)
    time = step_time(work, 16, 2, "v5e", "device")
    assert time.compute == pytest.approx(0.03)
    hidden = Assumptions().backward * time.compute
    assert time.step == pytest.approx(time.compute + time.gap_exchange + time.gap_pairs + time.gradient - hidden)
    assert time.images_per_second == pytest.approx(32 / time.step)
    assert time.cores == pytest.approx(4 * 2 / time.step * 13.2e-3)
    assert time.gap_entries == 0  # a chip's own are in its own work
    with pytest.raises(ValueError, match="no training step compiled for v6e"):
        work_of(cells, "v6e")


@pytest.mark.parametrize("name", ["gradient_bytes", "estimated_ms"])
def test_cells_of_an_older_program_are_refused(name):
    older = cell("v5e:4x4", 2, 30)
    del older[name]
    with pytest.raises(ValueError, match=f"lack {name}: compile them anew"):
        work_of([older], "v5e")


def test_ranking_among_all_chips_costs_more_the_more_there_are():
    work = work_of(program.RESNET_50, "v5e")
    times = [step_time(work, chips, 2, "v5e", "global") for chips in (8, 64, 256, 4096)]
    assert times[3].gap_pairs == pytest.approx(16 * times[2].gap_pairs, rel=1e-3)
    assert times[0].gap_entries < times[1].gap_entries < times[2].gap_entries
    assert times[2].gap_entries == times[3].gap_entries  # by look-ups
    assert all(a.images_per_second < b.images_per_second for a, b in itertools.pairwise(times))


def test_an_entrys_time_by_hand():
    """As expected of as many edges, between them by interpolation, beyond in proportion; look-ups of too many."""
    assumed, entries = Assumptions(look_up=7), 2048 * 1203
    seconds = {positives: entry_seconds(positives, "v5e", assumed) for positives in (256, 640, 16384, 32768)}
    assert seconds[256] == pytest.approx(3.53e-3 / entries)
    assert seconds[640] == pytest.approx((3.53e-3 + 6.6e-3) / 2 / entries)
    assert seconds[32768] == pytest.approx(2 * seconds[16384])
    assert entry_seconds(256, "v6e", assumed) == pytest.approx(3.53e-3 / entries * 197 / 918)
    assert entry_seconds((1 << 15) + 1, "v5e", assumed) == 7 / CHIPS["v5e"].bandwidth


@pytest.mark.parametrize("scope", ["device", "global"])
def test_more_images_than_fit_are_micro_batches(scope):
    work = work_of(program.RESNET_50, "v5e")
    once, often = (step_time(work, 16, images, "v5e", scope) for images in (8, 32))
    for name in ("compute", "gap_exchange", "gap_pairs", "gap_entries"):
        assert getattr(often, name) == pytest.approx(4 * getattr(once, name))
    assert often.gradient == once.gradient


def test_the_program_prints_both_scalings_in_both_scopes(tmp_path, capsys):
    cells = tmp_path / "cells.jsonl"
    cells.write_text(json.dumps(program.RESNET_50[0]) + "\n")
    program.main(["--cells", str(cells), "--batch", "64", "--plot", str(tmp_path / "a.png")])
    printed = capsys.readouterr().out
    assert printed.count("Weak") == printed.count("Strong") == 2
    assert "| 64 | 1 |" in printed
    assert "| 4096 | 2 |" in printed
    assert (tmp_path / "a.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="scaling: no training step compiled for v4"):
        program.main(["--cells", str(cells), "--chip", "v4"])
