"""The time that a TPU's compiler expects, read off a program written by hand."""

from collections import Counter

import pytest

from rog_jax.tools import estimated_time as program
from rog_jax.tools.profile_shares import shares
from rog_jax.tools.trace_file import Trace

TEXT = """HloModule jit_update, is_scheduled=true

%fused_computation (param_0: f32[8]) -> f32[8] {
  %param_0 = f32[8]{0:T(128)} parameter(0)
  ROOT %add.1 = f32[8]{0:T(128)} add(%param_0, %param_0), metadata={op_name="jit(update)/optimizer/add"}
}

%looked_up (param_1: f32[8]) -> f32[8] {
  %gather.1 = f32[8]{0:T(128)} gather(%param_1, %param_1), offset_dims={0}
  ROOT %reshape.1 = f32[8]{0:T(128)} reshape(%gather.1)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0:T(128)}) parameter(0)
  %fusion.2 = f32[8]{0:T(128)} fusion(%state), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(update)/jvp(ranking)/while/body/add"}, backend_config={"window_config":{"estimated_cycles":"30"}}
  ROOT %tuple.1 = (s32[], f32[8]{0:T(128)}) tuple(%state, %fusion.2)
}

%condition (counted: (s32[], f32[8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(7)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%counted), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.1), direction=LT
}

%any (awaited: (s32[], f32[8])) -> pred[] {
  %constant.2 = s32[]{:T(128)} constant(100)
  %lt.2 = pred[]{:T(512)} compare(%awaited, %constant.2), direction=LT
  ROOT %and.1 = pred[]{:T(512)} and(%lt.2, %awaited)
}

%rare (x: f32[8]) -> f32[8] {
  ROOT %fusion.3 = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(update)/jvp(ranking)/dot"}, backend_config={"window_config":{"estimated_cycles":"9000"}}
}

%usual (x.1: f32[8]) -> f32[8] {
  ROOT %copy.1 = f32[8]{0:T(128)} copy(%x.1), metadata={op_name="jit(update)/jvp(ranking)/copy"}, backend_config={"window_config":{"estimated_cycles":"10"}}
}

ENTRY %main.3 (a: f32[8], b: pred[]) -> f32[8] {
  %a = f32[8]{0:T(128)} parameter(0)
  %fusion.1 = f32[8]{0:T(8,128)(2,1)S(1)} fusion(%a), kind=kOutput, calls=%fused_computation, backend_config={"window_config":{"estimated_cycles":"200"}}
  %backward.1 = f32[8]{0:T(128)} convolution(%a, %fusion.1), metadata={op_name="jit(update)/transpose(jvp(backbone))/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"500"}}
  %while.1 = (s32[], f32[8]{0:T(128)}) while(%tuple.1), condition=%condition, body=%body, metadata={op_name="jit(update)/jvp(ranking)/while"}
  %while.2 = (s32[], f32[8]{0:T(128)}) while(%tuple.1), condition=%any, body=%body, metadata={op_name="jit(update)/jvp(proposals)/while"}
  %conditional.1 = f32[8]{0:T(128)} conditional(%b, %a, %a), branch_computations={%rare, %usual}, metadata={op_name="jit(update)/jvp(ranking)/cond"}
  %sort.1 = (f32[10,1000]{1,0:T(128)}, s32[10,1000]{1,0:T(128)}) sort(%a), dimensions={0}, to_apply=%compare, metadata={op_name="jit(update)/jvp(proposals)/top_k"}
  %reshape.2 = f32[9999]{0:T(128)} reshape(%a)
  %gather_fusion.1 = f32[128,128]{0:T(128)} fusion(%a), kind=kCustom, calls=%looked_up, metadata={op_name="jit(update)/gather"}
  ROOT %all-reduce.1 = f32[20000]{0:T(128)} all-reduce-start(%fusion.1), to_apply=%fused_computation
}
"""  # noqa: E501


def test_loops_count_by_their_rounds_and_conditions_by_the_branch_of_true():
    found = program.estimate(TEXT, hertz=1e3)
    assert program.seconds_of(found.operations) == pytest.approx((200 + 500 + 7 * 30 + 30 + 10) / 1000)
    assert found.unknown == Counter({"sort": 1, "gather": 1, "all-reduce": 1})
    assert found.loops == ["jit(update)/jvp(proposals)/while"]


def test_operations_belong_to_the_parts_of_a_profile():
    """A fusion without a path to that of what was fused."""
    found = program.estimate(TEXT, hertz=1e3)
    parts = shares(Trace(found.operations, 1, 1, [], 1.0))
    assert parts["optimizer"] == pytest.approx((200, 0))
    assert parts["backbone"] == pytest.approx((0, 500))
    assert parts["ranking"] == pytest.approx((7 * 30 + 30 + 10, 0))


def test_the_program_prints_parts_and_the_dearest(tmp_path, capsys):
    path = tmp_path / "train.hlo"
    path.write_text(TEXT)
    program.main([str(path), "--dearest", "1"])
    printed = capsys.readouterr().out
    assert "0.00 ms on one v5e" in printed
    assert "Without an estimate: 1 sort, 1 gather, 1 all-reduce" in printed
    assert "Counted once, its rounds are not known: jit(update)/jvp(proposals)/while" in printed
    assert "backward.1  jit(update)/transpose(jvp(backbone))" in printed


def test_of_the_older_form_of_conditions_the_true_branch_counts():
    older = TEXT.replace("branch_computations={%rare, %usual}", "true_computation=%usual, false_computation=%rare")
    assert older != TEXT
    assert program.estimate(older, hertz=1e3) == program.estimate(TEXT, hertz=1e3)


def test_a_program_for_another_machine_is_refused():
    with pytest.raises(ValueError, match="programs compiled for TPUs have"):
        program.estimate(TEXT.replace("estimated_cycles", "cost"), hertz=1e3)


@pytest.mark.parametrize("text", ["", "%body (x: f32[]) -> f32[] {\n}\n"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.hlo"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"other\.hlo: no text of a compiled program"):
        program.main([str(path)])


def test_clocks_are_those_at_which_the_matrix_units_reach_their_peak():
    rounded = {name: round(chip.hertz / 1e9, 2) for name, chip in program.CHIPS.items()}
    assert rounded == {"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75}
