"""What is read of a profile: a real one of this machine, and one as another machine would write it."""

import json
import logging

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from rog_jax.tools import profile_shares
from rog_jax.tools.profile_shares import format_table, part_of, part_of_operation, shares, summary
from rog_jax.tools.trace_file import TraceError, own_seconds, read_planes, read_trace
from rog_jax.training.profile import ProfileRequest, StepProfiler, step_mark, wait_mark
from rog_jax.training.state import AXIS, data_mesh

STATS = """
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "program_id" } }
  stat_metadata { key: 3 value { id: 3 name: "hlo_module" } }
"""


def event(number: int, start_us: int, microseconds: int, op: str | None = None) -> str:
    of = 'stats { metadata_id: 2 int64_value: 7 } stats { metadata_id: 3 str_value: "jit_update" }'
    stats = f'stats {{ metadata_id: 1 str_value: "{op}" }} {of}' if op else ""
    times = f"offset_ps: {start_us}000000 duration_ps: {microseconds}000000"
    return f"events {{ metadata_id: {number} {times} {stats} }}"


def names(*texts: str) -> str:
    """Numbered from 1 on."""
    return " ".join(
        f'event_metadata {{ key: {number} value {{ id: {number} name: "{text}" }} }}'
        for number, text in enumerate(texts, start=1)
    )


def profile(*planes: str) -> jax.profiler.ProfileData:
    return jax.profiler.ProfileData.from_text_proto("\n".join(planes))


def test_operations_of_a_device_count_once_and_without_those_within():
    host = f"""planes {{ name: "/host:CPU" {names("train", "data_wait")}
      lines {{ name: "python" {event(2, 0, 25)} {event(1, 25, 5)} {event(1, 30, 5)} }} }}"""
    device = f"""planes {{ name: "/device:TPU:0" {STATS} {names("a program", "an operation")}
      lines {{ name: "XLA Modules" {event(1, 30, 70, "jit_update")} }}
      lines {{ name: "XLA Ops" {event(2, 30, 60, "while.1")} {event(2, 40, 10, "sort.2")} {event(2, 55, 30, "sort.2")}
              {event(2, 90, 10, "fusion.3")} }} }}"""
    paths = {
        "while.1": ["jit(update)/jvp(proposals)/while"],
        "sort.2": ["jit(update)/jvp(proposals)/while/body/sort"],
        "fusion.3": ["", "jit(update)/transpose(jvp(backbone))/add", "jit(update)/transpose(jvp(backbone))/mul"],
    }
    # Kept under another number than the operations have, beside others that are not it.
    others = {"jit_update(6)": {"sort.2": ["optimizer"]}, "jit_init(7)": {name: ["optimizer"] for name in paths}}
    trace = read_planes(profile(host, device), {"jit_update(9)": paths} | others)
    own = [(name, round(1e6 * seconds)) for _, name, seconds in trace.operations]
    assert sorted(own) == [("fusion.3", 10), ("sort.2", 10), ("sort.2", 30), ("while.1", 20)]
    figures = summary(trace)
    assert (figures["steps"], figures["devices"]) == (2, 1)
    assert figures["step_ms"] == pytest.approx(0.05)
    assert figures["data_wait"] == pytest.approx(0.25)
    assert figures["groups"] == pytest.approx({"RPN": 6 / 7, "backbone and FPN": 1 / 7})
    assert figures["parts"]["backbone"]["backward_ms"] == pytest.approx(0.005)
    assert "| RPN | proposals | 0.03 | 0.00 | 85.7% | 85.7% |" in format_table(figures)


def test_runs_that_overlap_on_a_thread_are_told_apart():
    runs = [(0, 10, "a"), (0, 4, "b"), (4, 6, "c"), (5, 2, "d"), (12, 1, "e")]
    assert sorted(own_seconds(runs)) == [("a", 0), ("b", 4), ("c", 4), ("d", 2), ("e", 1)]


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("jit(update)/jvp(backbone)/conv", ("backbone", False)),
        ("jit(update)/transpose(jvp(mask_head))/transpose(roi_align)/add", ("roi_align", True)),
        ("jit(update)/optimizer/mul", ("optimizer", False)),
        ("jit(update)/threefry2x32", ("other", False)),
        ("jit(update)/my_backbones/mul", ("other", False)),
    ],
)
def test_the_innermost_scope_is_the_part(path, part):
    assert part_of(path) == part


def test_of_fused_operations_the_most_frequent_part_counts():
    assert part_of_operation(["", "", "optimizer/mul", "jvp(fpn)/a", "jvp(fpn)/b"]) == ("fpn", False)
    assert part_of_operation([]) == ("other", False)


def test_a_real_trace_tells_forward_from_backward(tmp_path, capsys):
    """On eight simulated devices: a scan in one part, a product in another, and what neither is in."""

    def loss(w, x):
        with jax.named_scope("backbone"):
            y = jnp.tanh(x @ w)
        with jax.named_scope("proposals"):
            order = jax.lax.map(jnp.sort, jax.lax.stop_gradient(y))
        return jnp.mean(y * order)

    def update(w, x):
        gradient = jax.lax.pmean(jax.grad(loss)(w, x), AXIS)
        with jax.named_scope("optimizer"):
            return w - 0.1 * gradient

    mesh = data_mesh()
    specs = {"in_specs": (PartitionSpec(), PartitionSpec(AXIS)), "out_specs": PartitionSpec()}
    step = jax.jit(jax.shard_map(update, mesh=mesh, check_vma=False, **specs))
    w, x = jnp.ones((256, 256)), jnp.ones((64, 256))
    profiler = StepProfiler(ProfileRequest(tmp_path, first=2, steps=3))
    for number in range(8):
        profiler.before_step(w)
        with wait_mark():
            pass
        with step_mark(number):
            w = step(w, x)
        profiler.after_step(w)
    profiler.close()

    trace = read_trace(tmp_path)
    assert (trace.steps, len(trace.waits), trace.devices) == (3, 3, 8)
    parts = shares(trace)
    assert set(parts) == {"backbone", "proposals", "optimizer", "other"}
    backward = {part for part, share in parts.items() if share.backward > 0}
    assert backward == {"backbone"}
    assert all(parts[part].forward > 0 for part in ("backbone", "proposals", "optimizer"))
    # Each device does one thing at a time.
    assert 0 < sum(operation.seconds for operation in trace.operations) <= 8 * trace.seconds

    profile_shares.main([str(tmp_path), "--json", str(tmp_path / "shares.json")])
    assert "3 steps on 8 devices" in capsys.readouterr().out
    figures = json.loads((tmp_path / "shares.json").read_text())
    assert sum(part["share"] for part in figures["parts"].values()) == pytest.approx(1)


def test_a_folder_without_a_trace_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"profile_shares:.*holds no \*\.xplane\.pb.*--profile"):
        profile_shares.main([str(tmp_path)])
    (tmp_path / "a.xplane.pb").write_bytes(b"\x0a\xff\x7fcut short")
    with pytest.raises(TraceError, match="no whole trace"):
        read_trace(tmp_path)


def test_a_run_too_short_to_be_traced_says_so(tmp_path, caplog):
    with pytest.raises(ValueError, match="at least one of each"):
        StepProfiler(ProfileRequest(tmp_path, first=0))
    profiler = StepProfiler(ProfileRequest(tmp_path, first=3))
    profiler.before_step(())
    profiler.after_step(())
    with caplog.at_level(logging.WARNING):
        profiler.close()
    assert "no step was traced" in caplog.text
    assert not list(tmp_path.iterdir())
