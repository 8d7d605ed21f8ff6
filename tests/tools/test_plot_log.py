import json

import numpy as np
import pytest
from PIL import Image

from rog_jax.tools.plot_log import differences, main, plot_losses, read_log


def write(folder, lines):
    (folder / "train_log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_later_lines_of_a_step_win_and_steps_rise(tmp_path):
    write(tmp_path, [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}, {"step": 2, "loss": 2.5}])
    assert read_log(tmp_path) == [{"step": 2, "loss": 2.5}, {"step": 4, "loss": 2.0}]


def test_picture_has_curves(tmp_path):
    lines = [{"step": step, "loss": 4.0 / step, "cls": 2.0 / step} for step in range(1, 9)]
    plot_losses(lines, tmp_path / "a.png")
    plot_losses(lines[:1], tmp_path / "b.png")
    full, empty = (np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("a.png", "b.png"))
    coloured = [(np.ptp(picture, axis=2) > 60).sum() for picture in (full, empty)]
    assert coloured[0] > 2 * coloured[1]


def test_missing_or_broken_log_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"train_log\.jsonl cannot be read"):
        read_log(tmp_path)
    (tmp_path / "train_log.jsonl").write_text("{")
    with pytest.raises(ValueError, match="no json"):
        read_log(tmp_path)


@pytest.mark.parametrize("runs", [["a"], ["a", "b"]])
def test_runs_without_a_line_are_named(tmp_path, runs):
    for name in runs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "train_log.jsonl").touch()
    with pytest.raises(SystemExit, match=r"a/train_log\.jsonl holds no line with a loss"):
        main([*(str(tmp_path / name) for name in runs), "--out", str(tmp_path / "c.png")])


def test_two_runs_stand_side_by_side_with_their_largest_difference(tmp_path, capsys):
    for name, wrong in (("a", 0.0), ("b", 0.3)):
        (tmp_path / name).mkdir()
        lines = [{"step": 10 * k, "loss": 4.0, "cls": 2.0 + wrong * (k in (3, 4))} for k in range(1, 9)]
        write(tmp_path / name, lines)
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.png"), "--window", "4"])
    printed = capsys.readouterr().out
    assert "cls: at most 0.1500 apart (7.5%), up to step 40" in printed
    assert "loss: at most 0.0000 apart" in printed
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"), int)
    blue, orange = ((np.abs(picture - colour).max(axis=2) < 40).sum() for colour in ((31, 119, 180), (255, 127, 14)))
    assert blue > 20
    assert orange > 100  # over the other curve, and where it leaves it
    with pytest.raises(SystemExit, match="different names"):
        main([str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "c.png")])


def test_runs_without_a_common_step_are_not_compared():
    with pytest.raises(ValueError, match="no step in common"):
        differences([{"step": 1, "loss": 1.0}], [{"step": 2, "loss": 1.0}], 5)
